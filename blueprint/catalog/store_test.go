package catalog

import (
	"log/slog"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/blueprint"
	"github.com/slipway-platform/slipway/entity"
	"github.com/slipway-platform/slipway/store"
	"github.com/slipway-platform/slipway/store/storetest"
)

var schema = []store.Migrations{{Owner: "catalog", FS: Blueprint.Databases[0].Migrations}}

// Two readings of a location at once, such as a registration and a push: the older content may be stored last, so neither's digest is relied on.
func TestReadingsThatOverlapLeaveNoDigest(t *testing.T) {
	t.Parallel()
	storetest.Each(t, schema, func(t *testing.T, db *store.DB) {
		ctx, p := t.Context(), Place{"url", "https://example.com/c.yaml"}
		stored := func() file {
			t.Helper()
			list, err := filesOf(ctx, db, "l")
			if err != nil || len(list) != 1 {
				t.Fatal(list, err)
			}
			return list[0]
		}
		save := func(f file, digest string) {
			t.Helper()
			f.Digest, f.ReadAt = digest, store.At(time.Now())
			if err := saveFiles(ctx, db, "l", []file{f}); err != nil {
				t.Fatal(err)
			}
		}
		begin := func(f file) file {
			t.Helper()
			v, err := beginFile(ctx, db, "l", f)
			if err != nil {
				t.Fatal(err)
			}
			f.Version = v
			return f
		}
		none := file{Place: p}
		save(none, "a")
		if got := stored(); got.Digest != "a" {
			t.Errorf("one reading alone: the digest is %q", got.Digest)
		}
		save(none, "b") // it has not seen what the first stored
		if got := stored(); got.Digest != "" {
			t.Errorf("two first readings: the digest is %q; want none", got.Digest)
		}
		save(stored(), "c")
		alone := begin(stored())
		if got := stored(); got.Digest != "" {
			t.Errorf("while it is being stored the digest is %q; want none", got.Digest)
		}
		save(alone, "d")
		if got := stored(); got.Digest != "d" {
			t.Errorf("one reading alone: the digest is %q", got.Digest)
		}
		one, two := stored(), stored()
		one = begin(one)
		two = begin(two)
		save(one, "e")
		if got := stored(); got.Digest != "" {
			t.Errorf("overtaken: the digest is %q; want none", got.Digest)
		}
		save(two, "f")
		if got := stored(); got.Digest != "" {
			t.Errorf("overlapping: the digest is %q; want none", got.Digest)
		}
	})
}

func TestLocationsAreFoundByWhatLiesBelowAnAddress(t *testing.T) {
	t.Parallel()
	storetest.Each(t, schema, func(t *testing.T, db *store.DB) {
		for id, target := range map[string]string{
			"1": "https://git.example.com/Octo/web/raw/main/c.yaml", "2": "https://git.example.com/octo/web2/raw/main/c.yaml", "3": "https://git.example.com/octo/web",
			"4": "https://dev.example.com/octo/_git/web?path=/c.yaml", "5": "https://git.example.com/octo/web_/c.yaml", "6": "https://git.example.com/octo/web%/c.yaml",
		} {
			if err := saveFiles(t.Context(), db, id, []file{{Place: Place{"url", target}}}); err != nil {
				t.Fatal(err)
			}
		}
		for address, want := range map[string][]string{
			"https://git.example.com/octo/WEB": {"1"}, "https://dev.example.com/octo/_git/web": {"4"}, "https://git.example.com/octo/w": nil, "https://git.example.com/octo/web%": {"6"},
		} {
			got, err := locationsBelow(t.Context(), db, []string{address, "https://none.example.com/a/b"})
			if diff := cmp.Diff(want, got); err != nil || diff != "" {
				t.Errorf("%s: %v\n%s", address, err, diff)
			}
			if some, err := someBelow(t.Context(), db, []string{address}); err != nil || some != (want != nil) {
				t.Errorf("%s: got %v, %v", address, some, err)
			}
		}
	})
}

func TestReadingALocationThatIsGoneLeavesNothingOfIt(t *testing.T) {
	t.Parallel()
	storetest.Each(t, append([]store.Migrations{entity.Migrations}, schema...), func(t *testing.T, db *store.DB) {
		ctx := t.Context()
		s := &service{Host: &blueprint.Host{Entities: entity.New(db, time.Now), Now: time.Now, Log: slog.New(slog.DiscardHandler)}, db: db, config: DefaultConfig()}
		l := s.newRow(Place{"url", "https://example.com/c.yaml"}, fromAPI)
		web := &slipway.Entity{APIVersion: "backstage.io/v1alpha1", Kind: "Component", Metadata: slipway.EntityMetadata{Name: "web"}}
		left := func(when string) {
			t.Helper()
			refs, err := s.Entities.BySource(ctx, l.source(), func(string) bool { return false })
			files, broken := filesOf(ctx, db, l.ID)
			if err != nil || broken != nil || len(refs)+len(files) > 0 {
				t.Errorf("%s: %v and %v are left, %v, %v", when, refs, files, err, broken)
			}
		}
		stored := func() {
			t.Helper()
			if _, err := s.Entities.PutAll(ctx, l.source(), []*slipway.Entity{web}); err != nil {
				t.Fatal(err)
			}
			if err := saveFiles(ctx, db, l.ID, []file{{Place: l.Place, Refs: []string{"component:default/web"}}}); err != nil {
				t.Fatal(err)
			}
		}
		stored()
		if err := s.readLocation(ctx, readLocation{ID: l.ID}); err != nil {
			t.Fatal(err)
		}
		left("after a reading that was cut short")

		if err := db.Write(ctx, func(tx *store.Tx) error { return s.enter(ctx, tx, l) }); err != nil {
			t.Fatal(err)
		}
		stored()
		if err := db.Write(ctx, func(tx *store.Tx) error { return markRemoving(ctx, tx, l.ID) }); err != nil {
			t.Fatal(err)
		}
		if err := s.readTree(ctx, l, nil, nil); err != nil {
			t.Fatal(err)
		}
		left("after a reading that began before it was removed")
	})
}
