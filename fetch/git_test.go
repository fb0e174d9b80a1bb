package fetch

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/slipway-platform/slipway"
)

// repo is a repository made by the machine's own git.
type repo struct {
	t   testing.TB
	dir string
}

func newRepo(t testing.TB, dir string) *repo {
	t.Helper()
	r := &repo{t, dir}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	r.git("init", "-q", "-b", "main", "--template=")
	return r
}

func (r *repo) git(args ...string) string {
	r.t.Helper()
	cmd := exec.Command("git", args...)
	cmd.Dir = r.dir
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + r.dir, "GIT_CONFIG_GLOBAL=" + os.DevNull, "GIT_CONFIG_NOSYSTEM=1",
		"GIT_AUTHOR_NAME=Jane Doe", "GIT_AUTHOR_EMAIL=jane@example.com", "GIT_AUTHOR_DATE=2026-01-02T03:04:05+02:00",
		"GIT_COMMITTER_NAME=Bot", "GIT_COMMITTER_EMAIL=bot@example.com", "GIT_COMMITTER_DATE=2026-01-02T05:04:05+02:00",
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		r.t.Fatalf("git %v: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

func (r *repo) commit(name, content, subject string) string {
	r.t.Helper()
	write(r.t, filepath.Join(r.dir, name), content)
	r.git("add", "--", name)
	r.git("commit", "-q", "-m", subject)
	return r.git("rev-parse", "HEAD")
}

// gitServer serves the repositories below root over smart HTTP with git's own program for that.
func gitServer(t testing.TB, root string) http.Handler {
	t.Helper()
	git, err := exec.LookPath("git")
	if err != nil {
		t.Fatal(err)
	}
	return &cgi.Handler{
		Path: git, Args: []string{"http-backend"},
		Env:    []string{"GIT_PROJECT_ROOT=" + root, "GIT_HTTP_EXPORT_ALL=1", "GIT_CONFIG_GLOBAL=" + os.DevNull, "GIT_CONFIG_NOSYSTEM=1"},
		Stderr: io.Discard,
	}
}

// gitDaemon serves the repositories below root over the git protocol.
func gitDaemon(t testing.TB, root string) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	// The daemon in its inetd form: one process per connection, and no port to race for.
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			cmd := exec.Command("git", "daemon", "--inetd", "--export-all", "--interpolated-path="+root+"/%H%D", root)
			cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "GIT_CONFIG_GLOBAL=" + os.DevNull, "GIT_CONFIG_NOSYSTEM=1"}
			if file, err := conn.(*net.TCPConn).File(); err == nil {
				cmd.Stdin, cmd.Stdout = file, file
				_ = cmd.Start()
				go cmd.Wait()
				file.Close()
			}
			conn.Close()
		}
	}()
	t.Cleanup(func() { l.Close() })
	return l.Addr().String()
}

