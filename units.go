package slipway

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// Duration is a length of time in configuration: "90s", "5m", "1h30m", "400d", "5y" (a day is 24 hours, a year 365 days).
type Duration time.Duration

// ParseDuration reads Duration's form. Negative values are refused, and those over 292 years, which a time.Duration cannot hold.
func ParseDuration(s string) (Duration, error) {
	if n, unit, ok := cutUnit(s); ok && (unit == "d" || unit == "y") {
		length := 24 * time.Hour
		if unit == "y" {
			length *= 365
		}
		if n > math.MaxInt64/int64(length) {
			return 0, fmt.Errorf("%q is too long; write at most 292y", clip(s))
		}
		return Duration(time.Duration(n) * length), nil
	}
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 {
		return 0, fmt.Errorf("%q is no length of time; write it like 90s, 5m, 1h30m, 400d or 5y", clip(s))
	}
	return Duration(d), nil
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Duration) UnmarshalText(b []byte) (err error) {
	*d, err = ParseDuration(string(b))
	return err
}

// MarshalText implements encoding.TextMarshaler.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

func (d Duration) String() string {
	day := Duration(24 * time.Hour)
	switch {
	case d > 0 && d%(365*day) == 0:
		return fmt.Sprintf("%dy", d/(365*day))
	case d > 0 && d%day == 0:
		return fmt.Sprintf("%dd", d/day)
	}
	s := time.Duration(d).String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// Std is the standard library's form.
func (d Duration) Std() time.Duration { return time.Duration(d) }

// Size is a number of bytes in configuration: "512", "64KiB", "10MiB", "2GiB".
type Size int64

var sizeUnits = []struct {
	name  string
	bytes int64
}{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}, {"B", 1}}

// ParseSize reads Size's form.
func ParseSize(s string) (Size, error) {
	n, unit, ok := cutUnit(s)
	if ok && unit == "" {
		return Size(n), nil
	}
	for _, u := range sizeUnits {
		if ok && unit == u.name && n <= (1<<62)/u.bytes {
			return Size(n * u.bytes), nil
		}
	}
	return 0, fmt.Errorf("%q is no size; write it like 512, 64KiB, 10MiB or 2GiB", clip(s))
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (s *Size) UnmarshalText(b []byte) (err error) {
	*s, err = ParseSize(string(b))
	return err
}

// MarshalText implements encoding.TextMarshaler.
func (s Size) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

func (s Size) String() string {
	for _, u := range sizeUnits[:3] {
		if s > 0 && int64(s)%u.bytes == 0 {
			return strconv.FormatInt(int64(s)/u.bytes, 10) + u.name
		}
	}
	return strconv.FormatInt(int64(s), 10)
}

// cutUnit splits "400d" into 400 and "d".
func cutUnit(s string) (n int64, unit string, ok bool) {
	i := strings.IndexFunc(s, func(r rune) bool { return r < '0' || r > '9' })
	if i < 0 {
		i = len(s)
	}
	if i == 0 || i > 9 {
		return 0, "", false
	}
	n, err := strconv.ParseInt(s[:i], 10, 64)
	return n, strings.TrimSpace(s[i:]), err == nil
}
