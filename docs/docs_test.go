// Package docs checks the documentation: its commands run, its code compiles, its generated pages are fresh.
package docs

import (
	"bytes"
	"cmp"
	"context"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/slipway-platform/slipway/auth/issuertest"
	"github.com/slipway-platform/slipway/builtin"
	"github.com/slipway-platform/slipway/command"
	"github.com/slipway-platform/slipway/entity"
	"github.com/slipway-platform/slipway/event"
	"github.com/slipway-platform/slipway/provider/jenkinstest"
	"github.com/slipway-platform/slipway/server"
)

var update = flag.Bool("update", false, "write the generated pages anew")

// The test's own binary is the program, too, when it is called by its name; and curl, where the machine has none.
func TestMain(m *testing.M) {
	builtin.Early()
	switch filepath.Base(os.Args[0]) {
	case "slipway":
		os.Exit(command.Main(builtin.Blueprints(), builtin.Providers()))
	case "curl":
		if err := curl(os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, "curl:", err)
			os.Exit(1)
		}
	default:
		os.Exit(m.Run())
	}
}

// curl does what these pages ask of the real one: curl -s -H "Name: value" URL.
func curl(args []string) error {
	req, err := http.NewRequest(http.MethodGet, args[len(args)-1], nil)
	if err != nil {
		return err
	}
	for i, arg := range args {
		if arg == "-H" {
			name, value, _ := strings.Cut(args[i+1], ": ")
			req.Header.Set(name, value)
		}
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	_, err = io.Copy(os.Stdout, res.Body)
	return err
}

// program gives a folder that holds this binary under the program's name.
func program(t *testing.T) (folder string) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	folder = t.TempDir()
	names := []string{"slipway"}
	if _, err := exec.LookPath("curl"); err != nil {
		names = append(names, "curl")
	}
	for _, name := range names {
		if err := os.Symlink(self, filepath.Join(folder, name)); err != nil {
			t.Fatal(err)
		}
	}
	return folder
}

// pages are the documents whose commands and code are checked, from this folder.
func pages(t *testing.T) []string {
	t.Helper()
	pages := []string{"../README.md"}
	for _, pattern := range []string{"*.md", "decisions/*.md", "tasks/*.md", "../blueprint/*/README.md"} {
		more, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		pages = append(pages, more...)
	}
	return pages
}

// block is a fenced block of a page.
type block struct {
	page   string
	line   int
	words  []string // after the fence: "console", "go", …
	source string   // the comment before a block of code: the file that it is from
	text   string
}

func (b block) String() string { return fmt.Sprintf("%s:%d", filepath.Base(b.page), b.line) }

var comment = regexp.MustCompile(`^<!-- (\S+) -->$`)

func blocks(t *testing.T, page string) (all []block) {
	t.Helper()
	raw, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	var open *block
	source, fence := "", ""
	for i, line := range strings.Split(string(raw), "\n") {
		trimmed := strings.TrimSpace(line)
		switch {
		case open != nil && trimmed == fence:
			all = append(all, *open)
			open, source = nil, ""
		case open != nil:
			open.text += line + "\n"
		case strings.HasPrefix(trimmed, "```"):
			fence = trimmed[:len(trimmed)-len(strings.TrimLeft(trimmed, "`"))]
			open = &block{page: page, line: i + 1, source: source, words: strings.Fields(strings.TrimLeft(trimmed, "`"))}
		case trimmed != "":
			source = ""
			if m := comment.FindStringSubmatch(trimmed); m != nil {
				source = m[1]
			}
		}
	}
	return all
}

// Every block of Go stands word for word in a file that is compiled and tested. "…" alone on a line leaves lines out.
func TestCodeIsFromFilesThatCompile(t *testing.T) {
	t.Parallel()
	for _, page := range pages(t) {
		for _, b := range blocks(t, page) {
			if len(b.words) == 0 || b.words[0] != "go" && b.words[0] != "sql" {
				continue
			}
			if b.source == "" {
				t.Errorf("%s: say in a comment before the block which file it is from, such as <!-- examples/greeting/http.go -->", b)
				continue
			}
			raw, err := os.ReadFile(filepath.Join("..", b.source))
			if err != nil {
				t.Errorf("%s: %v", b, err)
				continue
			}
			rest := string(raw)
			for part := range strings.SplitSeq("\n"+b.text, "\n…\n") {
				_, after, ok := strings.Cut("\n"+rest, "\n"+strings.Trim(part, "\n")+"\n")
				if !ok {
					t.Errorf("%s: this is not in %s, or not any more:\n%s", b, b.source, part)
					break
				}
				rest = after
			}
		}
	}
}

