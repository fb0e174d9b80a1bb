package server

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/job"
	"github.com/slipway-platform/slipway/store"
)

// Whatever stands in a manifest, reading it gives an error with a sentence of some hundred bytes, or a manifest that names no file outside of its folder; looking whether its steps are known and its files whole does no
// harm then.
func FuzzManifest(f *testing.F) {
	f.Add([]byte(`{"format":1,"slipway":"0.1.0","keys":["5f2b0c17"],"databases":{"main":{"engine":"sqlite","steps":[{"owner":"job","version":1,"name":"0001_job","applied":true}],"files":[{"name":"main.db","bytes":0,"sha256":""}]}}}`))
	f.Add([]byte(`{"format":1,"databases":{"main":{"engine":"postgres","files":[{"name":"main/job.copy","table":"job","columns":["id"],"rows":1},{"name":"../x"}],"sequences":{"job_id_seq":1}}}}`))
	f.Add([]byte(`{"format":1,"databases":{"main":{"files":[{"name":"a/../../x"},{"name":"/etc/passwd"},{"name":"."},{"name":"manifest.json"}]}}}`))
	f.Add([]byte(`{"format":9,"slipway":"` + strings.Repeat("\u001b", 1000) + `"}`))
	f.Add([]byte(`{"format":1,"databases":null}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, manifestName), text, 0o600); err != nil {
			t.Fatal(err)
		}
		root, err := os.OpenRoot(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer root.Close()
		m, err := readManifest(root)
		if err != nil {
			if code := slipway.CodeOf(err); code != slipway.Invalid && code != slipway.Conflict || len(err.Error()) > 2000 {
				t.Fatalf("got %s: %.3000v", code, err)
			}
			return
		}
		for name, b := range m.Databases {
			for _, file := range b.Files {
				if !filepath.IsLocal(filepath.FromSlash(file.Name)) {
					t.Fatalf("a file %q", file.Name)
				}
			}
			for _, err := range []error{b.Known(name, job.Migrations, store.RevisionMigrations), b.Check(root)} {
				if err != nil && slipway.CodeOf(err) == slipway.Internal {
					t.Fatalf("an error that says nothing to the caller: %v", err)
				}
			}
		}
	})
}
