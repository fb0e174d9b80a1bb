//go:build bench

package bench

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.yaml.in/yaml/v4"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/blueprint/catalog"
	"github.com/slipway-platform/slipway/builtin"
	"github.com/slipway-platform/slipway/entity/entitytest"
	"github.com/slipway-platform/slipway/server"
	"github.com/slipway-platform/slipway/store"
	"github.com/slipway-platform/slipway/store/storetest"
)

// TestCatalogNumbers takes the numbers of a catalog of BENCH_ENTITIES entities, 100,000 by default, which it reads from files as anybody would. Its parts are
// subtests, such as TestCatalogNumbers/sqlite/first. They share one catalog, which BENCH_KEEP, a folder, keeps for the next run; on PostgreSQL it stays on the server
// that SLIPWAY_TEST_POSTGRES names. BENCH_ENGINE limits it to one engine.
func TestCatalogNumbers(t *testing.T) {
	for _, e := range []store.Engine{store.SQLite, store.Postgres} {
		if only := os.Getenv("BENCH_ENGINE"); only == "" || only == string(e) {
			t.Run(string(e), func(t *testing.T) { measureCatalog(t, e) })
		}
	}
	fmt.Printf("\n| what | engine | measured | wanted |\n|---|---|---|---|\n%s\n", strings.Join(catalogNumbers.lines, "\n"))
}

var catalogNumbers report

const (
	perFile   = 1000
	oneFile   = 3022 // entities of the file that is read on its own
	farPage   = 500
	polled    = 100 // locations read every 30 seconds: as often as 1,000 every 5 minutes
	polling   = 30 * time.Second
	firstTime = 9 // times that an answer is asked for that no cache has
)

func measureCatalog(t *testing.T, e store.Engine) {
	n := number("BENCH_ENTITIES", 100_000)
	database, full := keptCatalog(t, e, n)
	t.Run("fill", func(t *testing.T) {
		if full {
			t.Skip("the catalog that was kept is full already")
		}
		fillCatalog(t, e, database, n)
	})
	if e == store.Postgres && !full {
		vacuum(t, database)
	}
	t.Run("ratios", func(t *testing.T) { compareReads(t, e, database, n) })
	t.Run("first", func(t *testing.T) { firstReads(t, e, database) })
	t.Run("unchanged", func(t *testing.T) { pollCatalog(t, e, storetest.URL(t, e)) })
}

// keptCatalog gives the address of a catalog of so many entities, and whether it holds them already.
func keptCatalog(t *testing.T, e store.Engine, n int) (address string, full bool) {
	t.Helper()
	return kept(t, e, fmt.Sprintf("catalog-%d", n), `SELECT COUNT(*) FROM entity`, n+oneFile)
}

// serveCatalog starts a server that reads locations again so often.
func serveCatalog(t *testing.T, database string, refresh time.Duration, roots, allow []string) *process {
	t.Helper()
	raw, err := json.Marshal(map[string]any{"roots": roots, "allow": allow, "maxFile": 16 << 20, "refresh": refresh})
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv(sectionsVariable, string(raw))
	return start(t, "slipway", database, t.TempDir())
}

// fillCatalog measures how a catalog is read from files.
func fillCatalog(t *testing.T, e store.Engine, database string, n int) {
	files := t.TempDir()
	note := func(what, got, want string) { catalogNumbers.note(t, what, e, got, want) }
	for from := 0; from < n; from += perFile {
		writeFile(t, filepath.Join(files, fmt.Sprintf("part-%03d.yaml", from/perFile)), from, min(from+perFile, n))
	}
	writeFile(t, filepath.Join(files, "one.yaml"), n, n+oneFile)
	p := serveCatalog(t, database, time.Hour, []string{files}, nil)

	// One file, then all the others.
	begin := time.Now()
	p.register(t, "file", filepath.Join(files, "one.yaml"))
	p.await(t, entitytest.At(n+oneFile-1).Ref().String(), oneFile)
	note(fmt.Sprintf("%d entities of one file visible after", oneFile), fmt.Sprintf("%.1f s", time.Since(begin).Seconds()), "≤ 3 s")
	begin = time.Now()
	c0 := p.cpu(t)
	p.register(t, "file", filepath.Join(files, "part-*.yaml"))
	p.await(t, entitytest.At(n-1).Ref().String(), n+oneFile)
	took := time.Since(begin)
	note(fmt.Sprintf("%d entities of files of 1,000, named by one location, visible after", n), fmt.Sprintf("%.0f s, %.0f s of CPU", took.Seconds(), (p.cpu(t)-c0).Seconds()), "≤ 60 s")
	note(fmt.Sprintf("most memory while reading %d entities", n+oneFile), fmt.Sprintf("%.0f MB", p.peak(t)), "≤ 300 MB")
	p.settle(t)
	note("until all that follows the catalog has caught up", fmt.Sprintf("%.0f s, %.0f s of CPU in all", time.Since(begin).Seconds(), (p.cpu(t)-c0).Seconds()), "noted")
	p.stop()
}

