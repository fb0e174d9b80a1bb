//go:build compat

// Package compat has Backstage's own catalog client call every method that it has against a server of this build: make compat. The client is
// a package of npm, so it is no part of go test; what it does stands in compat.mjs.
package compat

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/slipway-platform/slipway/server"
	"github.com/slipway-platform/slipway/store"
	"github.com/slipway-platform/slipway/store/storetest"
)

func TestBackstagesOwnClientWorksUnchanged(t *testing.T) {
	for _, engine := range []store.Engine{store.SQLite, store.Postgres} {
		t.Run(string(engine), func(t *testing.T) {
			key := filepath.Join(t.TempDir(), "master.key")
			if err := server.MakeKey(key); err != nil {
				t.Fatal(err)
			}
			cmd := exec.CommandContext(t.Context(), "node", "compat.mjs")
			cmd.Env = append(os.Environ(), "COMPAT_DATABASE="+storetest.URL(t, engine), "COMPAT_KEY="+key)
			out, err := cmd.CombinedOutput()
			t.Logf("%s", out)
			if err != nil {
				t.Fatal(err)
			}
		})
	}
}