func TestRefsAreResolvedExactly(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	r := newRepo(t, filepath.Join(root, "a"))
	first := r.commit("a", "1", "first")
	r.git("tag", "light")
	r.git("tag", "-a", "-m", "annotated", "v1.0.0")
	r.git("tag", "both")
	second := r.commit("a", "2", "second")
	r.git("branch", "both")
	r.git("branch", "feature/x")
	r.git("branch", "x/feature/x")
	r.git("branch", "cafe123")
	third := r.commit("a", "3", "third")
	r.git("update-ref", "refs/other/heads/hidden", first)
	newRepo(t, filepath.Join(root, "empty"))

	s := httptest.NewServer(gitServer(t, root))
	t.Cleanup(s.Close)
	f := withConfig(t, nil, Config{Allow: []string{s.URL}, FileRoots: []string{root}})
	for _, base := range []string{s.URL + "/a/.git", "file://" + filepath.Join(root, "a")} {
		for ref, want := range map[string]Ref{
			"":                      {third, Branch, "main"},
			"HEAD":                  {third, Branch, "main"},
			"main":                  {third, Branch, "main"},
			"feature/x":             {second, Branch, "feature/x"},
			"light":                 {first, Tag, "light"},
			"v1.0.0":                {first, Tag, "v1.0.0"},
			"both":                  {second, Branch, "both"}, // a branch goes first
			"refs/heads/both":       {second, Branch, "both"},
			"refs/tags/both":        {first, Tag, "both"},
			"cafe123":               {second, Branch, "cafe123"}, // looks like an id and is a branch
			first:                   {first, Commit, first},
			strings.ToUpper(second): {second, Commit, second},
		} {
			if got, err := f.ResolveRef(t.Context(), base, ref); err != nil || got != want {
				t.Errorf("%s %q: got %+v, %v; want %+v", base, ref, got, err, want)
			}
		}
		for ref, code := range map[string]slipway.Code{
			"x":                 slipway.NotFound, // only the end of a name
			"nothing":           slipway.NotFound,
			first[:10]:          slipway.NotFound,
			"refs/other/heads":  slipway.Invalid,
			"main^":             slipway.Invalid,
			"main~1":            slipway.Invalid,
			"main@{1}":          slipway.Invalid,
			"main:a":            slipway.Invalid,
			"ma*":               slipway.Invalid,
			"a..b":              slipway.Invalid,
			"../x":              slipway.Invalid,
			"--upload-pack=x":   slipway.Invalid,
			"-":                 slipway.Invalid,
			"@":                 slipway.Invalid,
			"a b":               slipway.Invalid,
			"a\nb":              slipway.Invalid,
			"\xff":              slipway.Invalid,
			"a.lock":            slipway.Invalid,
			"/a":                slipway.Invalid,
			"a//b":              slipway.Invalid,
			"+main":             slipway.NotFound,
			"$(touch x)":        slipway.Invalid,
			"refs/heads/light":  slipway.NotFound,
			"refs/tags/main":    slipway.NotFound,
			"refs/heads/../../": slipway.Invalid,
		} {
			_, err := f.ResolveRef(t.Context(), base, ref)
			wantCode(t, fmt.Sprintf("%s %q", base, ref), err, code)
		}
	}
	_, err := f.ResolveRef(t.Context(), s.URL+"/a/.git", first[:10])
	if err == nil || !strings.Contains(err.Error(), "in full") {
		t.Errorf("an abbreviated id: got %v, want to be told to write it in full", err)
	}
	_, err = f.ResolveRef(t.Context(), s.URL+"/empty/.git", "")
	wantCode(t, "an empty repository", err, slipway.NotFound)
	r.git("checkout", "-q", "--detach", first)
	if got, err := f.ResolveRef(t.Context(), s.URL+"/a/.git", ""); err != nil || got != (Ref{first, Commit, first}) {
		t.Errorf("a detached HEAD: got %+v, %v", got, err)
	}
}

