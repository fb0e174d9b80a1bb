package data_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/blueprint"
	"github.com/slipway-platform/slipway/blueprint/blueprinttest"
	"github.com/slipway-platform/slipway/blueprint/catalog"
	"github.com/slipway-platform/slipway/blueprint/data"
	"github.com/slipway-platform/slipway/store"
)

// slipwayData runs `slipway data …` against a server, and gives what it printed: the exact answer, then the table's footer.
func slipwayData(s *blueprinttest.Server, args ...string) (string, error) {
	return slipwayIn(s, strings.NewReader(""), args...)
}

func slipwayIn(s *blueprinttest.Server, in io.Reader, args ...string) (string, error) {
	var out bytes.Buffer
	cmd := data.Blueprint.Commands[0](&blueprint.Client{
		Do: func(_ context.Context, method, path string, body, into any) error {
			a := s.Do(method, path, body)
			if a.Status >= 400 {
				var e struct{ Error *slipway.Error }
				a.Into(&e)
				return e.Error
			}
			if into == nil {
				return nil
			}
			return json.Unmarshal(a.Body, into)
		},
		Print: func(_ *cobra.Command, v any, table blueprint.Table) error {
			for _, r := range table.Rows {
				fmt.Fprintln(&out, strings.Join(r, " "))
			}
			fmt.Fprintln(&out, table.Footer)
			_, err := fmt.Fprintf(&out, "%s", v)
			return err
		},
	})
	cmd.SetArgs(args)
	cmd.SetIn(in)
	cmd.SetOut(&out)
	cmd.SetErr(&out)
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	err := cmd.Execute()
	return out.String(), err
}

func TestFilesCommandsAndHTTPGiveTheSameDocument(t *testing.T) {
	t.Setenv("DATA_TEST_KEY", canary)
	for _, e := range []store.Engine{store.SQLite, store.Postgres} {
		t.Run(string(e), func(t *testing.T) {
			o, _ := options()
			sameDocument(t, blueprinttest.Start(t, e, o))
		})
	}
}

