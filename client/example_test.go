package client_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/client"
)

// The last builds of a component that failed, wherever they ran.
func ExampleClient_EntityBuilds() {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, `{"items":[{"id":"ci:42","status":"failed","commit":{"sha":"1a2b3c4d"}}],"pageInfo":{"limit":20}}`)
	}))
	defer server.Close()

	c, err := client.New(server.URL, "slp_…")
	if err != nil {
		panic(err)
	}
	page, err := c.EntityBuilds(context.Background(), "component:default/web", client.BuildQuery{Status: []string{"failed"}})
	switch {
	case errors.Is(err, slipway.NotFound):
		fmt.Println("there is no such component")
	case err != nil:
		panic(err)
	}
	for _, b := range page.Items {
		fmt.Println(b.ID, b.Status, b.Commit.SHA)
	}
	// Output: ci:42 failed 1a2b3c4d
}