// pollCatalog measures what costs nothing new: locations that answer 304, in a catalog with nothing else.
func pollCatalog(t *testing.T, e store.Engine, database string) {
	note := func(what, got, want string) { catalogNumbers.note(t, what, e, got, want) }
	host := newHost(t)
	p := serveCatalog(t, database, polling, nil, []string{host.URL + "/*"})
	p.settle(t)
	idle := p.share(t, 30*time.Second)
	for i := range polled {
		p.register(t, "url", fmt.Sprintf("%s/%d.yaml", host.URL, i))
	}
	p.await(t, fmt.Sprintf("resource:default/polled-%d", polled-1), polled)
	p.share(t, polling) // all have been read once more
	p.settle(t)
	before := host.notModified.Load()
	busy := p.share(t, 2*polling)
	note("1,000 addresses that answer 304 every 5 minutes (100 every 30 s), above idle",
		fmt.Sprintf("%.2f %% of a core (%d answers 304, idle %.2f %%)", busy-idle, host.notModified.Load()-before, idle), "≤ 1 %")
	p.stop()
}

// compareReads measures what reads cost beside a bare handler, on a server that only reads.
func compareReads(t *testing.T, e store.Engine, database string, n int) {
	seconds := float64(number("BENCH_SECONDS", 5))
	note := func(what, got, want string) { catalogNumbers.note(t, what, e, got, want) }
	p, bare := serveCatalog(t, database, time.Hour, nil, nil), start(t, "bareCatalog", database)
	p.settle(t)
	components := make([]int, 200)
	random := rand.New(rand.NewPCG(1, 2))
	for i := range components {
		components[i] = random.IntN(n/100)*100 + 42 + random.IntN(58)
	}
	var names, refs []string
	for _, c := range components {
		names = append(names, "/api/catalog/entities/by-name/component/default/"+entitytest.Name(c))
	}
	for i := range 20 {
		var ask struct {
			EntityRefs []string `json:"entityRefs"`
		}
		for k := range 100 {
			ask.EntityRefs = append(ask.EntityRefs, "component:default/"+entitytest.Name(components[(i*7+k)%len(components)]))
		}
		body, _ := json.Marshal(ask)
		refs = append(refs, "/api/catalog/entities/by-refs "+string(body))
	}
	query := "/api/catalog/entities/by-query?" + url.Values{"filter": {"kind=component"}, "fullTextFilterTerm": {"a"}, "fullTextFilterFields": {"metadata.name,metadata.title"},
		"orderField": {"metadata.name,asc"}, "limit": {"20"}, "totalItems": {"exclude"}}.Encode()
	far, mark := p.page(t, query, farPage)
	for _, m := range []struct {
		what, want string
		paths      []string
		bare       []string // what the bare handler is asked; the same when nil
	}{
		{"by-name", "≤ 2", names, nil},
		{"list, by kind and type, limit 20", "≤ 1.7", []string{"/api/catalog/entities?filter=kind=component,spec.type=service&limit=20"}, nil},
		{"list, by kind and label, limit 20", "≤ 1.7", []string{"/api/catalog/entities?filter=kind=component,metadata.labels.env=prod&limit=20"}, []string{"/api/catalog/entities?label=prod"}},
		{"by-query, kind, text, order, page 1", "≤ 1.7", []string{query}, []string{"/api/catalog/entities/by-query"}},
		{fmt.Sprintf("by-query, kind, text, order, page %d", farPage), "as page 1", []string{far}, []string{"/api/catalog/entities/by-query?after=" + mark}},
		{"by-refs of 100", "noted", refs, nil},
	} {
		if m.bare == nil {
			m.bare = m.paths
		}
		t.Run(m.what, func(t *testing.T) {
			p.sameAs(t, bare, m.paths[0], m.bare[0])
			ours, theirs, ratio := besides(t, p, bare, m.paths, m.bare, seconds)
			note(m.what+": CPU of the server a request, beside the bare handler", fmt.Sprintf("%.2f (%.0f µs beside %.0f µs)", ratio, ours, theirs), m.want)
		})
	}
	facets := "/api/catalog/entity-facets?facet=spec.type&facet=metadata.tags&facet=metadata.labels.env&filter=kind=component"
	cached, _, _ := besides(t, p, nil, []string{facets}, nil, seconds)
	note("facets of three fields with a filter, cached: CPU a request", fmt.Sprintf("%.0f µs", cached), "noted")
	bare.stop()
	p.stop()
}

