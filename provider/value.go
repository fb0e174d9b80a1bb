package provider

import (
	"encoding/json"
	"errors"
	"strconv"
	"strings"
	"time"
)

// Time is a time in a vendor's JSON: RFC 3339, or seconds since 1970. What a vendor writes where nothing happened (null, "", 0, the years 1 and 1970), and what is no
// time at all, is the zero Time, and never fails the answer it stands in.
type Time struct{ time.Time }

// UnmarshalJSON reads a time.
func (t *Time) UnmarshalJSON(b []byte) error {
	t.Time = time.Time{}
	var at time.Time
	var text string
	if json.Unmarshal(b, &text) == nil {
		at, _ = time.Parse(time.RFC3339, text)
	} else if seconds, err := strconv.ParseInt(string(b), 10, 64); err == nil {
		at = time.Unix(seconds, 0)
	}
	if at.Year() > 1971 && at.Year() < 10000 {
		t.Time = at.UTC().Truncate(time.Microsecond)
	}
	return nil
}

// Ptr is nil for the zero Time.
func (t Time) Ptr() *time.Time {
	if t.IsZero() {
		return nil
	}
	at := t.Time
	return &at
}

// Unmarshal is json.Unmarshal that takes a member of another type than out wants for an absent one: a vendor that changes one member does not hide the others.
// A value that is as a whole not what out wants is an error.
func Unmarshal(b []byte, out any) error {
	err := json.Unmarshal(b, out)
	if t, ok := errors.AsType[*json.UnmarshalTypeError](err); ok && t.Field != "" {
		return nil
	}
	return err
}

// FirstLine gives the first line of a commit's message.
func FirstLine(s string) string {
	s, _, _ = strings.Cut(strings.TrimSpace(s), "\n")
	return strings.TrimSpace(s)
}
