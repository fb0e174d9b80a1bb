package server_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/auth"
	"github.com/slipway-platform/slipway/blueprint"
	"github.com/slipway-platform/slipway/blueprint/blueprinttest"
	"github.com/slipway-platform/slipway/server"
	"github.com/slipway-platform/slipway/store"
)

func TestAServerThatIsFullSaysSoAndStaysAlive(t *testing.T) {
	t.Parallel()
	ended, release := make(chan string, 1), make(chan string) // the handler waits until its call is taken
	o := blueprinttest.Options{Blueprints: []blueprint.Blueprint{toyBlueprint(&toy{calls: release})}, Configure: func(c *server.Config) {
		c.Server.Load = server.Load{Requests: 1, Wait: slipway.Duration(10 * time.Millisecond)}
	}}
	s := blueprinttest.Start(t, store.SQLite, o)
	go func() {
		// It has no body, and so keeps its place from the beginning to the end. While one of the calls below has the place it is refused.
		a := s.Post("/api/toy/secret", nil)
		for a.Status == 503 {
			a = s.Post("/api/toy/secret", nil)
		}
		a.Is(200)
		ended <- "done"
	}()
	blueprinttest.Eventually(t, "the server is full", func() bool { return s.Get("/api/toy/raw").Status == 503 })

	for _, path := range []string{"/api/toy/raw", "/data/toy/x", "/api/v1/tool/toy/x", "/api/catalog/toy/x", "/api/toy/open/x"} {
		a := s.Get(path).Is(503)
		if after := a.Header.Get("Retry-After"); after < "1" || after > "3" || !strings.Contains(string(a.Body), "more requests than the server can work") {
			t.Errorf("%s: Retry-After %q, %s", path, after, a.Body)
		}
	}
	s.As("").Get("/healthz").Is(200)
	s.As("").Get("/readyz").Is(200)
	if m := string(s.Get("/metrics").Is(200).Body); !strings.Contains(m, `slipway_http_requests_refused_total{class="read"}`) || !strings.Contains(m, `slipway_http_requests_waiting{class="write"} 0`) {
		t.Errorf("the metrics do not tell: %s", m)
	}
	if n := strings.Count(s.Log.String(), "requests are refused"); n != 1 {
		t.Errorf("the log tells %d times within ten seconds", n)
	}
	if strings.Contains(s.Log.String(), `"level":"ERROR"`) {
		t.Error("each refused request is an error in the log")
	}
	<-release
	<-ended
	s.Get("/api/toy/raw").Is(200)
}

func TestAStreamTakesNoPlace(t *testing.T) {
	t.Parallel()
	o := options()
	o.Configure = func(c *server.Config) {
		c.Server.Load = server.Load{Requests: 1, Wait: slipway.Duration(10 * time.Millisecond)}
	}
	s := blueprinttest.Start(t, store.SQLite, o)
	for range 3 {
		req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL+"/api/toy/stream", nil)
		req.Header.Set("Authorization", "Bearer "+s.Token)
		res, err := http.DefaultClient.Do(req)
		if err != nil || res.StatusCode != 200 {
			t.Fatal(res, err)
		}
		defer res.Body.Close()
	}
	s.Get("/api/toy/raw").Is(200)
	if m := string(s.Get("/metrics").Is(200).Body); !strings.Contains(m, "\nslipway_streams_active 3\n") {
		t.Error("the streams are not counted")
	}
}

func TestTheLogIsChangedForATimeOnEveryReplica(t *testing.T) {
	t.Parallel()
	blueprinttest.Each(t, options(), func(t *testing.T, s *blueprinttest.Server) {
		replicas := []*blueprinttest.Server{s}
		if strings.HasPrefix(s.Database, "postgres") {
			o := options()
			o.Database, o.DataDir = s.Database, s.DataDir
			replicas = append(replicas, blueprinttest.Start(t, store.Postgres, o))
		}
		logs := func(r *blueprinttest.Server) bool {
			before := strings.Count(r.Log.String(), `"operation":"toy.raw"`)
			r.As(s.Token).Get("/api/toy/raw").Is(200)
			return strings.Count(r.Log.String(), `"operation":"toy.raw"`) > before
		}
		var got server.LogLevel
		s.Do("PUT", "/api/log-levels/all", map[string]any{"level": "error", "for": "5m"}).Is(200).Into(&got)
		if got.Level != "error" || got.Until == nil || time.Until(*got.Until) > 5*time.Minute || !strings.HasPrefix(got.By, "token:") {
			t.Errorf("got %+v", got)
		}
		if logs(s) {
			t.Error("it is not in force after the answer")
		}
		for _, r := range replicas {
			blueprinttest.Eventually(t, "the replica logs less", func() bool { return !logs(r) })
		}
		var list blueprint.List[server.LogLevel]
		replicas[len(replicas)-1].As(s.Token).Get("/api/log-levels").Is(200).Into(&list)
		if len(list.Items) != 2 || list.Items[0].Level != "debug" || list.Items[1].Level != "error" {
			t.Errorf("listed: %+v", list.Items)
		}
		s.Do("DELETE", "/api/log-levels/all", nil).Is(204)
		for _, r := range replicas {
			blueprinttest.Eventually(t, "the replica logs as configured", func() bool { return logs(r) })
		}
		s.Do("PUT", "/api/log-levels/nobody", map[string]any{"level": "debug"}).Fails(404, slipway.NotFound)
		s.Do("PUT", "/api/log-levels/toy", map[string]any{"level": "loud"}).Is(400)
		for _, long := range []string{"0.5s", "25h", "soon"} {
			s.Do("PUT", "/api/log-levels/toy", map[string]any{"level": "debug", "for": long}).Is(400)
		}
		s.Do("PUT", "/api/log-levels/toy", map[string]any{"level": "debug"}).Is(200)
		reader := s.As(s.NewToken(auth.NewToken{Name: "reader", Permissions: []string{"slipway.log.read"}}))
		reader.Get("/api/log-levels").Is(200)
		reader.Do("PUT", "/api/log-levels/toy", map[string]any{"level": "debug"}).Fails(403, slipway.Forbidden)
		reader.Do("DELETE", "/api/log-levels/toy", nil).Fails(403, slipway.Forbidden)
	})
}
