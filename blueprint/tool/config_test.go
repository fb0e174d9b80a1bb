package tool

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/slipway-platform/slipway"
)

// component gives a configuration with one component, whose build and run are these.
func oneComponent(build, run string) string {
	return `{"components":{"web":{"build":` + build + `,"run":` + run + `}}}`
}

const (
	goodBuild = `{"repository":"https://git.example.com/x.git","ref":"main"}`
	goodRun   = `{"command":"serve"}`
)

func TestConfigRules(t *testing.T) {
	t.Parallel()
	build := func(s string) string { return oneComponent(s, goodRun) }
	run := func(s string) string { return oneComponent(goodBuild, `{"command":"serve",`+s+`}`) }
	typed := func(kind, run string) string {
		return `{"components":{"web":{"component_type":"` + kind + `","build":` + goodBuild + `,"run":` + run + `}}}`
	}
	for text, want := range map[string]string{
		oneComponent(goodBuild, goodRun): "",
		`{"config_version":"v1beta1","components":{"web":{"build":` + goodBuild + `,"run":` + goodRun + `}}}`:                                                                                                           "",
		`{"config_version":null,"components":{"web":{"build":` + goodBuild + `,"run":` + goodRun + `}}}`:                                                                                                                "",
		`{"config-version":"v0.1","components":{"web":{"component-type":"scheduled","build":{"repository":"git://git.example.com/x","ref":"","use-latest-versions":"yes"},"run":{"command":"x","schedule":"@daily"}}}}`: "",
		`{"config_version":"1","components":{}}`: "Input should be 'v1beta1'",
		`{"components":{}}`:                      "at least 1 item",
		`{"components":[]}`:                      "Input should be a valid dictionary",
		`{}`:                                     "Field required",
		`[]`:                                     "Input should be a valid dictionary",
		`{"components":{"web":{}}}`:              "components -> web -> build: Field required",
		`{"components":{"web":1}}`:               "Received value: '1'",
		`{"components":{"web":{"build":` + goodBuild + `,"run":` + goodRun + `},"web":{}}}`:                       "stands twice",
		`{"components":{"Web":{"build":` + goodBuild + `,"run":` + goodRun + `}}}`:                                "Component names",
		`{"components":{"a/b":{"build":` + goodBuild + `,"run":` + goodRun + `}}}`:                                "Component names",
		`{"components":{"` + strings.Repeat("a", 53) + `":{"build":` + goodBuild + `,"run":` + goodRun + `}}}`:    "Component names",
		`{"source_url":"ftp://x/y","components":{"web":{"build":` + goodBuild + `,"run":` + goodRun + `}}}`:       "valid URL",
		`{"source_url":"https://u:p@x/y","components":{"web":{"build":` + goodBuild + `,"run":` + goodRun + `}}}`: "valid URL",
		`{"components":{"web":`: "Invalid JSON at position",
		"components: [":         "Invalid YAML",
		"":                      "Invalid YAML: it is empty",
		"a: &a [*a, *a]":        "nested deeper",
		build(`{"repository":"https://git.example.com/x.git"}`):                          "ref: Field required",
		build(`{"ref":"main"}`):                                                          "repository: Field required",
		build(`{"use_prebuilt":"image"}`):                                                "repository: Field required",
		build(`{"repository":"ssh://git@example.com/x","ref":""}`):                       "valid URL",
		build(`{"repository":"git@example.com:x.git","ref":""}`):                         "valid URL",
		build(`{"repository":"--upload-pack=touch x","ref":""}`):                         "valid URL",
		build(`{"repository":"ext::sh -c touch","ref":""}`):                              "valid URL",
		build(`{"repository":"https://u:p@example.com/x","ref":""}`):                     "valid URL",
		build(`{"repository":"file:///srv/x","ref":""}`):                                 "URL scheme should be",
		build(`{"repository":"https://example.com/x","ref":"--x"}`):                      "a branch, a tag or a commit",
		build(`{"repository":"https://example.com/x","ref":null}`):                       "valid string",
		build(`{"repository":"https://example.com/x","ref":"","use_latest_versions":2}`): "valid boolean",
		build(`{"reuse_from":"web"}`):                                                    "They should point to the original components instead: web",
		build(`{"reuse_from":"db"}`):                                                     "Missing components referenced from reuse_from: db",
		build(`{"reuse_from":"web","repository":"https://example.com/x"}`):               "Cannot specify both",
		run(`"port":8000,"health_check_http":"/"`):                                       "",
		run(`"port":"8000","replicas":2.0`):                                              "",
		run(`"health_check_http":"/"`):                                                   "A tcp port must be set for health_check_http",
		run(`"port":8000,"port_protocol":"udp","health_check_http":"/"`):                 "A tcp port must be set for health_check_http",
		run(`"port":8000,"health_check_http":"/","health_check_script":"x"`):             "Cannot specify both health_check_script and health_check_http",
		run(`"publish":"/"`):                                                             "publish requires port to be set",
		run(`"publish":"/","port":1,"port_protocol":"udp"`):                              "publish requires port_protocol set to tcp",
		run(`"publish":"/x","port":1`):                                                   "Input should be '/'",
		run(`"port":0`):                                                                  "greater than or equal to 1",
		run(`"port":99999`):                                                              "less than or equal to 65535",
		run(`"replicas":0`):                                                              "greater than or equal to 1",
		run(`"cpu":1`):                                                                   "valid string",
		run(`"cpu":null`):                                                                "valid string",
		run(`"emails":"some"`):                                                           "'none', 'all', 'onfinish' or 'onfailure'",
		run(`"schedule":"@daily","retry":5,"timeout":0`):                                 "",
		run(`"schedule":"@daily","retry":6`):                                             "less than or equal to 5",
		run(`"schedule":"@daily","timeout":-1`):                                          "greater than or equal to 0",
		run(`"schedule":""`):                                                             "at least 1 character",
		typed("scheduled", goodRun):                                                      "schedule: Field required",
		typed("scheduled", `{"command":"x","schedule":"@daily"}`):                        "",
		typed("one-off", goodRun):                                                        "'continuous' or 'scheduled'",
	} {
		_, _, err := parseConfig([]byte(text), nil)
		switch {
		case want == "" && err != nil:
			t.Errorf("%s: %v", text, err)
		case want != "" && (!errors.Is(err, slipway.Invalid) || !strings.Contains(err.Error(), want)):
			t.Errorf("%s: got %v, want invalid: %s", text, err, want)
		}
	}
}

