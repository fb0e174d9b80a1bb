package slipway_test

import (
	"bytes"
	"encoding/json"
	"go/ast"
	"go/build"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// The rules of the house: what must stay true of the tree, whoever changes it. Each fault says what to do instead.

const module = "github.com/slipway-platform/slipway"

// mayImport says who may know whom, by folder below the root. "*" stands for one name. A package may always import the root, and a
// test may also import the packages that are made for tests.
var mayImport = map[string][]string{
	".":        {},
	"store":    {},
	"secret":   {},
	"provider": {"secret", "cluster"},
	"fetch":    {},
	"entity":   {"store"},
	"job":      {"store"},
	"event":    {"store", "entity"},
	"auth":     {"store", "entity", "secret"},
	"task":     {"store", "provider", "secret", "fetch", "entity", "job", "event", "auth"},
	"resource": {"store", "provider", "secret", "fetch", "entity", "job", "event", "auth"},
	"cluster":  {},
	"client":   {},
	"safeyaml": {},

	"blueprint":   {"store", "provider", "secret", "fetch", "cluster", "entity", "job", "event", "auth", "task", "resource"},
	"blueprint/*": {"store", "provider", "secret", "fetch", "safeyaml", "cluster", "entity", "job", "event", "auth", "task", "resource", "blueprint"},
	"provider/*":  {"provider", "cluster"},
	"server":      {"store", "provider", "secret", "fetch", "cluster", "entity", "job", "event", "auth", "task", "resource", "blueprint"},
	"command":     {"store", "provider", "secret", "fetch", "cluster", "entity", "job", "event", "auth", "task", "resource", "blueprint", "server", "client", "examples"},
	"builtin":     {"blueprint", "blueprint/*", "provider", "provider/*"},
	"cmd/*":       {"builtin", "command", "blueprint", "provider"},

	// Made for tests.
	"store/storetest":         {"store"},
	"event/eventtest":         {"event"},
	"auth/issuertest":         {},
	"provider/jenkinstest":    {},
	"entity/entitytest":       {},
	"provider/providertest":   {"provider"},
	"cluster/clustertest":     {"cluster"},
	"blueprint/blueprinttest": {"store", "store/storetest", "provider", "auth", "event", "event/eventtest", "blueprint", "server"},
	"seeds":                   {},
	"docs":                    {},
	"bench":                   {},
	"compat":                  {},
	"deploy":                  {},
	"e2e":                     {},
	"e2e/*":                   {"store", "provider", "entity", "job", "event", "auth", "blueprint", "builtin", "command"},
	"examples":                {},
	"examples/greeting":       {"store", "auth", "event", "job", "blueprint"},
	"examples/widget":         {"store", "auth", "event", "job", "blueprint"},
	"examples/paperboy":       {"provider"},
	"examples/platform":       {"builtin", "command", "examples/*"},
}

// forTests are packages that only tests import, and the packages that tests may import besides.
var forTests = []string{"store/storetest", "entity/entitytest", "event/eventtest", "auth/issuertest", "provider/providertest", "provider/fake", "provider/jenkinstest", "cluster/clustertest", "blueprint/blueprinttest"}

// reachesAll are packages whose tests start the whole of Slipway.
var reachesAll = []string{".", "builtin", "bench", "compat", "blueprint/*", "client", "command", "deploy", "docs", "e2e", "examples/*", "seeds", "server", "cmd/*"}

// behind lists libraries that one place hides from the rest, so that they can be replaced there.
var behind = map[string][]string{
	"github.com/danielgtaylor/huma":         {"blueprint", "server"},
	"github.com/pressly/goose":              {"store"},
	"modernc.org/sqlite":                    {"store"},
	"github.com/jackc/pgx":                  {"store", "store/storetest"},
	"github.com/jedib0t/go-pretty":          {"command"},
	"github.com/prometheus":                 {"server"},
	"go.opentelemetry.io":                   {"server", "provider"},
	"github.com/yuin/goldmark":              {"server"},
	"github.com/robfig/cron":                {"job"},
	"github.com/coreos/go-oidc":             {"auth"},
	"github.com/go-jose":                    {"auth"},
	"github.com/go-sql-driver/mysql":        {"blueprint/dora", "bench"},
	"k8s.io":                                {"cluster"},
	"github.com/failsafe-go":                {"provider"},
	"github.com/nats-io":                    {"event"},
	"github.com/golang-jwt":                 {},
	"github.com/stretchr/testify":           {},
	"gopkg.in/yaml":                         {},
	"go.yaml.in/yaml":                       {"safeyaml", "server", "command", "blueprint/data", "cluster/clustertest"}, // what strangers wrote goes through the first
	"github.com/getkin/kin-openapi":         {},                                                                         // tests only
	"github.com/google/go-cmp":              {},
	"pgregory.net/rapid":                    {},
	"go.uber.org/goleak":                    {},
	"github.com/rogpeppe/go-internal":       {},
	"github.com/santhosh-tekuri/jsonschema": {"blueprint/workspace"},
	"github.com/standard-webhooks":          {},
	"github.com/zitadel":                    {}, // tests only
}

// May stand where the rule says no, with the reason.
var (
	initFuncs = map[string]string{
		"server/http.go": "huma keeps its maker of errors in a package variable; it is set once, before any server exists",
	}
	blankImports = map[string]string{
		"modernc.org/sqlite": "a database/sql driver registers itself",
		"embed":              "go:embed into a string or bytes asks for it",
	}
	foreignTexts = []string{"LICENSE", "go.sum", "tools/go.mod", "tools/go.sum", "docs/openapi.json", "house_test.go"} // not ours to word, made of what is read anyway, or the list of words itself
)

// wrongWords are what the text of the project does not say.
var wrongWords = map[string]*regexp.Regexp{
	"a mark of unfinished work; finish it or leave it out": regexp.MustCompile(`\b(TODO|FIXME|XXX|HACK)\b`),
	"a path of one machine":                                regexp.MustCompile(`[\s"'(=:]/(work|root)/`),
	"a number of a tracker; say the reason in words":       regexp.MustCompile(`(?i)\b(issue|ticket|pull request|PR) ?#?\d+|\b(fixes|closes|see|refs?) #\d+`),
	"a word about how the text came to be":                 regexp.MustCompile(`(?i)\b(sub-?agents?|coding agents?|language models?|LLMs?|the brief|as an AI)\b`),
	"the host of a package registry; tools know theirs":    regexp.MustCompile(`\b(proxy\.golang\.org|sum\.golang\.org|registry\.npmjs\.org|deb\.debian\.org|pypi\.org)\b`),
}

// file is one Go file of the module, of any platform.
type file struct {
	name string // slash-separated, from the root
	dir  string
	test bool
	*ast.File
}

var fset = token.NewFileSet()

// sources parses every Go file of the module once.
var sources = sync.OnceValues(func() ([]file, error) {
	var files []file
	for _, name := range tree() {
		if path.Ext(name) != ".go" || !compiled(name) {
			continue
		}
		f, err := parser.ParseFile(fset, name, nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return nil, err
		}
		files = append(files, file{name: name, dir: path.Dir(name), test: strings.HasSuffix(name, "_test.go"), File: f})
	}
	return files, nil
})

// compiled says whether a file is compiled on any platform that Slipway runs on, or for its benchmarks.
func compiled(name string) bool {
	for _, goos := range []string{"linux", "darwin", "windows"} {
		c := build.Default
		c.GOOS, c.CgoEnabled, c.BuildTags = goos, false, []string{"bench", "compat"}
		if ok, err := c.MatchFile(filepath.Dir(name), filepath.Base(name)); ok && err == nil {
			return true
		}
	}
	return false
}

// tree lists the files of the module: not what git ignores, not test data, not nested modules.
var tree = sync.OnceValue(func() []string {
	ignored, _ := os.ReadFile(".gitignore")
	var names []string
	_ = fs.WalkDir(os.DirFS("."), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil // gone since it was listed
		}
		if d.IsDir() {
			_, err := os.Stat(filepath.Join(name, "go.mod"))
			nested := name != "." && err == nil && name != "tools"
			if name == ".git" || d.Name() == "testdata" || nested || bytes.Contains(ignored, []byte("/"+name+"/\n")) {
				return fs.SkipDir
			}
			return nil
		}
		if name == ".git" { // of a second work tree, it is a file
			return nil
		}
		names = append(names, name)
		return nil
	})
	return names
})