// firstReads measures how long an answer takes that no cache has.
func firstReads(t *testing.T, e store.Engine, database string) {
	note := func(what, got, want string) { catalogNumbers.note(t, what, e, got, want) }
	p := serveCatalog(t, database, time.Hour, nil, nil)
	p.settle(t)
	for _, m := range []struct{ what, path, want string }{
		{"count of a kind", "by-query?limit=0&filter=kind=component", "≤ 15 ms"},
		{"count of a kind and type", "by-query?limit=0&filter=kind=component,spec.type=service", "≤ 15 ms"},
		{"count of a kind, type and label", "by-query?limit=0&filter=kind=component,spec.type=service,metadata.labels.env=prod", "≤ 15 ms"},
		{"text in name and title that nobody has", "by-query?limit=20&totalItems=exclude&fullTextFilterTerm=nobody&fullTextFilterFields=metadata.name,metadata.title", "≤ 30 ms"},
		{"text in name and title of a kind, with order and count", "by-query?limit=20&filter=kind=component&orderField=metadata.name&fullTextFilterTerm=billing&fullTextFilterFields=metadata.name,metadata.title", "≤ 30 ms"},
		{"facets of three fields, of a kind", "entity-facets?facet=spec.type&facet=metadata.tags&facet=metadata.labels.env&filter=kind=component", "≤ 30 ms"},
		{"facets of three fields, of a kind and type", "entity-facets?facet=spec.lifecycle&facet=metadata.tags&facet=metadata.labels.env&filter=kind=component,spec.type=service", "≤ 200 ms"},
		{"facets of three fields, of a kind, type and label", "entity-facets?facet=spec.lifecycle&facet=metadata.tags&facet=metadata.labels.tier&filter=kind=component,spec.type=service,metadata.labels.env=prod", "≤ 200 ms"},
	} {
		path := "/api/catalog/" + m.path
		if strings.HasPrefix(m.path, "by-query") {
			path = "/api/catalog/entities/" + m.path
		}
		took, cpu := p.first(t, path)
		note(m.what+", the first time", fmt.Sprintf("%.1f ms (%.0f ms of the server's CPU, with the write before it)", took, cpu), m.want)
	}
	p.stop()
}

// ---- the files and the host ----

// writeFile writes entities as people do: YAML documents.
func writeFile(t *testing.T, name string, from, to int) {
	t.Helper()
	var b bytes.Buffer
	enc := yaml.NewEncoder(&b)
	for i := from; i < to; i++ {
		raw, err := json.Marshal(entitytest.At(i))
		if err != nil {
			t.Fatal(err)
		}
		var tree map[string]any
		if err := json.Unmarshal(raw, &tree); err != nil {
			t.Fatal(err)
		}
		if err := enc.Encode(tree); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(name, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
}

// host answers files of one entity each, with an ETag, and counts how often they had not changed.
type host struct {
	*httptest.Server
	notModified counter
}

type counter struct {
	mu sync.Mutex
	n  int
}

func (c *counter) add()      { c.mu.Lock(); c.n++; c.mu.Unlock() }
func (c *counter) Load() int { c.mu.Lock(); defer c.mu.Unlock(); return c.n }

func newHost(t *testing.T) *host {
	h := new(host)
	h.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", `"1"`)
		if r.Header.Get("If-None-Match") == `"1"` {
			h.notModified.add()
			w.WriteHeader(http.StatusNotModified)
			return
		}
		fmt.Fprintf(w, "apiVersion: backstage.io/v1alpha1\nkind: Resource\nmetadata:\n  name: polled-%s\nspec:\n  type: database\n  owner: ops\n", strings.TrimSuffix(r.URL.Path[1:], ".yaml"))
	}))
	t.Cleanup(h.Close)
	return h
}

