//go:build bench

// Package bench takes the numbers of docs/performance.md: `make bench`. Every number is a ratio of two things measured side by side in one
// run, on real servers in processes of their own; docs/performance.md says how to read them.
//
// BENCH_BUILDS is how many builds the large database holds (default 10,000,000: some 10 GB of disk for each engine while it runs), BENCH_SECONDS how long
// each round takes (default 5), BENCH_CONNECTIONS how many connections a client keeps alive (default 16).
package bench

import (
	"bufio"
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/pprof"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/slipway-platform/slipway/auth"
	"github.com/slipway-platform/slipway/builtin"
	"github.com/slipway-platform/slipway/server"
	"github.com/slipway-platform/slipway/store"
	"github.com/slipway-platform/slipway/store/storetest"
)

const (
	roleVariable      = "SLIPWAY_BENCH_ROLE"
	providersVariable = "SLIPWAY_BENCH_PROVIDERS" // JSON: the providers of a server
	// connectionsVariable says how many connections a client keeps alive.
	connectionsVariable = "BENCH_CONNECTIONS"
	connections         = 16
	rounds              = 5
	// deep is the entity whose history is read far back: page 1,000 needs 20,000 builds.
	deep = "component:default/c0"
)

func TestMain(m *testing.M) {
	var err error
	switch os.Getenv(roleVariable) {
	case "slipway":
		err = runSlipway(os.Args[1], os.Args[2])
	case "bare":
		err = runBare(os.Args[1])
	case "bareCatalog":
		err = runBareCatalog(os.Args[1])
	case "far":
		err = runFar()
	case "bareProxy":
		err = runBareProxy(os.Args[1])
	case "listeners":
		err = runListeners(os.Args[1], os.Args[2], os.Args[3])
	case "client":
		err = runClient(os.Args[1:])
	default:
		os.Exit(m.Run())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// ---- the processes ----

// runSlipway serves the whole build on a database and prints its address and a token without a rate limit of note.
func runSlipway(url, dir string) error {
	c := server.DefaultConfig()
	c.DataDir, c.Databases["main"], c.Server.Listen = dir, url, "127.0.0.1:0"
	c.Secrets.KeyFile = filepath.Join(dir, "master.key")
	c.Auth.RateLimits.Service = 1_000_000_000 // counted as always, never reached
	if err := configureCatalog(c); err != nil {
		return err
	}
	configureWorkspaces(c)
	if err := configureProviders(c); err != nil {
		return err
	}
	configureEvents(c)
	configureLoad(c)
	configureLake(c)
	if err := server.MakeKey(c.Secrets.KeyFile); err != nil {
		return err
	}
	s, err := server.New(context.Background(), server.Options{Config: c, Blueprints: builtin.Blueprints(), Kinds: builtin.Providers(), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	token, err := s.NewToken(context.Background(), auth.NewToken{Name: fmt.Sprint("bench-", os.Getpid()), Admin: true})
	if err != nil {
		return err
	}
	l, err := s.Listen(false)
	if err != nil {
		return err
	}
	fmt.Println(l.Addr(), token)
	if path := os.Getenv("BENCH_PROFILE"); path != "" { // of the whole life of each server
		f, err := os.Create(fmt.Sprintf("%s.%d", path, os.Getpid()))
		if err != nil {
			return err
		}
		if err := pprof.StartCPUProfile(f); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	ctx, stop := context.WithCancel(context.Background())
	go func() { _, _ = io.Copy(io.Discard, os.Stdin); stop() }()
	return s.Run(ctx, l)
}

// bareQuery is the least that can answer: one query, all of it by key.
const bareQuery = `SELECT doc FROM build_item WHERE source_id =
	(SELECT b.source_id FROM entity e JOIN task_binding b ON b.entity_id = e.id WHERE e.ref = $1)
	ORDER BY created DESC, id DESC LIMIT 21`

// runBare answers with the same driver, pool, rows and bytes behind plain net/http: no caller, no rate limit, no envelope but brackets.
func runBare(url string) error {
	db, err := store.Open("main", url)
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /api/build/by-entity/{ref}/search", func(w http.ResponseWriter, r *http.Request) {
		rows, err := db.QueryContext(r.Context(), bareQuery, r.PathValue("ref"))
		if err != nil {
			http.Error(w, err.Error(), 500)
			return
		}
		defer rows.Close()
		out := make([]byte, 0, 16<<10)
		out = append(out, `{"items":[`...)
		n := 0
		for rows.Next() {
			var doc string
			if err := rows.Scan(&doc); err != nil {
				http.Error(w, err.Error(), 500)
				return
			}
			if n++; n > 20 {
				continue
			}
			if n > 1 {
				out = append(out, ',')
			}
			out = append(out, `{"entityRef":"`...)
			out = append(out, r.PathValue("ref")...)
			out = append(out, `",`...)
			out = append(out, doc[1:]...)
		}
		out = append(out, `]}`...)
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(out)
	})
	mux.HandleFunc("GET /data/{kind}/{id}", func(w http.ResponseWriter, r *http.Request) {
		var doc string
		var version int64
		if err := db.QueryRowContext(r.Context(), `SELECT doc, version FROM resource WHERE kind = $1 AND id = $2`, r.PathValue("kind"), r.PathValue("id")).Scan(&doc, &version); err != nil {
			http.Error(w, err.Error(), http.StatusNotFound)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("ETag", strconv.Quote(strconv.FormatInt(version, 36)))
		_, _ = io.WriteString(w, `{"version":1,"data":`+doc+`}`)
	})
	mux.HandleFunc("GET /api/auth/me", func(w http.ResponseWriter, r *http.Request) { // what Slipway answers there, without asking who calls
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(make([]byte, 300))
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

// outcome is what a client saw.
type outcome struct {
	Requests int64   `json:"requests"`
	Seconds  float64 `json:"seconds"`
	P50, P99 float64 // milliseconds
	Bytes    int64
	Cursor   string // of the last page that was read in sequence
}

func (o outcome) rate() float64 { return float64(o.Requests) / o.Seconds }

// runClient calls paths (one a line on standard input, chosen at random, with a body behind a space where it is to be sent) for some seconds over keep-alive connections, as fast as it can or at a rate.
func runClient(args []string) error {
	addr, token := args[0], args[1]
	seconds, _ := strconv.ParseFloat(args[2], 64)
	rate, _ := strconv.ParseFloat(args[3], 64)
	count, _ := strconv.ParseInt(args[4], 10, 64) // at least so many, at a rate
	var paths []string
	in := bufio.NewScanner(os.Stdin)
	in.Buffer(nil, 1<<20)
	for in.Scan() {
		paths = append(paths, in.Text())
	}
	callers := number(connectionsVariable, connections)
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: callers, DisableCompression: true}}
	var n, bytes atomic.Int64
	var mu sync.Mutex
	var took []time.Duration
	var failed atomic.Pointer[error]
	start := time.Now()
	end := start.Add(time.Duration(seconds * float64(time.Second)))
	var wg sync.WaitGroup
	for w := range number("BENCH_CONNECTIONS", connections) {
		wg.Go(func() {
			random := rand.New(rand.NewPCG(uint64(w), 1))
			var mine []time.Duration
			for i := 0; ; i++ {
				due := time.Now()
				if rate > 0 { // an open loop: what is late counts as waiting
					due = start.Add(time.Duration(float64(i*number("BENCH_CONNECTIONS", connections)+w) / rate * float64(time.Second)))
					time.Sleep(time.Until(due))
				}
				if time.Now().After(end) && (rate == 0 || n.Load() >= count) {
					break
				}
				path, body, post := strings.Cut(paths[random.IntN(len(paths))], " ")
				req, _ := http.NewRequest("GET", "http://"+addr+path, nil)
				if post {
					req, _ = http.NewRequest("POST", "http://"+addr+path, strings.NewReader(body))
					req.Header.Set("Content-Type", "application/json")
				}
				req.Header.Set("Authorization", "Bearer "+token)
				res, err := client.Do(req)
				if err == nil {
					m, _ := io.Copy(io.Discard, res.Body)
					bytes.Add(m)
					res.Body.Close()
					if res.StatusCode != 200 {
						err = fmt.Errorf("%s: status %d", req.URL.Path, res.StatusCode)
					}
				}
				if err != nil {
					failed.Store(&err)
					return
				}
				n.Add(1)
				mine = append(mine, time.Since(due))
			}
			mu.Lock()
			took = append(took, mine...)
			mu.Unlock()
		})
	}
	wg.Wait()
	if err := failed.Load(); err != nil {
		return *err
	}
	slices.Sort(took)
	at := func(q float64) float64 { return float64(took[int(q*float64(len(took)-1))].Microseconds()) / 1000 }
	return json.NewEncoder(os.Stdout).Encode(outcome{Requests: n.Load(), Seconds: time.Since(start).Seconds(), P50: at(.5), P99: at(.99), Bytes: bytes.Load()})
}

// process is one of ours, under way.
type process struct {
	addr, token string
	cmd         *exec.Cmd
	stdin       io.Closer
}

func start(t *testing.T, role string, args ...string) *process {
	t.Helper()
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), roleVariable+"="+role)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := &process{cmd: cmd, stdin: stdin}
	if _, err := fmt.Fscan(stdout, &p.addr, &p.token); err != nil {
		t.Fatalf("%s did not start: %v", role, err)
	}
	t.Cleanup(p.stop)
	return p
}

func (p *process) stop() {
	if p.stdin != nil {
		p.stdin.Close()
		_ = p.cmd.Wait()
		p.stdin = nil
	}
}

// cpu is user and system time of the process so far.
func (p *process) cpu(t *testing.T) time.Duration {
	t.Helper()
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(string(raw[strings.LastIndexByte(string(raw), ')')+2:]))
	user, _ := strconv.ParseInt(fields[11], 10, 64)
	system, _ := strconv.ParseInt(fields[12], 10, 64)
	return time.Duration(user+system) * 10 * time.Millisecond // USER_HZ is 100
}

// memory is the resident set, in MB.
func (p *process) memory(t *testing.T) float64 {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", p.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	pages, _ := strconv.ParseFloat(strings.Fields(string(raw))[1], 64)
	return pages * float64(os.Getpagesize()) / 1e6
}

// call has a client of its own process call the paths; rate 0 is as fast as it can.
func (p *process) call(t *testing.T, paths []string, seconds, rate float64, count int) outcome {
	t.Helper()
	cmd := exec.Command(os.Args[0], p.addr, p.token, fmt.Sprint(seconds), fmt.Sprint(rate), fmt.Sprint(count))
	cmd.Env = append(os.Environ(), roleVariable+"=client")
	cmd.Stdin, cmd.Stderr = strings.NewReader(strings.Join(paths, "\n")), os.Stderr
	raw, err := cmd.Output()
	if err != nil {
		t.Fatalf("client: %v", err)
	}
	var o outcome
	if err := json.Unmarshal(raw, &o); err != nil {
		t.Fatal(err)
	}
	return o
}

// send calls once and gives the headers of the answer and its body.
func (p *process) send(t *testing.T, method, path, body string) (http.Header, []byte) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "http://"+p.addr+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+p.token)
	req.Header.Set("Content-Type", "application/json")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode >= 300 {
		t.Fatalf("%s %s: status %d, %v: %.300s", method, path, res.StatusCode, err, raw)
	}
	return res.Header, raw
}

// do is send for whoever needs the body only.
func (p *process) do(t *testing.T, method, path, body string) []byte {
	t.Helper()
	_, raw := p.send(t, method, path, body)
	return raw
}

// ---- the data ----

func number(name string, otherwise int) int {
	if n, err := strconv.Atoi(os.Getenv(name)); err == nil {
		return n
	}
	return otherwise
}

// fill makes entities, one source each, and builds, by INSERT … SELECT: the first entity has 100,000 builds (or all), the rest are spread evenly.
func fill(t *testing.T, db *store.DB, entities, builds int) {
	t.Helper()
	ctx := t.Context()
	series := func(name string, n int) string {
		if db.Engine() == store.Postgres {
			return fmt.Sprintf("generate_series(CAST(0 AS BIGINT), %d) AS %s(n)", n-1, name)
		}
		return fmt.Sprintf("(WITH RECURSIVE c(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM c WHERE n + 1 < %d) SELECT n FROM c) AS %s", n, name)
	}
	exec := func(query string) {
		t.Helper()
		if _, err := db.Writer().ExecContext(ctx, query); err != nil {
			t.Fatalf("%v\n%s", err, query)
		}
	}
	start := time.Now()
	exec(`INSERT INTO entity (id, ref, uid, etag, kind, namespace, name, owner, source, doc, updated_at)
		SELECT 1000000 + n, 'component:default/c' || n, 'uid-' || n, 'e', 'component', 'default', 'c' || n, 'group:default/team-' || (n % 10), 'bench',
			'{"apiVersion":"backstage.io/v1alpha1","kind":"Component","metadata":{"name":"c' || n || '"}}', 0 FROM ` + series("x", entities))
	exec(`INSERT INTO task_source (id, task, provider, type, project, as_of, next_refresh)
		SELECT 1 + n, 'build', 'bench', 'fake', 'p' || n, 4102444800000000, 4102444800000000 FROM ` + series("x", entities))
	exec(`INSERT INTO task_binding (entity_id, source_id) SELECT 1000000 + n, 1 + n FROM ` + series("x", entities))
	exec(`INSERT INTO task_term (id, source_id, field, value) SELECT 1 + x.n * 10 + k.n, 1 + x.n, CASE WHEN k.n < 4 THEN 'branch' WHEN k.n < 7 THEN 'pipeline' ELSE 'triggeredBy' END, 'v' || k.n
		FROM ` + series("x", entities) + ` CROSS JOIN ` + series("k", 10))
	first := min(100_000, builds/2)
	each := (builds - first) / (entities - 1)
	insert := func(sources, perSource, from int) {
		exec(fmt.Sprintf(`INSERT INTO build_item (source_id, created, id, version, status, finished, triggered_by_id, branch_id, pipeline_id, doc)
			SELECT s.n + %[1]d, %[2]d + b.n * 1000000, 'r' || b.n, 1,
				CASE WHEN b.n %% 20 = 0 THEN 'failed' ELSE 'succeeded' END, TRUE,
				8 + (s.n + %[1]d - 1) * 10 + b.n %% 3, 1 + (s.n + %[1]d - 1) * 10 + b.n %% 4, 5 + (s.n + %[1]d - 1) * 10 + b.n %% 3,
				'{"id":"bench:r' || b.n || '","provider":{"name":"bench","type":"fake"},"pipeline":{"id":"v4","name":"build"},"number":' || b.n || ',"attempt":1,"status":"succeeded","detail":"completed/success","createdAt":"2026-01-02T03:04:05Z","startedAt":"2026-01-02T03:04:06Z","finishedAt":"2026-01-02T03:05:05Z","durationSeconds":59,"url":"https://ci.example.com/runs/' || b.n || '","triggeredBy":{"id":"jane","name":"Jane Doe","email":"jane@example.com"},"trigger":"push","commit":{"sha":"0123456789012345678901234567890123456789","message":"Change what has to be changed","author":"Jane Doe","branch":"main"},"blocked":false,"retriggerable":false}'
			FROM `+series("s", sources)+` CROSS JOIN `+series("b", perSource), from, time.Now().Add(-time.Duration(perSource)*time.Second).UnixMicro()))
	}
	rebuild := withoutIndexes(t, db, "build_item")
	insert(1, first, 1)
	for s := 2; s <= entities; s += 100 { // in steps, so that nothing has to be held at once
		insert(min(100, entities-s+1), each, s)
	}
	for _, index := range rebuild {
		exec(index)
	}
	if db.Engine() == store.Postgres {
		exec("VACUUM ANALYZE")
	} else {
		exec("PRAGMA wal_checkpoint(TRUNCATE)")
	}
	t.Logf("%s: %d entities and %d builds in %s", db.Engine(), entities, first+each*(entities-1), time.Since(start).Round(time.Second))
}

// kept gives the address of a database by name, and whether a count says that it is full already. BENCH_KEEP, a folder, keeps it for the next run; on PostgreSQL it stays on the server that
// SLIPWAY_TEST_POSTGRES names. Without them it goes when the test ends.
func kept(t *testing.T, e store.Engine, name, count string, most int) (address string, full bool) {
	t.Helper()
	dir, server := os.Getenv("BENCH_KEEP"), os.Getenv("SLIPWAY_TEST_POSTGRES")
	switch {
	case e == store.SQLite && dir != "":
		address = "sqlite:" + filepath.Join(dir, name+".db")
	case e == store.Postgres && dir != "" && server != "":
		u, err := url.Parse(server)
		if err != nil {
			t.Fatal("SLIPWAY_TEST_POSTGRES is not a URL")
		}
		u.Path = "/slipway_bench_" + strings.ReplaceAll(name, "-", "_")
		address = u.String()
	default:
		return storetest.URL(t, e), false
	}
	if _, err := store.CreateDatabase(t.Context(), address); err != nil {
		t.Fatal(err)
	}
	db, err := store.Open("main", address)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var there int
	_ = db.QueryRowContext(t.Context(), count).Scan(&there) // an error: nothing is there yet
	return address, there >= most
}

// withoutIndexes drops the indexes of a table beside those of its keys and gives the statements that make them anew: an index of ten million rows is
// made in a minute and takes half an hour to grow.
func withoutIndexes(t *testing.T, db *store.DB, table string) (rebuild []string) {
	t.Helper()
	query := "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL AND tbl_name = $1"
	if db.Engine() == store.Postgres {
		query = "SELECT indexname, indexdef FROM pg_indexes WHERE tablename = $1 AND indexname NOT IN (SELECT conname FROM pg_constraint)"
	}
	rows, err := db.Writer().QueryContext(t.Context(), query, table)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	err = store.Each(rows, func(rows *sql.Rows) error {
		var name, statement string
		err := rows.Scan(&name, &statement)
		names, rebuild = append(names, name), append(rebuild, statement)
		return err
	})
	for _, name := range names {
		if err == nil {
			_, err = db.Writer().ExecContext(t.Context(), "DROP INDEX "+name)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	return rebuild
}

// ---- the numbers ----

// report collects the lines of the table.
type report struct {
	mu    sync.Mutex
	lines []string
}

func (r *report) add(what, engine, got, want string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lines = append(r.lines, fmt.Sprintf("| %s | %s | %s | %s |", what, engine, got, want))
}

// note is add for somebody who waits for the end.
func (r *report) note(t *testing.T, what string, e store.Engine, got, want string) {
	t.Helper()
	t.Logf("%s: %s (%s)", what, got, want)
	r.add(what, string(e), got, want)
}

var numbers report

func TestNumbers(t *testing.T) {
	for _, e := range []store.Engine{store.SQLite, store.Postgres} {
		t.Run(string(e), func(t *testing.T) { measure(t, e) })
	}
	fmt.Printf("\n| what | engine | measured | wanted |\n|---|---|---|---|\n%s\n", strings.Join(numbers.lines, "\n"))
}

func measure(t *testing.T, e store.Engine) {
	builds, seconds := number("BENCH_BUILDS", 10_000_000), float64(number("BENCH_SECONDS", 5))
	small, large := prepare(t, e, 100, 10_000), prepare(t, e, 1000, builds)
	name := string(e)

	paths := make([]string, 100)
	for i := range paths {
		paths[i] = fmt.Sprintf("/api/build/by-entity/component:default%%2Fc%d/search", i)
	}
	a, b := start(t, "slipway", small, t.TempDir()), start(t, "slipway", large, t.TempDir())
	bare := start(t, "bare", large)

	// Warm up, and find half of the top rate.
	a.call(t, paths, 2, 0, 0)
	bare.call(t, paths, 2, 0, 0)
	top := b.call(t, paths, 2, 0, 0).rate()

	// Throughput and CPU beside the bare handler.
	var ratios, rates, cpuOurs, cpuBare []float64
	for range rounds {
		c0 := b.cpu(t)
		ours := b.call(t, paths, seconds, 0, 0)
		c1, d0 := b.cpu(t), bare.cpu(t)
		theirs := bare.call(t, paths, seconds, 0, 0)
		d1 := bare.cpu(t)
		ratios = append(ratios, ours.rate()/theirs.rate())
		rates = append(rates, ours.rate())
		cpuOurs = append(cpuOurs, float64((c1-c0).Microseconds())/float64(ours.Requests))
		cpuBare = append(cpuBare, float64((d1-d0).Microseconds())/float64(theirs.Requests))
	}
	numbers.add("search by entity: throughput beside a bare handler with the same rows", name, fmt.Sprintf("%.2f (%.0f a second)", median(ratios), median(rates)), "≥ 0.5")
	numbers.add("search by entity: CPU of the server a request, beside the bare handler", name, fmt.Sprintf("%.0f µs beside %.0f µs", median(cpuOurs), median(cpuBare)), "noted")

	var around []float64
	for range rounds {
		c0 := b.cpu(t)
		ours := b.call(t, []string{"/api/auth/me"}, seconds, 0, 0)
		c1, d0 := b.cpu(t), bare.cpu(t)
		theirs := bare.call(t, []string{"/api/auth/me"}, seconds, 0, 0)
		d1 := bare.cpu(t)
		around = append(around, float64((c1-c0).Microseconds())/float64(ours.Requests)-float64((d1-d0).Microseconds())/float64(theirs.Requests))
	}
	numbers.add("CPU of token, rate limit, permission and envelope a request (an answer without a query, beside a bare one)", name, fmt.Sprintf("%.0f µs", median(around)), "≤ 50 µs")

	// Tail latency, large beside small.
	half := top / 2
	var tails []float64
	var seenA, seenB float64
	for range rounds {
		small := a.call(t, paths, seconds, half, 20_000/rounds)
		large := b.call(t, paths, seconds, half, 20_000/rounds)
		tails = append(tails, large.P99/small.P99)
		seenA, seenB = small.P99, large.P99
	}
	if e == store.Postgres {
		numbers.add("buffers that a page's query touches, large beside small", name, fmt.Sprintf("%d beside %d", buffers(t, large), buffers(t, small)), "alike")
	}
	numbers.add(fmt.Sprintf("search by entity: p99 with %d builds beside 10,000", builds), name, fmt.Sprintf("%.2f (%.2f ms beside %.2f ms)", median(tails), seenB, seenA), "≤ 1.5")

	// Page 1,000 beside page 1 of the same entity.
	page1 := "/api/build/by-entity/" + strings.Replace(deep, "/", "%2F", 1) + "/search?limit=20"
	cursor := walk(t, b, page1, 999)
	pageN := page1 + "&cursor=" + cursor
	var deepRatios []float64
	for range rounds {
		first := b.call(t, []string{page1}, seconds/2, 0, 0)
		far := b.call(t, []string{pageN}, seconds/2, 0, 0)
		deepRatios = append(deepRatios, first.rate()/far.rate())
	}
	numbers.add("page 1,000 by cursor beside page 1: cost", name, fmt.Sprintf("%.2f", median(deepRatios)), "about 1")

	// Start and memory, on the database that exists.
	a.stop() // a SQLite file has one server
	dir := t.TempDir()
	first := start(t, "slipway", small, dir)
	first.stop()
	var starts []float64
	for range rounds {
		begin := time.Now()
		p := start(t, "slipway", small, dir)
		res, err := http.Get("http://" + p.addr + "/readyz")
		for ; err == nil && res.StatusCode != 200; res, err = http.Get("http://" + p.addr + "/readyz") {
			res.Body.Close()
		}
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		starts = append(starts, time.Since(begin).Seconds())
		if len(starts) == rounds {
			time.Sleep(3 * time.Second) // idle
			numbers.add("memory of an idle server", name, fmt.Sprintf("%.0f MB", p.memory(t)), "≤ 80 MB")
			c0 := p.cpu(t)
			time.Sleep(10 * time.Second)
			numbers.add("CPU of an idle server", name, fmt.Sprintf("%.1f %% of a core", (p.cpu(t)-c0).Seconds()*10), "≤ 2 %")
		}
		p.stop()
	}
	numbers.add("start to ready on an existing database", name, fmt.Sprintf("%.2f s", median(starts)), "≤ 0.3 s on SQLite")
}

// prepare makes a database with the schema of the build and data.
func prepare(t *testing.T, e store.Engine, entities, builds int) string {
	t.Helper()
	url := storetest.URL(t, e)
	db, err := store.Open("main", url)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := db.MigrateUp(t.Context(), server.Owners(builtin.Blueprints())["main"]...); err != nil {
		t.Fatal(err)
	}
	fill(t, db, entities, builds)
	return url
}

// buffers is how many pages of the database the query of a page touches, by EXPLAIN.
func buffers(t *testing.T, url string) int {
	t.Helper()
	db, err := store.Open("main", url)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var raw string
	for range 2 { // warm
		err = db.QueryRowContext(t.Context(), `EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON)
			SELECT source_id, created, id, doc FROM build_item WHERE source_id = 7 ORDER BY created DESC, id DESC LIMIT 21`).Scan(&raw)
		if err != nil {
			t.Fatal(err)
		}
	}
	var plans []struct {
		Plan struct {
			Hit  int `json:"Shared Hit Blocks"`
			Read int `json:"Shared Read Blocks"`
		}
	}
	if err := json.Unmarshal([]byte(raw), &plans); err != nil {
		t.Fatal(err)
	}
	return plans[0].Plan.Hit + plans[0].Plan.Read
}

// walk reads pages in sequence and gives the cursor of the last.
func walk(t *testing.T, p *process, path string, pages int) string {
	t.Helper()
	cursor := ""
	for range pages {
		url := "http://" + p.addr + path
		if cursor != "" {
			url += "&cursor=" + cursor
		}
		req, _ := http.NewRequest("GET", url, nil)
		req.Header.Set("Authorization", "Bearer "+p.token)
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		var body struct {
			PageInfo struct {
				NextCursor string `json:"nextCursor"`
			} `json:"pageInfo"`
		}
		err = json.NewDecoder(res.Body).Decode(&body)
		res.Body.Close()
		if err != nil || body.PageInfo.NextCursor == "" {
			t.Fatalf("status %d, cursor %q, %v", res.StatusCode, body.PageInfo.NextCursor, err)
		}
		cursor = body.PageInfo.NextCursor
	}
	return cursor
}

func median(v []float64) float64 {
	slices.Sort(v)
	return v[len(v)/2]
}

// TestProfile loads one server for some seconds, for BENCH_PROFILE.
func TestProfile(t *testing.T) {
	if os.Getenv("BENCH_PROFILE") == "" {
		t.Skip("BENCH_PROFILE names no file")
	}
	p := start(t, "slipway", prepare(t, store.Engine(os.Getenv("BENCH_ENGINE")), 100, 10_000), t.TempDir())
	paths := make([]string, 100)
	for i := range paths {
		paths[i] = fmt.Sprintf("/api/build/by-entity/component:default%%2Fc%d/search", i)
	}
	c0 := p.cpu(t)
	o := p.call(t, paths, 10, 0, 0)
	t.Logf("%.0f a second, %.0f µs CPU each", o.rate(), float64((p.cpu(t)-c0).Microseconds())/float64(o.Requests))
	p.stop()
}
