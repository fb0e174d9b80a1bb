package store

import (
	"database/sql/driver"
	"fmt"
	"time"
)

// Time is how times are stored on both engines: microseconds since 1970 in UTC, in a BIGINT column.
// The zero Time is NULL. (modernc would store a time.Time as text that does not sort.)
type Time struct{ time.Time }

// At wraps a time, cut to the microsecond that will come back.
func At(t time.Time) Time {
	if t.IsZero() {
		return Time{}
	}
	return Time{time.UnixMicro(t.UnixMicro()).UTC()}
}

// AtPtr wraps a time that may be absent.
func AtPtr(t *time.Time) Time {
	if t == nil {
		return Time{}
	}
	return At(*t)
}

// Ptr is nil for the zero Time.
func (t Time) Ptr() *time.Time {
	if t.IsZero() {
		return nil
	}
	u := t.Time
	return &u
}

// Value implements driver.Valuer.
func (t Time) Value() (driver.Value, error) {
	if t.IsZero() {
		return nil, nil
	}
	return t.UnixMicro(), nil
}

// Scan implements sql.Scanner.
func (t *Time) Scan(src any) error {
	switch v := src.(type) {
	case nil:
		*t = Time{}
	case int64:
		*t = Time{time.UnixMicro(v).UTC()}
	default:
		return fmt.Errorf("store: a time column held %T", src)
	}
	return nil
}
