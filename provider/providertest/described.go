package providertest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/getkin/kin-openapi/openapi2"
	"github.com/getkin/kin-openapi/openapi2conv"
	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/legacy"
)

// Description is a vendor's own description of its API, to hold our requests against. Answers are not held against it: vendors' own examples break their schemas.
type Description struct {
	routers []routers.Router
	prefix  string
	beyond  []*regexp.Regexp
}

// Describe reads descriptions, OpenAPI 3 or Swagger 2, of an API that begins at prefix ("" or "/api/v3") of a stub. beyond holds patterns of "METHOD /path" below
// the prefix that the vendor has and the descriptions leave out; what lies outside of the prefix is named by its whole path.
func Describe(t testing.TB, prefix string, files, beyond []string) *Description {
	t.Helper()
	d := &Description{prefix: prefix}
	for _, name := range files {
		read, _ := described.LoadOrStore(name, sync.OnceValues(func() (routers.Router, error) { return describe(name) }))
		router, err := read.(func() (routers.Router, error))()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		d.routers = append(d.routers, router)
	}
	for _, pattern := range beyond {
		d.beyond = append(d.beyond, regexp.MustCompile("^"+pattern+"$"))
	}
	return d
}

// described holds each file once: a description takes longer to read than most tests do.
var described sync.Map // file name → func() (routers.Router, error)

func describe(name string) (routers.Router, error) {
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	var kind struct{ Swagger string }
	if err := json.Unmarshal(text, &kind); err != nil {
		return nil, err
	}
	var doc *openapi3.T
	if kind.Swagger == "" {
		doc, err = openapi3.NewLoader().LoadFromData(text)
	} else {
		var old openapi2.T
		if err := json.Unmarshal(text, &old); err != nil {
			return nil, err
		}
		doc, err = openapi2conv.ToV3(&old)
	}
	if err != nil {
		return nil, err
	}
	doc.Servers = openapi3.Servers{{URL: "/"}}
	return legacy.NewRouter(doc, openapi3.DisableExamplesValidation()) // vendors' examples break their schemas
}

// Check says what a request breaks of the description. The request's body can be read again afterwards. Who asks is the stub's to check.
func (d *Description) Check(r *http.Request) error {
	path, ok := strings.CutPrefix(r.URL.EscapedPath(), d.prefix)
	for _, b := range d.beyond {
		if b.MatchString(r.Method + " " + path) {
			return nil
		}
	}
	if !ok {
		return fmt.Errorf("%s lies outside of %s", r.URL.Path, d.prefix)
	}
	var body []byte
	if r.Body != nil {
		var err error
		if body, err = io.ReadAll(r.Body); err != nil {
			return err
		}
		defer func() { r.Body = io.NopCloser(bytes.NewReader(body)) }()
	}
	clone := r.Clone(context.Background())
	clone.URL.Path, clone.URL.RawPath, clone.URL.Host, clone.URL.Scheme = path, "", "", ""
	clone.Body = io.NopCloser(bytes.NewReader(body))
	err := fmt.Errorf("%s %s is not in the description", r.Method, path)
	for _, router := range d.routers {
		route, params, miss := router.FindRoute(clone)
		if miss != nil {
			continue
		}
		if err := unknownParameters(route, clone); err != nil {
			return err
		}
		return openapi3filter.ValidateRequest(context.Background(), &openapi3filter.RequestValidationInput{
			Request: clone, PathParams: params, Route: route,
			Options: &openapi3filter.Options{AuthenticationFunc: openapi3filter.NoopAuthenticationFunc},
		})
	}
	return err
}

// unknownParameters finds misspelt ones, which the validator lets pass as vendors do.
func unknownParameters(route *routers.Route, r *http.Request) error {
	known := map[string]bool{}
	for _, list := range []openapi3.Parameters{route.PathItem.Parameters, route.Operation.Parameters} {
		for _, p := range list {
			known[p.Value.In+" "+p.Value.Name] = true
		}
	}
	for name := range r.URL.Query() {
		if !known["query "+name] {
			return fmt.Errorf("%s %s has no parameter %q", r.Method, route.Path, name)
		}
	}
	return nil
}

// Handler holds every request against the description before a stub answers it. What does not fit fails the test, and is answered with 400.
func (d *Description) Handler(t testing.TB, stub http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := d.Check(r); err != nil {
			t.Errorf("the vendor would not take this request: %v", err)
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		stub.ServeHTTP(w, r)
	})
}
