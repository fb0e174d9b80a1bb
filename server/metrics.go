package server

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"runtime"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/common/expfmt"

	"github.com/slipway-platform/slipway/blueprint"
	"github.com/slipway-platform/slipway/job"
	"github.com/slipway-platform/slipway/task"
)

// metrics are the server's own, in a registry of their own.
type metrics struct {
	registry *prometheus.Registry
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec

	targetFailures *prometheus.CounterVec // of proxies
	retries        *prometheus.CounterVec

	runs       *prometheus.CounterVec // of jobs
	runSeconds *prometheus.HistogramVec
}

func newMetrics(s *Server) *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "slipway_http_requests_total", Help: "Requests by operation, method and status."}, []string{"operation", "method", "status"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "slipway_http_request_seconds", Help: "How long requests took, by operation.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10}}, []string{"operation"}),
		targetFailures: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "slipway_proxy_target_failures_total", Help: "Requests that a proxy's target did not answer, by proxy and reason."}, []string{"proxy", "reason"}),
		retries:        prometheus.NewCounterVec(prometheus.CounterOpts{Name: "slipway_proxy_retries_total", Help: "Requests that were sent to a proxy's target once more, by proxy."}, []string{"proxy"}),
		runs:           prometheus.NewCounterVec(prometheus.CounterOpts{Name: "slipway_job_runs_total", Help: "Runs of jobs that ended on this replica, by kind and what became of the job: retrying and discarded are failures."}, []string{"kind", "state"}),
		runSeconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "slipway_job_run_seconds", Help: "How long runs of jobs took, by kind.",
			Buckets: []float64{.01, .1, 1, 10, 60, 600}}, []string{"kind"}),
	}
	s.jobs.OnRun = func(kind string, state job.State, took time.Duration) {
		m.runs.WithLabelValues(kind, string(state)).Inc()
		m.runSeconds.WithLabelValues(kind).Observe(took.Seconds())
	}
	build := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "slipway_build_info", Help: "1, by version, version of Go, and role of this replica."}, []string{"version", "go", "role"})
	build.WithLabelValues(s.version, runtime.Version(), s.config.Role).Set(1)
	held := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "slipway_database_write_seconds", Help: "How long write transactions held the database, by database.",
		Buckets: []float64{.0005, .001, .005, .01, .05, .1, .5, 1}}, []string{"database"})
	for name, db := range s.databases {
		observe := held.WithLabelValues(name)
		db.OnWrite = func(d time.Duration, _ int64) { observe.Observe(d.Seconds()) }
	}
	m.registry.MustRegister(m.requests, m.seconds, m.targetFailures, m.retries, m.runs, m.runSeconds, build, held, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "slipway_http_requests_active", Help: "Requests under way."}, func() float64 { return float64(s.active.Load()) }),
		prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "slipway_rate_limit_leases_total", Help: "Blocks of requests that this replica leased in the database."}, func() float64 { return float64(s.auth.Stats().LimitLeases) }),
		prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "slipway_rate_limit_failures_total", Help: "Times the database did not answer and requests were let through uncounted."}, func() float64 { return float64(s.auth.Stats().LimitFailures) }),
		prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "slipway_events_put_aside_total", Help: "Events that a subscription of this replica refused as invalid and left behind."}, func() float64 { return float64(s.events.PutAside()) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "slipway_streams_active", Help: "Answers without an end that are open."}, func() float64 { return float64(s.streams.count()) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "slipway_provider_holds", Help: "Vendors, accounts and hosts that are left alone at the moment, because of a limit or because they do not answer."}, func() float64 { return float64(task.Held(s.holds)) }),
		loadCollector{s}, poolCollector{s}, jobCollector{s}, subscriptionCollector{s}, providerCollector{s})
	return m
}

func (m *metrics) request(operation, method string, status int, took time.Duration) {
	if operation == "" {
		operation = "none" // unknown paths must not become labels
	}
	switch method {
	case "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS":
	default:
		method = "other"
	}
	m.requests.WithLabelValues(operation, method, strconv.Itoa(status)).Inc()
	m.seconds.WithLabelValues(operation).Observe(took.Seconds())
}