func goFiles(t *testing.T) []file {
	t.Helper()
	files, err := sources()
	if err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(slices.Clone(files), func(f file) bool { return strings.HasPrefix(f.name, "tools/") })
}

func matches(patterns []string, name string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool {
		ok, err := path.Match(p, name)
		return ok && err == nil
	})
}

// rule gives the row of a table for a folder: its own, or that of its pattern.
func rule(dir string) ([]string, bool) {
	if r, ok := mayImport[dir]; ok {
		return r, true
	}
	r, ok := mayImport[path.Dir(dir)+"/*"]
	return r, ok
}

func TestWhoMayImportWhom(t *testing.T) {
	t.Parallel()
	for _, f := range goFiles(t) {
		allowed, ok := rule(f.dir)
		if !ok {
			t.Errorf("%s: folder %s stands in no row of mayImport; find its place in docs/architecture.md and add one", f.name, f.dir)
			continue
		}
		for _, spec := range f.Imports {
			imported, _ := strconv.Unquote(spec.Path.Value)
			if imported != module && !strings.HasPrefix(imported, module+"/") {
				checkForeign(t, f, imported)
				continue
			}
			other := strings.TrimPrefix(strings.TrimPrefix(imported, module), "/")
			switch {
			case other == "", other == f.dir, matches(allowed, other) && !matches(forTests, other):
			case matches(forTests, other) && (f.test || matches(forTests, f.dir) || matches(allowed, other)):
			case f.test && matches(reachesAll, f.dir):
			case strings.HasPrefix(f.dir, "blueprint/") && strings.HasPrefix(other, "blueprint/"):
				t.Errorf("%s imports %s: blueprints do not know each other; share through the catalog (package entity), an event, or an interface of the host", f.name, other)
			default:
				t.Errorf("%s imports %s: %s may import only %v; see docs/architecture.md", f.name, other, f.dir, allowed)
			}
		}
	}
}