func TestCloneChecksOutWhatTheRefNames(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	r := newRepo(t, filepath.Join(root, "git.localhost", "a")) // where the daemon looks for that host
	first := r.commit("a", "1", "first")
	r.git("tag", "-a", "-m", "annotated", "v1")
	r.git("checkout", "-q", "-b", "side")
	side := r.commit("a", "side", "on the side")
	r.git("checkout", "-q", "main")
	second := r.commit("a", "2", "second: ünïcode")

	modern := gitServer(t, root)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if path, old := strings.CutPrefix(r.URL.Path, "/old"); old { // a server that hands out only branches and tags
			r.Header.Del("Git-Protocol")
			r.URL.Path = path
		}
		modern.ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	_, port, _ := net.SplitHostPort(gitDaemon(t, root))
	daemon := "git://git.localhost:" + port
	f := withConfig(t, map[string]string{"git.localhost": "127.0.0.1"}, Config{Allow: []string{s.URL, daemon}, FileRoots: []string{root}})
	for _, base := range []string{
		s.URL + "/git.localhost/a/.git",
		s.URL + "/old/git.localhost/a/.git",
		daemon + "/a/.git",
		"file://" + r.dir,
		"file://" + r.dir + "/.git",
	} {
		for _, depth := range []int{0, 1} {
			for ref, want := range map[string]Checkout{
				"":     {Commit: second, Branch: "main", Subject: "second: ünïcode"},
				"v1":   {Commit: first, Tag: "v1", Subject: "first"},
				"side": {Commit: side, Branch: "side", Subject: "on the side"},
				first:  {Commit: first, Subject: "first"},
				side:   {Commit: side, Subject: "on the side"},
			} {
				dir := filepath.Join(t.TempDir(), "work")
				got, err := f.Clone(t.Context(), CloneOptions{URL: base, Ref: ref, Dir: dir, Depth: depth})
				if err != nil {
					t.Errorf("%s %q: %v", base, ref, err)
					continue
				}
				want.Author, want.AuthorEmail = "Jane Doe", "jane@example.com"
				want.CommittedAt = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
				if *got != want {
					t.Errorf("%s %q: got %+v, want %+v", base, ref, *got, want)
				}
				content := map[string]string{first: "1", second: "2", side: "side"}[want.Commit]
				if b, err := os.ReadFile(filepath.Join(dir, "a")); err != nil || string(b) != content {
					t.Errorf("%s %q: the file holds %q, %v; want %q", base, ref, b, err, content)
				}
			}
		}
		dir := filepath.Join(t.TempDir(), "work")
		_, err := f.Clone(t.Context(), CloneOptions{URL: base, Ref: strings.Repeat("0", 39) + "1", Dir: dir})
		if code := slipway.CodeOf(err); code != slipway.NotFound {
			t.Errorf("%s: a commit that does not exist: %v", base, err)
		}
		if _, err := os.Stat(dir); !os.IsNotExist(err) {
			t.Errorf("%s: a failed clone left its directory: %v", base, err)
		}
	}
	dir := t.TempDir()
	if _, err := f.Clone(t.Context(), CloneOptions{URL: "file://" + r.dir, Dir: dir}); err != nil {
		t.Errorf("into an empty directory: %v", err)
	}
	_, err := f.Clone(t.Context(), CloneOptions{URL: "file://" + r.dir, Dir: dir})
	wantCode(t, "into a directory with files", err, slipway.Conflict)
	if _, err := os.Stat(filepath.Join(dir, "a")); err != nil {
		t.Errorf("somebody else's directory was touched: %v", err)
	}
}

func TestHostileRepositoryAddressesAreRefused(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	newRepo(t, filepath.Join(root, "a")).commit("a", "1", "first")
	outside := t.TempDir()
	newRepo(t, filepath.Join(outside, "b")).commit("a", "1", "first")
	link(t, filepath.Join(outside, "b"), filepath.Join(root, "linked"))
	write(t, filepath.Join(root, "gitfile", ".git"), "gitdir: "+outside+"/b/.git\n")
	borrowing := newRepo(t, filepath.Join(root, "borrowing"))
	borrowing.commit("a", "1", "first")
	write(t, filepath.Join(borrowing.dir, ".git", "objects", "info", "alternates"), outside+"/b/.git/objects\n")
	canary := filepath.Join(t.TempDir(), "touched")

	f := withConfig(t, nil, Config{Allow: []string{"https://*", "git://*"}, FileRoots: []string{root}})
	for _, raw := range []string{
		"ext::sh -c touch% " + canary,
		"ext::touch " + canary,
		"--upload-pack=touch " + canary,
		"-u" + canary,
		"fd::17/foo",
		"ssh://git@127.0.0.1/a",
		"ssh://-oProxyCommand=touch%20" + canary + "/a",
		"git@127.0.0.1:a",
		"https::https://example.com/",
		"transport::address",
		filepath.Join(root, "a"), // a path, not an address
		"file://" + filepath.Join(outside, "b"),
		"file://" + filepath.Join(root, "linked"),
		"file://" + filepath.Join(root, "gitfile"),
		"file://" + borrowing.dir,
		"file://" + root + "/../" + filepath.Base(outside) + "/b",
		"file://example.com" + root + "/a",
		"git://127.0.0.1/a",
		"git://localhost/a",
		"git://-x/a",
		"https://user:pass@example.com/a",
		"https://example.com/a?b=c",
		"https://example.com/a#b",
		"",
	} {
		dir := filepath.Join(t.TempDir(), "work")
		_, err := f.Clone(t.Context(), CloneOptions{URL: raw, Dir: dir})
		wantCode(t, raw, err, slipway.Invalid)
		if _, err := os.Stat(dir); err == nil {
			t.Errorf("%s: the directory was left", raw)
		}
	}
	for _, ref := range []string{"--upload-pack=touch " + canary, "--upload-pack=touch", "-h", "main;touch " + canary, "`touch x`"} {
		_, err := f.Clone(t.Context(), CloneOptions{URL: "file://" + filepath.Join(root, "a"), Ref: ref, Dir: filepath.Join(t.TempDir(), "work")})
		wantCode(t, ref, err, slipway.Invalid)
	}
	for _, raw := range []string{"file://" + filepath.Join(root, "none"), "file://" + root} {
		_, err := f.ResolveRef(t.Context(), raw, "")
		wantCode(t, raw, err, slipway.NotFound)
	}
	if _, err := os.Stat(canary); err == nil {
		t.Error("a command was run")
	}
}