func sameDocument(t *testing.T, s *blueprinttest.Server) {
	file := filepath.Join(t.TempDir(), "keys.yaml")
	text := `version: 1
kind: credentials
data:
  - {id: github-key, type: sshPrivateKey, scope: GLOBAL, description: GitHub checkout key, username: john.doe, privateKey: "${env:DATA_TEST_KEY}", passphrase: "${env:DATA_TEST_KEY}"}
`
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	run := func(want string, args ...string) {
		t.Helper()
		out, err := slipwayData(s, args...)
		if err != nil || !strings.Contains(out, want) || strings.Contains(out, canary) {
			t.Fatalf("slipway data %s: got %v\n%s\nwant %q in it, and no secret", strings.Join(args, " "), err, out, want)
		}
	}
	run("it would be: 1 created", "apply", "-f", file, "--dry-run")
	s.Get("/data/credentials/github-key").Is(404)
	run("1 created, 0 updated", "apply", "-f", filepath.Dir(file))
	run("1 unchanged", "apply", "-f", file)
	run(`"data":`+shownKey, "get", "credentials/github-key")
	run(`"data":[`+shownKey+`]`, "list", "credentials", "--filter", "type=sshPrivateKey")
	if err := os.WriteFile(file, []byte(strings.Replace(text, "john.doe", "jane.doe", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	run("updated credentials/github-key ~ username: john.doe → jane.doe", "diff", "-f", file)
	if err := os.WriteFile(file, []byte(text+"  - {id: x, type: nothing}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := slipwayData(s, "apply", "-f", file)
	if e, ok := errors.AsType[*slipway.Error](err); !ok || len(e.Details) != 1 || e.Details[0].Field != file+", document 1: /data/1/type" {
		t.Errorf("got %v %s, want the file and the place in it", err, out)
	}
	// The same as JSON, one document a line, a list of envelopes, and from the standard input.
	envelope := `{"version":1,"kind":"credentials","data":` + strings.Replace(shownKey, `"<redacted>"`, `"${env:DATA_TEST_KEY}"`, 2) + `}`
	for name, text := range map[string]string{
		"one.json": envelope, "list.json": "[" + envelope + "]", "lines.ndjson": envelope + "\n" + strings.ReplaceAll(envelope, "github-key", "other"), "list.yaml": "- " + envelope + "\n",
		"many.yml": "---\n" + envelope + "\n---\n---\n" + strings.ReplaceAll(envelope, "github-key", "other"), "bare.json": strings.Replace(shownKey, `{`, `{"kind":"credentials",`, 1), "-": envelope,
	} {
		path := name
		if path != "-" {
			path = filepath.Join(t.TempDir(), name)
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		out, err := slipwayIn(s, strings.NewReader(text), "apply", "-f", path)
		if err != nil || strings.Contains(out, "created credentials/github-key") || !strings.Contains(out, " unchanged") && !strings.Contains(out, "updated credentials/github-key") {
			t.Errorf("%s: got %v\n%s", name, err, out)
		}
		run(`"data":`+shownKey, "get", "credentials/github-key")
	}
	// In files each document has an id: without one, another document would come of it each time.
	nameless := filepath.Join(t.TempDir(), "nameless.yaml")
	if err := os.WriteFile(nameless, []byte("{version: 1, kind: credentials, data: [{id: a, type: secretText}, {type: secretText}]}\n---\n{kind: credentials, type: secretText}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := slipwayData(s, "apply", "-f", nameless); err == nil || !strings.Contains(err.Error(), "document 1: 1 of its documents have no id") || !strings.Contains(err.Error(), "document 2: 1 of") {
		t.Errorf("got %v %s, want both places told", err, out)
	}
	run("credentials", "kinds")
	run("oneOf", "schema", "credentials")
	run("deleted credentials/github-key", "delete", "credentials/github-key")
}

func TestAnExportAppliedToAnEmptyServerGivesTheSameExport(t *testing.T) {
	for _, e := range []store.Engine{store.SQLite, store.Postgres} {
		t.Run("from "+string(e), func(t *testing.T) { exportAndApply(t, e) })
	}
}

func exportAndApply(t *testing.T, e store.Engine) {
	other := map[store.Engine]store.Engine{store.SQLite: store.Postgres, store.Postgres: store.SQLite}[e]
	for name, value := range map[string]string{"CREDENTIALS_TOK_SECRET": "tok-secret", "PROVIDERS_CI_WEBHOOKSECRET": "hook-secret"} {
		t.Setenv(name, value)
	}
	o, _ := exporting()
	from := blueprinttest.Start(t, e, o)
	from.Post("/data", `[
		{"kind":"credentials","id":"tok","type":"secretText","secret":"tok-secret","description":"a ${x} <b>"},
		{"kind":"credentials","id":"app","type":"githubApp","appId":"7","installationId":9007199254740991,"labels":{"team":"web"}},
		{"kind":"providers","id":"ci","type":"vendor","url":"u","credential":"tok","projects":["a","b"],"webhookSecret":"hook-secret"},
		{"kind":"grants","id":"g","to":"group:default/shop","permissions":["data.credential.read"]},
		{"kind":"locations","id":"shop","type":"url","target":"https://git.example.com/shop.yaml"}]`).Is(200)
	first, err := slipwayData(from, "export")
	if err != nil || strings.Contains(first, "tok-secret") || !strings.Contains(first, `"installationId": 9007199254740991`) {
		t.Fatalf("got %v %s", err, first)
	}
	write := func(text string) string {
		t.Helper()
		file := filepath.Join(t.TempDir(), "export.json")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	// Back to where it came from: nothing changes, secrets included.
	if out, err := slipwayData(from, "apply", "-f", write(first)); err != nil || !strings.Contains(out, "5 unchanged") {
		t.Fatalf("got %v %s", err, out)
	}
	movable, err := slipwayData(from, "export", "--env")
	if err != nil || !strings.Contains(movable, "${env:CREDENTIALS_TOK_SECRET}") {
		t.Fatalf("got %v %s", err, movable)
	}
	o, _ = exporting()
	to := blueprinttest.Start(t, other, o)
	if _, err := slipwayData(to, "apply", "-f", write(first)); err == nil {
		t.Error("marks of secrets that this server does not have were taken for secrets")
	}
	if out, err := slipwayData(to, "apply", "-f", write(movable)); err != nil || !strings.Contains(out, "5 created") {
		t.Fatalf("got %v %s", err, out)
	}
	second, err := slipwayData(to, "export")
	if err != nil || second != first {
		t.Errorf("got %v\n%s\nwant\n%s", err, second, first)
	}
}

// exporting has the catalog beside the rest.
func exporting() (blueprinttest.Options, *vendor) {
	o, v := options()
	o.Blueprints = append(o.Blueprints, catalog.Blueprint)
	return o, v
}

func TestDriftIsShown(t *testing.T) {
	each(t, func(t *testing.T, s *blueprinttest.Server, _ *vendor) { driftIsShown(t, s) })
}

func driftIsShown(t *testing.T, s *blueprinttest.Server) {
	file := filepath.Join(t.TempDir(), "keys.yaml")
	if err := os.WriteFile(file, []byte("version: 1\nkind: credentials\ndata:\n  - {id: a, type: secretText, secret: secret-a, description: one, labels: {team: web}}\n  - {id: b, type: secretText, secret: secret-b}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	diff := func(want string, differs bool) {
		t.Helper()
		out, err := slipwayData(s, "diff", "-f", file, "--prune", "team=web", "--exit-code")
		if !strings.Contains(out, want) || (err != nil) != differs || strings.Contains(out, "secret-") {
			t.Errorf("got %v\n%s\nwant %q, and whether it differs to be %t", err, out, want, differs)
		}
	}
	diff("created credentials/a + type: secretText\n  + labels: {\"team\":\"web\"}\n  + scope: GLOBAL\n  + description: one\n  + secret: <redacted>\ncreated credentials/b", true)
	if _, err := slipwayData(s, "apply", "-f", file); err != nil {
		t.Fatal(err)
	}
	diff("0 created, 0 updated, 2 unchanged", false)
	s.Do("PATCH", "/data/credentials/a", doc{"description": "two"}).Is(200)
	s.Do("PATCH", "/data/credentials/b", doc{"secret": "other-one"}).Is(200)
	s.Post("/data/credentials", doc{"id": "c", "type": "secretText", "labels": doc{"team": "web"}}).Is(201)
	diff("updated credentials/a ~ description: two → one\nupdated credentials/b ~ a secret\ndeleted credentials/c", true)
}