// Commands stand in blocks called console. Their lines after "$ " (and "> ", which go on) are run by a shell, those of one page in one empty folder, one after the other;
// what they print must be like what the block shows, where "…" stands for anything. A block called "console server" starts a program
// that runs until the page ends.
func TestCommandsDoWhatThePagesSay(t *testing.T) {
	t.Parallel()
	bin := program(t)
	for _, page := range pages(t) {
		var commands []block
		for _, b := range blocks(t, page) {
			if len(b.words) > 0 && b.words[0] == "console" {
				commands = append(commands, b)
			}
		}
		if len(commands) == 0 {
			continue
		}
		t.Run(strings.TrimPrefix(page, "../"), func(t *testing.T) {
			t.Parallel()
			s := &shell{t: t, bin: bin, dir: t.TempDir(), page: page}
			s.surroundings()
			if err := os.WriteFile(filepath.Join(s.dir, ".folder"), []byte(s.dir), 0o600); err != nil {
				t.Fatal(err)
			}
			for _, b := range commands {
				s.play(b)
				if t.Failed() {
					return // what follows builds on it
				}
			}
		})
	}
}

// shell plays one page.
type shell struct {
	t       *testing.T
	bin     string
	dir     string
	page    string
	address string // of the server, once one runs

	stands []string // what stands for what a page names, in turns: what is named, what there is
}

// surroundings are what pages name and no machine has: a Jenkins with a job that failed, a folder of the system with secrets, and one with files of a catalog.
func (s *shell) surroundings() {
	s.t.Helper()
	j := jenkinstest.New()
	web := j.Add(jenkinstest.Pipeline, "shop/web")
	for n, state := range []string{jenkinstest.Success, jenkinstest.Failure} {
		r := j.Run(web, state, time.Now().Add(time.Duration(n-3)*time.Hour))
		r.Duration, r.Causes = 90*time.Second, []jenkinstest.Cause{jenkinstest.ByUser("jane", "Jane Doe")}
		r.Checkouts = []jenkinstest.Checkout{{SHA: "0f886c74949c3ee7e489188911c7dc0c1d547418", Branch: "refs/remotes/origin/main", Remote: "https://git.example.com/shop/web.git"}}
	}
	vendor := httptest.NewUnstartedServer(j)
	vendor.Config.ErrorLog = log.New(io.Discard, "", 0) // it tells of each handshake that failed
	vendor.StartTLS()
	s.t.Cleanup(vendor.Close)
	etc := s.t.TempDir()
	for name, text := range map[string][]byte{
		"ca.pem":        pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: vendor.Certificate().Raw}),
		"jenkins-token": []byte("11aa"), "jenkins-hook": []byte("change-me"),
	} {
		if err := os.WriteFile(filepath.Join(etc, name), text, 0o600); err != nil {
			s.t.Fatal(err)
		}
	}
	idp := issuertest.NewOpenID(s.t)
	s.stands = []string{"https://idp.example.com/realms/main", idp.URL, "https://jenkins.example.com", vendor.URL, "/etc/slipway", etc, "/srv/catalog", filepath.Join(s.t.TempDir(), "catalog")}
}

// usual is the address that the pages show; the server may have had to take another.
const usual = "127.0.0.1:8080"

var listening = regexp.MustCompile(`http://(127\.0\.0\.1:\d+)`)

func (s *shell) play(b block) {
	s.t.Helper()
	lines := strings.Split(strings.TrimSuffix(b.text, "\n"), "\n")
	for i := 0; i < len(lines); {
		text, ok := strings.CutPrefix(lines[i], "$ ")
		if !ok {
			s.t.Fatalf("%s: a line before the first command: %q", b, lines[i])
		}
		i++
		for i < len(lines) && strings.HasPrefix(lines[i], "> ") {
			text += "\n" + lines[i][2:]
			i++
		}
		var want []string
		for i < len(lines) && !strings.HasPrefix(lines[i], "$ ") {
			want = append(want, lines[i])
			i++
		}
		s.command(b, text, strings.Join(want, "\n"))
	}
}

func (s *shell) command(b block, text, want string) {
	s.t.Helper()
	serve := len(b.words) > 1 && b.words[1] == "server"
	run := strings.NewReplacer(append(s.stands, "go run ./cmd/slipway", "slipway")...).Replace(text)
	if s.address != "" {
		run = strings.ReplaceAll(run, usual, s.address)
	}
	// What one command exports, the next one has, and it begins in the folder where the other ended.
	script := "set -a; [ ! -e ~/.env ] || . ~/.env; set +a; cd \"$(cat ~/.folder)\"; " + run + "\nstatus=$?; export -p >~/.env; pwd >~/.folder; exit $status"
	if serve {
		script = "exec " + run
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	cmd := exec.CommandContext(ctx, "sh", "-c", script)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGINT) }
	cmd.WaitDelay = 20 * time.Second
	cmd.Dir = s.dir
	cmd.Env = []string{"PATH=" + s.bin + ":" + os.Getenv("PATH"), "HOME=" + s.dir, "USER=you", "LANG=C.UTF-8"}
	out := &output{}
	cmd.Stdout, cmd.Stderr = out, out
	if serve {
		cmd.Env = append(cmd.Env, "SLIPWAY_SERVER_LISTEN=127.0.0.1:0") // the usual port may be taken
		s.serve(b, cmd, cancel, out, want)
		return
	}
	defer cancel()
	err := cmd.Run()
	if _, failed := errors.AsType[*exec.ExitError](err); err != nil && !failed {
		s.t.Fatalf("%s: %s: %v", b, text, err)
	}
	if err != nil && want == "" {
		s.t.Fatalf("%s: %s: %v\n%s", b, text, err, out)
	}
	if !s.like(want, out.String()) {
		s.t.Fatalf("%s: %s\ngot:\n%s\nwant something like:\n%s", b, text, out, want)
	}
}

