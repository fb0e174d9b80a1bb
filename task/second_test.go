package task

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/provider"
	"github.com/slipway-platform/slipway/provider/fake"
	"github.com/slipway-platform/slipway/store"
	"github.com/slipway-platform/slipway/store/storetest"
)

// What a second task costs: a struct,
type change struct {
	ID        string              `json:"id"`
	EntityRef string              `json:"entityRef"`
	Provider  slipway.ProviderRef `json:"provider"`
	Title     string              `json:"title"`
	State     string              `json:"state"`
	Target    string              `json:"target"`
	OpenedAt  time.Time           `json:"openedAt"`
	ChangedAt time.Time           `json:"changedAt"`
}

// a capability of providers,
type listChanges func(ctx context.Context, project string, o provider.ListOptions) (provider.Page[change], error)

// and a declaration, from which the table comes.
func changeTask(capability func(*provider.Provider) listChanges) Task[change] {
	return Task[change]{
		Name: "change", Text: "A proposed change of code.", Statuses: []string{"open", "merged", "closed"},
		Fields: []Field[change]{{Name: "target", Text: "branch that it goes to", Of: func(c *change) []string { return []string{c.Target} }}},
		Row: func(c *change) Row {
			return Row{ID: c.ID, Created: c.OpenedAt, Version: c.ChangedAt.UnixMicro(), Status: c.State, Finished: c.State != "open"}
		},
		Adorn: func(c *change, p slipway.ProviderRef, _ func(*slipway.Person)) { c.ID, c.Provider = p.Name+":"+c.ID, p },
		List: func(p *provider.Provider) func(context.Context, string, provider.ListOptions) (provider.Page[change], error) {
			return capability(p)
		},
	}
}

func TestASecondTaskCostsAStructACapabilityAndATable(t *testing.T) {
	t.Parallel()
	table := changeTask(nil).Table()
	storetest.Each(t, migrations(table), func(t *testing.T, db *store.DB) {
		w := prepare(t, db)
		var list []change
		for i := range 5 {
			list = append(list, change{ID: fmt.Sprint(i), Title: "A change", State: []string{"open", "merged"}[i%2], Target: "main", OpenedAt: at(100 - i), ChangedAt: at(100)})
		}
		able := map[*provider.Provider]bool{}
		changes := New(w.Engine, changeTask(func(p *provider.Provider) listChanges {
			if !able[p] {
				return nil
			}
			return func(_ context.Context, project string, o provider.ListOptions) (provider.Page[change], error) {
				if project != "octo/web" {
					return provider.Page[change]{}, slipway.Errorf(slipway.NotFound, "no project %q", project)
				}
				return provider.Page[change]{Items: list}, nil
			}
		}))
		v := fake.New(fake.Config{})
		v.Add("octo/web", slipway.Build{ID: "b", CreatedAt: at(1), Status: slipway.BuildFailed})
		with, without := v.Provider(), v.Provider()
		able[with] = true
		w.start()
		err := w.SetProviders(t.Context(), []Provider{{Name: "with", Type: "fake", Provider: with}, {Name: "without", Type: "fake", Provider: without}})
		if err != nil {
			t.Fatal(err)
		}
		web := w.entity("web", "team-a", map[string]string{fake.Annotation: "octo/web"})
		w.await(web, 2) // the builds of both providers
		var p Page
		eventually(t, "the changes of the one that can", func() bool {
			p, err = changes.Search(t.Context(), system, web, Query{Statuses: []string{"open"}, Filters: map[string][]string{"target": {"main"}}, Limit: 2}, nil)
			return err == nil && len(p.Items) == 2
		})
		want := `{"entityRef":"component:default/web","id":"with:0","provider":{"name":"with","type":"fake"},"title":"A change","state":"open","target":"main",`
		if got := string(p.Items[0]); len(got) < len(want) || got[:len(want)] != want || !p.PageInfo.HasMore || len(p.Sources) != 1 {
			t.Errorf("got %s\n%+v %+v", got, p.PageInfo, p.Sources)
		}
		if _, err := w.runs.Search(t.Context(), system, web, Query{Limit: 2, Cursor: p.PageInfo.NextCursor}, nil); !errors.Is(err, slipway.Invalid) {
			t.Errorf("the cursor of another task: got %v, want invalid", err)
		}
		if item, err := changes.Get(t.Context(), system, web, "with:3", nil); err != nil || item.Value.State != "merged" {
			t.Errorf("got %+v, %v", item.Value, err)
		}
		if got := fmt.Sprint(w.Serving("change"), w.Serving("run")); got != "[{with fake []}] [{with fake []} {without fake []}]" {
			t.Errorf("serving: %s", got)
		}
	})
}

func TestSchemaGoesDownAndUp(t *testing.T) {
	t.Parallel()
	storetest.UpDownUp(t, migrations()...)
}
