package data_test

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/auth"
	"github.com/slipway-platform/slipway/blueprint"
	"github.com/slipway-platform/slipway/blueprint/blueprinttest"
	"github.com/slipway-platform/slipway/blueprint/data"
	"github.com/slipway-platform/slipway/blueprint/platform"
	"github.com/slipway-platform/slipway/provider"
	"github.com/slipway-platform/slipway/provider/fake"
	"github.com/slipway-platform/slipway/server"
	"github.com/slipway-platform/slipway/store"
	"github.com/slipway-platform/slipway/store/storetest"
)

// canary is a secret that must be seen nowhere.
const canary = "canary-5f1e7b3c9d"

// vendor is a kind of provider that takes a credential, and tells what it was opened with.
type vendor struct {
	mu     sync.Mutex
	opened map[string]string // name to credential
	opens  int
	closes int
}

type vendorConfig struct {
	URL           string         `json:"url" doc:"Address" required:"true"`
	Credential    map[string]any `json:"credential" doc:"Credential"`
	WebhookSecret string         `json:"webhookSecret" doc:"Signs webhooks"` // hidden by its name, though nobody tagged it
	Projects      []string       `json:"projects" doc:"Projects"`
}

func (v *vendor) kind() provider.Kind {
	return provider.Kind{
		Name: "vendor", Text: "A vendor.", Config: vendorConfig{},
		Open: func(_ context.Context, raw json.RawMessage, env provider.Env) (*provider.Provider, error) {
			var c vendorConfig
			if err := provider.Decode(raw, &c); err != nil {
				return nil, err
			}
			if c.URL == "broken" {
				return nil, slipway.Errorf(slipway.Invalid, "the address is broken")
			}
			v.mu.Lock()
			defer v.mu.Unlock()
			v.opened[env.Name] = fmt.Sprint(c.Credential["secret"])
			v.opens++
			return &provider.Provider{Projects: func(*slipway.Entity) []string { return nil }, Close: v.close}, nil
		},
	}
}

func (v *vendor) close() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.closes++
	return nil
}

// counts says how often a provider was opened and closed.
func (v *vendor) counts() (opens, closes int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.opens, v.closes
}

func (v *vendor) credential(name string) string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.opened[name]
}

func options() (blueprinttest.Options, *vendor) {
	v := &vendor{opened: map[string]string{}}
	return blueprinttest.Options{Blueprints: []blueprint.Blueprint{data.Blueprint, platform.Blueprint}, Kinds: []provider.Kind{fake.Kind, v.kind()}}, v
}

func each(t *testing.T, test func(t *testing.T, s *blueprinttest.Server, v *vendor)) {
	t.Helper()
	onEach(t, func(t *testing.T, e store.Engine) {
		o, v := options()
		test(t, blueprinttest.Start(t, e, o), v)
	})
}

func onEach(t *testing.T, test func(t *testing.T, e store.Engine)) {
	t.Helper()
	t.Parallel()
	for _, e := range []store.Engine{store.SQLite, store.Postgres} {
		t.Run(string(e), func(t *testing.T) {
			t.Parallel()
			test(t, e)
		})
	}
}

type doc = map[string]any

func documentOf(t *testing.T, a *blueprinttest.Answer) doc {
	t.Helper()
	var e struct {
		Version int
		Data    doc
	}
	if a.Into(&e); e.Version != 1 || e.Data == nil {
		t.Fatalf("got %s, want an envelope of version 1", a.Body)
	}
	return e.Data
}

// refused fails the test unless the answer is an error of the data dialect; it gives the message and the fields at fault.
func refused(t *testing.T, a *blueprinttest.Answer, status int, code slipway.Code) (string, []string) {
	t.Helper()
	var e struct {
		Version int
		Error   struct {
			Code      slipway.Code
			Message   string
			RequestID string
			Details   []slipway.Detail
		}
	}
	a.Is(status).Into(&e)
	if e.Version != 1 || e.Error.Code != code || e.Error.RequestID == "" {
		t.Fatalf("got %s, want code %s in the envelope", a.Body, code)
	}
	var fields []string
	for _, d := range e.Error.Details {
		fields = append(fields, d.Field)
	}
	return e.Error.Message, fields
}

const sshKey = `{"id":"github-key","type":"sshPrivateKey","scope":"GLOBAL","description":"GitHub checkout key","username":"john.doe","privateKey":"` + canary + `","passphrase":"` + canary + `2"}`

const shownKey = `{"id":"github-key","type":"sshPrivateKey","scope":"GLOBAL","description":"GitHub checkout key","username":"john.doe","privateKey":"<redacted>","passphrase":"<redacted>"}`

func TestTheExampleOfTheFormat(t *testing.T) {
	each(t, func(t *testing.T, s *blueprinttest.Server, _ *vendor) {
		made := s.Post("/data/credentials", sshKey).Is(201)
		want := `{"version":1,"data":` + shownKey + `}`
		if got := strings.TrimSpace(string(made.Body)); got != want || made.Header.Get("Location") != "/data/credentials/github-key" {
			t.Errorf("got %s at %q, want %s", got, made.Header.Get("Location"), want)
		}
		if got := strings.TrimSpace(string(s.Get("/data/credentials/github-key").Is(200).Body)); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
		list := strings.TrimSpace(string(s.Get("/data/credentials").Is(200).Body))
		if list != `{"version":1,"data":[`+shownKey+`],"pageInfo":{"limit":20,"hasMore":false}}` {
			t.Errorf("got the list %s", list)
		}
		s.Do("PUT", "/data/credentials/github-key", `{"version":1,"kind":"credentials","data":[`+shownKey+`]}`).Is(200)
		s.Do("DELETE", "/data/credentials/github-key", nil).Is(204)
		s.Get("/data/credentials/github-key").Is(404)
	})
}