// ---- what is asked ----

func (p *process) register(t *testing.T, kind, target string) {
	t.Helper()
	body, _ := json.Marshal(map[string]string{"type": kind, "target": target})
	p.do(t, "POST", "/api/catalog/locations", string(body))
}

// await waits until an entity is visible, the last of those that are read, and then all of them are. It is asked for by its name, which costs nothing beside the reading:
// to count what is being written would cost as much again.
func (p *process) await(t *testing.T, last string, want int) {
	t.Helper()
	for end := time.Now().Add(20 * time.Minute); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if raw := p.do(t, "POST", "/api/catalog/entities/by-refs", `{"fields":["kind"],"entityRefs":["`+last+`"]}`); bytes.Contains(raw, []byte("null")) {
			continue
		}
		var page struct{ TotalItems int }
		if err := json.Unmarshal(p.do(t, "GET", "/api/catalog/entities/by-query?limit=0", ""), &page); err != nil {
			t.Fatal(err)
		}
		if page.TotalItems >= want {
			return
		}
		time.Sleep(time.Second)
	}
	t.Fatalf("%d entities are not there after 20 minutes", want)
}

// peak is the largest resident set so far, in MB.
func (p *process) peak(t *testing.T) float64 {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(raw), "VmHWM:")
	kB, _ := strconv.ParseFloat(strings.Fields(after)[0], 64)
	return kB * 1024 / 1e6
}

// share is how much of a core the process uses meanwhile, in percent.
func (p *process) share(t *testing.T, d time.Duration) float64 {
	c0 := p.cpu(t)
	for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(min(d/10, time.Second)) {
	}
	return 100 * (p.cpu(t) - c0).Seconds() / d.Seconds()
}

// settle waits until what starts with a server has come to its end: the tasks look through the whole catalog for what they serve.
func (p *process) settle(t *testing.T) {
	t.Helper()
	for quiet := 0; quiet < 3; {
		if quiet++; p.share(t, time.Second) > 5 {
			quiet = 0
		}
	}
}

// page reads on to a page of a query; it gives the path of that page and, for the bare handler, the mark that it begins after.
func (p *process) page(t *testing.T, path string, page int) (string, string) {
	t.Helper()
	var last struct {
		Items    []slipway.Entity
		PageInfo struct{ NextCursor string }
	}
	at := path
	for range page - 1 {
		if err := json.Unmarshal(p.do(t, "GET", at, ""), &last); err != nil || last.PageInfo.NextCursor == "" {
			t.Fatalf("%v, %d items", err, len(last.Items))
		}
		at = "/api/catalog/entities/by-query?limit=20&cursor=" + last.PageInfo.NextCursor
	}
	return at, last.Items[len(last.Items)-1].Metadata.Name
}

// first is how long a path takes when the catalog has just changed, in milliseconds: the median of some; and what of the server's CPU went into it and the change.
func (p *process) first(t *testing.T, path string) (took, cpu float64) {
	t.Helper()
	var all []float64
	c0 := p.cpu(t)
	for i := range firstTime {
		p.do(t, "PUT", "/api/catalog/entities/by-name/resource/default/touched", fmt.Sprintf(
			`{"apiVersion":"backstage.io/v1alpha1","kind":"Resource","metadata":{"name":"touched","title":"%d"},"spec":{"type":"x","owner":"ops"}}`, rand.Int()+i))
		begin := time.Now()
		p.do(t, "GET", path, "")
		all = append(all, float64(time.Since(begin).Microseconds())/1000)
	}
	return median(all), float64((p.cpu(t) - c0).Milliseconds()) / firstTime
}

