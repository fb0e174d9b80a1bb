//go:build bench

package bench

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/builtin"
	"github.com/slipway-platform/slipway/server"
	"github.com/slipway-platform/slipway/store"
	"github.com/slipway-platform/slipway/store/storetest"
	"github.com/slipway-platform/slipway/task"
)

// hub is a GitHub that answers with the vendor's own example of a run, 13 kB of JSON each, and with 304 where nothing is new.
type hub struct {
	*httptest.Server
	example string         // with @ID@ and @AT@ where they stand
	runs    map[string]int // by repository
	asked   atomic.Int64
}

func newHub(t *testing.T) *hub {
	text, err := os.ReadFile("../provider/github/testdata/runs/example.json")
	if err != nil {
		t.Fatal(err)
	}
	var run map[string]any
	if err := json.Unmarshal(text, &run); err != nil {
		t.Fatal(err)
	}
	run["id"], run["run_number"], run["status"], run["conclusion"] = json.RawMessage("1111111"), json.RawMessage("1111111"), "completed", "success"
	run["created_at"], run["updated_at"], run["run_started_at"] = "@AT@", "@AT@", "@AT@"
	raw, err := json.Marshal(run)
	if err != nil {
		t.Fatal(err)
	}
	h := &hub{example: string(raw), runs: map[string]int{}}
	h.Server = httptest.NewServer(h)
	t.Cleanup(h.Close)
	return h
}

// run is a run whose number also says when it was.
func (h *hub) run(number int) string {
	at := time.Now().Add(time.Duration(number-1_000_000) * time.Second).UTC().Format(time.RFC3339)
	return strings.NewReplacer("1111111", strconv.Itoa(number), "@AT@", at).Replace(h.example)
}

func (h *hub) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.asked.Add(1)
	if strings.HasSuffix(r.URL.Path, "/deployments") { // there are none
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, "[]")
		return
	}
	project := strings.TrimSuffix(strings.TrimPrefix(r.URL.Path, "/repos/"), "/actions/runs")
	total := h.runs[project]
	w.Header().Set("X-Ratelimit-Limit", "5000000")
	w.Header().Set("X-Ratelimit-Remaining", "4900000")
	w.Header().Set("X-Ratelimit-Reset", strconv.FormatInt(time.Now().Add(time.Hour).Unix(), 10))
	page, _ := strconv.Atoi(r.FormValue("page"))
	size, _ := strconv.Atoi(r.FormValue("per_page"))
	page, size = max(page, 1), max(size, 1)
	if page == 1 {
		etag := fmt.Sprintf(`W/"%d"`, total)
		w.Header().Set("ETag", etag)
		if r.Header.Get("If-None-Match") == etag {
			w.WriteHeader(http.StatusNotModified)
			return
		}
	}
	from, to := min((page-1)*size, total), min(page*size, total)
	if to < total {
		w.Header().Set("Link", fmt.Sprintf(`<%s%s?page=%d>; rel="next"`, h.URL, r.URL.Path, page+1))
	}
	w.Header().Set("Content-Type", "application/json")
	var out bytes.Buffer
	fmt.Fprintf(&out, `{"total_count":%d,"workflow_runs":[`, total)
	for i := from; i < to; i++ {
		if i > from {
			out.WriteByte(',')
		}
		out.WriteString(h.run(total - i))
	}
	out.WriteString(`]}`)
	_, _ = w.Write(out.Bytes())
}

// providersOf is the configuration of providers that a server is started with.
type providersOf struct {
	Allow     []string
	Providers []map[string]any
}

func (p *providersOf) add(name string, h *hub, more map[string]any) {
	rest := map[string]any{"url": h.URL, "credential": map[string]any{"type": "secretText", "secret": "bench"}, "webhookSecret": "hush"}
	for k, v := range more {
		rest[k] = v
	}
	p.Allow = append(p.Allow, h.URL+"/*")
	p.Providers = append(p.Providers, map[string]any{"name": name, "type": "github", "rest": rest})
}