func TestASymbolIsFoundOnlyInTheListOfItsKind(t *testing.T) {
	each(t, func(t *testing.T, s *blueprinttest.Server, _ *vendor) {
		for _, symbol := range []string{
			"nothing", "java.lang.Runtime", "com.example.HostnameSpecification$Resource", "../secretText", "resource.Kind", "github.com/slipway-platform/slipway/auth.Token",
			"vendor", "SecretText", "",
		} {
			message, fields := refused(t, s.Post("/data/credentials", doc{"id": "x", "type": symbol}), 422, slipway.Invalid)
			if !strings.Contains(message, "secretText, sshPrivateKey, usernamePassword") || !slices.Equal(fields, []string{"/type"}) {
				t.Errorf("type %q: got %q at %v, want the known symbols at /type", symbol, message, fields)
			}
		}
		if _, fields := refused(t, s.Post("/data/credentials", `{"id":"x"}`), 422, slipway.Invalid); !slices.Equal(fields, []string{"/type"}) {
			t.Errorf("without a type: got faults at %v", fields)
		}
		refused(t, s.Post("/data/providers", doc{"id": "x", "type": "local"}), 422, slipway.Invalid) // it would run commands
	})
}

func TestEveryKindAsksForItsOwnPermission(t *testing.T) {
	each(t, func(t *testing.T, s *blueprinttest.Server, _ *vendor) {
		s.Post("/data/credentials", sshKey).Is(201)
		stranger := s.With("data.provider.read")
		for _, call := range []func() *blueprinttest.Answer{
			func() *blueprinttest.Answer { return stranger.Get("/data/credentials") },
			func() *blueprinttest.Answer { return stranger.Get("/data/credentials/github-key") },
			func() *blueprinttest.Answer { return stranger.Post("/data/credentials", sshKey) },
			func() *blueprinttest.Answer { return stranger.Do("PUT", "/data/credentials/github-key", sshKey) },
			func() *blueprinttest.Answer { return stranger.Do("PATCH", "/data/credentials/github-key", `{}`) },
			func() *blueprinttest.Answer { return stranger.Do("DELETE", "/data/credentials/github-key", nil) },
			func() *blueprinttest.Answer {
				return stranger.Post("/data", `{"version":1,"kind":"credentials","data":[`+sshKey+`]}`)
			},
			func() *blueprinttest.Answer { return stranger.Get("/data/audit") },
			func() *blueprinttest.Answer { return stranger.Post("/data/rekey", nil) },
		} {
			refused(t, call(), 403, slipway.Forbidden)
		}
		s.As("").Get("/data/credentials").Is(401)
		reader := s.With("data.credential.read", "data.credential.update")
		reader.Get("/data/credentials/github-key").Is(200)
		reader.Do("PATCH", "/data/credentials/github-key", `{"description":"new"}`).Is(200)
		refused(t, reader.Do("PUT", "/data/credentials/other", `{"type":"secretText"}`), 403, slipway.Forbidden) // it would be created
		refused(t, reader.Do("DELETE", "/data/credentials/github-key", nil), 403, slipway.Forbidden)
	})
}

func TestASecretIsKeptClearedAndReplaced(t *testing.T) {
	each(t, func(t *testing.T, s *blueprinttest.Server, v *vendor) {
		secretIs := func(when, want string) {
			t.Helper()
			blueprinttest.Eventually(t, when+": the vendor is opened with "+want, func() bool { return v.credential("ci") == want })
		}
		s.Post("/data/credentials", `{"id":"tok","type":"secretText","secret":"first-secret"}`).Is(201)
		s.Post("/data/providers", `{"id":"ci","type":"vendor","url":"http://ci.example","credential":"tok"}`).Is(201)
		secretIs("created", "first-secret")
		s.Do("PUT", "/data/credentials/tok", `{"type":"secretText","secret":"<redacted>","description":"1"}`).Is(200)
		s.Do("PUT", "/data/credentials/tok", `{"type":"secretText","description":"2"}`).Is(200)
		s.Do("PATCH", "/data/credentials/tok", `{"description":"3"}`).Is(200)
		s.Do("PUT", "/data/providers/ci", `{"type":"vendor","url":"http://other.example","credential":"tok"}`).Is(200)
		secretIs("kept", "first-secret")
		s.Do("PATCH", "/data/credentials/tok", `{"secret":"second-secret"}`).Is(200)
		secretIs("replaced", "second-secret")
		d := documentOf(t, s.Do("PATCH", "/data/credentials/tok", `{"secret":null}`).Is(200))
		if _, there := d["secret"]; there {
			t.Errorf("got %v, want the secret cleared", d)
		}
		secretIs("cleared", "<nil>")
		if _, fields := refused(t, s.Do("PUT", "/data/credentials/tok", `{"type":"secretText","secret":"<redacted>"}`), 422, slipway.Invalid); !slices.Equal(fields, []string{"/secret"}) {
			t.Errorf("got faults at %v: a mark that stands for nothing must not become the secret", fields)
		}
	})
}

