package providertest

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/slipway-platform/slipway"
)

var update = flag.Bool("update", false, "rewrite golden results")

const resultSuffix = ".golden.json"

// Golden keeps what a vendor really sends beside what is made of it. Every file of dir is a payload and a test case; what convert makes of it, as JSON, must equal
// the file of the same name with its extension replaced by ".golden.json". A coded error is a result too: {"error": code}. A payload without a result fails, and so
// does a result without a payload. `go test -update` writes the results; read the difference before it is committed.
func Golden(t *testing.T, dir string, convert func(payload []byte) (any, error)) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	unclaimed := map[string]bool{}
	var payloads []string
	for _, e := range entries {
		switch {
		case e.IsDir():
		case strings.HasSuffix(e.Name(), resultSuffix):
			unclaimed[e.Name()] = true
		default:
			payloads = append(payloads, e.Name())
		}
	}
	if len(payloads) == 0 {
		t.Fatalf("%s holds no payloads", dir)
	}
	for _, name := range payloads {
		result := strings.TrimSuffix(name, filepath.Ext(name)) + resultSuffix
		delete(unclaimed, result)
		t.Run(name, func(t *testing.T) { compare(t, filepath.Join(dir, name), filepath.Join(dir, result), convert) })
	}
	for name := range unclaimed {
		t.Errorf("%s has no payload; delete it", filepath.Join(dir, name))
	}
}

func compare(t *testing.T, payloadFile, resultFile string, convert func([]byte) (any, error)) {
	payload, err := os.ReadFile(payloadFile)
	if err != nil {
		t.Fatal(err)
	}
	value, err := convert(payload)
	if err != nil {
		value = map[string]any{"error": slipway.CodeOf(err)}
	}
	var got bytes.Buffer
	enc := json.NewEncoder(&got)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	if err := enc.Encode(value); err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile(resultFile, got.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(resultFile)
	if err != nil {
		t.Fatalf("%v; run go test -update and read what it writes", err)
	}
	if diff := cmp.Diff(string(want), got.String()); diff != "" {
		t.Errorf("%s became something else (-want +got):\n%s", payloadFile, diff)
	}
}