func TestCloneRunsNothingOfTheRepositoryOrTheMachine(t *testing.T) {
	home := t.TempDir() // t.Setenv: not parallel
	canary := filepath.Join(t.TempDir(), "touched")
	write(t, filepath.Join(home, ".gitconfig"), "[core]\n\tfsmonitor = touch "+canary+"\n[filter \"evil\"]\n\tsmudge = touch "+canary+"\n[init]\n\ttemplateDir = "+home+"\n")
	write(t, filepath.Join(home, "hooks", "post-checkout"), "#!/bin/sh\ntouch "+canary+"\n")
	if err := os.Chmod(filepath.Join(home, "hooks", "post-checkout"), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("HOME", home)
	t.Setenv("GIT_DIR", home)
	t.Setenv("GIT_SSH_COMMAND", "touch "+canary)
	t.Setenv("http_proxy", "http://127.0.0.1:1")
	t.Setenv("GIT_CONFIG_COUNT", "1")
	t.Setenv("GIT_CONFIG_KEY_0", "core.hooksPath")
	t.Setenv("GIT_CONFIG_VALUE_0", filepath.Join(home, "hooks"))

	root := t.TempDir()
	other := newRepo(t, filepath.Join(root, "other"))
	other.commit("x", "1", "first")
	r := newRepo(t, filepath.Join(root, "a"))
	r.git("-c", "protocol.file.allow=always", "submodule", "--quiet", "add", other.dir, "sub")
	r.commit(".gitattributes", "* filter=evil\n", "with attributes")
	s := httptest.NewServer(gitServer(t, root))
	t.Cleanup(s.Close)
	f := newFetcher(t, nil, s.URL)
	dir := filepath.Join(t.TempDir(), "work")
	if _, err := f.Clone(t.Context(), CloneOptions{URL: s.URL + "/a/.git", Dir: dir}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(canary); err == nil {
		t.Error("a command was run")
	}
	if entries, err := os.ReadDir(filepath.Join(dir, "sub")); err != nil || len(entries) != 0 {
		t.Errorf("the submodule was fetched: %v, %v", entries, err)
	}
	if _, err := os.Stat(filepath.Join(dir, ".git", "hooks")); err == nil {
		t.Error("hooks were put into the working copy")
	}
}

func TestGitIsHeldToTheCheckedAddress(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	commit := newRepo(t, filepath.Join(root, "a")).commit("a", "1", "first")
	// The system takes every name below localhost for 127.0.0.1, where nobody listens.
	port := listen(t, "127.0.0.2", gitServer(t, root))
	base := "http://git.localhost:" + port
	f := newFetcher(t, map[string]string{"git.localhost": "127.0.0.2"}, base)
	got, err := f.Clone(t.Context(), CloneOptions{URL: base + "/a/.git", Dir: filepath.Join(t.TempDir(), "work")})
	if err != nil || got.Commit != commit {
		t.Errorf("got %+v, %v; want a clone from the address that the look-up gave", got, err)
	}

	// The second answer leads to a metadata service.
	var asked atomic.Int32
	f = newFetcher(t, nil, "http://*.localhost:"+port, base+"/a/.git/info/*")
	f.lookup = func(context.Context, string, string) ([]netip.Addr, error) {
		if asked.Add(1) == 1 {
			return []netip.Addr{netip.MustParseAddr("127.0.0.2")}, nil
		}
		return []netip.Addr{netip.MustParseAddr("169.254.169.254")}, nil
	}
	_, err = f.Clone(t.Context(), CloneOptions{URL: base + "/a/.git", Dir: filepath.Join(t.TempDir(), "work")})
	wantCode(t, "a name that changes its meaning", err, slipway.Invalid)
}

func TestRepositoryRedirectsAreFollowedByTheGuardOnly(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	newRepo(t, filepath.Join(root, "new")).commit("a", "1", "first")
	backend := gitServer(t, root)
	inside := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("the private server was asked") }))
	t.Cleanup(inside.Close)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasPrefix(r.URL.Path, "/renamed"):
			http.Redirect(w, r, strings.Replace(r.URL.String(), "/renamed", "/new/.git", 1), http.StatusMovedPermanently)
		case strings.HasPrefix(r.URL.Path, "/private"):
			http.Redirect(w, r, inside.URL+r.URL.String(), http.StatusFound)
		case strings.HasPrefix(r.URL.Path, "/later/") && r.Method == http.MethodPost:
			http.Redirect(w, r, inside.URL+r.URL.String(), http.StatusTemporaryRedirect)
		case strings.HasPrefix(r.URL.Path, "/later/"):
			r.URL.Path = strings.Replace(r.URL.Path, "/later/", "/new/", 1)
			backend.ServeHTTP(w, r)
		case strings.HasPrefix(r.URL.Path, "/login"):
			w.WriteHeader(http.StatusUnauthorized)
		case strings.HasPrefix(r.URL.Path, "/down"):
			w.WriteHeader(http.StatusBadGateway)
		case strings.HasPrefix(r.URL.Path, "/page"):
			io.WriteString(w, "<html>")
		default:
			backend.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(s.Close)
	f := newFetcher(t, nil, s.URL)
	if _, err := f.Clone(t.Context(), CloneOptions{URL: s.URL + "/renamed", Dir: filepath.Join(t.TempDir(), "work")}); err != nil {
		t.Errorf("a renamed repository: %v", err)
	}
	for path, code := range map[string]slipway.Code{
		"/private":    slipway.Invalid,
		"/later/.git": slipway.Unavailable, // git does not follow, and cannot say why
		"/login":      slipway.Invalid,
		"/page":       slipway.Invalid,
		"/down":       slipway.Unavailable,
		"/none":       slipway.NotFound,
	} {
		_, err := f.Clone(t.Context(), CloneOptions{URL: s.URL + path, Dir: filepath.Join(t.TempDir(), "work")})
		wantCode(t, path, err, code)
	}
	daemon := gitDaemon(t, root)
	_, err := newFetcher(t, nil, "git://"+daemon).ResolveRef(t.Context(), "git://"+daemon+"/none", "")
	wantCode(t, "git daemon without that repository", err, slipway.NotFound)
}

