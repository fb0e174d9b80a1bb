package server

import (
	"context"
	"net/http"
	"net/url"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

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
		{Name: "slipway.log.read", Text: "See what is logged"},
		{Name: "slipway.log.write", Text: "Change for a time what is logged"},
		{Name: "slipway.proxy.read", Text: "See the proxies that one may use", Everyone: true},
	},
	Operations: slices.Concat([]blueprint.Operation{
		blueprint.Handle((*Server).healthz, blueprint.Operation{
			ID: "slipway.health", Method: "GET", Path: "/healthz", Summary: "Is the process alive", Permission: blueprint.Public,
			Description: "Answers as long as the process can answer; asks nothing else. For liveness probes.", Tag: "operations",
			ResponseExample: Health{Status: "ok"},
		}),
		blueprint.Handle((*Server).readyz, blueprint.Operation{
			ID: "slipway.ready", Method: "GET", Path: "/readyz", Summary: "Can it serve", Permission: blueprint.Public, Tag: "operations",
			Description:     "Asks every dependency, by name, for 2 seconds at most, twice a second at most. 503 when one does not answer, or while the server stops; a Kubernetes cluster that does not answer is only shown. For readiness probes.",
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
	}, logOperations),
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

// checkedFor is how long what the checks found is told again: anybody may ask, and each check costs a connection.
const checkedFor = 500 * time.Millisecond

// checked is what the checks found last. Safe for concurrent use: those who ask while checks run get what these find.
type checked struct {
	mu      sync.Mutex
	at      time.Time
	results []CheckResult
}

func (s *Server) readyz(ctx context.Context, _ *struct{}) (*readyOutput, error) {
	s.checked.mu.Lock()
	if time.Since(s.checked.at) > checkedFor {
		s.checked.results = s.check(context.WithoutCancel(ctx)) // for all who wait
		s.checked.at = time.Now()
	}
	results := s.checked.results
	s.checked.mu.Unlock()
	out := &readyOutput{Status: http.StatusOK, Body: Readiness{Ready: s.ready.Load(), Checks: results}}
	for i, r := range results {
		out.Body.Ready = out.Body.Ready && (r.OK || s.health[i].some)
	}
	if !out.Body.Ready {
		out.Status = http.StatusServiceUnavailable
	}
	return out, nil
}

// check asks every dependency, all at once.
func (s *Server) check(ctx context.Context) []CheckResult {
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
	return results
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
	span.SetAttributes(attribute.String("slipway.request_id", x.id), attribute.String("slipway.caller", x.caller),
		attribute.String("url.path", x.server.redact.Redact(x.path))) // senders that cannot set a header have a token in it
}
