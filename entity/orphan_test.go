package entity_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/entity"
	"github.com/slipway-platform/slipway/store"
	"github.com/slipway-platform/slipway/store/storetest"
)

func TestAnOrphanStaysForAWhileAndMayBeTakenOver(t *testing.T) {
	t.Parallel()
	storetest.Each(t, schema, func(t *testing.T, db *store.DB) {
		now := time.Now()
		s := entity.New(db, func() time.Time { return now })
		var heard announced
		s.Announce = heard.hear
		a, b, c := newEntity("Component", "a", spec{"type": "service"}), newEntity("Component", "b", nil), newEntity("Component", "c", nil)
		putAll(t, s, "one", a, b, c)
		heard.take()
		marked, err := s.Orphan(t.Context(), "one", []slipway.EntityRef{ref(t, "a"), ref(t, "b"), ref(t, "none")})
		if diff := cmp.Diff([]string{"component:default/a", "component:default/b"}, refs(marked)); err != nil || diff != "" {
			t.Error(err, diff)
		}
		if again, err := s.Orphan(t.Context(), "one", marked); err != nil || len(again) > 0 {
			t.Errorf("marked twice: %v, %v", again, err)
		}
		if diff := cmp.Diff([]string{"updated component:default/a", "updated component:default/b"}, heard.take()); diff != "" {
			t.Error(diff)
		}
		if diff := cmp.Diff([]string{"component:default/a", "component:default/b"}, search(t, s, system, "metadata.annotations.backstage.io/orphan=true")); diff != "" {
			t.Error(diff)
		}
		got, err := s.Get(t.Context(), db, system, ref(t, "a"))
		if err != nil || !got.Orphan || !strings.Contains(string(got.JSON), `"type":"service"`) {
			t.Errorf("got %+v, %v", got, err)
		}
		// Another source brings it, as it was: the same entity, no orphan any more.
		if r := putAll(t, s, "two", a); len(r.Updated) != 1 {
			t.Errorf("got %+v; want it taken over", r)
		}
		taken, err := s.Get(t.Context(), db, system, ref(t, "a"))
		if err != nil || taken.Orphan || taken.Source != "two" || taken.UID != got.UID || strings.Contains(string(taken.JSON), "orphan") {
			t.Errorf("got %+v, %v", taken, err)
		}
		if gone, err := s.RemoveOrphans(t.Context(), now.Add(-time.Second)); err != nil || len(gone) > 0 {
			t.Errorf("removed at once: %v, %v", gone, err)
		}
		gone, err := s.RemoveOrphans(t.Context(), now)
		if diff := cmp.Diff([]string{"component:default/b"}, refs(gone)); err != nil || diff != "" {
			t.Error(err, diff)
		}
		if diff := cmp.Diff([]string{"component:default/a", "component:default/c"}, search(t, s, system, "kind=component")); diff != "" {
			t.Error(diff)
		}
	})
}

func TestFaultsStandBesideTheLastGoodVersion(t *testing.T) {
	t.Parallel()
	storetest.Each(t, schema, func(t *testing.T, db *store.DB) {
		s := entity.New(db, time.Now)
		putAll(t, s, "one", newEntity("Component", "a", nil), newEntity("Component", "b", nil))
		putAll(t, s, "two", newEntity("Component", "c", nil))
		statusOf := func(name string) string {
			r, err := s.Get(t.Context(), db, system, ref(t, name))
			if err != nil {
				t.Fatal(err)
			}
			_, status, _ := strings.Cut(string(r.JSON), `"status":`)
			return strings.TrimSuffix(status, "}")
		}
		for _, tt := range []struct {
			faults map[string]string
			a, b   string
		}{
			{map[string]string{"component:default/a": "no", "component:default/c": "not yours", "component:default/none": "x"},
				`{"items":[{"type":"backstage.io/catalog-processing","level":"error","message":"no","error":{"name":"InputError","message":"no"}}]}`, ""},
			{map[string]string{"component:default/b": "<&>"}, "",
				`{"items":[{"type":"backstage.io/catalog-processing","level":"error","message":"\u003c\u0026\u003e","error":{"name":"InputError","message":"\u003c\u0026\u003e"}}]}`},
			{map[string]string{"component:default/b": ""}, "",
				`{"items":[{"type":"backstage.io/catalog-processing","level":"error","message":"\u003c\u0026\u003e","error":{"name":"InputError","message":"\u003c\u0026\u003e"}}]}`},
			{nil, "", ""},
		} {
			if err := s.SetFaults(t.Context(), "one", tt.faults); err != nil {
				t.Fatal(err)
			}
			for name, want := range map[string]string{"a": tt.a, "b": tt.b, "c": ""} {
				if got := statusOf(name); got != want {
					t.Errorf("faults %v: status of %s is %s, want %s", tt.faults, name, got, want)
				}
			}
		}
	})
}