func TestHangingRepositoryIsLeft(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	newRepo(t, filepath.Join(root, "a")).commit("a", "1", "first")
	backend := gitServer(t, root)
	arrived, gone := make(chan struct{}, 10), make(chan struct{}, 10)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if strings.HasPrefix(r.URL.Path, "/deaf") || bytes.Contains(body, []byte("command=fetch")) {
			arrived <- struct{}{}
			<-r.Context().Done()
			gone <- struct{}{}
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		backend.ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	f := newFetcher(t, nil, s.URL)
	for _, path := range []string{"/deaf", "/a/.git"} {
		dir := filepath.Join(t.TempDir(), "work")
		_, err := f.Clone(t.Context(), CloneOptions{URL: s.URL + path, Dir: dir, Timeout: time.Second})
		wantCode(t, path, err, slipway.Unavailable)
		if _, err := os.Stat(dir); !os.IsNotExist(err) {
			t.Errorf("%s: the directory was left: %v", path, err)
		}
	}

	// Giving up in the midst of a fetch ends git and the helper that holds the connection.
	for len(arrived) > 0 {
		<-arrived
		<-gone
	}
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		select {
		case <-arrived:
		case <-t.Context().Done():
		}
		cancel()
	}()
	_, err := f.Clone(ctx, CloneOptions{URL: s.URL + "/a/.git", Dir: filepath.Join(t.TempDir(), "work")})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("the caller gave up: got %v, want its own error", err)
	}
	<-gone
}