func checkForeign(t *testing.T, f file, imported string) {
	t.Helper()
	if first, _, _ := strings.Cut(imported, "/"); !strings.Contains(first, ".") {
		return // standard library
	}
	if f.dir == "." && !f.test {
		t.Errorf("%s imports %s: the root package holds the nouns and imports only the standard library", f.name, imported)
	}
	for prefix, places := range behind {
		if !f.test && strings.HasPrefix(imported, prefix) && !matches(places, f.dir) && !matches(forTests, f.dir) {
			t.Errorf("%s imports %s: only %v may, so that it can be replaced in one place", f.name, imported, places)
		}
	}
}

func TestFoldersAreShallowAndNamedForWhatTheyHold(t *testing.T) {
	t.Parallel()
	for _, f := range goFiles(t) {
		parts := strings.Split(f.dir, "/")
		if len(parts) > 2 {
			t.Errorf("%s: packages lie at most two folders deep", f.name)
		}
		for _, p := range parts {
			if slices.Contains([]string{"internal", "pkg", "util", "utils", "common", "helpers", "models", "types"}, p) {
				t.Errorf("%s: a folder called %s says nothing of what it holds", f.name, p)
			}
		}
	}
}

func TestEveryPackageSaysWhatItIsFor(t *testing.T) {
	t.Parallel()
	said := map[string]bool{}
	for _, f := range goFiles(t) {
		if !f.test {
			said[f.dir] = said[f.dir] || f.Doc != nil && len(f.Doc.Text()) > 20
		}
	}
	for dir, ok := range said {
		if !ok {
			t.Errorf("%s: no file begins with a comment that says what the package is for", dir)
		}
	}
}