// configureProviders gives a server the providers that its surroundings name.
func configureProviders(c *server.Config) error {
	var providers struct {
		Allow     []string
		Providers []struct {
			Name, Type string
			Rest       map[string]any
		}
	}
	if text := os.Getenv(providersVariable); text != "" {
		if err := json.Unmarshal([]byte(text), &providers); err != nil {
			return err
		}
	}
	c.Fetch.Allow = append(c.Fetch.Allow, providers.Allow...)
	for _, p := range providers.Providers {
		o := server.ProviderConfig{Name: p.Name, Type: p.Type, Rest: p.Rest}
		if h, ok := p.Rest["history"].(map[string]any); ok {
			age, err := slipway.ParseDuration(h["age"].(string))
			if err != nil {
				return err
			}
			o.History = task.History{Items: int(h["items"].(float64)), Age: age}
			delete(p.Rest, "history")
		}
		c.Providers = append(c.Providers, o)
	}
	return nil
}

// begin starts a server with these providers.
func (p providersOf) begin(t *testing.T, url string, env ...string) *process {
	t.Helper()
	raw, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	for _, pair := range append(env, providersVariable+"="+string(raw)) {
		k, v, _ := strings.Cut(pair, "=")
		before, was := os.LookupEnv(k)
		if err := os.Setenv(k, v); err != nil {
			t.Fatal(err)
		}
		defer func() {
			if was {
				_ = os.Setenv(k, before)
			} else {
				_ = os.Unsetenv(k)
			}
		}()
	}
	return start(t, "slipway", url, t.TempDir())
}

