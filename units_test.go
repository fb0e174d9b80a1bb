package slipway

import "testing"

// A length that does not fit must not come out as another one: what is kept for 585y would be deleted after three weeks.
func TestDurationsThatDoNotFitAreRefused(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{"90s": "1m30s", "48h": "2d", "400d": "400d", "5y": "5y", "292y": "292y", "106751d": "106751d"} {
		if d, err := ParseDuration(text); err != nil || d.String() != want {
			t.Errorf("%s: got %s, %v; want %s", text, d, err, want)
		}
	}
	for _, text := range []string{"293y", "500y", "585y", "106752d", "999999999y", "-1s", "-1d", "5000000h", "1.5d", "d", ""} {
		if d, err := ParseDuration(text); err == nil {
			t.Errorf("%s: got %s, want a refusal", text, d)
		}
	}
}