func TestNothingIsWiredBehindTheReadersBack(t *testing.T) {
	t.Parallel()
	for _, f := range goFiles(t) {
		for _, d := range f.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == "init" && initFuncs[f.name] == "" {
				t.Errorf("%s: func init runs unseen; pass a value instead", fset.Position(fn.Pos()))
			}
		}
		for _, spec := range f.Imports {
			imported, _ := strconv.Unquote(spec.Path.Value)
			if spec.Name != nil && spec.Name.Name == "_" && blankImports[imported] == "" {
				t.Errorf("%s: a blank import of %s; list what is built in package builtin", f.name, imported)
			}
		}
	}
}

// A sleep between two looks is a pace; a sleep that stands for an event is a race.
func TestSleepsOnlyPaceALoop(t *testing.T) {
	t.Parallel()
	for _, f := range goFiles(t) {
		var stack []ast.Node
		ast.Inspect(f.File, func(n ast.Node) bool {
			if n == nil {
				stack = stack[:len(stack)-1]
				return true
			}
			stack = append(stack, n)
			call, ok := n.(*ast.CallExpr)
			if !ok || !isSelector(call.Fun, "time", "Sleep") {
				return true
			}
			if !slices.ContainsFunc(stack, isLoop) {
				t.Errorf("%s: time.Sleep outside a loop; wait for the event, poll with a deadline, or use a clock that the test moves", fset.Position(call.Pos()))
			}
			return true
		})
	}
}

func isLoop(n ast.Node) bool {
	switch n.(type) {
	case *ast.ForStmt, *ast.RangeStmt:
		return true
	}
	return false
}

func isSelector(e ast.Expr, pkg, name string) bool {
	s, ok := e.(*ast.SelectorExpr)
	if !ok {
		return false
	}
	x, ok := s.X.(*ast.Ident)
	return ok && x.Name == pkg && strings.HasPrefix(s.Sel.Name, name)
}

var statement = regexp.MustCompile(`^\s*(SELECT\s|INSERT\s+INTO\s|UPDATE\s+\w+\s+SET\s|DELETE\s+FROM\s|WITH\s+\w+\s+(\(|AS))`)

func TestBlueprintsKeepSQLAndStatusesInTheirPlace(t *testing.T) {
	t.Parallel()
	for _, f := range goFiles(t) {
		if f.test || path.Dir(f.dir) != "blueprint" || matches(forTests, f.dir) {
			continue
		}
		base := path.Base(f.name)
		ast.Inspect(f.File, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.BasicLit:
				if n.Kind == token.STRING && !strings.HasPrefix(base, "store") && statement.MatchString(strings.Trim(n.Value, "`\"")) {
					t.Errorf("%s: SQL stands in store.go of its blueprint", fset.Position(n.Pos()))
				}
			case *ast.KeyValueExpr:
				if key, ok := n.Key.(*ast.Ident); ok && key.Name == "Status" {
					return false // the status of success is part of an operation's declaration
				}
			case *ast.SelectorExpr:
				if isSelector(n, "http", "Status") && !strings.HasPrefix(base, "http") {
					t.Errorf("%s: rules know codes, not statuses; a status of its own stands in http.go", fset.Position(n.Pos()))
				}
			}
			return true
		})
	}
}

func TestTheTextSpeaksOfTheProjectOnly(t *testing.T) {
	t.Parallel()
	for _, name := range tree() {
		if slices.Contains(foreignTexts, name) {
			continue
		}
		text, err := os.ReadFile(name)
		if err != nil || bytes.IndexByte(text, 0) >= 0 || len(text) > 1<<20 {
			continue // gone since it was listed, or not text
		}
		for what, pattern := range wrongWords {
			for _, at := range pattern.FindAllIndex(text, -1) {
				t.Errorf("%s:%d: %q is %s", name, 1+bytes.Count(text[:at[0]], []byte("\n")), bytes.TrimSpace(text[at[0]:at[1]]), what)
			}
		}
	}
}

var link = regexp.MustCompile(`\]\(([^)\s]+)\)`)

