package build

import (
	"os"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/slipway-platform/slipway"
)

func TestTheTableIsWhatTheIndexNeeds(t *testing.T) {
	t.Parallel()
	got, err := os.ReadFile("migrations/0001_item.sql")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(Task.Table(), string(got)); diff != "" {
		t.Errorf("a new field or index is a migration of its own; the first one stays as it was (-want +got):\n%s", diff)
	}
}

func TestABuildOnlyGoesForwardWithinWhatAClockTells(t *testing.T) {
	t.Parallel()
	at, end := time.Date(2026, 5, 4, 9, 0, 0, 0, time.UTC), time.Date(2026, 5, 4, 9, 0, 0, 0, time.UTC)
	begun := row(&slipway.Build{ID: "1", CreatedAt: at, UpdatedAt: &at, Status: slipway.BuildRunning})
	ended := row(&slipway.Build{ID: "1", CreatedAt: at, UpdatedAt: &at, Status: slipway.BuildFailed, FinishedAt: &end})
	if begun.Version >= ended.Version {
		t.Errorf("of one second, the beginning (%d) replaces the end (%d)", begun.Version, ended.Version)
	}
}