// serve starts a command, waits until it has said what it should, and lets it run.
func (s *shell) serve(b block, cmd *exec.Cmd, cancel func(), out *output, want string) {
	s.t.Helper()
	if err := cmd.Start(); err != nil {
		s.t.Fatalf("%s: %v", b, err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	s.t.Cleanup(func() { cancel(); <-done })
	deadline := time.Now().Add(90 * time.Second)
	for {
		if m := listening.FindStringSubmatch(out.String()); m != nil {
			s.address = m[1]
		}
		if s.address != "" && s.like(want, out.String()) {
			return
		}
		select {
		case err := <-done:
			done <- err
			s.t.Fatalf("%s: the server ended: %v\n%s", b, err, out)
		case <-time.After(50 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("%s: got:\n%s\nwant something like:\n%s", b, out, want)
		}
	}
}

var spaces = regexp.MustCompile(`[ \t]+`)

// like compares what was printed with what a page shows: "…" is anything, also nothing; how many spaces there are, and between which
// lines of a table, does not matter.
func (s *shell) like(want, got string) bool {
	if strings.TrimSpace(want) == "" {
		return true
	}
	plain := func(text string) string {
		var lines []string
		for line := range strings.SplitSeq(text, "\n") {
			if line = strings.TrimSpace(spaces.ReplaceAllString(line, " ")); line != "" {
				lines = append(lines, line)
			}
		}
		return strings.Join(lines, "\n")
	}
	if s.address != "" {
		got = strings.ReplaceAll(got, s.address, usual)
	}
	for pair := range slices.Chunk(s.stands, 2) {
		got = strings.ReplaceAll(got, pair[1], pair[0])
	}
	pattern := regexp.QuoteMeta(plain(want))
	pattern = strings.ReplaceAll(pattern, "\n…", "(?s:.*)") // also no line at all
	pattern = strings.ReplaceAll(pattern, "…", "(?s:.*)")
	return regexp.MustCompile(`^` + pattern + `$`).MatchString(plain(got))
}

// output collects what a program prints.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// The version in the committed description: a release changes the program's, not the API's.
const apiVersion = "1"

// eventsPage is the page of events with the table of what the declarations say.
func eventsPage(t *testing.T) []byte {
	text, err := os.ReadFile("events.md")
	if err != nil {
		t.Fatal(err)
	}
	const begin, end = "<!-- types -->\n", "<!-- end -->\n"
	before, rest, ok := strings.Cut(string(text), begin)
	_, after, ended := strings.Cut(rest, end)
	if !ok || !ended {
		t.Fatalf("events.md has no place for the table: %q and %q", begin, end)
	}
	var types []event.Type
	for _, b := range builtin.Blueprints() {
		types = append(types, b.EventTypes()...)
	}
	slices.SortFunc(types, func(a, b event.Type) int { return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Source, b.Source)) })
	var table strings.Builder
	table.WriteString("| type | source | when | subject | takes |\n|---|---|---|---|---|\n")
	for _, one := range types {
		fmt.Fprintf(&table, "| `%s` | `%s` | %s | %s | `%s` |\n", one.Name, one.Source, one.Text, one.Object, cmp.Or(one.Permission, entity.ReadPermission))
	}
	return []byte(before + begin + table.String() + end + after)
}

func TestGenerated(t *testing.T) {
	t.Parallel()
	for name, make := range map[string]func(t *testing.T) []byte{
		"openapi.json": func(t *testing.T) []byte {
			raw, err := server.DescribeAPI(builtin.Blueprints(), apiVersion)
			if err != nil {
				t.Fatal(err)
			}
			return pretty(t, raw)
		},
		"config.md": func(t *testing.T) []byte {
			cmd := exec.CommandContext(t.Context(), filepath.Join(program(t), "slipway"), "config", "docs")
			out, err := cmd.Output()
			if err != nil {
				t.Fatal(err)
			}
			return out
		},
		"events.md": eventsPage,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			want := make(t)
			got, err := os.ReadFile(name)
			if err != nil && !os.IsNotExist(err) {
				t.Fatal(err)
			}
			if name == "openapi.json" && len(got) > 0 {
				// Not even an update takes back what was promised.
				for _, fault := range breaks(t, got, want) {
					t.Errorf("%s is stable and changes incompatibly: %s; keep it, or where it was never released, remove docs/openapi.json and make it anew", name, fault)
				}
			}
			if t.Failed() || bytes.Equal(got, want) {
				return
			}
			if !*update {
				t.Fatalf("docs/%s is not what the declarations say; run make generate and read the difference", name)
			}
			if err := os.WriteFile(name, want, 0o644); err != nil {
				t.Fatal(err)
			}
		})
	}
}
