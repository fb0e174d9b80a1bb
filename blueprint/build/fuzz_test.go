package build

import (
	"testing"

	"github.com/slipway-platform/slipway"
)

// The place of a run in a list reads as it was written, and anything else is a cursor that does not fit.
func FuzzRunKey(f *testing.F) {
	f.Add("", int64(0), int64(0), "")
	f.Add("1 2 a b", int64(1<<62), int64(-1), "ci:1 2")
	f.Add("1  ", int64(-5), int64(7), " ")
	f.Fuzz(func(t *testing.T, text string, created, source int64, id string) {
		want := runKey{created, source, id}
		if got, err := parseRunKey(want.String()); err != nil || got != want {
			t.Errorf("%+v reads as %+v, %v", want, got, err)
		}
		got, err := parseRunKey(text)
		if err != nil && (slipway.CodeOf(err) != slipway.Invalid || got != runKey{}) {
			t.Errorf("%q: %+v, %v", text, got, err)
		}
	})
}
