package e2e

import (
	"encoding/json"
	"html"
	"io"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"github.com/slipway-platform/slipway/store"
)

// The reference of the whole program has a page for each operation of the description, names each command and key, and no link of it leads nowhere.
func TestTheReferenceIsWhole(t *testing.T) {
	t.Parallel()
	r := install(t, store.SQLite).serve()
	pages := map[string]string{}
	read := func(path string) string {
		if text, ok := pages[path]; ok {
			return text
		}
		res, err := http.Get(r.url + path)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		raw, err := io.ReadAll(res.Body)
		if err != nil || res.StatusCode != http.StatusOK {
			t.Errorf("%s: %d %v %.200s", path, res.StatusCode, err, raw)
		}
		pages[path] = string(raw)
		return pages[path]
	}
	link := regexp.MustCompile(`href="(/docs[^"]*)"`)
	seen, todo := map[string]bool{}, []string{"/docs", "/"}
	for len(todo) > 0 {
		from := todo[0]
		todo = todo[1:]
		for _, m := range link.FindAllStringSubmatch(read(from), -1) {
			to := html.UnescapeString(m[1])
			page, anchor, _ := strings.Cut(to, "#")
			if !seen[page] {
				seen[page] = true
				todo = append(todo, page)
			}
			if anchor != "" && !strings.Contains(read(page), `id="`+html.EscapeString(anchor)+`"`) {
				t.Errorf("%s leads to %s, which is not there", from, to)
			}
		}
	}
	var doc struct {
		Paths map[string]map[string]struct {
			OperationID string `json:"operationId"`
			Permission  string `json:"x-permission"`
		}
	}
	if err := json.Unmarshal([]byte(read("/openapi.json")), &doc); err != nil {
		t.Fatal(err)
	}
	n := 0
	for path, methods := range doc.Paths {
		for method, op := range methods {
			n++
			id := strings.ReplaceAll(op.OperationID, "-", ".")
			if !seen["/docs/operations/"+id] || !strings.Contains(read("/docs/operations/"+id), html.EscapeString(path)) {
				t.Errorf("%s %s (%s) has no page", method, path, id)
			}
			if op.Permission != "public" && !strings.Contains(read("/docs/permissions"), `id="`+op.Permission+`"`) {
				t.Errorf("the permission %s is not listed", op.Permission)
			}
		}
	}
	if n < 100 {
		t.Errorf("only %d operations are described", n)
	}
	for page, wants := range map[string][]string{
		"/docs/commands":  {"slipway serve", "slipway build search", "slipway db migrate up", "--follow"},
		"/docs/config":    {"server.listen", "SLIPWAY_", "providers"},
		"/docs/catalog":   {"catalog.refresh"},
		"/docs/schedules": {"catalog.", "every"},
		"/docs/events":    {"dev.cdevents.pipelinerun.finished", "JSON Schema"},
	} {
		text := read(page)
		for _, want := range wants {
			if !strings.Contains(text, want) {
				t.Errorf("%s does not name %s", page, want)
			}
		}
	}
	if found := read("/docs/search?q=retrigger+build"); !strings.Contains(found, "/docs/operations/build.retrigger") {
		t.Errorf("a search finds %s", found)
	}
}
