// Package seeds plays the requests and answers of the five documents that Slipway grew from against a running server. Each document has a
// table in testdata; each line of it is green, or pending by the name of the blueprint that will serve it. A green line must pass. A pending line
// must not: once it passes, it is turned green. A line may be pending only as long as this build has no such blueprint, so that no
// line goes back.
package seeds

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v4"

	"github.com/slipway-platform/slipway/blueprint"
	"github.com/slipway-platform/slipway/builtin"
	"github.com/slipway-platform/slipway/store"
)

// table is one document.
type table struct {
	Seed  string `yaml:"seed"`
	About string `yaml:"about"`
	Lines []line `yaml:"lines"`
}

// line is one request, or one command, and what comes back.
type line struct {
	Name    string `yaml:"name"`
	Pending string `yaml:"pending"` // the blueprint that will serve it

	Needs string `yaml:"needs"` // "cluster": it is played where a Kubernetes is built

	Request string            `yaml:"request"` // "GET /path"
	As      string            `yaml:"as"`      // who asks, see world; "" is an administrator
	Headers map[string]string `yaml:"headers"`
	Body    yaml.Node         `yaml:"body"`   // sent as JSON; a text is sent as it is
	Within  int               `yaml:"within"` // sent again until it fits, so often at most

	Command     string            `yaml:"command"`
	Environment map[string]string `yaml:"environment"`
	Exit        int               `yaml:"exit"`

	Eventually    bool              `yaml:"eventually"` // asked again until it fits, for a while
	Status        int               `yaml:"status"`
	AnswerHeaders map[string]string `yaml:"answerHeaders"`
	Answer        yaml.Node         `yaml:"answer"` // what the JSON must hold, see fits
	Prints        string            `yaml:"prints"` // what the text must hold
	Keep          map[string]string `yaml:"keep"`   // names for parts of the answer, by path; later lines write ${name}
}

// answer is what came back, of a request or a command.
type answer struct {
	status  int
	headers func(name string) string
	body    []byte
	stderr  []byte
}

