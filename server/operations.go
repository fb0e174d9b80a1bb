package server

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/url"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/common/expfmt"
	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/auth"
	"github.com/slipway-platform/slipway/blueprint"
)

// Base is what the server itself offers, declared like any blueprint: process health, readiness, version, metrics.
var Base = blueprint.Blueprint{
	Name: base, Version: "1.0.0", Summary: "The server itself: health, version, metrics.", Stability: blueprint.Stable,
	Mounts: []blueprint.Mount{
		{Prefix: "/healthz", Dialect: blueprint.Plain}, {Prefix: "/readyz", Dialect: blueprint.Plain}, {Prefix: "/version", Dialect: blueprint.Plain},
		{Prefix: "/metrics", Dialect: blueprint.Plain}, {Prefix: "/api", Dialect: blueprint.API}, {Prefix: "/data", Dialect: blueprint.Data},
		{Prefix: "/components/v1/tool", Dialect: blueprint.Tool, Lenient: true}, {Prefix: "/api/v1/tool", Dialect: blueprint.Tool},
	},
	Permissions: []auth.Permission{
		{Name: "slipway.metrics.read", Text: "Read the server's metrics"},
		{Name: "slipway.proxy.read", Text: "See the proxies that one may use", Everyone: true},
	},
	Operations: []blueprint.Operation{
		blueprint.Handle((*Server).healthz, blueprint.Operation{
			ID: "slipway.health", Method: "GET", Path: "/healthz", Summary: "Is the process alive", Permission: blueprint.Public,
			Description: "Answers as long as the process can answer; asks nothing else. For liveness probes.", Tag: "operations",
			ResponseExample: Health{Status: "ok"},
		}),
		blueprint.Handle((*Server).readyz, blueprint.Operation{
			ID: "slipway.ready", Method: "GET", Path: "/readyz", Summary: "Can it serve", Permission: blueprint.Public, Tag: "operations",
			Description:     "Asks every dependency, by name, for 2 seconds at most. 503 when one does not answer, or while the server stops; a Kubernetes cluster that does not answer is only shown. For readiness probes.",
			ResponseExample: Readiness{Ready: true, Checks: []CheckResult{{Name: "database main", OK: true, Milliseconds: 0.3}}},
		}),
		blueprint.Handle((*Server).versionz, blueprint.Operation{
			ID: "slipway.version", Method: "GET", Path: "/version", Summary: "Which version runs, with which blueprints", Permission: blueprint.Public, Tag: "operations",
			ResponseExample: Version{Version: "0.1.0", Go: "go1.26.8", Blueprints: []BlueprintVersion{{Name: "build", Version: "0.1.0", Stability: "experimental"}}},
		}),
		blueprint.Handle((*Server).metricsText, blueprint.Operation{
			ID: "slipway.metrics", ResponseExample: "slipway_http_requests_active 1\n", Method: "GET", Path: "/metrics", Summary: "Metrics in Prometheus' text format", Permission: "slipway.metrics.read", Tag: "operations",
			Description: "With server.metricsListen they are served on an address of their own, without a token.",
		}),
		blueprint.Handle((*Server).listProxies, blueprint.Operation{
			ID: "slipway.proxies", Method: "GET", Path: "/api/proxies", Summary: "Which other APIs can be reached through this one", Permission: "slipway.proxy.read", Tag: "proxies",
			Description: "Lists the proxies that the caller may use. Each passes what is asked below its path on to another HTTP API, with a credential that the caller never sees. " +
				"Where the other API is stays between the operator and the server.", Stability: blueprint.Experimental,
			ResponseExample: blueprint.List[proxyInfo]{
				Items:    []proxyInfo{{Name: "argocd", Text: "Argo CD of the platform", Path: "/api/proxy/argocd/", Methods: []string{"GET", "HEAD"}, Permission: "proxy.argocd.use"}},
				PageInfo: slipway.PageInfo{Limit: 1},
			},
		}),
	},
	Open: func(context.Context, *blueprint.Host) (any, error) { return nil, nil }, // the server is its own service
}

// Health is the answer of /healthz.
type Health struct {
	Status string `json:"status" doc:"ok" example:"ok"`
}

func (s *Server) healthz(context.Context, *struct{}) (*struct{ Body Health }, error) {
	return &struct{ Body Health }{Health{Status: "ok"}}, nil
}

// Readiness is the answer of /readyz.
type Readiness struct {
	Ready  bool          `json:"ready" doc:"True when every database answers and the server does not stop"`
	Checks []CheckResult `json:"checks" doc:"Each dependency by name"`
}

// CheckResult is how one dependency answered.
type CheckResult struct {
	Name         string  `json:"name" doc:"Dependency" example:"database main"`
	OK           bool    `json:"ok" doc:"Whether it answered"`
	Milliseconds float64 `json:"milliseconds" doc:"How long it took"`
	Error        string  `json:"error,omitempty" doc:"What is wrong, in general words; the log says more"`
}

type readyOutput struct {
	Status int
	Body   Readiness
}

func (s *Server) readyz(ctx context.Context, _ *struct{}) (*readyOutput, error) {
	results := make([]CheckResult, len(s.health))
	var wg sync.WaitGroup
	for i, c := range s.health {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
			defer cancel()
			start := time.Now()
			err := runSafely(ctx, c.run)
			results[i] = CheckResult{Name: c.name, OK: err == nil, Milliseconds: float64(time.Since(start).Microseconds()) / 1000}
			if err != nil {
				results[i].Error = "does not answer"
				s.log.WarnContext(ctx, "a dependency does not answer", "check", c.name, "error", err)
			}
		})
	}
	wg.Wait()
	out := &readyOutput{Status: http.StatusOK, Body: Readiness{Ready: s.ready.Load(), Checks: results}}
	for i, r := range results {
		out.Body.Ready = out.Body.Ready && (r.OK || s.health[i].some)
	}
	if !out.Body.Ready {
		out.Status = http.StatusServiceUnavailable
	}
	return out, nil
}

