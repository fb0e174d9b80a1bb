//go:build bench

package bench

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/slipway-platform/slipway/store"
)

// TestDataNumbers takes the numbers of the Data API: `go test ./bench -tags bench -run TestDataNumbers -v`. BENCH_SECRETS is how many secrets are sealed anew
// (default 100,000).
func TestDataNumbers(t *testing.T) {
	for _, e := range []store.Engine{store.SQLite, store.Postgres} {
		t.Run(string(e), func(t *testing.T) { measureData(t, e) })
	}
	fmt.Printf("\n| what | engine | measured | wanted |\n|---|---|---|---|\n%s\n", strings.Join(numbers.lines, "\n"))
}

func measureData(t *testing.T, e store.Engine) {
	seconds, name := float64(number("BENCH_SECONDS", 5)), string(e)
	url := prepare(t, e, 2, 10)
	ours := start(t, "slipway", url, t.TempDir())

	// Many documents in one call.
	begin := time.Now()
	ours.post(t, "/data", documents(0, 10_000))
	numbers.add("apply of 10,000 documents in one call", name, fmt.Sprintf("%.1f s", time.Since(begin).Seconds()), "≤ 10 s")
	begin = time.Now()
	ours.post(t, "/data", documents(0, 10_000))
	numbers.add("the same again, which changes nothing", name, fmt.Sprintf("%.1f s", time.Since(begin).Seconds()), "noted")

	// One by its id, beside the bare handler.
	bare := start(t, "bare", url)
	path := []string{"/data/credentials/c005000"}
	ours.call(t, path, 2, 0, 0)
	bare.call(t, path, 2, 0, 0)
	var ratios []float64
	for range rounds {
		a, b := ours.call(t, path, seconds, 0, 0), bare.call(t, path, seconds, 0, 0)
		ratios = append(ratios, b.rate()/a.rate())
	}
	numbers.add("GET of a document by its id: cost beside a bare handler with the same row", name, fmt.Sprintf("%.2f", median(ratios)), "≤ 2.2")

	// All secrets sealed anew, while one reads.
	secrets := number("BENCH_SECRETS", 100_000)
	for from := 10_000; from < secrets; from += 10_000 {
		ours.post(t, "/data", documents(from, 10_000))
	}
	quiet := ours.call(t, path, seconds, 200, 1000)
	begin = time.Now()
	job := ours.post(t, "/data/rekey", "").Get("Location")
	under := ours.call(t, path, seconds, 200, 1000)
	for ours.state(t, job) != "completed" {
		time.Sleep(100 * time.Millisecond)
	}
	numbers.add(fmt.Sprintf("%d secrets sealed with a new key", secrets), name, fmt.Sprintf("%.0f s, 3 of them waiting for other replicas", time.Since(begin).Seconds()), "noted")
	numbers.add("99th percentile of reads meanwhile, beside before", name, fmt.Sprintf("%.1f ms beside %.1f ms", under.P99, quiet.P99), "reads go on")
}

// documents are credentials, one a line.
func documents(from, n int) string {
	var b strings.Builder
	for i := from; i < from+n; i++ {
		fmt.Fprintf(&b, `{"kind":"credentials","id":"c%06d","type":"usernamePassword","username":"user-%d","password":"password-%d"}`+"\n", i, i, i)
	}
	return b.String()
}

func (p *process) post(t *testing.T, path, body string) http.Header {
	t.Helper()
	header, _ := p.send(t, http.MethodPost, path, body)
	return header
}

// state is where a job stands.
func (p *process) state(t *testing.T, job string) string {
	t.Helper()
	raw := p.do(t, http.MethodGet, job, "")
	var j struct{ State string }
	if err := json.Unmarshal(raw, &j); err != nil {
		t.Fatal(err)
	}
	return j.State
}