func TestSeeds(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/*.yaml")
	if err != nil || len(files) != 5 {
		t.Fatalf("got %d tables, %v; want one for each of the five documents", len(files), err)
	}
	for _, file := range files {
		tab := read(t, file)
		for _, engine := range []store.Engine{store.SQLite, store.Postgres} {
			t.Run(strings.TrimSuffix(filepath.Base(file), ".yaml")+"/"+string(engine), func(t *testing.T) {
				t.Parallel()
				play(t, tab, newWorld(t, engine, slices.ContainsFunc(tab.Lines, func(l line) bool { return l.Needs == "cluster" })))
			})
		}
		t.Logf("NOTE: seed %s: %s", tab.Seed, tab.count())
	}
}

func read(t *testing.T, file string) table {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var tab table
	if err := yaml.Load(text, &tab, yaml.WithKnownFields(true)); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	seen := map[string]bool{}
	for _, l := range tab.Lines {
		switch {
		case l.Name == "" || seen[l.Name]:
			t.Fatalf("%s: every line needs a name of its own; see %q", file, l.Name)
		case (l.Request == "") == (l.Command == ""):
			t.Fatalf("%s: line %q needs a request or a command", file, l.Name)
		}
		seen[l.Name] = true
	}
	return tab
}

// count says how many lines are green, and names those that are not.
func (tab table) count() string {
	var pending []string
	for _, l := range tab.Lines {
		if l.Pending != "" {
			pending = append(pending, fmt.Sprintf("%s (%s)", l.Name, l.Pending))
		}
	}
	text := fmt.Sprintf("%d lines green, %d pending", len(tab.Lines)-len(pending), len(pending))
	if len(pending) > 0 {
		text += ": " + strings.Join(pending, "; ")
	}
	return text
}

func play(t *testing.T, tab table, w *world) {
	known := map[string]string{}
	for _, l := range tab.Lines {
		t.Run(l.Name, func(t *testing.T) {
			if l.Needs == "cluster" && w.cluster == nil {
				t.Skip("no real Kubernetes is built here; run make test-kube")
			}
			if l.Pending == "" {
				if err := w.attempt(t, l, known); err != nil {
					t.Error(err)
				}
				return
			}
			if slices.ContainsFunc(builtin.Blueprints(), func(b blueprint.Blueprint) bool { return b.Name == l.Pending }) {
				t.Errorf("it waits for the blueprint %s, which is in this build; make the line pass and remove its pending", l.Pending)
			}
			if err := w.once(t, l, known); err == nil {
				t.Error("it passes; remove its pending, so that it stays so")
			}
		})
	}
}

// attempt plays a line, again and again where the line says so.
func (w *world) attempt(t *testing.T, l line, known map[string]string) error {
	deadline := time.Now().Add(20 * time.Second)
	for n := 1; ; n++ {
		err := w.once(t, l, known)
		if err == nil || !l.Eventually && n >= l.Within || time.Now().After(deadline) {
			return err
		}
		if l.Eventually {
			time.Sleep(20 * time.Millisecond)
		}
	}
}

func (w *world) once(t *testing.T, l line, known map[string]string) error {
	t.Helper()
	fill := func(s string) string {
		return os.Expand(s, func(name string) string { return known[name] })
	}
	var a answer
	if l.Command != "" {
		a = w.run(t, strings.Fields(fill(l.Command)), l.Environment)
	} else {
		var body any
		if !l.Body.IsZero() {
			body = fillIn(value(&l.Body), fill)
		}
		method, path, _ := strings.Cut(fill(l.Request), " ")
		a = w.ask(t, l.As, method, path, body, l.Headers)
	}
	if want := l.Status + l.Exit; a.status != want {
		return fmt.Errorf("got status %d, want %d; %s%s", a.status, want, clip(a.body), clip(a.stderr))
	}
	for name, want := range l.AnswerHeaders {
		if got := a.headers(name); got == "" || fits(want, got) != nil {
			return fmt.Errorf("got %s: %q, want %s", name, got, want)
		}
	}
	if l.Prints != "" {
		if err := fits(l.Prints, string(a.body)); err != nil {
			return err
		}
	}
	if l.Answer.IsZero() {
		return nil
	}
	var got any
	d := json.NewDecoder(bytes.NewReader(a.body))
	d.UseNumber()
	if err := d.Decode(&got); err != nil {
		return fmt.Errorf("the answer is no JSON: %w: %s", err, clip(a.body))
	}
	if err := fits(fillIn(value(&l.Answer), fill), got); err != nil {
		return fmt.Errorf("%w\nthe answer: %s", err, clip(a.body))
	}
	for name, path := range l.Keep {
		v, ok := at(got, strings.Split(path, "."))
		if !ok {
			return fmt.Errorf("the answer has no %s", path)
		}
		known[name] = fmt.Sprint(v)
	}
	return nil
}

func clip(b []byte) string {
	const most = 1500
	if len(b) > most {
		return string(b[:most]) + " …"
	}
	return string(b)
}

// run plays a command of the program.
func (w *world) run(t *testing.T, words []string, environment map[string]string) answer {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), w.program, words[1:]...)
	cmd.Dir = w.dir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + w.dir, "SLIPWAY_URL=" + w.server.URL, "SLIPWAY_TOKEN=" + w.server.Token}
	for name, value := range environment {
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if _, failed := errors.AsType[*exec.ExitError](err); err != nil && !failed {
		t.Fatal(err)
	}
	return answer{status: cmd.ProcessState.ExitCode(), body: out.Bytes(), stderr: errs.Bytes()}
}

// value is what a node says, with dates as the texts that they are in JSON.
func value(n *yaml.Node) any {
	var plain func(*yaml.Node)
	plain = func(n *yaml.Node) {
		if n.ShortTag() == "!!timestamp" {
			n.Tag = "!!str"
		}
		for _, c := range n.Content {
			plain(c)
		}
	}
	plain(n)
	var v any
	if err := n.Decode(&v); err != nil {
		panic(err)
	}
	return v
}

// fillIn replaces ${name} in all texts of v.
func fillIn(v any, fill func(string) string) any {
	switch v := v.(type) {
	case string:
		if !strings.Contains(v, "${") {
			return v
		}
		return fill(v)
	case []any:
		out := make([]any, len(v))
		for i := range v {
			out[i] = fillIn(v[i], fill)
		}
		return out
	case map[string]any:
		out := map[string]any{}
		for k := range v {
			out[k] = fillIn(v[k], fill)
		}
		return out
	}
	return v
}

// at finds a part of a JSON value: names of fields and numbers of elements.
func at(v any, path []string) (any, bool) {
	for _, p := range path {
		switch x := v.(type) {
		case map[string]any:
			next, ok := x[p]
			if !ok {
				return nil, false
			}
			v = next
		case []any:
			var i int
			if _, err := fmt.Sscan(p, &i); err != nil || i < 0 || i >= len(x) {
				return nil, false
			}
			v = x[i]
		default:
			return nil, false
		}
	}
	return v, true
}

// fits says whether a JSON value is what was wanted: an object holds at least the wanted fields, a list exactly the wanted elements, in order.
// Some wanted texts mean more than themselves:
//
//	<any> <string> <integer> <number> <boolean> <time> <url> <array> <object> <null>   a type; <time|null> one of two
//	<one of a b c>        one of these words
//	</expression/>        a text that the regular expression finds
//	<absent>              as a field: not there
//	[<each>, x]           a list that is not empty, each element like x
//	[<some>, x, y]        a list with an element like x and one like y
func fits(want, got any) error { return fit("", want, got) }

var special = regexp.MustCompile(`^<.+>$`)

func fit(path string, want, got any) error {
	switch want := want.(type) {
	case map[string]any:
		g, ok := got.(map[string]any)
		if !ok {
			return fmt.Errorf("%s: got %v, want an object", path, brief(got))
		}
		for _, k := range sortedKeys(want) {
			v, there := g[k]
			switch {
			case want[k] == "<absent>":
				if there {
					return fmt.Errorf("%s.%s: got %v, want nothing there", path, k, brief(v))
				}
			case !there:
				return fmt.Errorf("%s.%s is missing", path, k)
			default:
				if err := fit(path+"."+k, want[k], v); err != nil {
					return err
				}
			}
		}
		return nil
	case []any:
		g, ok := got.([]any)
		if !ok {
			return fmt.Errorf("%s: got %v, want a list", path, brief(got))
		}
		return fitList(path, want, g)
	case string:
		if special.MatchString(want) && want != "<redacted>" {
			if !means(want[1:len(want)-1], got) {
				return fmt.Errorf("%s: got %v, want %s", path, brief(got), want)
			}
			return nil
		}
	}
	if fmt.Sprint(want) != fmt.Sprint(got) {
		return fmt.Errorf("%s: got %v, want %v", path, brief(got), want)
	}
	return nil
}

func fitList(path string, want, got []any) error {
	if len(want) > 1 && want[0] == "<each>" {
		if len(got) == 0 {
			return fmt.Errorf("%s: got an empty list", path)
		}
		for i, g := range got {
			if err := fit(fmt.Sprintf("%s[%d]", path, i), want[1], g); err != nil {
				return err
			}
		}
		return nil
	}
	if len(want) > 1 && want[0] == "<some>" {
		for _, w := range want[1:] {
			if !slices.ContainsFunc(got, func(g any) bool { return fit(path, w, g) == nil }) {
				return fmt.Errorf("%s: no element is like %v", path, w)
			}
		}
		return nil
	}
	if len(got) != len(want) {
		return fmt.Errorf("%s: got %d elements, want %d", path, len(got), len(want))
	}
	for i, w := range want {
		if err := fit(fmt.Sprintf("%s[%d]", path, i), w, got[i]); err != nil {
			return err
		}
	}
	return nil
}

var url = regexp.MustCompile(`^https?://[^/]+`)

func means(word string, got any) bool {
	if len(word) > 1 && word[0] == '/' && strings.HasSuffix(word, "/") {
		s, ok := got.(string)
		return ok && regexp.MustCompile(word[1:len(word)-1]).MatchString(s)
	}
	if words, ok := strings.CutPrefix(word, "one of "); ok {
		s, isString := got.(string)
		return isString && slices.Contains(strings.Fields(words), s)
	}
	return slices.ContainsFunc(strings.Split(word, "|"), func(kind string) bool {
		switch v := got.(type) {
		case nil:
			return kind == "any" || kind == "null"
		case bool:
			return kind == "any" || kind == "boolean"
		case json.Number:
			_, err := v.Int64()
			return kind == "any" || kind == "number" || kind == "integer" && err == nil
		case []any:
			return kind == "any" || kind == "array"
		case map[string]any:
			return kind == "any" || kind == "object"
		case string:
			_, err := time.Parse(time.RFC3339Nano, v)
			return kind == "any" || kind == "string" && v != "" || kind == "time" && err == nil && strings.HasSuffix(v, "Z") || kind == "url" && url.MatchString(v)
		}
		return false
	})
}

func brief(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprint(v)
	}
	return clip(b)
}

func sortedKeys(m map[string]any) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

func TestFits(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		want, got string
		ok        bool
	}{
		{`{a: 1}`, `{"a":1,"b":2}`, true},
		{`{a: 1}`, `{"b":2}`, false},
		{`{a: <absent>}`, `{"a":null}`, false},
		{`[1, 2]`, `[1,2]`, true},
		{`[1, 2]`, `[2,1]`, false},
		{`[<each>, <integer>]`, `[]`, false},
		{`[<each>, <integer>]`, `[1,2.5]`, false},
		{`[<some>, {a: 2}]`, `[{"a":1},{"a":2}]`, true},
		{`<time|null>`, `null`, true},
		{`<time>`, `"2026-11-20T12:00:00+01:00"`, false},
		{`2026-11-20T12:00:00Z`, `"2026-11-20T12:00:00Z"`, true},
		{`</^a/>`, `"ab"`, true},
		{`<one of a b>`, `"c"`, false},
		{`<redacted>`, `"<redacted>"`, true},
		{`<redacted>`, `"secret"`, false},
	} {
		var want yaml.Node
		var got any
		d := json.NewDecoder(strings.NewReader(c.got))
		d.UseNumber()
		if err := errors.Join(yaml.Load([]byte(c.want), &want), d.Decode(&got)); err != nil {
			t.Fatal(err)
		}
		if err := fits(value(&want), got); (err == nil) != c.ok {
			t.Errorf("%s against %s: got %v, want %v", c.want, c.got, err, c.ok)
		}
	}
}