func TestWhatDoesNotFitIsToldAllAtOnce(t *testing.T) {
	each(t, func(t *testing.T, s *blueprinttest.Server, _ *vendor) {
		_, fields := refused(t, s.Post("/data/credentials", `{"version":1,"data":{"id":"x","type":"githubApp","scope":"USER","instalationId":7,"installationId":"seven","privateKey":5,"labels":[]}}`), 422, slipway.Invalid)
		slices.Sort(fields)
		if want := []string{"/data/appId", "/data/installationId", "/data/instalationId", "/data/labels", "/data/privateKey", "/data/scope"}; !slices.Equal(fields, want) {
			slices.Sort(want)
			if !slices.Equal(fields, want) {
				t.Errorf("got faults at %v, want %v: %s", fields, want, s.Post("/data/credentials", `{"version":1,"data":{"id":"x","type":"githubApp","scope":"USER","instalationId":7,"installationId":"seven","privateKey":5,"labels":[]}}`).Body)
			}
		}
		for body, status := range map[string]int{
			`{"version":2,"kind":"credentials","data":{"type":"secretText"}}`:    400,
			`{"version":"1","kind":"credentials","data":{"type":"secretText"}}`:  400,
			`{"kind":"credentials","data":{"type":"secretText"}}`:                400,
			`{"version":1,"kind":"providers","data":{"type":"secretText"}}`:      422,
			`{"version":1,"data":[]}`:                                            422,
			`{"version":1,"data":[{"type":"secretText"},{"type":"secretText"}]}`: 422,
			`{"id":"a/b","type":"secretText"}`:                                   422,
			`{"type":"secretText","type":"x"}`:                                   422,
			`{"type":"secretText"`:                                               400,
			strings.Repeat(`{"a":`, 40) + `1` + strings.Repeat(`}`, 40):          400,
			``: 400,
		} {
			if a := s.Post("/data/credentials", body); a.Status != status {
				t.Errorf("%s: got %d %s, want %d", body, a.Status, a.Body, status)
			}
		}
		s.Post("/data/credentials", `{"id":"fixed","type":"secretText"}`).Is(201)
		if _, fields := refused(t, s.Do("PUT", "/data/credentials/fixed", `{"type":"usernamePassword"}`), 422, slipway.Invalid); !slices.Equal(fields, []string{"/type"}) {
			t.Errorf("another type: got faults at %v", fields)
		}
		refused(t, s.Do("PUT", "/data/credentials/fixed", `{"id":"other","type":"secretText"}`), 422, slipway.Invalid)
		refused(t, s.Post("/data/credentials", `{"id":"fixed","type":"secretText"}`), 409, slipway.Conflict)
		refused(t, s.Get("/data/nothing"), 404, slipway.NotFound)
		refused(t, s.Get("/data/credentials?colour=red"), 400, slipway.Invalid)
		made := documentOf(t, s.Post("/data/credentials", `{"type":"secretText"}`).Is(201))
		s.Get("/data/credentials/" + made["id"].(string)).Is(200)
	})
}

func TestManyDocumentsAreAppliedAllOrNone(t *testing.T) {
	each(t, func(t *testing.T, s *blueprinttest.Server, _ *vendor) {
		good := `{"version":1,"kind":"credentials","data":[{"id":"a","type":"secretText","secret":"aaaaaaaa","labels":{"team":"web"}},{"id":"b","type":"secretText","labels":{"team":"web"}}]}`
		users := `{"version":1,"kind":"providers","data":{"id":"ci","type":"vendor","url":"u","credential":"a"}}`
		_, fields := refused(t, s.Post("/data", `[`+good+`,{"version":1,"kind":"credentials","data":[{"id":"c","type":"none"},{"id":"a","type":"secretText"},7]},
			{"kind":"providers","id":"x","type":"vendor","url":"u","credential":"gone"},{"id":"y"},{"kind":"nothing","id":"z"},8,{"version":1,"kind":"credentials","date":1,"data":{"id":"e","type":"secretText","colour":"red"}}]`), 422, slipway.Invalid)
		slices.Sort(fields)
		if want := []string{"/1/data/0/type", "/1/data/1/id", "/1/data/2", "/2/credential", "/3/kind", "/4/kind", "/5", "/6/data/colour", "/6/date"}; !slices.Equal(fields, want) {
			t.Errorf("got faults at %v, want %v", fields, want)
		}
		s.Get("/data/credentials/a").Is(404)
		for _, body := range []string{`[` + users + `,` + good + `]`, users + "\n" + good + "\n"} {
			s.Post("/data?dryRun=true", body).Is(200)
		}
		s.Get("/data/credentials/a").Is(404)
		var e struct {
			Data struct{ Created, Updated, Unchanged, Deleted int }
		}
		s.Post("/data", `[`+users+`,`+good+`]`).Is(200).Into(&e)
		if e.Data.Created != 3 {
			t.Errorf("got %+v, want 3 created", e.Data)
		}
		s.Post("/data", users+"\n"+good).Is(200).Into(&e)
		if e.Data.Created != 0 || e.Data.Unchanged != 3 {
			t.Errorf("again: got %+v, want 3 unchanged", e.Data)
		}
		s.Post("/data?prune=team%3Dweb", `{"version":1,"kind":"credentials","data":[{"id":"a","type":"secretText","labels":{"team":"web"}}]}`).Is(200).Into(&e)
		if e.Data.Deleted != 1 || e.Data.Unchanged != 1 {
			t.Errorf("prune: got %+v, want b deleted and a as it was", e.Data)
		}
		s.Get("/data/credentials/b").Is(404)
	})
}

