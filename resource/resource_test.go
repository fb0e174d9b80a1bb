package resource_test

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/auth"
	"github.com/slipway-platform/slipway/resource"
	"github.com/slipway-platform/slipway/secret"
	"github.com/slipway-platform/slipway/store"
	"github.com/slipway-platform/slipway/store/storetest"
)

// The documents of these tests: a database, whose type has changed twice, and whose stored shape has moved.
type database struct {
	Host     string `json:"host" required:"true" doc:"Where it is"`
	Port     int    `json:"port" default:"5432" doc:"Port"`
	Login    login  `json:"login" doc:"Who to be"`
	Replicas []int  `json:"replicas,omitempty" doc:"Others"`
}

type login struct {
	User     string `json:"user,omitempty" doc:"Account"`
	Password string `json:"password,omitempty" doc:"Its password"`
}

var everything = resource.Permissions{Read: "test.thing.read", Create: "test.thing.write", Update: "test.thing.write", Delete: "test.thing.write"}

// databases is the kind as it was first (version 1), and as it is now (version 2).
func databases(version int) resource.Kind {
	k := resource.Kind{Name: "databases", Text: "Databases.", Permissions: everything}
	if version == 1 {
		type first struct {
			Address  string `json:"address"`
			Password string `json:"password,omitempty"`
		}
		k.Types = []resource.Type{{Symbol: "postgres", Fields: first{}}}
		return k
	}
	k.Types = []resource.Type{{Symbol: "postgres", Fields: database{}, Version: 2, Upgrade: []func(map[string]any){func(d map[string]any) {
		if address, ok := d["address"].(string); ok {
			d["host"] = address
			delete(d, "address")
		}
		if password, ok := d["password"]; ok {
			d["login"] = map[string]any{"password": password}
			delete(d, "password")
		}
	}}}}
	return k
}

// things is a plain kind whose documents may name each other.
func things() resource.Kind {
	type thing struct {
		Text  string `json:"text,omitempty"`
		Needs string `json:"needs,omitempty"`
		Token string `json:"token,omitempty"`
	}
	return resource.Kind{
		Name: "things", Text: "Things.", Permissions: everything, Types: []resource.Type{{Fields: thing{}}},
		Uses: func(document json.RawMessage) []resource.Ref {
			var d thing
			if json.Unmarshal(document, &d) != nil || d.Needs == "" {
				return nil
			}
			return []resource.Ref{{Kind: "things", ID: d.Needs, Field: "/needs"}}
		},
	}
}

type fixture struct {
	t    testing.TB
	db   *store.DB
	keys *secret.Keyring
	*resource.Store
}

func (f fixture) open(kinds ...resource.Kind) fixture {
	f.t.Helper()
	var err error
	f.Store, err = resource.Open(f.t.Context(), f.db, store.NewRevisions(f.db, nil), f.keys, time.Now, kinds...)
	if err != nil {
		f.t.Fatal(err)
	}
	return f
}

func (f fixture) ctx() context.Context { return auth.WithCaller(f.t.Context(), auth.System()) }

func (f fixture) apply(verb resource.Verb, body string) ([]resource.Result, error) {
	f.t.Helper()
	inputs, err := resource.Read([]byte(body))
	if err != nil {
		f.t.Fatal(err)
	}
	var changes []resource.Change
	for _, in := range inputs {
		changes = append(changes, resource.Change{Input: in, Verb: verb})
	}
	return f.Apply(f.ctx(), changes, resource.Options{})
}

func (f fixture) must(verb resource.Verb, body string) []resource.Result {
	f.t.Helper()
	results, err := f.apply(verb, body)
	if err != nil {
		f.t.Fatal(err)
	}
	return results
}

func each(t *testing.T, test func(t *testing.T, f fixture)) {
	t.Helper()
	t.Parallel()
	storetest.Each(t, []store.Migrations{store.RevisionMigrations, resource.Migrations}, func(t *testing.T, db *store.DB) {
		keys, err := secret.OpenKeyring(filepath.Join(t.TempDir(), "key"), true)
		if err != nil {
			t.Fatal(err)
		}
		test(t, fixture{t: t, db: db, keys: keys})
	})
}