// sameAs fails when the two answer other entities.
func (p *process) sameAs(t *testing.T, other *process, ours, theirs string) {
	t.Helper()
	items := func(p *process, path string) []byte {
		path, body, post := strings.Cut(path, " ")
		method := "GET"
		if post {
			method = "POST"
		}
		raw := p.do(t, method, path, body)
		if from := bytes.IndexByte(raw, '['); strings.Contains(path, "by-query") && from > 0 {
			raw = raw[from:bytes.LastIndex(raw, []byte(`],"totalItems"`))]
		}
		return bytes.TrimSpace(raw)
	}
	if a, b := items(p, ours), items(other, theirs); !bytes.Equal(a, b) {
		t.Errorf("%s: %d bytes, %d of the bare handler:\n%.300s\n%.300s", ours, len(a), len(b), a, b)
	}
}

// besides is the CPU of both a request, in microseconds, and how many times the other's ours is: medians of interleaved rounds after a warm-up, the ratio that of each round, since what else the
// machine does changes from one to the next. Without a bare handler there is no ratio.
func besides(t *testing.T, p, bare *process, paths, barePaths []string, seconds float64) (ours, theirs, ratio float64) {
	t.Helper()
	cost := func(p *process, paths []string, seconds float64) float64 {
		if p == nil {
			return 0
		}
		c0 := p.cpu(t)
		o := p.call(t, paths, seconds, 0, 0)
		return float64((p.cpu(t) - c0).Microseconds()) / float64(o.Requests)
	}
	cost(p, paths, 2)
	cost(bare, barePaths, 2)
	var a, b, times []float64
	for i := range rounds {
		var x, y float64
		if i%2 == 0 { // neither is always the first
			x, y = cost(p, paths, seconds), cost(bare, barePaths, seconds)
		} else {
			y, x = cost(bare, barePaths, seconds), cost(p, paths, seconds)
		}
		a, b, times = append(a, x), append(b, y), append(times, x/y)
	}
	return median(a), median(b), median(times)
}

func vacuum(t *testing.T, url string) {
	t.Helper()
	db, err := store.Open("main", url)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Writer().ExecContext(t.Context(), `VACUUM ANALYZE`); err != nil {
		t.Fatal(err)
	}
}

const sectionsVariable = "SLIPWAY_BENCH_CATALOG"

// configureCatalog takes over what the measurement says of files and addresses.
func configureCatalog(c *server.Config) error {
	raw := os.Getenv(sectionsVariable)
	if raw == "" {
		return nil
	}
	var with struct {
		Roots, Allow     []string
		MaxFile, Refresh int64
	}
	if err := json.Unmarshal([]byte(raw), &with); err != nil {
		return err
	}
	section := catalog.DefaultConfig()
	section.MaxFile, section.Refresh = slipway.Size(with.MaxFile), slipway.Duration(with.Refresh)
	c.Sections = server.Sections(builtin.Blueprints())
	c.Sections["catalog"] = section
	c.Fetch.FileRoots = with.Roots
	c.Fetch.Allow = append(c.Fetch.Allow, with.Allow...)
	return nil
}

// ---- the bare handler ----

