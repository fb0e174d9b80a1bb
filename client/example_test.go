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

// All tokens that are valid, however many pages the server gives them on.
func ExampleItems() {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.FormValue("cursor") == "" {
			fmt.Fprint(w, `{"items":[{"name":"ci-bot"}],"pageInfo":{"limit":1,"hasMore":true,"nextCursor":"2"}}`)
			return
		}
		fmt.Fprint(w, `{"items":[{"name":"jane"}],"pageInfo":{"limit":1}}`)
	}))
	defer server.Close()

	c, err := client.New(server.URL, "slp_…")
	if err != nil {
		panic(err)
	}
	for token, err := range client.Items[client.Token](context.Background(), c, "/api/tokens?limit=1") {
		if err != nil {
			panic(err)
		}
		fmt.Println(token.Name)
	}
	// Output:
	// ci-bot
	// jane
}
