package greeting_test

import (
	"fmt"
	"testing"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/blueprint"
	"github.com/slipway-platform/slipway/blueprint/blueprinttest"
	"github.com/slipway-platform/slipway/examples/greeting"
)

var options = blueprinttest.Options{Blueprints: []blueprint.Blueprint{greeting.Blueprint}}

func TestAGreetingIsDelivered(t *testing.T) {
	t.Parallel()
	blueprinttest.Each(t, options, func(t *testing.T, s *blueprinttest.Server) {
		var g greeting.Greeting
		s.Post("/api/greetings", map[string]string{"to": "Ada"}).Is(201).Into(&g)
		if g.Text != "Hello, Ada!" || g.Delivered {
			t.Errorf("got %+v, want a greeting that is on its way", g)
		}
		blueprinttest.Eventually(t, "the greeting is delivered", func() bool {
			s.Get(fmt.Sprintf("/api/greetings/%d", g.ID)).Is(200).Into(&g)
			return g.Delivered
		})
	})
}

func TestGreetingsComeInPages(t *testing.T) {
	t.Parallel()
	blueprinttest.Each(t, options, func(t *testing.T, s *blueprinttest.Server) {
		for _, name := range []string{"Ada", "Grace", "Edsger"} {
			s.Post("/api/greetings", map[string]string{"to": name}).Is(201)
		}
		var first, second blueprint.List[greeting.Greeting]
		s.Get("/api/greetings?limit=2").Is(200).Into(&first)
		s.Get("/api/greetings?limit=2&cursor=" + first.PageInfo.NextCursor).Is(200).Into(&second)
		if len(first.Items) != 2 || first.Items[0].To != "Edsger" || len(second.Items) != 1 || second.Items[0].To != "Ada" || second.PageInfo.HasMore {
			t.Errorf("got %+v, then %+v", first, second)
		}
	})
}

func TestWhatDoesNotFitIsRefused(t *testing.T) {
	t.Parallel()
	blueprinttest.Each(t, options, func(t *testing.T, s *blueprinttest.Server) {
		s.Post("/api/greetings", map[string]string{"to": ""}).Fails(400, slipway.Invalid)
		s.Get("/api/greetings/99").Fails(404, slipway.NotFound)
		s.With("greeting.greeting.read").Post("/api/greetings", map[string]string{"to": "Ada"}).Fails(403, slipway.Forbidden)
	})
}