func TestUnknownFields(t *testing.T) {
	t.Parallel()
	doc, cfg, err := parseConfig([]byte(`{"x":{"y":1},"components":{"c1":{"x":[1],"build":{"repository":"https://git.example.com/x","ref":"","b":0},"run":{"command":"c","schedule":"@daily","port":1}}}}`), nil)
	if err != nil {
		t.Fatal(err)
	}
	want := "[Unknown field x, skipped Unknown field components.c1.x, skipped Unknown field components.c1.build.b, skipped Unknown field components.c1.run.port, skipped]"
	if got := fmt.Sprint(cfg.warnings); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if raw, _ := doc.MarshalJSON(); !strings.HasPrefix(string(raw), `{"x":{"y":1},"components":{"c1":{"x":[1],`) {
		t.Errorf("kept: %s", raw)
	}
}

func TestDocumentsComeBackAsTheyWereGiven(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"b: 1.50\na: [yes, 'on', 0x10, 2026-01-01, ~]\n\"<é>\": x":      `{"b":1.50,"a":["yes","on",16,"2026-01-01",null],"<é>":`,
		` { "z" : 1e400 , "a" : "\u003c/\u00e9", "n":{} , "l" : [ ] } `: `{"z":1e400,"a":"</é","n":{},"l":[]}`,
		"x: &a {k: v}\ny: *a": `{"x":{"k":"v"},"y":{"k":"v"}}`,
	} {
		doc, err := parseDocument([]byte(in))
		if err != nil {
			t.Errorf("%s: %v", in, err)
			continue
		}
		if raw, _ := doc.MarshalJSON(); !strings.HasPrefix(string(raw), want) {
			t.Errorf("%s: got %s, want %s", in, raw, want)
		}
	}
}

func TestLargeConfigs(t *testing.T) {
	t.Parallel()
	many := func(n int) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, "%s\"c%d\":{\"build\":%s,\"run\":%s}", map[bool]string{true: ",", false: ""}[i > 0], i, goodBuild, goodRun)
		}
		return `{"components":{` + b.String() + `}}`
	}
	if _, cfg, err := parseConfig([]byte(many(1000)), nil); err != nil || len(cfg.components) != 1000 || cfg.components[999].name != "c999" {
		t.Errorf("1,000 components: %v", err)
	}
	for what, text := range map[string]string{
		"1,001 components":   many(1001),
		"more than 1 MB":     many(1) + strings.Repeat(" ", maxConfig),
		"200,000 values":     `{"x":[` + strings.Repeat("1,", 200_000) + `1],"components":{}}`,
		"aliases of aliases": "a: &a [1,1,1,1,1,1,1,1,1,1]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: [*d,*d,*d,*d,*d,*d,*d,*d,*d,*d,*d]",
		"a thousand deep":    strings.Repeat(`{"a":`, 1000),
	} {
		if _, _, err := parseConfig([]byte(text), nil); !errors.Is(err, slipway.Invalid) && !errors.Is(err, slipway.TooLarge) {
			t.Errorf("%s: got %v", what, err)
		}
	}
}

func FuzzConfig(f *testing.F) {
	f.Add([]byte(oneComponent(goodBuild, goodRun)))
	f.Add([]byte("components:\n  web: {build: {repository: 'https://x/y', ref: ''}, run: {command: x}}\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		doc, cfg, err := parseConfig(data, func(string) error { return nil })
		if err != nil {
			return
		}
		raw, err := doc.MarshalJSON()
		if err != nil {
			t.Fatal(err)
		}
		again, cfg2, err := parseConfig(raw, func(string) error { return nil })
		if len(raw) > maxConfig {
			return
		}
		if err != nil || len(cfg2.components) != len(cfg.components) {
			t.Fatalf("%q became %q: %v", data, raw, err)
		}
		if raw2, _ := again.MarshalJSON(); string(raw2) != string(raw) {
			t.Errorf("%q became %q", raw, raw2)
		}
	})
}

func TestYAMLForPeople(t *testing.T) {
	t.Parallel()
	in := `{"a":{"b":"x: y","c":[1,{"d":"yes","e":[]},["f"]],"g":""},"h":{},"i":"@daily","1":"-","j":"https://x/y","k":"a\nb"}`
	doc, err := parseDocument([]byte(in))
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	doc.writeYAML(&b, 0, false)
	back, err := parseDocument(b.Bytes())
	if err != nil {
		t.Fatalf("%v\n%s", err, b.String())
	}
	if raw, _ := back.MarshalJSON(); string(raw) != in {
		t.Errorf("got %s, want %s; by\n%s", raw, in, b.String())
	}
}