func TestADocumentInUseIsNotDeleted(t *testing.T) {
	each(t, func(t *testing.T, s *blueprinttest.Server, _ *vendor) {
		if _, fields := refused(t, s.Post("/data/providers", `{"id":"ci","type":"vendor","url":"u","credential":"tok"}`), 422, slipway.Invalid); !slices.Equal(fields, []string{"/credential"}) {
			t.Errorf("got faults at %v", fields)
		}
		s.Post("/data/credentials", `{"id":"tok","type":"secretText"}`).Is(201)
		s.Post("/data/providers", `{"id":"ci","type":"vendor","url":"u","credential":"tok"}`).Is(201)
		if message, _ := refused(t, s.Do("DELETE", "/data/credentials/tok", nil), 409, slipway.Conflict); !strings.Contains(message, "providers/ci") {
			t.Errorf("got %q, want to be told by whom", message)
		}
		s.Do("PATCH", "/data/providers/ci", `{"credential":null}`).Is(200)
		s.Do("DELETE", "/data/credentials/tok", nil).Is(204)
	})
}

func TestNamingACredentialTakesARightOfItsOwn(t *testing.T) {
	each(t, func(t *testing.T, s *blueprinttest.Server, v *vendor) {
		s.Post("/data/credentials", `{"id":"tok","type":"secretText","secret":"s3cret-s3cret"}`).Is(201)
		s.Post("/data/providers", `{"id":"ci","type":"vendor","url":"u","credential":"tok"}`).Is(201)
		writer := s.With("data.provider.*", "data.credential.read")
		refused(t, writer.Post("/data/providers", `{"id":"mine","type":"vendor","url":"http://mine.example","credential":"tok"}`), 403, slipway.Forbidden)
		refused(t, writer.Do("PATCH", "/data/providers/ci", `{"url":"http://mine.example"}`), 403, slipway.Forbidden)
		writer.Post("/data/providers", `{"id":"mine","type":"vendor","url":"http://mine.example"}`).Is(201)
		s.With("data.provider.*", "data.credential.use").Do("PATCH", "/data/providers/mine", `{"credential":"tok"}`).Is(200)
	})
}

func TestALostUpdateIsFound(t *testing.T) {
	each(t, func(t *testing.T, s *blueprinttest.Server, _ *vendor) {
		first := s.Post("/data/credentials", `{"id":"tok","type":"secretText"}`).Is(201).Header.Get("ETag")
		s.Get("/data/credentials/tok", "If-None-Match", first).Is(304)
		second := s.Do("PATCH", "/data/credentials/tok", `{"description":"x"}`, "If-Match", first).Is(200).Header.Get("ETag")
		refused(t, s.Do("PATCH", "/data/credentials/tok", `{"description":"y"}`, "If-Match", first), 412, slipway.Precondition)
		refused(t, s.Do("DELETE", "/data/credentials/tok", nil, "If-Match", first), 412, slipway.Precondition)
		if got := s.Get("/data/credentials/tok").Header.Get("ETag"); got != second || got == first {
			t.Errorf("got the tags %s, %s, then %s", first, second, got)
		}
		// Of many that add at once, each with If-Match, every change is kept.
		var wg sync.WaitGroup
		for i := range 4 {
			wg.Go(func() {
				for {
					a := s.Get("/data/credentials/tok")
					d := documentOf(t, a)
					labels, _ := d["labels"].(doc)
					if labels == nil {
						labels = doc{}
					}
					labels[fmt.Sprint("k", i)] = "v"
					if s.Do("PATCH", "/data/credentials/tok", doc{"labels": labels}, "If-Match", a.Header.Get("ETag")).Status == 200 {
						return
					}
				}
			})
		}
		wg.Wait()
		if labels := documentOf(t, s.Get("/data/credentials/tok"))["labels"].(doc); len(labels) != 4 {
			t.Errorf("got %v, want all four", labels)
		}
	})
}

func TestListsAreFilteredAndPaged(t *testing.T) {
	each(t, func(t *testing.T, s *blueprinttest.Server, _ *vendor) {
		var all []doc
		for i := range 25 {
			kind := []string{"secretText", "usernamePassword"}[i%2]
			all = append(all, doc{"kind": "credentials", "id": fmt.Sprintf("c%02d", i), "type": kind, "description": "d", "labels": doc{"n.x/y": fmt.Sprint(i % 5)}})
		}
		s.Post("/data", all).Is(200)
		read := func(query string) (ids []string) {
			for cursor := ""; ; {
				var e struct {
					Data     []doc
					PageInfo slipway.PageInfo
				}
				s.Get("/data/credentials?" + query + cursor).Is(200).Into(&e)
				for _, d := range e.Data {
					ids = append(ids, d["id"].(string))
				}
				if !e.PageInfo.HasMore {
					return ids
				}
				cursor = "&cursor=" + e.PageInfo.NextCursor
			}
		}
		if got := read("limit=7"); len(got) != 25 || !slices.IsSorted(got) {
			t.Errorf("got %v, want all 25 in order", got)
		}
		if got := read("limit=3&filter=type%3DsecretText"); len(got) != 13 {
			t.Errorf("got %v, want 13", got)
		}
		if got := read("limit=2&filter=type%3DsecretText&filter=" + url.QueryEscape("labels.n.x/y=0")); !slices.Equal(got, []string{"c00", "c10", "c20"}) {
			t.Errorf("got %v", got)
		}
		var e struct {
			Data     []doc
			PageInfo slipway.PageInfo
		}
		s.Get("/data/credentials?limit=1&fields=description").Is(200).Into(&e)
		if len(e.Data[0]) != 3 {
			t.Errorf("got %v, want id, type and description", e.Data[0])
		}
		refused(t, s.Get("/data/credentials?limit=1&cursor="+e.PageInfo.NextCursor), 400, slipway.Invalid)
		refused(t, s.Get("/data/credentials?cursor=abc"), 400, slipway.Invalid)
		refused(t, s.Get("/data/credentials?filter=type"), 400, slipway.Invalid)
	})
}

