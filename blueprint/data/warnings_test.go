package data_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/slipway-platform/slipway/auth"
	"github.com/slipway-platform/slipway/blueprint"
	"github.com/slipway-platform/slipway/blueprint/blueprinttest"
	"github.com/slipway-platform/slipway/blueprint/data"
	"github.com/slipway-platform/slipway/resource"
	"github.com/slipway-platform/slipway/server"
	"github.com/slipway-platform/slipway/store"
)

// alarms is a kind with everything that may be warned of: a type that has changed, one that is deprecated, and a sentence of its own.
var alarms = func() blueprint.Blueprint {
	type mail struct {
		To []string `json:"to" required:"true" doc:"Addresses"`
	}
	type fax struct {
		Number string `json:"number" doc:"Number"`
	}
	first := func(d map[string]any) {
		if to, ok := d["to"].(string); ok {
			d["to"] = []any{to}
		}
	}
	return blueprint.Blueprint{
		Name: "alarm", Version: "0.1.0", Summary: "Alarms.", Stability: blueprint.Experimental,
		Permissions: []auth.Permission{{Name: "alarm.alarm.read", Text: "Read alarms"}, {Name: "alarm.alarm.write", Text: "Change alarms"}},
		Kinds: []blueprint.ResourceKind{{Kind: resource.Kind{
			Name: "alarms", Text: "Whom to wake.",
			Permissions: resource.Permissions{Read: "alarm.alarm.read", Create: "alarm.alarm.write", Update: "alarm.alarm.write", Delete: "alarm.alarm.write"},
			Types: []resource.Type{
				{Symbol: "mail", Text: "By mail", Fields: mail{}, Version: 2, Upgrade: []func(map[string]any){first}},
				{Symbol: "fax", Text: "By fax", Fields: fax{}, Deprecated: "use mail"},
			},
			Warn: func(document json.RawMessage) []string {
				if strings.Contains(string(document), "example.com") {
					return []string{"nobody reads mail at example.com"}
				}
				return nil
			},
		}}},
		Open: func(context.Context, *blueprint.Host) (any, error) { return nil, nil },
	}
}()

// A document that is taken and may not be what its writer wants comes with a warning: in the answer of each way to write it, on the command line, and in the log when
// it comes from a configured folder.
func TestWarningsStandBesideTheAnswer(t *testing.T) {
	folder := t.TempDir()
	if err := os.WriteFile(filepath.Join(folder, "alarms.yaml"), []byte("{version: 1, kind: alarms, data: {id: folder, type: fax}}"), 0o600); err != nil {
		t.Fatal(err)
	}
	o := blueprinttest.Options{Blueprints: []blueprint.Blueprint{data.Blueprint, alarms}, Configure: func(c *server.Config) { c.Resources = []string{folder} }}
	onEach(t, func(t *testing.T, e store.Engine) {
		s := blueprinttest.Start(t, e, o)
		if log := s.Log.String(); !strings.Contains(log, "alarms/folder: the type fax is deprecated; use mail") {
			t.Errorf("a warning of a document from a folder is not in the log: %s", log)
		}
		for i, c := range []struct{ kind, document, warning string }{
			{"credentials", `"type":"secretText"`, "it has no secret yet, and lets nobody in"},
			{"credentials", `"type":"secretText","secret":"s3cret-s3cret"`, ""},
			{"alarms", `"type":"mail","to":"jane@web.example"`, "it is of an earlier typeVersion, which is still taken; the present one is 2"},
			{"alarms", `"type":"mail","typeVersion":2,"to":["jane@web.example"]`, ""},
			{"alarms", `"type":"fax","number":"1"`, "the type fax is deprecated; use mail"},
			{"alarms", `"type":"mail","typeVersion":2,"to":["jane@example.com"]`, "nobody reads mail at example.com"},
		} {
			id := fmt.Sprint("w", i)
			document := `{"id":"` + id + `",` + c.document + `}`
			want := ""
			if c.warning != "" {
				want = c.kind + "/" + id + ": " + c.warning
			}
			path := "/data/" + c.kind
			for how, a := range map[string]*blueprinttest.Answer{
				"dry run":       s.Post(path+"?dryRun=true", document).Is(200),
				"create":        s.Post(path, document).Is(201),
				"replace":       s.Do("PUT", path+"/"+id, document).Is(200),
				"patch":         s.Do("PATCH", path+"/"+id, `{"labels":{"a":"b"}}`).Is(200),
				"many":          s.Post("/data", `{"version":1,"kind":"`+c.kind+`","data":[`+document+`]}`).Is(200),
				"many, dry run": s.Post("/data?dryRun=true", `{"version":1,"kind":"`+c.kind+`","data":[`+document+`]}`).Is(200),
			} {
				var e struct{ Warnings []string }
				a.Into(&e)
				want := want
				if how == "patch" && strings.Contains(want, "typeVersion") {
					want = "" // it was brought up to date when it was stored
				}
				if got := strings.Join(e.Warnings, "\n"); got != want {
					t.Errorf("%s of %s: got the warnings %q, want %q", how, document, got, want)
				}
			}
			file := filepath.Join(t.TempDir(), "one.json")
			if err := os.WriteFile(file, []byte(`{"version":1,"kind":"`+c.kind+`","data":`+document+`}`), 0o600); err != nil {
				t.Fatal(err)
			}
			for _, args := range [][]string{{"apply", "-f", file}, {"apply", "-f", file, "--dry-run"}, {"diff", "-f", file}} {
				out, err := slipwayData(s, args...)
				if err != nil || strings.Contains(out, "warning: ") != (want != "") || want != "" && !strings.Contains(out, "warning: "+want+"\n") {
					t.Errorf("slipway data %s: got %v\n%s\nwant the warning %q", args, err, out, want)
				}
			}
		}
		// Of many, the command shows some, and how many more there are.
		var many []string
		for i := range 30 {
			many = append(many, fmt.Sprintf(`{"kind":"credentials","id":"many%02d","type":"secretText"}`, i))
		}
		file := filepath.Join(t.TempDir(), "many.ndjson")
		if err := os.WriteFile(file, []byte(strings.Join(many, "\n")), 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := slipwayData(s, "apply", "-f", file)
		if n := strings.Count(out, "warning: "); err != nil || n != 20 || !strings.Contains(out, "and 10 more warnings") {
			t.Errorf("got %v and %d warnings:\n%s", err, n, out)
		}
	})
}
