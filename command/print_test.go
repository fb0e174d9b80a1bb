package command

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/blueprint"
	"github.com/slipway-platform/slipway/client"
)

func TestTablesArePlainWhereNobodySeesThem(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	err := printTable(&out, blueprint.Table{
		Header: []string{"Status", "Message"},
		Rows:   [][]string{{"failed", "red\x1b[31m\x07 and\nmore\u202e"}, {"succeeded", "grün ✓"}},
		Footer: "There are more.",
	})
	if err != nil {
		t.Fatal(err)
	}
	want := "STATUS     MESSAGE\nfailed     red [31m  and more\nsucceeded  grün ✓\nThere are more.\n"
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Error(diff)
	}
}

func TestDocumentsKeepTheOrderOfTheAnswer(t *testing.T) {
	t.Parallel()
	answer := json.RawMessage(`{"b":1,"a":{"yes":"true","n":"1","empty":[],"none":null,"text":"two\nlines"},"big":12345678901234567890}`)
	var asJSON, asYAML strings.Builder
	if err := printJSON(&asJSON, answer); err != nil {
		t.Fatal(err)
	}
	if err := printYAML(&asYAML, answer); err != nil {
		t.Fatal(err)
	}
	wantJSON := `{
  "b": 1,
  "a": {
    "yes": "true",
    "n": "1",
    "empty": [],
    "none": null,
    "text": "two\nlines"
  },
  "big": 12345678901234567890
}
`
	wantYAML := `b: 1
a:
  yes: "true"
  n: "1"
  empty: []
  none: null
  text: |-
    two
    lines
big: 12345678901234567890
`
	if diff := cmp.Diff(wantJSON, asJSON.String()); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(wantYAML, strings.ReplaceAll(asYAML.String(), "'", `"`)); diff != "" {
		t.Error(diff)
	}
}

func TestErrorsAreOneSentenceAndWhatHelps(t *testing.T) {
	t.Parallel()
	plain := slipway.Errorf(slipway.NotFound, "there is no such build; slipway build search shows them").WithCause(errors.New("no rows"))
	detailed := slipway.Errorf(slipway.Invalid, "the request does not fit").WithDetails(slipway.Detail{Field: "limit", Code: slipway.Invalid, Message: "at most 100"})
	for want, err := range map[string]error{
		"there is no such build; slipway build search shows them":                          plain,
		"build web: there is no such build; slipway build search shows them":               fmt.Errorf("build web: %w", plain),
		"build web: there is no such build; slipway build search shows them [request r-1]": fmt.Errorf("build web: %w", &client.Error{Status: 404, RequestID: "r-1", Err: plain}),
		"the request does not fit\n  limit: at most 100 [request r-2]":                     &client.Error{Status: 400, RequestID: "r-2", Err: detailed},
		"quote r-3": &client.Error{Status: 500, RequestID: "r-3", Err: slipway.Errorf(slipway.Internal, "quote r-3")},
		"disk full": errors.New("disk full"),
	} {
		if got := explain(err); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