func TestAProviderWorksAtOnceOnEveryReplica(t *testing.T) {
	t.Parallel()
	for _, e := range []store.Engine{store.SQLite, store.Postgres} {
		t.Run(string(e), func(t *testing.T) {
			t.Parallel()
			o, here := options()
			o.Database, o.DataDir = storetest.URL(t, e), t.TempDir()
			configured := func(c *server.Config) {
				c.Providers = []server.ProviderConfig{{Name: "old", Type: "fake"}}
			}
			o.Configure = configured
			s := blueprinttest.Start(t, e, o)
			if e == store.Postgres {
				// A second replica on the same database.
				other, there := options()
				other.Database, other.DataDir, other.Configure = o.Database, o.DataDir, configured
				blueprinttest.Start(t, e, other)
				defer blueprinttest.Eventually(t, "the other replica opens it", func() bool { return there.credential("new") == "s3cret-s3cret" })
			}
			s.Post("/data/credentials", `{"id":"tok","type":"secretText","secret":"s3cret-s3cret"}`).Is(201)
			s.Post("/data", `[{"kind":"providers","id":"bad","type":"vendor","url":"broken"},{"kind":"providers","id":"new","type":"vendor","url":"u","credential":"tok","webhookSecret":"`+canary+`"}]`).Is(200)
			blueprinttest.Eventually(t, "it is opened", func() bool { return here.credential("new") == "s3cret-s3cret" })
			if body := string(s.Get("/data/providers").Is(200).Body); strings.Contains(body, canary) || !strings.Contains(body, `{"id":"old","origin":"config","type":"fake"}`) {
				t.Errorf("got %s, want the configured one beside the others and no secret", body)
			}
			refused(t, s.Do("PUT", "/data/providers/old", `{"type":"fake"}`), 409, slipway.Conflict)
			refused(t, s.Do("DELETE", "/data/providers/old", nil), 409, slipway.Conflict)
			s.Do("DELETE", "/data/providers/bad", nil).Is(204)
		})
	}
}

// While the database does not take new providers, each attempt closes what it has opened.
func TestProvidersThatCannotBePutInPlaceAreClosed(t *testing.T) {
	each(t, func(t *testing.T, s *blueprinttest.Server, v *vendor) {
		write(t, s, `ALTER TABLE task_source RENAME TO task_source_away`)
		s.Post("/data/providers", `{"id":"new","type":"vendor","url":"u"}`).Is(201)
		blueprinttest.Eventually(t, "it is opened again", func() bool { opens, _ := v.counts(); return opens >= 3 })
		write(t, s, `ALTER TABLE task_source_away RENAME TO task_source`)
		blueprinttest.Eventually(t, "it is at work", func() bool {
			opens, closes := v.counts()
			return opens == closes+1 && strings.Contains(string(s.Get("/api/providers").Is(200).Body), `"new"`)
		})
		s.Do("DELETE", "/data/providers/new", nil).Is(204)
		blueprinttest.Eventually(t, "it is closed", func() bool { opens, closes := v.counts(); return opens == closes })
	})
}

func TestAGrantWorksAtOnceAndGivesNoMoreThanOneHolds(t *testing.T) {
	each(t, func(t *testing.T, s *blueprinttest.Server, _ *vendor) {
		bot := s.As(s.NewToken(auth.NewToken{Name: "bot", Permissions: []string{"data.grant.*"}}))
		bot.Get("/data/credentials").Is(403)
		if _, fields := refused(t, bot.Post("/data/grants", `{"to":"token:bot","permissions":["data.grant.read","*"]}`), 422, slipway.Invalid); !slices.Equal(fields, []string{"/permissions/1"}) {
			t.Errorf("got faults at %v", fields)
		}
		if _, fields := refused(t, s.Post("/data/grants", `{"to":"everybody","permissions":["no.such.thing"]}`), 422, slipway.Invalid); !slices.Equal(fields, []string{"/to", "/permissions/0"}) {
			t.Errorf("got faults at %v", fields)
		}
		s.Post("/data/grants", `{"id":"bots","to":"token:bot","permissions":["data.credential.read"]}`).Is(201)
		blueprinttest.Eventually(t, "the grant works", func() bool { return bot.Get("/data/credentials").Status == 200 })
		s.Do("DELETE", "/data/grants/bots", nil).Is(204)
		blueprinttest.Eventually(t, "it is gone", func() bool { return bot.Get("/data/credentials").Status == 403 })
	})
}