// Version is the answer of /version.
type Version struct {
	Version    string             `json:"version" doc:"Version of this build" example:"0.1.0"`
	Commit     string             `json:"commit,omitempty" doc:"Source it was built from, when known"`
	Go         string             `json:"go" doc:"Version of Go it was built with"`
	Blueprints []BlueprintVersion `json:"blueprints" doc:"The blueprints that run here"`
}

// BlueprintVersion is one blueprint of /version.
type BlueprintVersion struct {
	Name      string `json:"name" doc:"Blueprint" example:"build"`
	Version   string `json:"version" doc:"Its version" example:"0.1.0"`
	Stability string `json:"stability" enum:"stable,experimental,deprecated" doc:"What to rely on"`
}

func (s *Server) versionz(context.Context, *struct{}) (*struct{ Body Version }, error) {
	v := Version{Version: s.version, Go: runtime.Version(), Blueprints: []BlueprintVersion{}}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, kv := range info.Settings {
			if kv.Key == "vcs.revision" {
				v.Commit = kv.Value
			}
		}
	}
	for _, b := range s.blueprints {
		v.Blueprints = append(v.Blueprints, BlueprintVersion{b.Name, b.Version, string(b.Stability)})
	}
	return &struct{ Body Version }{v}, nil
}

// metrics are the server's own, in a registry of their own.
type metrics struct {
	registry *prometheus.Registry
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec

	targetFailures *prometheus.CounterVec // of proxies
	retries        *prometheus.CounterVec
}

func newMetrics(s *Server) *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "slipway_http_requests_total", Help: "Requests by operation, method and status."}, []string{"operation", "method", "status"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "slipway_http_request_seconds", Help: "How long requests took, by operation.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10}}, []string{"operation"}),
		targetFailures: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "slipway_proxy_target_failures_total", Help: "Requests that a proxy's target did not answer, by proxy and reason."}, []string{"proxy", "reason"}),
		retries:        prometheus.NewCounterVec(prometheus.CounterOpts{Name: "slipway_proxy_retries_total", Help: "Requests that were sent to a proxy's target once more, by proxy."}, []string{"proxy"}),
	}
	held := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "slipway_database_write_seconds", Help: "How long write transactions held the database, by database.",
		Buckets: []float64{.0005, .001, .005, .01, .05, .1, .5, 1}}, []string{"database"})
	for name, db := range s.databases {
		observe := held.WithLabelValues(name)
		db.OnWrite = func(d time.Duration, _ int64) { observe.Observe(d.Seconds()) }
	}
	m.registry.MustRegister(m.requests, m.seconds, m.targetFailures, m.retries, held, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "slipway_http_requests_active", Help: "Requests under way."}, func() float64 { return float64(s.active.Load()) }),
		prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "slipway_rate_limit_leases_total", Help: "Blocks of requests that this replica leased in the database."}, func() float64 { return float64(s.auth.Stats().LimitLeases) }),
		prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "slipway_rate_limit_failures_total", Help: "Times the database did not answer and requests were let through uncounted."}, func() float64 { return float64(s.auth.Stats().LimitFailures) }),
		prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "slipway_events_put_aside_total", Help: "Events that a subscription of this replica refused as invalid and left behind."}, func() float64 { return float64(s.events.PutAside()) }),
		jobCollector{s}, subscriptionCollector{s})
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

func (m *metrics) handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{}))
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

// jobCollector asks the queue when metrics are read.
type jobCollector struct{ s *Server }

var jobsDesc = prometheus.NewDesc("slipway_jobs", "Jobs by queue and state.", []string{"queue", "state"}, nil)

func (c jobCollector) Describe(ch chan<- *prometheus.Desc) { ch <- jobsDesc }

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

// Traced is the handler with OpenTelemetry spans around it when an endpoint is configured.
func (s *Server) Traced() http.Handler {
	endpoint := s.config.Telemetry.Endpoint
	if endpoint == "" {
		return s
	}
	if u, err := url.Parse(endpoint); err == nil && strings.Trim(u.Path, "/") == "" {
		endpoint = u.JoinPath("v1", "traces").String() // where a collector listens, by the OTLP specification
	}
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { s.log.Warn("traces were not sent", "error", err) }))
	exporter, err := otlptracehttp.New(context.Background(), otlptracehttp.WithEndpointURL(endpoint))
	if err != nil {
		s.log.Error("traces are off", "error", err)
		return s
	}
	tracer := sdktrace.NewTracerProvider(sdktrace.WithBatcher(exporter),
		sdktrace.WithResource(resource.NewSchemaless(attribute.String("service.name", "slipway"), attribute.String("service.version", s.version))))
	s.closers = append(s.closers, func() error {
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
		defer cancel()
		return tracer.Shutdown(ctx)
	})
	return otelhttp.NewHandler(s, "slipway", otelhttp.WithTracerProvider(tracer),
		otelhttp.WithPropagators(propagation.TraceContext{}), // a caller's own trace goes on here
		otelhttp.WithSpanNameFormatter(func(_ string, r *http.Request) string { return r.Method }))
}

// trace says in the span of a request what the log says of it, so that one is found by the other.
func (x *exchange) trace(ctx context.Context) {
	span := trace.SpanFromContext(ctx)
	if !span.IsRecording() {
		return
	}
	if x.operation != "" {
		span.SetName(x.operation)
	}
	span.SetAttributes(attribute.String("slipway.request_id", x.id), attribute.String("slipway.caller", x.caller))
}