func TestHugeRepositoryIsLeft(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	r := newRepo(t, filepath.Join(root, "large"))
	r.commit("zeros", strings.Repeat("\x00", 8<<20), "small in the pack, large on disk")
	many := newRepo(t, filepath.Join(root, "many"))
	for i := range 600 {
		write(t, filepath.Join(many.dir, fmt.Sprint(i)), "")
	}
	many.git("add", ".")
	many.git("commit", "-q", "-m", "many empty files")
	f := withConfig(t, nil, Config{FileRoots: []string{root}})
	for _, r := range []*repo{r, many} {
		dir := filepath.Join(t.TempDir(), "work")
		_, err := f.Clone(t.Context(), CloneOptions{URL: "file://" + r.dir, Dir: dir, MaxBytes: 2 << 20})
		wantCode(t, r.dir, err, slipway.TooLarge)
		if _, err := os.Stat(dir); !os.IsNotExist(err) {
			t.Errorf("%s: the directory was left: %v", r.dir, err)
		}
		if _, err := f.Clone(t.Context(), CloneOptions{URL: "file://" + r.dir, Dir: dir}); err != nil {
			t.Errorf("%s with the usual limit: %v", r.dir, err)
		}
	}
}

// A pack that never ends is seen while it comes in.
func TestEndlessPackIsCut(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	newRepo(t, filepath.Join(root, "a")).commit("a", "1", "first")
	backend := gitServer(t, root)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if !bytes.Contains(body, []byte("command=fetch")) {
			r.Body = io.NopCloser(bytes.NewReader(body))
			backend.ServeHTTP(w, r)
			return
		}
		w.Header().Set("Content-Type", "application/x-git-upload-pack-result")
		io.WriteString(w, "000dpackfile\n")
		packet := append([]byte("fff0\x01"), make([]byte, 0xfff0-5)...)
		// A blob of 2^34 bytes, stored without compression: as many bytes as one cares to take.
		copy(packet[5:], "PACK\x00\x00\x00\x02\x00\x00\x00\x01\xb0\x80\x80\x80\x80\x01\x78\x01")
		for i := 25; ; i = 5 {
			// Deflate blocks of one length that fill the packet exactly.
			room := len(packet) - i - 5
			copy(packet[i:], []byte{0, byte(room), byte(room >> 8), ^byte(room), ^byte(room >> 8)})
			if _, err := w.Write(packet); err != nil {
				return
			}
			for j := 5; j < 25; j++ {
				packet[j] = 0
			}
		}
	}))
	t.Cleanup(s.Close)
	f := newFetcher(t, nil, s.URL)
	_, err := f.Clone(t.Context(), CloneOptions{URL: s.URL + "/a/.git", Dir: filepath.Join(t.TempDir(), "work"), MaxBytes: 8 << 20, Timeout: time.Minute})
	wantCode(t, "an endless pack", err, slipway.TooLarge)
}