func TestEveryChangeIsRecorded(t *testing.T) {
	each(t, func(t *testing.T, s *blueprinttest.Server, _ *vendor) {
		s.Post("/data/credentials", sshKey, "X-Request-Id", "request-one").Is(201)
		s.Do("PATCH", "/data/credentials/github-key", `{"description":"x"}`).Is(200)
		s.Do("PATCH", "/data/credentials/github-key", `{"description":"x"}`).Is(200) // changes nothing
		s.Do("DELETE", "/data/credentials/github-key", nil).Is(204)
		var e struct {
			Data []struct {
				Action, Kind, Object, Caller, RequestID string
				Before, After                           doc
			}
		}
		s.Get("/data/audit?kind=credentials&id=github-key").Is(200).Into(&e)
		var actions []string
		for _, r := range e.Data {
			actions = append(actions, r.Action)
		}
		if !slices.Equal(actions, []string{"delete", "update", "create"}) || e.Data[2].RequestID != "request-one" || !strings.HasPrefix(e.Data[2].Caller, "token:") {
			t.Fatalf("got %+v", e.Data)
		}
		if e.Data[1].Before["description"] != "GitHub checkout key" || e.Data[1].After["description"] != "x" || e.Data[1].After["privateKey"] != "<redacted>" {
			t.Errorf("got %+v", e.Data[1])
		}
		// By pages, and on the command line.
		s.Do("PUT", "/data/credentials/github-key", `{"type":"sshPrivateKey","privateKey":"`+canary+`"}`).Is(201)
		s.Do("PATCH", "/data/credentials/github-key", `{"privateKey":"`+canary+`-new"}`).Is(200)
		var ids []float64
		for cursor := ""; ; {
			var page struct {
				Data     []doc
				PageInfo slipway.PageInfo
			}
			s.Get("/data/audit?kind=credentials&limit=2" + cursor).Is(200).Into(&page)
			for _, r := range page.Data {
				ids = append(ids, r["id"].(float64))
			}
			if !page.PageInfo.HasMore {
				break
			}
			cursor = "&cursor=" + page.PageInfo.NextCursor
			refused(t, s.Get("/data/audit?kind=providers&limit=2"+cursor), 400, slipway.Invalid)
		}
		if len(ids) != 5 || !slices.IsSortedFunc(ids, func(a, b float64) int { return int(b - a) }) {
			t.Errorf("got the records %v, want 5, newest first", ids)
		}
		refused(t, s.Get("/data/audit?id=github-key"), 400, slipway.Invalid)
		refused(t, s.Get("/data/audit?kind=%00"), 400, slipway.Invalid)
		out, err := slipwayData(s, "audit", "credentials/github-key")
		for _, want := range []string{"update credentials/github-key ~ a secret\n", "delete credentials/github-key \n", "update credentials/github-key ~ description: GitHub checkout key → x\n", "create credentials/github-key + type: sshPrivateKey\n"} {
			if err != nil || !strings.Contains(out, want) || strings.Contains(out, canary) {
				t.Errorf("got %v\n%s\nwant %q", err, out, want)
			}
		}
	})
}

// What is secret leaves the process nowhere: not in answers, logs, metrics, traces, nor in the bytes of the database.
func TestSecretsAreSeenNowhere(t *testing.T) {
	onEach(t, func(t *testing.T, e store.Engine) {
		var mu sync.Mutex
		var traces strings.Builder
		collector := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			mu.Lock()
			defer mu.Unlock()
			traces.Write(body)
		}))
		t.Cleanup(collector.Close)
		o, _ := options()
		o.Configure = func(c *server.Config) { c.Telemetry.Endpoint = collector.URL }
		s := blueprinttest.Start(t, e, o)
		var seen strings.Builder
		note := func(a *blueprinttest.Answer) { seen.Write(a.Body); fmt.Fprint(&seen, a.Header) }
		note(s.Post("/data/credentials", sshKey, "Idempotency-Key", "k1").Is(201))
		note(s.Post("/data/credentials", sshKey, "Idempotency-Key", "k1").Is(201))
		note(s.Post("/data/credentials", sshKey))
		note(s.Post("/data/credentials", `{"id":"bad","type":"secretText","secret":{"`+canary+`":1}}`))
		note(s.Post("/data/credentials", `{"id":"bad","type":"certificate","keyStore":"`+canary+`!"}`))
		note(s.Post("/data/credentials", `{"id":"bad","type":"secretText","secret":"`+canary+`"`))
		note(s.Post("/data/providers", `{"id":"p","type":"vendor","url":"broken","webhookSecret":"`+canary+`"}`).Is(201))
		note(s.Post("/data?dryRun=true", `{"version":1,"kind":"credentials","data":{"id":"new","type":"secretText","secret":"`+canary+`"}}`).Is(200))
		for _, path := range []string{"/data/credentials", "/data/credentials/github-key", "/data/providers", "/data/audit", "/metrics", "/api/events", "/api/jobs", "/data/credentials?filter=privateKey%3D" + canary} {
			note(s.Get(path).Is(200))
		}
		for _, args := range [][]string{{"export"}, {"export", "--env"}, {"list", "credentials"}, {"get", "credentials/github-key"}} {
			out, err := slipwayData(s, args...)
			fmt.Fprint(&seen, out, err)
		}
		if strings.Contains(seen.String(), `"`+canary) || strings.Contains(strings.ReplaceAll(seen.String(), "privateKey="+canary, ""), canary) {
			t.Errorf("an answer shows the secret: %s", seen.String())
		}
		if strings.Contains(strings.ReplaceAll(s.Log.String(), "privateKey="+canary, ""), canary) {
			t.Error("the log shows the secret")
		}
		s.Stop() // sends the last traces
		mu.Lock()
		defer mu.Unlock()
		if spans := traces.String(); !strings.Contains(spans, "data.create") || strings.Contains(spans, canary) {
			t.Errorf("the traces hold the secret, or nothing: %d bytes", len(spans))
		}
		if rows := dump(t, s.Database); len(rows) < 10 || strings.Contains(rows, canary) {
			t.Errorf("a copy of the database holds the secret, or nothing: %d bytes", len(rows))
		}
		files, err := filepath.Glob(filepath.Join(s.DataDir, "*"))
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range files {
			if raw, err := os.ReadFile(name); err == nil && strings.Contains(string(raw), canary) {
				t.Errorf("%s holds the secret", name)
			}
		}
	})
}

// dump is every row of every table on PostgreSQL, and the file on SQLite.
func dump(t *testing.T, url string) string {
	t.Helper()
	if file, ok := strings.CutPrefix(url, "sqlite:"); ok {
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		return string(raw)
	}
	db, err := store.Open("main", url)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	read := func(query string) (all []string) {
		rows, err := db.QueryContext(t.Context(), query)
		if err == nil {
			err = store.Each(rows, func(rows *sql.Rows) error {
				var text string
				err := rows.Scan(&text)
				all = append(all, text)
				return err
			})
		}
		if err != nil {
			t.Fatal(err)
		}
		return all
	}
	var out strings.Builder
	for _, table := range read(`SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'`) {
		out.WriteString(strings.Join(read(`SELECT CAST(t AS TEXT) FROM "`+table+`" AS t`), "\n"))
	}
	return out.String()
}