// runBareCatalog answers with the same driver, pool, rows and bytes behind plain net/http: one query for each path, written for it; no caller, no
// limit, no filter that is parsed, no plan that is chosen, no cursor.
func runBareCatalog(url string) error {
	db, err := store.Open("main", url)
	if err != nil {
		return err
	}
	const columns = `e.doc, (SELECT STRING_AGG('{"type":"' || l.type || '","targetRef":"' || l.target || '"}', ',') FROM
		(SELECT n.type, n.target FROM relation n WHERE n.source = e.ref GROUP BY n.type, n.target) l)`
	find := "INSTR"
	if db.Engine() == store.Postgres {
		find = "STRPOS"
	}
	write := func(out []byte, rows *sql.Rows, more ...any) ([]byte, error) {
		var doc string
		var relations sql.NullString
		err := rows.Scan(append([]any{&doc, &relations}, more...)...)
		out = append(out, doc[:len(doc)-1]...)
		out = append(out, `,"relations":[`...)
		out = append(out, relations.String...)
		return append(out, `]}`...), err
	}
	room := 32 << 10 // for an answer
	answer := func(before, after string, statement string, args func(*http.Request) []any) http.HandlerFunc {
		room := room
		return func(w http.ResponseWriter, r *http.Request) {
			rows, err := db.QueryContext(r.Context(), statement, args(r)...)
			if err != nil {
				http.Error(w, err.Error(), 500)
				return
			}
			defer rows.Close()
			out := append(make([]byte, 0, room), before...)
			for n := 0; rows.Next() && (n < 20); n++ {
				if n > 0 {
					out = append(out, ',')
				}
				if out, err = write(out, rows); err != nil {
					http.Error(w, err.Error(), 500)
					return
				}
			}
			w.Header().Set("Content-Type", "application/json")
			_, _ = w.Write(append(out, after...))
		}
	}
	page := func(where, order string) string {
		return `SELECT ` + columns + ` FROM (SELECT e.id, e.ref, e.name FROM entity e WHERE ` + where + ` ORDER BY ` + order + ` LIMIT 21) p CROSS JOIN entity e WHERE e.id = p.id ORDER BY ` + strings.ReplaceAll(order, "e.", "p.")
	}
	none := func(*http.Request) []any { return nil }
	list := answer("[", "]", page(`e.kind = 'component' AND e.type = 'service'`, `e.ref`), none)
	var term int64
	_ = db.QueryRowContext(context.Background(), `SELECT id FROM term WHERE kind = 'component' AND key = 'metadata.labels.env' AND value = 'prod'`).Scan(&term)
	labelled := answer("[", "]", page(`e.ref >= 'component:' AND e.ref < 'component;' AND EXISTS (SELECT 1 FROM entity_term et WHERE et.entity_id = e.id AND et.term_id = `+fmt.Sprint(term)+`)`, `e.ref`), none)
	pad := `],"totalItems":0,"pageInfo":{"nextCursor":"` + strings.Repeat("x", 300) + `"}}`
	text := `e.kind = 'component' AND (` + find + `(e.name, 'a') > 0 OR ` + find + `(e.title, 'a') > 0)`
	first := answer(`{"items":[`, pad, page(text, `e.name, e.ref`), none)
	further := answer(`{"items":[`, pad, page(text+` AND e.name > $1`, `e.name, e.ref`), func(r *http.Request) []any { return []any{r.FormValue("after")} })
	holders := make([]string, 100)
	for i := range holders {
		holders[i] = fmt.Sprintf("$%d", i+1)
	}
	many := `SELECT ` + columns + `, e.ref FROM entity e WHERE e.ref IN (` + strings.Join(holders, ", ") + `)`

	mux := http.NewServeMux()
	room = 2 << 10
	mux.HandleFunc("GET /api/catalog/entities/by-name/{kind}/{namespace}/{name}", answer("", "", `SELECT `+columns+` FROM entity e WHERE e.ref = $1`, func(r *http.Request) []any {
		return []any{r.PathValue("kind") + ":" + r.PathValue("namespace") + "/" + r.PathValue("name")}
	}))
	mux.HandleFunc("GET /api/catalog/entities", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.RawQuery == "label=prod" {
			labelled(w, r)
			return
		}
		list(w, r)
	})
	mux.HandleFunc("GET /api/catalog/entities/by-query", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.RawQuery == "" {
			first(w, r)
			return
		}
		further(w, r)
	})
	mux.HandleFunc("POST /api/catalog/entities/by-refs", func(w http.ResponseWriter, r *http.Request) {
		var ask struct{ EntityRefs []string }
		if err := json.NewDecoder(r.Body).Decode(&ask); err != nil {
			http.Error(w, err.Error(), 400)
			return
		}
		var args []any
		for _, ref := range ask.EntityRefs {
			args = append(args, ref)
		}
		rows, err := db.QueryContext(r.Context(), many, args...)
		if err != nil {
			http.Error(w, err.Error(), 500)
			return
		}
		found := make(map[string][]byte, 100)
		err = store.Each(rows, func(rows *sql.Rows) error {
			var ref string
			doc, err := write(nil, rows, &ref)
			found[ref] = doc
			return err
		})
		if err != nil {
			http.Error(w, err.Error(), 500)
			return
		}
		out := append(make([]byte, 0, 128<<10), `{"items":[`...)
		for i, ref := range ask.EntityRefs {
			if i > 0 {
				out = append(out, ',')
			}
			out = append(out, found[ref]...)
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(append(out, "]}"...))
	})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(l.Addr(), "-")
	go func() { _ = http.Serve(l, mux) }()
	_, _ = io.Copy(io.Discard, os.Stdin)
	return nil
}