// handler serves what watches a replica without a token, also one that has no other address (--role worker).
func (m *metrics) handler(s *Server) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{}))
	mux.Handle("GET /healthz", s)
	mux.Handle("GET /readyz", s)
	return mux
}

func (s *Server) metricsText(context.Context, *struct{}) (*struct{ Body blueprint.Streamed }, error) {
	return &struct{ Body blueprint.Streamed }{blueprint.Streamed{
		ContentType: string(expfmt.NewFormat(expfmt.TypeTextPlain)),
		Write: func(ctx context.Context, w io.Writer, _ func()) error {
			families, err := s.metrics.registry.Gather()
			if err != nil && len(families) == 0 {
				return err
			}
			var buf bytes.Buffer
			for _, f := range families {
				if _, err := expfmt.MetricFamilyToText(&buf, f); err != nil {
					return err
				}
			}
			_, err = w.Write(buf.Bytes())
			return err
		},
	}}, nil
}

// loadCollector tells who waits for a turn, and who was refused one.
type loadCollector struct{ s *Server }

var (
	waitingDesc = prometheus.NewDesc("slipway_http_requests_waiting", "Requests that wait for their turn, by class (read or write).", []string{"class"}, nil)
	refusedDesc = prometheus.NewDesc("slipway_http_requests_refused_total", "Requests that were refused with 503 because there were too many, by class (read or write).", []string{"class"}, nil)
)

func (c loadCollector) Describe(ch chan<- *prometheus.Desc) {
	ch <- waitingDesc
	ch <- refusedDesc
}

func (c loadCollector) Collect(ch chan<- prometheus.Metric) {
	waiting, refused := c.s.load.count()
	for class, name := range classes {
		ch <- prometheus.MustNewConstMetric(waitingDesc, prometheus.GaugeValue, float64(waiting[class]), name)
		ch <- prometheus.MustNewConstMetric(refusedDesc, prometheus.CounterValue, float64(refused[class]), name)
	}
}

// poolCollector tells how busy the connections of the databases are.
type poolCollector struct{ s *Server }

var (
	connectionsDesc = prometheus.NewDesc("slipway_database_connections", "Connections of this replica, by database and state (in_use or idle).", []string{"database", "state"}, nil)
	mostDesc        = prometheus.NewDesc("slipway_database_connections_max", "Connections that this replica may have, by database.", []string{"database"}, nil)
	waitsDesc       = prometheus.NewDesc("slipway_database_waits_total", "How often somebody waited for a connection, by database.", []string{"database"}, nil)
	waitedDesc      = prometheus.NewDesc("slipway_database_wait_seconds_total", "How long they waited in all, by database.", []string{"database"}, nil)
)

func (c poolCollector) Describe(ch chan<- *prometheus.Desc) {
	ch <- connectionsDesc
	ch <- mostDesc
	ch <- waitsDesc
	ch <- waitedDesc
}

func (c poolCollector) Collect(ch chan<- prometheus.Metric) {
	for name, db := range c.s.databases {
		p := db.Pool()
		ch <- prometheus.MustNewConstMetric(connectionsDesc, prometheus.GaugeValue, float64(p.InUse), name, "in_use")
		ch <- prometheus.MustNewConstMetric(connectionsDesc, prometheus.GaugeValue, float64(p.Open-p.InUse), name, "idle")
		ch <- prometheus.MustNewConstMetric(mostDesc, prometheus.GaugeValue, float64(p.Most), name)
		ch <- prometheus.MustNewConstMetric(waitsDesc, prometheus.CounterValue, float64(p.Waits), name)
		ch <- prometheus.MustNewConstMetric(waitedDesc, prometheus.CounterValue, p.Waited.Seconds(), name)
	}
}

// jobCollector asks the queue when metrics are read.
type jobCollector struct{ s *Server }