func TestKeysAreRotatedWhileWorkGoesOn(t *testing.T) {
	each(t, func(t *testing.T, s *blueprinttest.Server, v *vendor) {
		var all []doc
		for i := range 300 {
			all = append(all, doc{"kind": "credentials", "id": fmt.Sprintf("c%03d", i), "type": "secretText", "secret": fmt.Sprint("secret-number-", i)})
		}
		s.Post("/data", all).Is(200)
		key := filepath.Join(s.DataDir, "master.key")
		before, err := os.ReadFile(key)
		if err != nil {
			t.Fatal(err)
		}
		a := s.Post("/data/rekey", nil).Is(202)
		newKey := documentOf(t, a)["keyId"].(string)
		if strings.Contains(string(before), newKey) || !strings.HasPrefix(a.Header.Get("Location"), "/api/jobs/") {
			t.Errorf("got %s at %s, want a new key and a job", newKey, a.Header.Get("Location"))
		}
		// Without the old key, everything opens once the job has run.
		blueprinttest.Eventually(t, "secrets open with the new key alone", func() bool {
			return strings.Contains(s.Log.String(), "sealed anew")
		})
		s.Post("/data/providers", `{"id":"last","type":"vendor","url":"u","credential":"c299"}`).Is(201)
		blueprinttest.Eventually(t, "a secret still opens", func() bool { return v.credential("last") == "secret-number-299" })
	})
}

func TestALostKeyRefusesTheStart(t *testing.T) {
	onEach(t, func(t *testing.T, e store.Engine) {
		o, _ := options()
		o.Database, o.DataDir = storetest.URL(t, e), t.TempDir()
		s := blueprinttest.Start(t, e, o)
		s.Post("/data/credentials", sshKey).Is(201)
		s.Stop()
		key := filepath.Join(o.DataDir, "master.key")
		if err := os.Remove(key); err != nil {
			t.Fatal(err)
		}
		config := server.DefaultConfig()
		config.DataDir, config.Databases, config.Secrets.KeyFile = o.DataDir, map[string]string{"main": o.Database}, key
		if e == store.Postgres { // there nobody makes a key but the operator
			if err := server.MakeKey(key); err != nil {
				t.Fatal(err)
			}
		}
		_, err := server.New(t.Context(), server.Options{Config: config, Blueprints: o.Blueprints, Kinds: o.Kinds})
		if err == nil || !strings.Contains(err.Error(), "put the key file back") {
			t.Fatalf("got %v, want the start refused with what to do", err)
		}
	})
}

func TestFoldersAreAppliedAtStart(t *testing.T) {
	onEach(t, foldersAreApplied)
}