// entities makes components, each with one annotation.
func entities(t *testing.T, e store.Engine, n int, annotation func(i int) string) (url string, db *store.DB) {
	t.Helper()
	url = storetest.URL(t, e)
	db, err := store.Open("main", url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	if err := db.MigrateUp(t.Context(), server.Owners(builtin.Blueprints())["main"]...); err != nil {
		t.Fatal(err)
	}
	for i := range n {
		doc := fmt.Sprintf(`{"apiVersion":"backstage.io/v1alpha1","kind":"Component","metadata":{"name":"c%d","namespace":"default","annotations":{"github.com/project-slug":%q}}}`, i, annotation(i))
		_, err := db.Writer().ExecContext(t.Context(), `INSERT INTO entity (id, ref, uid, etag, kind, namespace, name, owner, source, doc, updated_at)
			VALUES ($1, $2, $3, 'e', 'component', 'default', $4, 'group:default/team', 'bench', $5, 0)`,
			1_000_000+i, fmt.Sprintf("component:default/c%d", i), fmt.Sprint("uid-", i), fmt.Sprint("c", i), doc)
		if err != nil {
			t.Fatal(err)
		}
	}
	return url, db
}

func one(t *testing.T, db *store.DB, query string, args ...any) (n int64) {
	t.Helper()
	if err := db.QueryRowContext(t.Context(), query, args...).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// TestVendors takes the numbers of reading from vendors: `go test -tags bench -run TestVendors ./bench`.
func TestVendors(t *testing.T) {
	for _, e := range []store.Engine{store.SQLite, store.Postgres} {
		t.Run(string(e), func(t *testing.T) {
			for name, measure := range map[string]func(*testing.T, store.Engine){
				"history": measureHistory, "webhooks": measureWebhooks, "paging": measurePaging, "fresh": measureFresh,
			} {
				t.Run(name, func(t *testing.T) { measure(t, e) })
			}
		})
	}
	fmt.Printf("\n| what | engine | measured | wanted |\n|---|---|---|---|\n%s\n", strings.Join(numbers.lines, "\n"))
}

// measureHistory has one project of 10,000 runs indexed.
func measureHistory(t *testing.T, e store.Engine) {
	const runs = 10_000
	h := newHub(t)
	h.runs["octo/big"] = runs
	url, db := entities(t, e, 1, func(int) string { return "octo/big" })
	var p providersOf
	p.add("github", h, map[string]any{"history": map[string]any{"items": runs, "age": "5y"}})
	s := p.begin(t, url)
	for h.asked.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
	begin, c0 := time.Now(), s.cpu(t)
	for one(t, db, `SELECT COUNT(*) FROM build_item`) < runs {
		if time.Since(begin) > 5*time.Minute {
			t.Fatalf("%d runs in 5 minutes", one(t, db, `SELECT COUNT(*) FROM build_item`))
		}
		time.Sleep(20 * time.Millisecond)
	}
	took := time.Since(begin)
	numbers.add("10,000 runs of one project indexed from a GitHub, 100 a page of 1.3 MB", string(e),
		fmt.Sprintf("%.0f runs/s (%.1f s, %.0f µs CPU of the server a run)", runs/took.Seconds(), took.Seconds(), float64((s.cpu(t)-c0).Microseconds())/runs), "≥ 2,000 runs/s")
}

// measureFresh has 1,000 projects at six providers kept fresh for BENCH_FRESH seconds, with nothing new in them: the most there is to do without webhooks.
func measureFresh(t *testing.T, e store.Engine) {
	const projects, providers = 1000, 6
	hubs := make([]*hub, providers)
	var p providersOf
	for i := range hubs {
		hubs[i] = newHub(t)
		for n := i; n < projects; n += providers {
			hubs[i].runs[fmt.Sprintf("octo/p%d", n)] = 5
		}
		p.add(fmt.Sprint("github", i), hubs[i], nil)
	}
	url, db := entities(t, e, projects, func(n int) string {
		return strings.TrimPrefix(hubs[n%providers].URL, "http://") + fmt.Sprintf("/octo/p%d", n)
	})
	s := p.begin(t, url)
	begin := time.Now()
	for one(t, db, `SELECT COUNT(*) FROM task_source WHERE as_of IS NOT NULL AND task = 'build'`) < projects {
		if time.Since(begin) > 2*time.Minute {
			t.Fatal("not all projects were read in two minutes")
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Logf("%d projects read for the first time in %s", projects, time.Since(begin).Round(time.Second))
	s.settle(t)
	seconds := number("BENCH_FRESH", 600)
	var oldest time.Duration
	var asked int64
	for _, h := range hubs {
		asked -= h.asked.Load()
	}
	c0, begin := s.cpu(t), time.Now()
	for time.Since(begin) < time.Duration(seconds)*time.Second {
		time.Sleep(2 * time.Second)
		oldest = max(oldest, time.Since(time.UnixMicro(one(t, db, `SELECT MIN(as_of) FROM task_source`))))
	}
	for _, h := range hubs {
		asked += h.asked.Load()
	}
	took := time.Since(begin)
	cpu := s.cpu(t) - c0
	numbers.add("1,000 projects at 6 providers kept fresh by one server: CPU", string(e),
		fmt.Sprintf("%.1f %% of a core (%.1f requests/s, %.1f ms each)", 100*cpu.Seconds()/took.Seconds(), float64(asked)/took.Seconds(), cpu.Seconds()*1000/float64(asked)), "≤ 5 %")
	numbers.add(fmt.Sprintf("1,000 projects at 6 providers: oldest reading in %s", took.Round(time.Second)), string(e), oldest.Round(time.Second).String(), "≤ 5m0s")
}

// hook is one webhook, signed.
func hook(s *process, client *http.Client, name, project, run string) error {
	body := []byte(fmt.Sprintf(`{"action":"completed","workflow_run":%s,"repository":{"full_name":%q}}`, run, project))
	m := hmac.New(sha256.New, []byte("hush"))
	m.Write(body)
	req, err := http.NewRequest("POST", "http://"+s.addr+"/hooks/"+name, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("X-GitHub-Event", "workflow_run")
	req.Header.Set("X-Hub-Signature-256", "sha256="+hex.EncodeToString(m.Sum(nil)))
	res, err := client.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusAccepted {
		err = fmt.Errorf("status %d: %s", res.StatusCode, text)
	}
	return err
}

func get(s *process, client *http.Client, path string, out any) error {
	req, err := http.NewRequest("GET", "http://"+s.addr+path, nil)
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+s.token)
	res, err := client.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: status %d", path, res.StatusCode)
	}
	return json.NewDecoder(res.Body).Decode(out)
}

type found struct {
	Items []struct {
		ID string `json:"id"`
	} `json:"items"`
	PageInfo struct {
		NextCursor string `json:"nextCursor"`
	} `json:"pageInfo"`
}

// measureWebhooks sends 300 webhooks a second to a server with one thread for Go code, each about a new run of one of 100 projects, and searches for the run as soon as
// the webhook is taken. What is late counts as waiting.
func measureWebhooks(t *testing.T, e store.Engine) {
	const projects, rate = 100, 300
	h := newHub(t)
	for n := range projects {
		h.runs[fmt.Sprintf("octo/p%d", n)] = 5
	}
	url, db := entities(t, e, projects, func(n int) string { return fmt.Sprintf("octo/p%d", n) })
	var p providersOf
	p.add("github", h, nil)
	s := p.begin(t, url, "GOMAXPROCS=1")
	for one(t, db, `SELECT COUNT(*) FROM task_source WHERE as_of IS NOT NULL AND task = 'build'`) < projects {
		time.Sleep(100 * time.Millisecond)
	}
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}}
	seconds := number("BENCH_SECONDS", 5) * 4
	var mu sync.Mutex
	var taken, visible []time.Duration
	var running sync.WaitGroup
	var failed atomic.Pointer[error]
	begin := time.Now().Add(200 * time.Millisecond)
	for i := range rate * seconds {
		due := begin.Add(time.Duration(i) * time.Second / rate)
		time.Sleep(time.Until(due))
		running.Go(func() {
			project := i % projects
			err := hook(s, client, "github", fmt.Sprintf("octo/p%d", project), h.run(900_000+i))
			accepted := time.Since(due)
			if err == nil && i%10 == 0 { // a search after each would measure the searches
				var f found
				err = get(s, client, fmt.Sprintf("/api/build/by-entity/component:default%%2Fc%d/search?limit=20", project), &f)
				if want := fmt.Sprint("github:", 900_000+i); err == nil && !slices.ContainsFunc(f.Items, func(b struct {
					ID string `json:"id"`
				}) bool {
					return b.ID == want
				}) {
					err = fmt.Errorf("%s was taken and is not found", want)
				}
			}
			if err != nil {
				failed.Store(&err)
			}
			mu.Lock()
			defer mu.Unlock()
			taken = append(taken, accepted)
			if i%10 == 0 {
				visible = append(visible, time.Since(due))
			}
		})
	}
	running.Wait()
	if err := failed.Load(); err != nil {
		t.Fatal(*err)
	}
	at := func(all []time.Duration, q float64) float64 {
		slices.Sort(all)
		return float64(all[int(q*float64(len(all)-1))].Microseconds()) / 1000
	}
	numbers.add(fmt.Sprintf("webhook of 13 kB taken, after the commit, at 300/s with GOMAXPROCS=1 (%d): p50, p99", len(taken)), string(e),
		fmt.Sprintf("%.1f ms, %.1f ms", at(taken, .5), at(taken, .99)), "noted")
	numbers.add("webhook received to visible by search, at 300/s with GOMAXPROCS=1: p99", string(e), fmt.Sprintf("%.1f ms", at(visible, .99)), "≤ 100 ms")
}

// measurePaging reads a list of 100,000 builds of three providers to its end while 100 builds a second arrive, and counts what comes twice or not at all.
func measurePaging(t *testing.T, e store.Engine) {
	const builds, providers, rate = 99_999, 3, 100
	h := newHub(t)
	url, db := entities(t, e, 1, func(int) string { return "octo/big" })
	var p providersOf
	for i := range providers {
		name := fmt.Sprint("github", i)
		p.add(name, h, nil)
		if _, err := db.Writer().ExecContext(t.Context(), `INSERT INTO task_source (id, task, provider, type, project, as_of, next_refresh)
			VALUES ($1, 'build', $2, 'github', 'octo/big', 4102444800000000, 4102444800000000)`, 1+i, name); err != nil {
			t.Fatal(err)
		}
		if _, err := db.Writer().ExecContext(t.Context(), `INSERT INTO task_binding (entity_id, source_id) VALUES (1000000, $1)`, 1+i); err != nil {
			t.Fatal(err)
		}
	}
	series := `generate_series(CAST(0 AS BIGINT), ` + fmt.Sprint(builds-1) + `) AS b(n)`
	if e == store.SQLite {
		series = fmt.Sprintf(`(WITH RECURSIVE c(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM c WHERE n + 1 < %d) SELECT n FROM c) AS b`, builds)
	}
	if _, err := db.Writer().ExecContext(t.Context(), fmt.Sprintf(`INSERT INTO build_item (source_id, created, id, version, status, finished, doc)
		SELECT 1 + b.n %% %d, %d - (b.n / 2) * 1000000, 'r' || b.n, 1, 'succeeded', TRUE,
			'{"id":"github' || (b.n %% %d) || ':r' || b.n || '","provider":{"name":"github","type":"github"},"pipeline":{"id":"v4","name":"build"},"number":' || b.n || ',"attempt":1,"status":"succeeded","detail":"completed/success","createdAt":"2026-01-02T03:04:05Z","url":"https://ci.example.com/runs/' || b.n || '"}'
		FROM %s`, providers, time.Now().Add(-48*time.Hour).UnixMicro(), providers, series)); err != nil {
		t.Fatal(err)
	}
	if e == store.Postgres {
		if _, err := db.Writer().ExecContext(t.Context(), "VACUUM ANALYZE"); err != nil {
			t.Fatal(err)
		}
	}
	s := p.begin(t, url)
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}}
	stop := make(chan struct{})
	var arrived atomic.Int64
	var failed atomic.Pointer[error]
	var running sync.WaitGroup
	running.Go(func() {
		begin := time.Now()
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			case <-time.After(time.Until(begin.Add(time.Duration(i) * time.Second / rate))):
			}
			if err := hook(s, client, fmt.Sprint("github", i%providers), "octo/big", h.run(900_000+i)); err != nil {
				failed.Store(&err)
				return
			}
			arrived.Add(1)
		}
	})
	for arrived.Load() < rate && failed.Load() == nil { // they arrive, and go on to
		time.Sleep(10 * time.Millisecond)
	}
	seen := map[string]int{}
	var took []time.Duration
	path := "/api/build/by-entity/component:default%2Fc0/search?limit=100"
	for cursor := ""; ; {
		begin := time.Now()
		var f found
		if err := get(s, client, path+"&cursor="+cursor, &f); err != nil {
			t.Fatal(err)
		}
		took = append(took, time.Since(begin))
		for _, b := range f.Items {
			seen[b.ID]++
		}
		if cursor = f.PageInfo.NextCursor; cursor == "" {
			break
		}
	}
	close(stop)
	running.Wait()
	if err := failed.Load(); err != nil {
		t.Fatal(*err)
	}
	missed, twice := 0, 0
	for n := range builds {
		switch seen[fmt.Sprintf("github%d:r%d", n%providers, n)] {
		case 0:
			missed++
		case 1:
		default:
			twice++
		}
	}
	middle := func(all []time.Duration) float64 {
		all = slices.Clone(all)
		slices.Sort(all)
		return float64(all[len(all)/2].Microseconds()) / 1000
	}
	early, late := middle(took[10:110]), middle(took[len(took)-110:len(took)-10])
	numbers.add(fmt.Sprintf("100,000 builds of three providers in %d pages while %d arrived: missed, seen twice", len(took), arrived.Load()), string(e), fmt.Sprintf("%d, %d", missed, twice), "0, 0")
	numbers.add("the last 100 pages of these beside the first 100: median time", string(e), fmt.Sprintf("%.2f (%.1f ms beside %.1f ms)", late/early, late, early), "about 1")
}
