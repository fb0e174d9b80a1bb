package fake_test

import (
	"testing"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/provider"
	"github.com/slipway-platform/slipway/provider/fake"
	"github.com/slipway-platform/slipway/provider/providertest"
)

func TestBuilder(t *testing.T) {
	t.Parallel()
	providertest.RunBuilder(t, func(t *testing.T) providertest.BuilderHarness {
		v := fake.New(fake.Config{})
		p := v.Provider()
		project := func(id string) string {
			list, err := p.Builder.List(t.Context(), provider.ComponentQuery{})
			if err != nil {
				t.Error(err)
			}
			for _, b := range list {
				if b.ID == id {
					return provider.ComponentProject(b.Order.Tool, b.Order.Component)
				}
			}
			return ""
		}
		broken := func(f fake.Fault) func(testing.TB) { return func(testing.TB) { v.Break(f) } }
		return providertest.BuilderHarness{
			Builder: p.Builder, Builds: p.Builds, Repository: "https://git.example.com/web.git", Ref: "main", Commit: "0123456789abcdef0123456789abcdef01234567",
			Move:  func(_ testing.TB, id string, s slipway.BuildStatus) { v.Move(project(id), id, s) },
			Write: func(_ testing.TB, id, text string) { v.Write(project(id), id, text) },
			Fill: func(t testing.TB) {
				v.Room(1)
				if _, err := p.Builder.Start(t.Context(), provider.BuildOrder{Key: "x", Tool: "x", Component: "x", Repository: "https://git.example.com/x"}); err != nil {
					t.Error(err)
				}
			},
			Drain:  func(testing.TB) { v.Room(0) },
			Forget: func(_ testing.TB, _, id string) { v.Forget(project(id), id) },
			Lose:   func(testing.TB) { v.LoseStart() },
			Down:   broken(fake.Down),
			Hang:   broken(fake.Hang),
		}
	})
}