func foldersAreApplied(t *testing.T, e store.Engine) {
	folder := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(folder, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("token", "from-a-file\n")
	write("a.yaml", `
version: 1
kind: credentials
data:
  - {id: tok, type: secretText, secret: "${file:`+filepath.Join(folder, "token")+`}"}
---
version: 1
kind: providers
data: {id: ci, type: vendor, url: u, credential: tok}
`)
	o, v := options()
	o.Database, o.DataDir = storetest.URL(t, e), t.TempDir()
	o.Configure = func(c *server.Config) { c.Resources = []string{folder} }
	s := blueprinttest.Start(t, e, o)
	if got := v.credential("ci"); got != "from-a-file" {
		t.Errorf("the provider has the credential %q", got)
	}
	tag := s.Get("/data/credentials/tok").Is(200).Header.Get("ETag")
	s.Stop()
	again := blueprinttest.Start(t, e, o)
	if got := again.Get("/data/credentials/tok").Is(200).Header.Get("ETag"); got != tag {
		t.Errorf("the same files again changed the document: tag %s, then %s", tag, got)
	}
	again.Stop()
	write("b.yaml", "{version: 1, kind: credentials, data: {id: x, type: nothing}}")
	config := server.DefaultConfig()
	config.DataDir, config.Databases, config.Resources = o.DataDir, map[string]string{"main": o.Database}, []string{folder}
	config.Secrets.KeyFile = filepath.Join(o.DataDir, "master.key")
	if _, err := server.New(t.Context(), server.Options{Config: config, Blueprints: o.Blueprints, Kinds: o.Kinds}); err == nil || !strings.Contains(err.Error(), "b.yaml") {
		t.Errorf("got %v, want the start refused, naming the file", err)
	}
	if err := os.Remove(filepath.Join(folder, "b.yaml")); err != nil {
		t.Fatal(err)
	}
	config = server.DefaultConfig()
	config.DataDir, config.Databases = o.DataDir, map[string]string{"main": o.Database}
	config.Secrets.KeyFile = filepath.Join(o.DataDir, "master.key")
	config.Providers = []server.ProviderConfig{{Name: "ci", Type: "fake"}}
	if _, err := server.New(t.Context(), server.Options{Config: config, Blueprints: o.Blueprints, Kinds: o.Kinds}); err == nil || !strings.Contains(err.Error(), `"ci"`) {
		t.Errorf("got %v, want the start refused: one name, two providers", err)
	}
}

func TestATokenIsADocumentWhoseSecretIsToldOnce(t *testing.T) {
	each(t, func(t *testing.T, s *blueprinttest.Server, _ *vendor) {
		if body := string(s.Get("/data/tokens").Is(200).Body); !strings.Contains(body, `"id":"test-`) || strings.Contains(body, "slp_") {
			t.Errorf("got %s", body)
		}
		body := `{"id":"bot","permissions":["data.credential.read"],"expiresAt":"2100-01-01T00:00:00Z","rateLimit":"500/m"}`
		s.Post("/data/tokens?dryRun=true", body).Is(200)
		made := s.Post("/data/tokens", body, "Idempotency-Key", "once").Is(201)
		d := documentOf(t, made)
		secret, _ := d["secret"].(string)
		if !strings.HasPrefix(secret, "slp_") || made.Header.Get("Cache-Control") != "no-store" {
			t.Fatalf("got %s %v, want the secret, not to be stored", made.Body, made.Header)
		}
		refused(t, s.Post("/data/tokens", body, "Idempotency-Key", "once"), 409, slipway.Conflict)
		bot := s.As(secret)
		bot.Get("/data/credentials").Is(200)
		refused(t, bot.Get("/data/providers"), 403, slipway.Forbidden)

		// What was read may be sent back, and the files that made it applied again.
		shown := documentOf(t, s.Get("/data/tokens/bot").Is(200))
		if shown["tokenId"] == nil || shown["secret"] != nil {
			t.Errorf("got %v, want its id and no secret", shown)
		}
		s.Do("PUT", "/data/tokens/bot", shown).Is(200)
		var e struct {
			Data struct {
				Unchanged, Created int
				Documents          []struct{ Secret string }
			}
		}
		many := `{"version":1,"kind":"tokens","data":[` + body + `,{"id":"other","permissions":["data.credential.read"]}]}`
		s.Post("/data", many).Is(200).Into(&e)
		if e.Data.Unchanged != 1 || e.Data.Created != 1 || !strings.HasPrefix(e.Data.Documents[1].Secret, "slp_") {
			t.Errorf("got %+v", e.Data)
		}
		refused(t, s.Do("PATCH", "/data/tokens/bot", `{"rateLimit":"600/m"}`), 409, slipway.Conflict)

		// Nobody makes more than they hold, and what cannot be is told by field.
		maker := s.With("platform.token.*", "data.credential.read")
		if _, fields := refused(t, maker.Post("/data/tokens", `{"id":"more","permissions":["data.provider.read"]}`), 422, slipway.Invalid); !slices.Equal(fields, []string{"/permissions"}) {
			t.Errorf("got faults at %v", fields)
		}
		if _, fields := refused(t, s.Post("/data/tokens", `{"id":"bad","permissions":["no.such.thing"],"expiresAt":"2001-01-01T00:00:00Z","labels":{"a":"b"}}`), 422, slipway.Invalid); !slices.Equal(fields, []string{"/labels"}) {
			t.Errorf("got faults at %v", fields)
		}
		if _, fields := refused(t, s.Post("/data/tokens", `{"id":"bad","permissions":["no.such.thing"],"expiresAt":"2001-01-01T00:00:00Z"}`), 422, slipway.Invalid); !slices.Equal(fields, []string{"/permissions/0", "/expiresAt"}) {
			t.Errorf("got faults at %v", fields)
		}
		refused(t, s.With("platform.token.read").Post("/data/tokens", body), 403, slipway.Forbidden)

		// A fault beside it leaves no token behind.
		s.Post("/data", `[{"kind":"tokens","id":"half","permissions":["data.credential.read"]},{"kind":"credentials","id":"x","type":"none"}]`).Is(422)
		s.Get("/data/tokens/half").Is(404)

		tag := s.Get("/data/tokens/bot").Header.Get("ETag")
		refused(t, s.Do("DELETE", "/data/tokens/bot", nil, "If-Match", `"other"`), 412, slipway.Precondition)
		s.Do("DELETE", "/data/tokens/bot", nil, "If-Match", tag).Is(204)
		bot.Get("/data/credentials").Is(401)
		s.Get("/data/tokens/bot").Is(404)
		for _, record := range []string{string(s.Get("/data/audit?kind=tokens").Is(200).Body), s.Log.String()} {
			if strings.Contains(record, secret) || strings.Contains(record, e.Data.Documents[1].Secret) {
				t.Errorf("the secret is recorded in %s", record)
			}
		}
		if body := string(s.Get("/data/audit?kind=tokens&id=bot").Is(200).Body); !strings.Contains(body, `"action":"delete"`) || !strings.Contains(body, `"action":"create"`) {
			t.Errorf("got %s", body)
		}
	})
}

func TestManyThousandDocumentsInOneCall(t *testing.T) {
	if testing.Short() {
		t.Skip("it writes 10,000 documents")
	}
	each(t, func(t *testing.T, s *blueprinttest.Server, _ *vendor) {
		var b strings.Builder
		for i := range 10_000 {
			fmt.Fprintf(&b, `{"version":1,"kind":"credentials","data":{"id":"c%05d","type":"usernamePassword","username":"u","password":"password-%d"}}`+"\n", i, i)
		}
		start := time.Now()
		s.Post("/data", b.String()).Is(200)
		t.Logf("10,000 documents took %s", time.Since(start)) // how long they may take is a number of docs/performance.md
		var again struct {
			Data struct{ Created, Updated, Unchanged int }
		}
		if s.Post("/data", b.String()).Is(200).Into(&again); again.Data.Unchanged != 10_000 {
			t.Errorf("the same again: got %+v, want all unchanged", again.Data)
		}
		for _, id := range []string{"c00000", "c05000", "c09999"} {
			s.Get("/data/credentials/" + id).Is(200)
		}
	})
}