func TestADocumentOutlivesTheChangesOfItsType(t *testing.T) {
	each(t, func(t *testing.T, f fixture) {
		old := f.open(databases(1))
		old.must(resource.Create, `{"kind":"databases","id":"main","type":"postgres","address":"db.example","password":"hunter22"}`)
		now := f.open(databases(2))
		d, err := now.Get(now.ctx(), "databases", "main")
		if err != nil {
			t.Fatal(err)
		}
		if want := `{"id":"main","type":"postgres","typeVersion":2,"host":"db.example","login":{"password":"<redacted>"}}`; string(d.JSON) != want {
			t.Errorf("got %s, want %s", d.JSON, want)
		}
		// What was stored at first keeps its secret, and so does what an old client sends.
		for _, body := range []string{
			`{"kind":"databases","id":"main","type":"postgres","typeVersion":2,"host":"db.example","port":5433,"login":{"user":"web"}}`,
			`{"kind":"databases","id":"main","type":"postgres","address":"db.example","password":"<redacted>"}`,
		} {
			now.must(resource.Put, body)
			r, err := now.Reveal(now.ctx(), "databases", "main")
			if err != nil || !slices.Equal(r.Secrets, []string{"hunter22"}) {
				t.Errorf("after %s: got the secrets %v, %v", body, r.Secrets, err)
			}
		}
		if _, err := now.apply(resource.Put, `{"kind":"databases","id":"main","type":"postgres","typeVersion":3,"host":"h"}`); slipway.CodeOf(err) != slipway.Invalid {
			t.Errorf("a version from the future: got %v", err)
		}
	})
}

func TestWhatIsStoredMayMoveWhileTheDocumentStays(t *testing.T) {
	each(t, func(t *testing.T, f fixture) {
		type settings struct {
			Name  string `json:"name"`
			Token string `json:"token,omitempty"`
		}
		kind := func(moved bool) resource.Kind {
			k := resource.Kind{Name: "settings", Text: "Settings.", Permissions: everything, Types: []resource.Type{{Fields: settings{}}}}
			if moved {
				k.Types[0].Save = func(fields map[string]json.RawMessage) (map[string]json.RawMessage, error) {
					raw, err := json.Marshal(fields)
					return map[string]json.RawMessage{"v": raw}, err
				}
				k.Types[0].Load = func(stored map[string]json.RawMessage) (map[string]json.RawMessage, error) {
					if stored["v"] == nil { // as it was stored at first
						return stored, nil
					}
					var fields map[string]json.RawMessage
					err := json.Unmarshal(stored["v"], &fields)
					return fields, err
				}
			}
			return k
		}
		before, after := f.open(kind(false)), f.open(kind(true))
		before.must(resource.Create, `{"kind":"settings","id":"a","name":"one","token":"t0ken-t0ken","labels":{"x":"y"}}`)
		want := `{"id":"a","labels":{"x":"y"},"name":"one","token":"<redacted>"}`
		for range 2 {
			d, err := after.Get(after.ctx(), "settings", "a")
			if err != nil || string(d.JSON) != want {
				t.Errorf("got %s, %v, want %s", d.JSON, err, want)
			}
			want = strings.Replace(want, "one", "two", 1)
			after.must(resource.Patch, `{"kind":"settings","id":"a","name":"two"}`)
		}
		var stored string
		if err := f.db.QueryRowContext(t.Context(), `SELECT doc FROM resource`).Scan(&stored); err != nil || !strings.HasPrefix(stored, `{"v":`) {
			t.Errorf("stored is %s, %v; want the new shape", stored, err)
		}
		if r, err := after.Reveal(after.ctx(), "settings", "a"); err != nil || !slices.Equal(r.Secrets, []string{"t0ken-t0ken"}) {
			t.Errorf("got %v, %v", r.Secrets, err)
		}
	})
}

