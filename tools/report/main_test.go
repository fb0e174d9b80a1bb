package main

import (
	"bytes"
	"regexp"
	"strings"
	"testing"
)

const events = `{"Action":"run","Package":"p","Test":"TestGood"}
{"Action":"output","Package":"p","Test":"TestGood","Output":"    a_test.go:1: NOTE: 3 lines are pending\n"}
{"Action":"pass","Package":"p","Test":"TestGood","Elapsed":0}
{"Action":"output","Package":"p","Test":"TestDB/postgres","Output":"    a_test.go:2: there is no PostgreSQL here\n"}
{"Action":"output","Package":"p","Test":"TestDB/postgres","Output":"--- SKIP: TestDB/postgres (0.00s)\n"}
{"Action":"skip","Package":"p","Test":"TestDB/postgres","Elapsed":0}
{"Action":"output","Package":"p","Output":"ok  \tp\t0.1s\n"}
{"Action":"pass","Package":"p","Elapsed":0.1}
`

func play(t *testing.T, r *report, events string) (bool, string) {
	t.Helper()
	var out bytes.Buffer
	r.out = &out
	if err := r.read(strings.NewReader(events)); err != nil {
		t.Fatal(err)
	}
	ok := r.finish()
	return ok, out.String()
}

func TestASkipIsToldWithItsReason(t *testing.T) {
	t.Parallel()
	ok, out := play(t, &report{}, events)
	want := "ok  \tp\t0.1s\nskipped: p TestDB/postgres: a_test.go:2: there is no PostgreSQL here\n3 lines are pending\n1 passed, 0 failed, 1 skipped\n"
	if !ok || out != want {
		t.Errorf("got %v\n%s\nwant\n%s", ok, out, want)
	}
}

func TestASkipFailsWhereNothingMayBeMissing(t *testing.T) {
	t.Parallel()
	if ok, out := play(t, &report{strict: true}, events); ok || !strings.Contains(out, "1 tests were skipped that must run here") {
		t.Errorf("got %v\n%s", ok, out)
	}
	if ok, out := play(t, &report{strict: true, allowed: []allowance{regexp.MustCompile("^p TestDB/.*no PostgreSQL")}}, events); !ok {
		t.Errorf("an allowed skip: got %v\n%s", ok, out)
	}
}

func TestFailuresAreShown(t *testing.T) {
	t.Parallel()
	for what, events := range map[string]string{
		"a test": `{"Action":"output","Package":"p","Test":"TestBad","Output":"    a_test.go:3: got 1\n"}
{"Action":"fail","Package":"p","Test":"TestBad"}
{"Action":"output","Package":"p","Output":"FAIL\tp\t0.1s\n"}
{"Action":"fail","Package":"p"}
`,
		"a build": `{"ImportPath":"p [p.test]","Action":"build-output","Output":"p/a.go:1: got 1 too many\n"}
{"Action":"output","Package":"p","Output":"FAIL\tp [build failed]\n"}
{"Action":"fail","Package":"p"}
`,
		"a panic": `{"Action":"output","Package":"p","Test":"TestBad","Output":"panic: got 1\n"}
{"Action":"output","Package":"p","Output":"FAIL\tp\t0.1s\n"}
{"Action":"fail","Package":"p"}
`,
	} {
		ok, out := play(t, &report{}, events)
		if ok || !strings.Contains(out, "got 1") || !strings.Contains(out, "FAIL\tp") || !strings.HasSuffix(out, "0 passed, 1 failed, 0 skipped\n") {
			t.Errorf("%s: got %v\n%s", what, ok, out)
		}
	}
}