func TestLinksInTheDocumentationLeadSomewhere(t *testing.T) {
	t.Parallel()
	for _, name := range tree() {
		if path.Ext(name) != ".md" {
			continue
		}
		text, err := os.ReadFile(name)
		if err != nil {
			continue
		}
		for _, m := range link.FindAllSubmatch(text, -1) {
			target, _, _ := strings.Cut(string(m[1]), "#")
			if target == "" || strings.Contains(target, "://") || strings.HasPrefix(target, "mailto:") {
				continue
			}
			if _, err := os.Stat(filepath.Join(filepath.Dir(name), target)); err != nil {
				t.Errorf("%s: the link to %s leads nowhere", name, target)
			}
		}
	}
}

// mod is what `go mod edit -json` prints.
type mod struct {
	Require []struct {
		Path     string
		Version  string
		Indirect bool
	}
}

func goMod(t *testing.T, file string) mod {
	t.Helper()
	out, err := exec.Command("go", "mod", "edit", "-json", file).Output()
	if err != nil {
		t.Fatal(err)
	}
	var m mod
	if err := json.Unmarshal(out, &m); err != nil {
		t.Fatal(err)
	}
	return m
}

func (m mod) version(module string) string {
	for _, r := range m.Require {
		if r.Path == module {
			return r.Version
		}
	}
	return ""
}

// of gives the module of a package, the longest that fits; "" for the standard library and ourselves.
func (m mod) of(imported string) (longest string) {
	for _, r := range m.Require {
		if (imported == r.Path || strings.HasPrefix(imported, r.Path+"/")) && len(r.Path) > len(longest) {
			longest = r.Path
		}
	}
	return longest
}

// Code generated from C runs only on the very libc that it was generated for; module versions alone would let it drift.
func TestSQLiteGetsTheLibcItWasMadeFor(t *testing.T) {
	t.Parallel()
	out, err := exec.Command("go", "list", "-m", "-f", "{{.GoMod}}", "modernc.org/sqlite").Output()
	if err != nil {
		t.Fatal(err)
	}
	want := goMod(t, strings.TrimSpace(string(out))).version("modernc.org/libc")
	if got := goMod(t, "go.mod").version("modernc.org/libc"); got != want || want == "" {
		t.Errorf("go.mod has modernc.org/libc %s, modernc.org/sqlite wants %s: go get modernc.org/libc@%s", got, want, want)
	}
}

var dependency = regexp.MustCompile("(?m)^\\| `([^`]+)` \\| ([^|]+) \\| ([^|]+) \\|$")

func TestEveryDependencyHasAReason(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("docs/dependencies.md")
	if err != nil {
		t.Fatal(err)
	}
	listed := map[string]bool{}
	for _, m := range dependency.FindAllSubmatch(text, -1) {
		name := string(m[1])
		if listed[name] {
			t.Errorf("docs/dependencies.md names %s twice", name)
		}
		listed[name] = true
	}
	required := goMod(t, "go.mod")
	used := map[string]bool{}
	for _, f := range goFiles(t) {
		for _, spec := range f.Imports {
			imported, _ := strconv.Unquote(spec.Path.Value)
			if m := required.of(imported); m != "" {
				used[m] = true
			}
		}
	}
	for name := range used {
		if !listed[name] {
			t.Errorf("docs/dependencies.md has no line for %s; say what it is for and its licence", name)
		}
	}
	for name := range listed {
		if !used[name] {
			t.Errorf("docs/dependencies.md names %s, which nothing imports; remove the line", name)
		}
	}
	for _, r := range required.Require {
		if r.Indirect == used[r.Path] {
			t.Errorf("go.mod does not say how %s is used; run go mod tidy", r.Path)
		}
	}
}

func TestTheRulesThemselvesAreTidy(t *testing.T) {
	t.Parallel()
	for name, reason := range initFuncs {
		text, err := os.ReadFile(name)
		if err != nil || !bytes.Contains(text, []byte("func init()")) {
			t.Errorf("initFuncs allows %s (%s), which has no func init any more; remove the line", name, reason)
		}
	}
}
