package secret

import (
	"encoding/base64"
	"errors"
	"testing"

	"github.com/slipway-platform/slipway"
)

type place struct {
	At int64  `json:"at"`
	ID string `json:"id"`
}

func TestACursorComesBackToItsQueryAlone(t *testing.T) {
	t.Parallel()
	keys := newKeyring(t)
	c := CursorsOf[place](keys, "things", "red", 3, []string{"a"})
	text := c.Write(place{42, "x"})
	if got, err := c.Read(text); err != nil || got == nil || *got != (place{42, "x"}) {
		t.Errorf("got %+v, %v; want what was written", got, err)
	}
	if got, err := c.Read(""); got != nil || err != nil {
		t.Errorf("no cursor: got %+v, %v; want neither", got, err)
	}
	if err := keys.Rotate(); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(text); err != nil {
		t.Errorf("after a rotation: %v", err)
	}
	raw, _ := base64.RawURLEncoding.DecodeString(text)
	raw[len(raw)-3] ^= 1
	for what, read := range map[string]func() (*place, error){
		"another query": func() (*place, error) { return CursorsOf[place](keys, "things", "red", 4, []string{"a"}).Read(text) },
		"another list":  func() (*place, error) { return CursorsOf[place](keys, "others", "red", 3, []string{"a"}).Read(text) },
		"other keys": func() (*place, error) {
			return CursorsOf[place](newKeyring(t), "things", "red", 3, []string{"a"}).Read(text)
		},
		"a changed key":    func() (*place, error) { return c.Read(base64.RawURLEncoding.EncodeToString(raw)) },
		"a cut one":        func() (*place, error) { return c.Read(text[:len(text)-4]) },
		"garbage":          func() (*place, error) { return c.Read("%%%") },
		"another spelling": func() (*place, error) { return c.Read(text + "\n") },
		"a few bytes":      func() (*place, error) { return c.Read("AAAA") },
	} {
		got, err := read()
		var coded *slipway.Error
		if !errors.As(err, &coded) || coded.Code != slipway.Invalid || len(coded.Details) != 1 || coded.Details[0].Field != "cursor" {
			t.Errorf("%s: got %+v, %v; want it to be refused as invalid, with the field", what, got, err)
		}
	}
}

func FuzzCursorsNeverPanic(f *testing.F) {
	keys := newKeyring(f)
	c := CursorsOf[place](keys, "things", "red")
	good := c.Write(place{1, "x"})
	f.Add(good)
	f.Add("")
	f.Add("AAAA")
	f.Fuzz(func(t *testing.T, text string) {
		if got, err := c.Read(text); err == nil && got != nil && text != good {
			t.Errorf("%q was believed", text)
		}
	})
}