func TestOverlappingKindsAreRefusedTogether(t *testing.T) {
	t.Parallel()
	type f struct {
		ID string `json:"id"`
	}
	_, err := resource.Join(
		things(), things(),
		resource.Kind{Name: "schema", Text: "x", Permissions: everything, Types: []resource.Type{{Symbol: "a", Fields: f{}}, {Symbol: "a"}}},
		resource.Kind{Name: "more", Text: "x", Permissions: everything, Types: []resource.Type{{Symbol: "pkg.Type", Version: 2}}},
	)
	if err == nil {
		t.Fatal("got no error")
	}
	for _, want := range []string{`"things" is declared twice`, `kind "schema": the name`, `"a" is declared twice`, `"id" belongs to every document`, `"pkg.Type" is no symbol`, "needs an upgrade"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want also %q", err, want)
		}
	}
	joined, err := resource.Join(things(), resource.Kind{Name: "things", Types: []resource.Type{{Symbol: "other"}}})
	if err == nil || joined == nil {
		t.Errorf("a kind with and without symbols: got %v", err)
	}
}

// Two that delete and name the same document at once must not both succeed.
func TestNothingIsDeletedWhileItComesToBeNamed(t *testing.T) {
	each(t, func(t *testing.T, f fixture) {
		f = f.open(things())
		for i := range 20 {
			f.must(resource.Create, fmt.Sprintf(`{"kind":"things","id":"base%d"}`, i))
			var wg sync.WaitGroup
			var named, deleted error
			wg.Go(func() {
				_, named = f.apply(resource.Create, fmt.Sprintf(`{"kind":"things","id":"user%d","needs":"base%d"}`, i, i))
			})
			wg.Go(func() {
				_, deleted = f.Apply(f.ctx(), []resource.Change{{Input: resource.Input{Kind: "things"}, ID: fmt.Sprint("base", i), Verb: resource.Delete}}, resource.Options{})
			})
			wg.Wait()
			if (named == nil) == (deleted == nil) {
				t.Fatalf("round %d: named: %v, deleted: %v; want one of them refused", i, named, deleted)
			}
		}
	})
}

func TestChangesOfManyAtOnceAreAllKept(t *testing.T) {
	each(t, func(t *testing.T, f fixture) {
		f = f.open(things())
		f.must(resource.Create, `{"kind":"things","id":"one"}`)
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				for {
					_, err := f.apply(resource.Patch, fmt.Sprintf(`{"kind":"things","id":"one","labels":{"k%d":"v"}}`, i))
					if slipway.CodeOf(err) != slipway.Conflict {
						if err != nil {
							t.Error(err)
						}
						return
					}
				}
			})
		}
		wg.Wait()
		d, err := f.Get(f.ctx(), "things", "one")
		if err != nil || strings.Count(string(d.JSON), `"v"`) != 8 {
			t.Errorf("got %s, %v, want eight labels", d.JSON, err)
		}
	})
}

