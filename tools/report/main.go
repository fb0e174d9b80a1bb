// Command report runs `go test -json …`, prints what a person wants to read of it, and tells at the end how many tests passed, failed
// and were skipped. Tests that were skipped are listed with their reason.
//
//	report [-allow skips.txt] go test -json ./...
//
// With CI=true a skipped test fails the run, unless the file given by -allow lists it: there, nothing is missing that a test may need.
package main

import (
	"bufio"
	"cmp"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
)

func main() {
	allow := flag.String("allow", "", "file with expressions for tests that may be skipped, one on each line")
	flag.Parse()
	if flag.NArg() == 0 {
		fmt.Fprintln(os.Stderr, "report: give the command to run, such as: go test -json ./...")
		os.Exit(2)
	}
	allowed, err := readAllowed(*allow)
	if err != nil {
		fmt.Fprintln(os.Stderr, "report:", err)
		os.Exit(2)
	}
	cmd := exec.Command(flag.Arg(0), flag.Args()[1:]...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "report:", err)
		os.Exit(1)
	}
	r := &report{out: os.Stdout, allowed: allowed, strict: os.Getenv("CI") == "true"}
	readErr := r.read(out)
	runErr := cmd.Wait()
	if !r.finish() || readErr != nil || runErr != nil {
		for _, err := range []error{readErr, runErr} {
			if err != nil {
				fmt.Fprintln(os.Stderr, "report:", err)
			}
		}
		os.Exit(1)
	}
}

// event is one line of `go test -json`.
type event struct {
	Action  string
	Package string
	Test    string
	Output  string
	Elapsed float64

	ImportPath string // of a build that failed
}

// allowance lets tests be skipped: an expression that finds something in "<package> <test>: <reason>".
type allowance = *regexp.Regexp

func readAllowed(name string) ([]allowance, error) {
	if name == "" {
		return nil, nil
	}
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	var all []allowance
	for i, line := range strings.Split(string(text), "\n") {
		if line = strings.TrimSpace(line); line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		e, err := regexp.Compile(line)
		if err != nil {
			return nil, fmt.Errorf("%s:%d: %w", name, i+1, err)
		}
		all = append(all, e)
	}
	return all, nil
}

type test struct{ pkg, name string }

func (t test) String() string { return t.pkg + " " + t.name }

// report collects what the tests said.
type report struct {
	out     io.Writer
	allowed []allowance
	strict  bool // a skip that is not allowed is a failure

	passed, failed int
	skipped        []test
	broken         []string // packages that failed without a test to blame
	said           map[test]*strings.Builder
	notes          []string // lines that tests want to be seen, though they passed
}

// note marks a line of a test's output that is shown at the end even when the test passed.
const note = "NOTE: "

func (r *report) read(in io.Reader) error {
	r.said = map[test]*strings.Builder{}
	lines := bufio.NewReader(in)
	for {
		line, err := lines.ReadBytes('\n')
		if len(line) > 0 {
			var e event
			if json.Unmarshal(line, &e) != nil {
				fmt.Fprintf(r.out, "%s", line) // what is not an event: a message of the go command
			} else {
				r.add(e)
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (r *report) add(e event) {
	t := test{e.Package, e.Test}
	switch e.Action {
	case "build-output":
		fmt.Fprint(r.out, e.Output)
	case "output":
		if strings.HasPrefix(e.Output, "=== ") {
			return // that a test runs, pauses, goes on
		}
		if _, text, ok := strings.Cut(e.Output, note); ok {
			r.notes = append(r.notes, strings.TrimSpace(text))
		}
		if r.said[t] == nil {
			r.said[t] = &strings.Builder{}
		}
		r.said[t].WriteString(e.Output)
	case "pass", "fail", "skip":
		said := r.said[t]
		delete(r.said, t)
		if said == nil {
			said = &strings.Builder{}
		}
		if e.Test == "" {
			r.endPackage(e, said.String())
			return
		}
		switch e.Action {
		case "pass":
			r.passed++
		case "fail":
			r.failed++
			fmt.Fprint(r.out, said)
		case "skip":
			r.skipped = append(r.skipped, t)
			r.said[t] = said
		}
	}
}

// endPackage prints the package's own line, and all it said when it failed.
func (r *report) endPackage(e event, said string) {
	if e.Action == "fail" {
		fmt.Fprint(r.out, said)
		if !strings.Contains(said, "FAIL\t"+e.Package) {
			fmt.Fprintf(r.out, "FAIL\t%s\t%.3fs\n", e.Package, e.Elapsed)
		}
		r.broken = append(r.broken, e.Package)
		return
	}
	for line := range strings.Lines(said) {
		if strings.HasPrefix(line, "ok ") {
			fmt.Fprint(r.out, line)
		}
	}
}

// finish prints skips, notes and the sum. It says whether all is well.
func (r *report) finish() bool {
	// What never ended was running when its package died.
	for t, said := range r.said {
		if t.name != "" && !slices.Contains(r.skipped, t) {
			r.failed++
			fmt.Fprintf(r.out, "%sdid not end: %s\n", said, t)
		}
	}
	refused, expected := 0, 0
	slices.SortFunc(r.skipped, func(a, b test) int { return cmp.Compare(a.String(), b.String()) })
	for _, t := range r.skipped {
		text := fmt.Sprintf("%s: %s", t, reason(r.said[t].String()))
		if slices.ContainsFunc(r.allowed, func(a allowance) bool { return a.MatchString(text) }) {
			expected++
			continue
		}
		refused++
		fmt.Fprintln(r.out, "skipped:", text)
	}
	if expected > 0 {
		fmt.Fprintf(r.out, "skipped, as the list of skips says: %d\n", expected)
	}
	for _, n := range r.notes {
		fmt.Fprintln(r.out, n)
	}
	ok := r.failed == 0 && len(r.broken) == 0
	if r.strict && refused > 0 {
		ok = false
		fmt.Fprintf(r.out, "%d tests were skipped that must run here: install what they ask for, or add them to the list of skips\n", refused)
	}
	failed := r.failed
	if failed == 0 {
		failed = len(r.broken) // packages that did not build, or ended before their tests
	}
	fmt.Fprintf(r.out, "%d passed, %d failed, %d skipped\n", r.passed, failed, len(r.skipped))
	return ok
}

// reason is what a skipped test said: its last line but the verdict.
func reason(said string) string {
	last := ""
	for line := range strings.Lines(said) {
		line = strings.TrimSpace(line)
		if line != "" && !strings.HasPrefix(line, "---") && !strings.HasPrefix(line, "===") {
			last = line
		}
	}
	return last
}