var (
	jobsDesc   = prometheus.NewDesc("slipway_jobs", "Jobs by queue and state.", []string{"queue", "state"}, nil)
	oldestDesc = prometheus.NewDesc("slipway_jobs_oldest_seconds", "How long the job that waits longest could have run, by queue.", []string{"queue"}, nil)
)

func (c jobCollector) Describe(ch chan<- *prometheus.Desc) {
	ch <- jobsDesc
	ch <- oldestDesc
}

func (c jobCollector) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	counts, err := c.s.jobs.Stats(ctx)
	if err != nil {
		c.s.log.WarnContext(ctx, "jobs were not counted", "error", err)
		return
	}
	for _, n := range counts {
		ch <- prometheus.MustNewConstMetric(jobsDesc, prometheus.GaugeValue, float64(n.Jobs), n.Queue, string(n.State))
		if !n.Since.IsZero() {
			ch <- prometheus.MustNewConstMetric(oldestDesc, prometheus.GaugeValue, max(0, c.s.now().Sub(n.Since).Seconds()), n.Queue)
		}
	}
}

// subscriptionCollector asks how far those who read events are when metrics are read.
type subscriptionCollector struct{ s *Server }

var (
	behindDesc  = prometheus.NewDesc("slipway_events_behind", "Positions that a subscription has not come to yet; events that are not for it count too.", []string{"subscription"}, nil)
	blockedDesc = prometheus.NewDesc("slipway_events_refused", "How often the event at hand was refused; 0 when all is well.", []string{"subscription"}, nil)
)

func (c subscriptionCollector) Describe(ch chan<- *prometheus.Desc) {
	ch <- behindDesc
	ch <- blockedDesc
}

func (c subscriptionCollector) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	states, err := c.s.events.Subscriptions(ctx)
	if err != nil {
		c.s.log.WarnContext(ctx, "subscriptions were not looked at", "error", err)
		return
	}
	for _, s := range states {
		ch <- prometheus.MustNewConstMetric(behindDesc, prometheus.GaugeValue, float64(max(0, s.Behind)), s.Name)
		ch <- prometheus.MustNewConstMetric(blockedDesc, prometheus.GaugeValue, float64(s.Failures), s.Name)
	}
}

// providerCollector asks how the providers stand when metrics are read.
type providerCollector struct{ s *Server }

var (
	stateDesc    = prometheus.NewDesc("slipway_provider_up", "1 when the provider is open and the last look at all of its projects succeeded, else 0.", []string{"provider", "type"}, nil)
	projectsDesc = prometheus.NewDesc("slipway_provider_projects", "Projects that entities name at the provider.", []string{"provider", "type"}, nil)
	failingDesc  = prometheus.NewDesc("slipway_provider_projects_failing", "Projects at which the last look failed.", []string{"provider", "type"}, nil)
	ageDesc      = prometheus.NewDesc("slipway_provider_oldest_read_seconds", "How long ago the project that was read longest ago was read; absent when one was never read, or there is none.", []string{"provider", "type"}, nil)
)

func (c providerCollector) Describe(ch chan<- *prometheus.Desc) {
	ch <- stateDesc
	ch <- projectsDesc
	ch <- failingDesc
	ch <- ageDesc
}

func (c providerCollector) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	standings, err := c.s.tasks.Standings(ctx)
	if err != nil {
		c.s.log.WarnContext(ctx, "providers were not looked at", "error", err)
		return
	}
	for _, p := range standings {
		up := 0.0
		if p.State == "ok" {
			up = 1
		}
		ch <- prometheus.MustNewConstMetric(stateDesc, prometheus.GaugeValue, up, p.Name, p.Type)
		ch <- prometheus.MustNewConstMetric(projectsDesc, prometheus.GaugeValue, float64(p.Projects), p.Name, p.Type)
		ch <- prometheus.MustNewConstMetric(failingDesc, prometheus.GaugeValue, float64(p.Failing), p.Name, p.Type)
		if p.Oldest != nil {
			ch <- prometheus.MustNewConstMetric(ageDesc, prometheus.GaugeValue, max(0, c.s.now().Sub(*p.Oldest).Seconds()), p.Name, p.Type)
		}
	}
}