// A secret that was copied to another row, or whose sealed value was touched, does not open.
func TestASecretIsBoundToItsDocument(t *testing.T) {
	each(t, func(t *testing.T, f fixture) {
		f = f.open(things())
		f.must(resource.Put, `[{"kind":"things","id":"a","token":"token-of-a"},{"kind":"things","id":"b","token":"token-of-b"}]`)
		err := f.db.Write(t.Context(), func(tx *store.Tx) error {
			_, err := tx.Exec(t.Context(), `UPDATE resource SET sealed = (SELECT r.sealed FROM resource AS r WHERE r.id = 'a') WHERE id = 'b'`)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Reveal(f.ctx(), "things", "b"); slipway.CodeOf(err) != slipway.Internal {
			t.Errorf("got %v, want the copy refused", err)
		}
		all, err := f.RevealAll(f.ctx(), "things", "")
		if err != nil || len(all) != 2 || all[0].Err != nil || all[1].Err == nil {
			t.Errorf("got %v, %v: one that does not open must not hinder the other", all, err)
		}
	})
}

func TestRotationThatWasKilledGoesOn(t *testing.T) {
	each(t, func(t *testing.T, f fixture) {
		f = f.open(things())
		var all []string
		for i := range 500 {
			all = append(all, fmt.Sprintf(`{"kind":"things","id":"t%03d","token":"token-%03d"}`, i, i))
		}
		for part := range slices.Chunk(all, 100) {
			f.must(resource.Put, "["+strings.Join(part, ",")+"]")
		}
		old := f.keys.KeyIDs()[0]
		if err := f.keys.Rotate(); err != nil {
			t.Fatal(err)
		}
		ctx, kill := context.WithCancel(f.ctx())
		if n, err := f.Rekey(ctx, 100); n != 100 || err != nil {
			t.Fatalf("got %d, %v", n, err)
		}
		kill()
		if _, err := f.Rekey(ctx, 100); err == nil {
			t.Error("a context that ended: got no error")
		}
		f = f.open(things()) // after a restart
		for total := 100; ; {
			n, err := f.Rekey(f.ctx(), 150)
			if err != nil {
				t.Fatal(err)
			}
			if total += n; n == 0 {
				if total != 500 {
					t.Errorf("%d were sealed anew, want 500", total)
				}
				break
			}
		}
		var left int
		if err := f.db.QueryRowContext(t.Context(), `SELECT count(*) FROM resource WHERE key_id = $1`, old).Scan(&left); err != nil || left > 0 {
			t.Errorf("%d are left with the old key, %v", left, err)
		}
		revealed, err := f.RevealAll(f.ctx(), "things", "")
		for i, r := range revealed {
			if r.Err != nil || !slices.Equal(r.Secrets, []string{fmt.Sprintf("token-%03d", i)}) {
				t.Fatalf("%s: got %v, %v, %v", r.ID, r.Secrets, r.Err, err)
			}
		}
	})
}

func TestRecordsAndLeftoversAreForgotten(t *testing.T) {
	each(t, func(t *testing.T, f fixture) {
		f = f.open(things())
		f.must(resource.Put, `{"kind":"things","id":"a"}`)
		if err := f.Prune(f.ctx(), time.Now().Add(time.Hour)); err != nil {
			t.Fatal(err)
		}
		if all, _, err := f.History(f.ctx(), resource.HistoryQuery{Limit: 10}); err != nil || len(all) != 0 {
			t.Errorf("got %v, %v", all, err)
		}
		var staged int
		if err := f.db.QueryRowContext(t.Context(), `SELECT count(*) FROM resource_stage`).Scan(&staged); err != nil || staged != 0 {
			t.Errorf("%d rows are staged, %v", staged, err)
		}
	})
}

// A body of many tiny documents must not take a hundred times its size: whoever may call at all may send one.
func TestABodyOfMoreDocumentsThanOneCallTakesIsRefusedWhileItIsRead(t *testing.T) {
	const n = 1 << 20
	for name, body := range map[string]string{
		"an array":            "[" + strings.Repeat("{},", n) + "{}]",
		"lines":               `{"id":"a"}` + strings.Repeat("\n{}", n),
		"lines of no JSON":    strings.Repeat("{\n", n),
		"an envelope":         `{"version":1,"kind":"things","data":[` + strings.Repeat("0,", n) + "0]}",
		"an array of several": "[" + strings.Repeat(`{"version":1,"kind":"things","data":[`+strings.Repeat("{},", 999)+"{}]},", 60) + `{}]`,
	} {
		if inputs, err := resource.Read([]byte(body)); slipway.CodeOf(err) != slipway.TooLarge || len(inputs) > 0 {
			t.Errorf("%s: got %d inputs and %v, want too_large", name, len(inputs), err)
		}
	}
	var keys strings.Builder
	for i := range 20_000 {
		fmt.Fprintf(&keys, `,"key%d":0`, i)
	}
	each(t, func(t *testing.T, f fixture) {
		f = f.open(things())
		_, err := f.apply(resource.Put, `{"kind":"things","id":"a"`+keys.String()+`}`)
		if slipway.CodeOf(err) != slipway.Invalid || !strings.Contains(err.Error(), "more than 10000 keys") {
			t.Errorf("a document of many keys: got %v", err)
		}
	})
}

func FuzzRead(f *testing.F) {
	for _, s := range []string{`{"version":1,"data":[{}]}`, `[{"kind":"a"}]`, "{}\n{}", `{"version":1,"data":{"a":[[[]]]}}`, `{"data":null,"version":1}`, `[1]`, `""`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		inputs, err := resource.Read(raw)
		for _, in := range inputs {
			if err == nil && in.Document != nil && !json.Valid(in.Document) {
				t.Errorf("%q gave a document that is no JSON: %q", raw, in.Document)
			}
		}
	})
}

func TestMigrations(t *testing.T) {
	t.Parallel()
	storetest.UpDownUp(t, store.RevisionMigrations, resource.Migrations)
}
