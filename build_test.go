package slipway

import (
	"testing"
	"time"
)

func TestHowLongABuildTook(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	for seconds, want := range map[float64]string{0: "0s", 0.0823: "80ms", 0.315818: "320ms", 2.34: "2.3s", 45.6: "46s", 250: "4m10s"} {
		b := Build{Status: BuildSucceeded, DurationSeconds: &seconds}
		if got := b.Took(now); got != want {
			t.Errorf("%v s: got %q, want %q", seconds, got, want)
		}
	}
	started := now.Add(-90 * time.Second)
	for _, c := range []struct {
		build Build
		want  string
	}{
		{Build{Status: BuildStarting}, ""},
		{Build{Status: BuildRunning, StartedAt: &started}, "1m30s"},
		{Build{Status: BuildCanceled, StartedAt: &started}, ""},
		{Build{Status: BuildRunning, StartedAt: new(now.Add(time.Second))}, "0s"}, // a vendor's clock that is ahead
	} {
		if got := c.build.Took(now); got != c.want {
			t.Errorf("%+v: got %q, want %q", c.build, got, c.want)
		}
	}
}
