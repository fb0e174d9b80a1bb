package local

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/fetch"
	"github.com/slipway-platform/slipway/provider"
	"github.com/slipway-platform/slipway/provider/providertest"
	"github.com/slipway-platform/slipway/secret"
	"github.com/slipway-platform/slipway/store"
	"github.com/slipway-platform/slipway/store/storetest"
)

// site is one machine with git repositories and replicas of a server that build them.
type site struct {
	t      *testing.T
	db     *store.DB
	roots  string // where repositories lie
	work   string // where builds run
	redact secret.Redactor

	mu   sync.Mutex
	seen []slipway.Build // what the index was told, in order
}

func newSite(t *testing.T, db *store.DB) *site {
	t.Helper()
	return &site{t: t, db: db, roots: t.TempDir(), work: t.TempDir()}
}

// eachSite runs a test with a site on both engines.
func eachSite(t *testing.T, test func(t *testing.T, s *site)) {
	t.Parallel()
	storetest.Each(t, []store.Migrations{Migrations}, func(t *testing.T, db *store.DB) { test(t, newSite(t, db)) })
}

// repository makes a git repository whose build.sh has this text, and gives its address.
func (s *site) repository(name, script string) string {
	s.t.Helper()
	s.commit(name, script)
	return "file://" + filepath.Join(s.roots, name)
}

// commit puts a new build.sh into a repository and gives the commit's id.
func (s *site) commit(name, script string) string {
	s.t.Helper()
	dir := filepath.Join(s.roots, name)
	if _, err := os.Stat(dir); err != nil {
		s.git("", "init", "--quiet", "--initial-branch=main", dir)
	}
	if err := os.WriteFile(filepath.Join(dir, "build.sh"), []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
		s.t.Fatal(err)
	}
	s.git(dir, "add", "--all")
	s.git(dir, "-c", "user.name=Jane Doe", "-c", "user.email=jane@example.com", "commit", "--quiet", "--allow-empty", "--message=Change the build\n\nAt length.")
	return strings.TrimSpace(s.git(dir, "rev-parse", "HEAD"))
}

func (s *site) git(dir string, args ...string) string {
	s.t.Helper()
	cmd := exec.Command("git", args...)
	cmd.Dir = dir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + s.t.TempDir(), "GIT_CONFIG_NOSYSTEM=1"}
	out, err := cmd.CombinedOutput()
	if err != nil {
		s.t.Fatalf("git %v: %v: %s", args, err, out)
	}
	return string(out)
}

// replica makes a server's part of the site; it works nothing until run.
func (s *site) replica(allow ...string) *service {
	s.t.Helper()
	cfg := fetch.DefaultConfig()
	cfg.Allow = append(cfg.Allow, allow...)
	cfg.FileRoots = []string{s.roots}
	f, err := fetch.New(cfg)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(f.Close)
	r := newService(s.db, time.Now)
	r.fetch, r.redact, r.log, r.dataDir = f, &s.redact, slog.New(slog.DiscardHandler), s.work
	r.url = func() string { return "http://slipway.example.com" }
	r.keep = 24 * time.Hour
	r.grace = 100 * time.Millisecond
	r.observe = func(_ context.Context, tx *store.Tx, _, _ string, builds ...slipway.Build) error {
		tx.AfterCommit(func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.seen = append(s.seen, builds...)
		})
		return nil
	}
	r.annotated = func(_ context.Context, value string, f func(*slipway.Entity)) error {
		entries, err := os.ReadDir(s.roots)
		for _, e := range entries {
			web := component(e.Name(), "file://"+filepath.Join(s.roots, e.Name()))
			if value == "" || value == web.Metadata.Annotations[Annotation] {
				f(web)
			}
		}
		return err
	}
	return r
}

func component(name, repository string) *slipway.Entity {
	e := &slipway.Entity{Kind: "Component"}
	e.Metadata.Name = name
	e.Metadata.Annotations = map[string]string{Annotation: repository}
	return e
}

// run lets a replica work builds until the test ends or stop is called.
func (s *site) run(r *service) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := r.work(ctx); err != nil {
			s.t.Errorf("work ended: %v", err)
		}
	}()
	stop = func() { cancel(); <-done }
	s.t.Cleanup(stop)
	return stop
}

// open opens a provider "ci" with a config that is changed by the test.
func (s *site) open(r *service, change func(*Config)) *provider.Provider {
	s.t.Helper()
	cfg := Config{Command: []string{"./build.sh"}, Repositories: []string{"file://" + s.roots + "/*"}, Isolation: None, WorkDir: s.work,
		Timeout: slipway.Duration(time.Minute), Parallel: 4, MaxOutput: 1 << 20, MaxDisk: 64 << 20, Depth: 1, Branches: []string{"main"}}
	if change != nil {
		change(&cfg)
	}
	raw, err := json.Marshal(cfg)
	if err != nil {
		s.t.Fatal(err)
	}
	p, err := r.openProvider(s.t.Context(), raw, provider.Env{Name: "ci", Now: time.Now})
	if err != nil {
		s.t.Fatal(err)
	}
	return p
}

var jane = slipway.Caller{Kind: slipway.CallerUser, Subject: "user:default/jane"}

func (s *site) start(p *provider.Provider, project, ref string) slipway.Build {
	s.t.Helper()
	b, err := p.Builds.Start(s.t.Context(), project, provider.StartOptions{Ref: ref}, jane)
	if err != nil {
		s.t.Fatal(err)
	}
	return *b
}

// ended waits for a build to end.
func (s *site) ended(p *provider.Provider, project, id string) (b slipway.Build) {
	s.t.Helper()
	eventually(s.t, "the build has ended", func() bool {
		var err error
		if b, err = p.Builds.Get(s.t.Context(), project, id); err != nil {
			s.t.Fatal(err)
		}
		return b.Status.Finished()
	})
	return b
}

func (s *site) text(p *provider.Provider, project, id string) string {
	s.t.Helper()
	log, err := p.Builds.Logs(s.t.Context(), project, id, false)
	if err != nil {
		s.t.Fatal(err)
	}
	defer log.Close()
	text, err := io.ReadAll(log)
	if err != nil {
		s.t.Fatal(err)
	}
	return string(text)
}

func TestABuildSucceeds(t *testing.T) {
	eachSite(t, func(t *testing.T, s *site) {
		project := s.repository("web", `echo "built $SLIPWAY_COMMIT on $SLIPWAY_BRANCH"`)
		sha := s.commit("web", `echo "built $SLIPWAY_COMMIT on $SLIPWAY_BRANCH"`)
		r := s.replica()
		p := s.open(r, nil)
		s.run(r)
		started := s.start(p, project, "main")
		if started.Status != slipway.BuildStarting || started.Commit.SHA != sha || started.Number != 1 || started.Attempt != 1 {
			t.Errorf("started: got %+v", started)
		}
		b := s.ended(p, project, started.ID)
		if b.Status != slipway.BuildSucceeded || b.Detail != "exit status 0" || b.Trigger != slipway.TriggerManual || b.Retriggerable {
			t.Errorf("got %+v", b)
		}
		if want := (slipway.Commit{SHA: sha, Message: "Change the build", Author: "Jane Doe", Branch: "main"}); *b.Commit != want {
			t.Errorf("got commit %+v, want %+v", *b.Commit, want)
		}
		if b.TriggeredBy == nil || b.TriggeredBy.EntityRef != "user:default/jane" || b.TriggeredBy.Name != "jane" {
			t.Errorf("triggered by %+v", b.TriggeredBy)
		}
		if want := "http://slipway.example.com/api/build/by-entity/component:default/web/builds/ci:" + b.ID + "/logs"; b.URL != want {
			t.Errorf("got page %s, want %s", b.URL, want)
		}
		if b.StartedAt == nil || b.FinishedAt == nil || b.DurationSeconds == nil || b.StartedAt.Before(b.CreatedAt) {
			t.Errorf("times: %v %v %v %v", b.CreatedAt, b.StartedAt, b.FinishedAt, b.DurationSeconds)
		}
		log := s.text(p, project, b.ID)
		for _, want := range []string{"build 1 of " + project, "commit " + sha + " by Jane Doe: Change the build", "running ./build.sh", "built " + sha + " on main\n", "exit status 0"} {
			if !strings.Contains(log, want) {
				t.Errorf("no %q in the log:\n%s", want, log)
			}
		}
		eventually(t, "the build's folder is gone", func() bool {
			_, err := os.Stat(filepath.Join(s.work, b.ID))
			return errors.Is(err, os.ErrNotExist)
		})
		var states []slipway.BuildStatus
		eventually(t, "the index was told of the end", func() bool { // which comes after the commit that the end was read from
			s.mu.Lock()
			defer s.mu.Unlock()
			states = nil
			for _, b := range s.seen {
				states = append(states, b.Status)
			}
			return slices.Contains(states, slipway.BuildSucceeded)
		})
		if want := []slipway.BuildStatus{slipway.BuildStarting, slipway.BuildRunning, slipway.BuildRunning, slipway.BuildSucceeded}; !slices.Equal(states, want) {
			t.Errorf("the index saw %v, want %v", states, want)
		}
	})
}

func TestBuildsThatFail(t *testing.T) {
	eachSite(t, func(t *testing.T, s *site) {
		r := s.replica()
		p := s.open(r, func(c *Config) {
			c.Timeout, c.MaxOutput, c.MaxDisk, c.Parallel = slipway.Duration(6*time.Second), 64<<10, 4<<20, 9
		})
		s.run(r)
		cases := map[string]struct{ script, detail, log string }{
			"exit":    {"echo no; exit 3", "exit status 3", "no\n"},
			"signal":  {"kill -9 $$", "exit status 137", ""},
			"endless": {"while :; do echo more; done", reasonOutput, "it printed more than 64KiB"},
			"full":    {"head -c 100000000 /dev/zero >big; sleep 1000", reasonDisk, "it took more than 4MiB of disk"},
			"deaf":    {"trap '' TERM; setsid sh -c 'trap \"\" TERM; sleep 1000' & while :; do sleep 1000; done", reasonTimeout, "it took longer than 6s"},
			"bomb":    {"f() { [ $1 = 0 ] && exec sleep 1000; f $(($1-1)) & f $(($1-1)) & wait; }; f 5", reasonTimeout, "it took longer"},
			"huge":    {"# " + strings.Repeat("x", 6<<20), "clone: ", "clone: "},
			"nosuch":  {"exec nosuchcommand", "exit status 127", "not found"},
			"moved":   {"mv build.sh other.sh; exec ./build.sh", "exit status 127", ""},
		}
		started := map[string]slipway.Build{}
		for name, c := range cases {
			started[name] = s.start(p, s.repository(name, c.script), "")
		}
		for name, c := range cases {
			project := "file://" + filepath.Join(s.roots, name)
			b := s.ended(p, project, started[name].ID)
			if b.Status != slipway.BuildFailed || !strings.HasPrefix(b.Detail, c.detail) || !b.Retriggerable {
				t.Errorf("%s: got status %s, detail %q; want failed, %q", name, b.Status, b.Detail, c.detail)
			}
			if log := s.text(p, project, b.ID); !strings.Contains(log, c.log) {
				t.Errorf("%s: no %q in the log:\n%s", name, c.log, log[max(0, len(log)-1000):])
			}
		}
	})
}

func TestWhatCannotBeStarted(t *testing.T) {
	eachSite(t, func(t *testing.T, s *site) {
		web := s.repository("web", "exit 0")
		r := s.replica()
		p := s.open(r, nil)
		outside := t.TempDir()
		for _, c := range []struct {
			project, ref, pipeline string
			want                   slipway.Code
		}{
			{web, "--upload-pack=touch " + outside + "/x", "", slipway.Invalid},
			{web, "main..other", "", slipway.Invalid},
			{web, "nosuchbranch", "", slipway.NotFound},
			{web, "", "deploy", slipway.NotFound},
			{"file://" + s.roots + "/missing", "", "", slipway.NotFound},
			{"file://" + outside, "", "", slipway.NotFound},
			{"file://" + s.roots + "/../../etc", "", "", slipway.NotFound},
			{"ext::sh -c touch% " + outside + "/x", "", "", slipway.NotFound},
			{"https://elsewhere.example.com/x", "", "", slipway.NotFound},
		} {
			_, err := p.Builds.Start(t.Context(), c.project, provider.StartOptions{Ref: c.ref, Pipeline: c.pipeline}, jane)
			if !errors.Is(err, c.want) {
				t.Errorf("start of %s at %q: got %v, want %s", c.project, c.ref, err, c.want)
			}
		}
		if files, _ := os.ReadDir(outside); len(files) > 0 {
			t.Errorf("a hostile value ran a command: %v", files)
		}
	})
}

func TestTooManyWaitingBuildsAreRefused(t *testing.T) {
	eachSite(t, func(t *testing.T, s *site) {
		web := s.repository("web", "exit 0")
		r := s.replica()
		r.maxWaiting = 2
		p := s.open(r, nil)
		s.start(p, web, "")
		s.start(p, web, "")
		if _, err := p.Builds.Start(t.Context(), web, provider.StartOptions{}, jane); !errors.Is(err, slipway.RateLimited) {
			t.Errorf("got %v, want rate limited", err)
		}
	})
}

func TestARepositoryThatVanishesFailsItsBuild(t *testing.T) {
	eachSite(t, func(t *testing.T, s *site) {
		web := s.repository("web", "exit 0")
		r := s.replica()
		p := s.open(r, nil)
		b := s.start(p, web, "")
		if err := os.RemoveAll(filepath.Join(s.roots, "web")); err != nil {
			t.Fatal(err)
		}
		s.run(r)
		want := "clone: there is no git repository at " + web // as it was named, which says nothing else of the server
		if b := s.ended(p, web, b.ID); b.Status != slipway.BuildFailed || b.Detail != want {
			t.Errorf("got %s, %q, want %q", b.Status, b.Detail, want)
		}
	})
}

func TestARepositoryThatHangsHoldsNobodyUp(t *testing.T) {
	eachSite(t, func(t *testing.T, s *site) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close() // it takes connections and never says a word
		r := s.replica("git://" + l.Addr().String() + "/*")
		r.resolveWithin = 50 * time.Millisecond
		p := s.open(r, func(c *Config) {
			c.Repositories = []string{"git://" + l.Addr().String() + "/*"}
			c.Timeout = slipway.Duration(300 * time.Millisecond)
		})
		s.run(r)
		project := "git://" + l.Addr().String() + "/web"
		b := s.start(p, project, "main")
		if b.Commit != nil {
			t.Errorf("got commit %+v of a repository that says nothing", b.Commit)
		}
		if b := s.ended(p, project, b.ID); b.Status != slipway.BuildFailed || b.Detail != reasonTimeout {
			t.Errorf("got %s, %q; want a timeout", b.Status, b.Detail)
		}
	})
}

func TestABuildRunsAsTheUserThatWasNamed(t *testing.T) {
	onLinux(t)
	if os.Getuid() != 0 {
		t.Skip("only root can become another user")
	}
	eachSite(t, func(t *testing.T, s *site) {
		r := s.replica()
		r.dataDir = t.TempDir()
		key := filepath.Join(r.dataDir, "master.key")
		if err := errors.Join(os.Chmod(r.dataDir, 0o700), os.WriteFile(key, []byte("treasure"), 0o644)); err != nil {
			t.Fatal(err)
		}
		web := s.repository("web", "id -un; touch made; cat "+key+" || echo kept out")
		readyFor(t, filepath.Join(s.work, "build"))
		p := s.open(r, func(c *Config) { c.Isolation, c.RunAs = "", "nobody" })
		s.run(r)
		b := s.ended(p, web, s.start(p, web, "").ID)
		if log := s.text(p, web, b.ID); b.Status != slipway.BuildSucceeded || !strings.Contains(log, "nobody\n") || !strings.Contains(log, "kept out\n") {
			t.Errorf("got %s, %s:\n%s", b.Status, b.Detail, log)
		}
	})
}

func TestCancel(t *testing.T) {
	eachSite(t, func(t *testing.T, s *site) {
		web := s.repository("web", "echo started; sleep 1000")
		r := s.replica()
		p := s.open(r, func(c *Config) { c.Parallel = 1 })
		waiting := s.start(p, web, "")
		if err := p.Builds.Cancel(t.Context(), web, waiting.ID); err != nil {
			t.Fatal(err)
		}
		if b := s.ended(p, web, waiting.ID); b.Status != slipway.BuildCanceled || b.StartedAt != nil {
			t.Errorf("a waiting build: got %+v", b)
		}
		running := s.start(p, web, "")
		s.run(r)
		s.says(p, web, running.ID, "started\n")
		if err := p.Builds.Cancel(t.Context(), web, running.ID); err != nil {
			t.Fatal(err)
		}
		if b := s.ended(p, web, running.ID); b.Status != slipway.BuildCanceled || b.Detail != reasonCanceled || !b.Retriggerable {
			t.Errorf("a running build: got %+v", b)
		}
		if err := p.Builds.Cancel(t.Context(), web, running.ID); !errors.Is(err, slipway.Conflict) {
			t.Errorf("a build that has ended: got %v, want a conflict", err)
		}
	})
}

// says waits until a build's log holds a text.
func (s *site) says(p *provider.Provider, project, id, text string) {
	s.t.Helper()
	eventually(s.t, "the log says "+text, func() bool { return strings.Contains(s.text(p, project, id), text) })
}

func TestABuildIsCanceledFromAnotherReplica(t *testing.T) {
	eachSite(t, func(t *testing.T, s *site) {
		web := s.repository("web", "echo started; sleep 1000")
		worker, other := s.replica(), s.replica()
		worker.lease = time.Second
		s.open(worker, nil)
		p := s.open(other, nil)
		s.run(worker)
		b := s.start(p, web, "")
		s.says(p, web, b.ID, "started\n")
		if err := p.Builds.Cancel(t.Context(), web, b.ID); err != nil {
			t.Fatal(err)
		}
		if b := s.ended(p, web, b.ID); b.Status != slipway.BuildCanceled {
			t.Errorf("got %s", b.Status)
		}
	})
}

func TestARetriggerBuildsTheSameCommitAgain(t *testing.T) {
	eachSite(t, func(t *testing.T, s *site) {
		web := s.repository("web", "exit 1")
		r := s.replica()
		p := s.open(r, nil)
		s.run(r)
		first := s.ended(p, web, s.start(p, web, "main").ID)
		s.commit("web", "exit 0")
		queued, err := p.Builds.Retrigger(t.Context(), web, first.ID, nil, slipway.Caller{Kind: slipway.CallerService, Subject: "token:bot"})
		if err != nil {
			t.Fatal(err)
		}
		second := s.ended(p, web, queued.ID)
		if second.ID == first.ID || second.Number != first.Number || second.Attempt != 2 || second.Commit.SHA != first.Commit.SHA || second.Commit.Branch != "main" {
			t.Errorf("got %+v after %+v", second, first)
		}
		if second.Status != slipway.BuildFailed || second.Trigger != slipway.TriggerRetry || second.TriggeredBy.ID != "token:bot" {
			t.Errorf("got %+v", second)
		}
		if third := s.ended(p, web, s.start(p, web, "main").ID); third.Number != 2 || third.Status != slipway.BuildSucceeded {
			t.Errorf("the next build: got %+v", third)
		}
	})
}

func TestALogIsFollowedWhileItGrows(t *testing.T) {
	eachSite(t, func(t *testing.T, s *site) {
		gate := filepath.Join(t.TempDir(), "gate")
		web := s.repository("web", "echo one; while [ ! -e "+gate+" ]; do sleep 0.01; done; echo two")
		worker, other := s.replica(), s.replica()
		s.open(worker, nil)
		p := s.open(other, nil)
		s.run(worker)
		b := s.start(p, web, "")
		log, err := p.Builds.Logs(t.Context(), web, b.ID, true)
		if err != nil {
			t.Fatal(err)
		}
		defer log.Close()
		var got strings.Builder
		for buf := make([]byte, 4096); !strings.Contains(got.String(), "one\n"); {
			n, err := log.Read(buf)
			if err != nil {
				t.Fatal(err)
			}
			got.Write(buf[:n])
		}
		if err := os.WriteFile(gate, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		rest, err := io.ReadAll(log)
		if err != nil || !strings.Contains(string(rest), "two\n") || !strings.Contains(string(rest), "exit status 0") {
			t.Errorf("got %q, %v", rest, err)
		}
	})
}

func TestSecretsAreBlottedOutInLogs(t *testing.T) {
	eachSite(t, func(t *testing.T, s *site) {
		s.redact.Add("correct-horse-battery")
		web := s.repository("web", "printf 'key is correct-horse'; sleep 0.3; echo '-battery!'")
		r := s.replica()
		p := s.open(r, nil)
		s.run(r)
		b := s.ended(p, web, s.start(p, web, "").ID)
		if log := s.text(p, web, b.ID); strings.Contains(log, "correct-horse") || !strings.Contains(log, "<redacted>!") {
			t.Errorf("got\n%s", log)
		}
	})
}

func TestOnlySoManyRunAtTheSameTime(t *testing.T) {
	eachSite(t, func(t *testing.T, s *site) {
		dir := t.TempDir()
		web := s.repository("web", "touch "+dir+"/$SLIPWAY_BUILD_NUMBER; ls "+dir+" | wc -l; sleep 0.1; rm "+dir+"/$SLIPWAY_BUILD_NUMBER")
		r := s.replica()
		p := s.open(r, func(c *Config) { c.Parallel = 2 })
		var builds []slipway.Build
		for range 6 {
			builds = append(builds, s.start(p, web, ""))
		}
		s.run(r)
		for i, b := range builds {
			if b.Number != int64(i+1) {
				t.Errorf("build %d has number %d", i+1, b.Number)
			}
			if b = s.ended(p, web, b.ID); b.Status != slipway.BuildSucceeded {
				t.Errorf("got %+v", b)
			}
			for line := range strings.Lines(s.text(p, web, b.ID)) {
				if line == "3\n" || line == "4\n" {
					t.Errorf("%s builds ran at the same time", strings.TrimSpace(line))
				}
			}
		}
	})
}

func TestReplicasShareTheWorkAndRunNothingTwice(t *testing.T) {
	eachSite(t, func(t *testing.T, s *site) {
		dir := t.TempDir()
		web := s.repository("web", "mkdir "+dir+"/$SLIPWAY_BUILD_ID || exit 9")
		a, b := s.replica(), s.replica()
		p := s.open(a, nil)
		s.open(b, nil)
		if s.db.Engine() == store.SQLite {
			b.replica = a.replica // one server has one name there
		}
		s.run(a)
		s.run(b)
		var builds []slipway.Build
		for range 12 {
			builds = append(builds, s.start(p, web, ""))
		}
		for _, b := range builds {
			if b := s.ended(p, web, b.ID); b.Status != slipway.BuildSucceeded {
				t.Errorf("got %s, %s", b.Status, b.Detail)
			}
		}
		if ran, _ := os.ReadDir(dir); len(ran) != len(builds) {
			t.Errorf("%d builds ran, want %d", len(ran), len(builds))
		}
	})
}

func TestAStoppedServerInterruptsItsBuilds(t *testing.T) {
	eachSite(t, func(t *testing.T, s *site) {
		web := s.repository("web", "echo started; sleep 1000")
		r := s.replica()
		p := s.open(r, nil)
		stop := s.run(r)
		b := s.start(p, web, "")
		s.says(p, web, b.ID, "started\n")
		stop()
		got, err := p.Builds.Get(t.Context(), web, b.ID)
		if err != nil || got.Status != slipway.BuildFailed || got.Detail != reasonInterrupted {
			t.Errorf("got %+v, %v", got, err)
		}
		if log := s.text(p, web, b.ID); !strings.Contains(log, "interrupted: the server stopped") {
			t.Errorf("the log does not say so:\n%s", log)
		}
		s.commit("web", "exit 0")
		again := s.replica()
		p = s.open(again, nil)
		s.run(again)
		s.ended(p, web, s.start(p, web, "").ID)
		if after, err := p.Builds.Get(t.Context(), web, b.ID); err != nil || !after.FinishedAt.Equal(*got.FinishedAt) {
			t.Errorf("after a restart: got %+v, %v; want it left alone", after, err)
		}
	})
}

func TestALostReplicasBuildIsClosedByAnother(t *testing.T) {
	eachSite(t, func(t *testing.T, s *site) {
		web := s.repository("web", "exit 0")
		gone, next := s.replica(), s.replica()
		p := s.open(gone, nil)
		gone.lease = time.Millisecond
		next.lease = 300 * time.Millisecond
		b := s.start(p, web, "")
		// It claims the build and is never heard of again.
		if err := s.db.Write(t.Context(), func(tx *store.Tx) error { _, err := gone.claimBuild(t.Context(), tx, "ci"); return err }); err != nil {
			t.Fatal(err)
		}
		s.run(next)
		if got := s.ended(p, web, b.ID); got.Status != slipway.BuildFailed || got.Detail != reasonInterrupted {
			t.Errorf("got %+v", got)
		}
		s.says(p, web, b.ID, "the server that ran it is gone")
		// Should it come back, it changes nothing.
		zero := 0
		err := s.db.Write(t.Context(), func(tx *store.Tx) error {
			_, err := gone.endBuild(t.Context(), tx, b.ID, outcome{status: slipway.BuildSucceeded, detail: "late", exitCode: &zero})
			return err
		})
		if !errors.Is(err, slipway.NotFound) {
			t.Errorf("a late end: got %v, want not found", err)
		}
		err = s.db.Write(t.Context(), func(tx *store.Tx) error { return gone.appendLog(t.Context(), tx, b.ID, 99, []byte("late")) })
		if !errors.Is(err, slipway.NotFound) {
			t.Errorf("a late line: got %v, want not found", err)
		}
	})
}

func TestABuildWhoseLeaseWasLostIsEnded(t *testing.T) {
	eachSite(t, func(t *testing.T, s *site) {
		web := s.repository("web", "echo started; sleep 1000")
		r := s.replica()
		r.lease = 400 * time.Millisecond
		p := s.open(r, nil)
		s.run(r)
		b := s.start(p, web, "")
		s.says(p, web, b.ID, "started\n")
		other := s.replica()
		err := s.db.Write(t.Context(), func(tx *store.Tx) error { _, err := other.interruptOne(t.Context(), tx, true); return err })
		if err != nil {
			t.Fatal(err)
		}
		eventually(t, "the build's folder is gone", func() bool {
			_, err := os.Stat(filepath.Join(s.work, b.ID))
			return errors.Is(err, os.ErrNotExist)
		})
		if got := s.ended(p, web, b.ID); got.Detail != reasonInterrupted {
			t.Errorf("got %+v", got)
		}
	})
}

// killed is a whole server, as a process of its own, that works builds until somebody kills it.
func killed(raw string) {
	var c struct{ URL, Roots, Work string }
	err := json.Unmarshal([]byte(raw), &c)
	var db *store.DB
	if err == nil {
		db, err = store.Open("main", c.URL)
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	cfg := fetch.DefaultConfig()
	cfg.FileRoots = []string{c.Roots}
	r := newService(db, time.Now)
	r.fetch, err = fetch.New(cfg)
	r.redact, r.log, r.dataDir = new(secret.Redactor), slog.New(slog.DiscardHandler), c.Work
	r.url = func() string { return "" }
	r.lease = time.Second // and a long grace: nobody waits for it once the server is gone
	r.observe = func(context.Context, *store.Tx, string, string, ...slipway.Build) error { return nil }
	r.annotated = func(context.Context, string, func(*slipway.Entity)) error { return nil }
	config, _ := json.Marshal(Config{Command: []string{"./build.sh"}, Repositories: []string{"file://" + c.Roots + "/*"}, Isolation: None, WorkDir: c.Work,
		Timeout: slipway.Duration(time.Minute), Parallel: 4, MaxOutput: 1 << 20, MaxDisk: 64 << 20})
	if err == nil {
		_, err = r.openProvider(context.Background(), config, provider.Env{Name: "ci"})
	}
	if err == nil {
		err = r.work(context.Background())
	}
	fmt.Println(err)
	os.Exit(1)
}

func TestAKilledServersBuildEndsInterruptedWithoutOrphans(t *testing.T) {
	onLinux(t)
	eachSite(t, func(t *testing.T, s *site) {
		web := s.repository("web", "trap '' TERM HUP PIPE; setsid sh -c 'trap \"\" TERM; while :; do sleep 1000; done' & echo started; while :; do sleep 1000; done")
		r := s.replica()
		r.lease = time.Second
		p := s.open(r, nil)
		b := s.start(p, web, "")

		address := s.db.URL()
		if s.db.Engine() == store.SQLite {
			address = "sqlite:" + address
		}
		config, err := json.Marshal(map[string]string{"URL": address, "Roots": s.roots, "Work": s.work})
		if err != nil {
			t.Fatal(err)
		}
		server := exec.Command("/proc/self/exe")
		server.Env = append(os.Environ(), "SLIPWAY_TEST_REPLICA="+string(config))
		var out strings.Builder
		server.Stdout = &out
		if err := server.Start(); err != nil {
			t.Fatal(err)
		}
		s.says(p, web, b.ID, "started\n")
		mark := "SLIPWAY_BUILD_ID=" + b.ID
		if len(living(mark)) < 2 {
			t.Errorf("processes %v of the build run, want several", living(mark))
		}
		if err := server.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		server.Wait()

		s.run(r)
		if got := s.ended(p, web, b.ID); got.Status != slipway.BuildFailed || got.Detail != reasonInterrupted {
			t.Errorf("got %+v; the server said %s", got, out.String())
		}
		eventually(t, "all processes of the build have ended", func() bool { return len(living(mark)) == 0 })
	})
}

func TestNewCommitsOfWatchedBranchesAreBuilt(t *testing.T) {
	eachSite(t, func(t *testing.T, s *site) {
		web := s.repository("web", "exit 0")
		r := s.replica()
		p := s.open(r, func(c *Config) { c.Poll = slipway.Duration(10 * time.Second) })
		ci := r.opened["ci"]
		look := func() []slipway.Build {
			t.Helper()
			if err := s.db.Write(t.Context(), func(tx *store.Tx) error {
				_, err := tx.Exec(t.Context(), "UPDATE local_watch SET next = 0")
				return err
			}); err != nil {
				t.Fatal(err)
			}
			if err := ci.look(t.Context()); err != nil {
				t.Fatal(err)
			}
			page, err := p.Builds.List(t.Context(), web, provider.ListOptions{})
			if err != nil {
				t.Fatal(err)
			}
			return page.Items
		}
		if got := look(); len(got) != 0 {
			t.Errorf("what stood there at first was built: %+v", got)
		}
		if got := look(); len(got) != 0 {
			t.Errorf("nothing is new, but %+v", got)
		}
		sha := s.commit("web", "exit 0")
		look()
		got := look()
		if len(got) != 1 || got[0].Commit.SHA != sha || got[0].Trigger != slipway.TriggerPush || got[0].Commit.Branch != "main" {
			t.Fatalf("a new commit: got %+v, want one build of it", got)
		}
		s.run(r)
		if b := s.ended(p, web, got[0].ID); b.TriggeredBy == nil || b.TriggeredBy.Email != "jane@example.com" || b.TriggeredBy.Name != "Jane Doe" {
			t.Errorf("triggered by %+v, want the commit's author", b.TriggeredBy)
		}
	})
}

func TestOldBuildsArePrunedWithTheirLogs(t *testing.T) {
	eachSite(t, func(t *testing.T, s *site) {
		web := s.repository("web", "head -c 300000 /dev/zero | tr '\\0' x")
		r := s.replica()
		p := s.open(r, nil)
		s.run(r)
		old := s.ended(p, web, s.start(p, web, "").ID)
		if err := r.prune(t.Context()); err != nil {
			t.Fatal(err)
		}
		s.text(p, web, old.ID)
		pruner := s.replica()
		pruner.now = func() time.Time { return time.Now().Add(25 * time.Hour) }
		if err := pruner.prune(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, err := p.Builds.Get(t.Context(), web, old.ID); !errors.Is(err, slipway.NotFound) {
			t.Errorf("got %v, want it gone", err)
		}
		var chunks int
		if err := s.db.QueryRowContext(t.Context(), "SELECT COUNT(*) FROM local_log").Scan(&chunks); err != nil || chunks != 0 {
			t.Errorf("%d chunks of logs are left, %v", chunks, err)
		}
		if next := s.start(p, web, ""); next.Number != 2 {
			t.Errorf("the next build has number %d, want 2", next.Number)
		}
	})
}

func TestFoldersThatAKilledServerLeftAreRemoved(t *testing.T) {
	eachSite(t, func(t *testing.T, s *site) {
		web := s.repository("web", "exit 0")
		r := s.replica()
		p := s.open(r, nil)
		s.run(r)
		ended := s.ended(p, web, s.start(p, web, "").ID)
		waits := s.replica()
		waits.now = func() time.Time { return time.Now().Add(time.Hour) }
		s.open(waits, nil)
		foreign := "0198c2f0-0000-7000-8000-000000000000"
		long := time.Now().Add(-time.Hour)
		for _, id := range []string{ended.ID, foreign} {
			dir := filepath.Join(s.work, id)
			if err := errors.Join(os.MkdirAll(filepath.Join(dir, sourceDir), 0o700), os.Chtimes(dir, long, long)); err != nil {
				t.Fatal(err)
			}
		}
		waits.tidy(t.Context())
		if _, err := os.Stat(filepath.Join(s.work, ended.ID)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the folder of an ended build: %v, want it gone", err)
		}
		if _, err := os.Stat(filepath.Join(s.work, foreign)); err != nil {
			t.Errorf("a folder of something else: %v, want it left alone", err)
		}
	})
}

func TestConfigFaultsAreReportedTogether(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil)
	r := s.replica()
	_, err := r.openProvider(t.Context(), json.RawMessage(`{"repositories": ["git.example.com/*"], "parallel": 0, "poll": "1s", "colour": "red", "workDir": "here"}`), provider.Env{Name: "ci"})
	if !errors.Is(err, slipway.Invalid) {
		t.Fatalf("got %v, want invalid", err)
	}
	for _, want := range []string{"command", "repositories[0]", "parallel", "poll", "colour", "workDir", "isolation: none"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("no word of %s in: %v", want, err)
		}
	}
	for config, want := range map[string]string{
		`{"command": ["x"], "repositories": ["https://*"]}`:                                         "isolation: none",
		`{"command": ["x"], "repositories": ["https://*"], "isolation": "container"}`:               "isolation",
		`{"command": ["x"], "repositories": ["https://*"], "isolation": "none", "runAs": "nobody"}`: "contradicts",
		`{"command": ["x"], "repositories": ["https://*"], "runAs": "nobody-of-this-name"}`:         "there is no user",
		`{"command": ["x"], "isolation": "none"}`:                                                   "repositories",
	} {
		if _, err := r.openProvider(t.Context(), json.RawMessage(config), provider.Env{Name: "ci"}); !errors.Is(err, slipway.Invalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want a word of %q", config, err, want)
		}
	}
	shared := t.TempDir()
	if err := os.Chmod(shared, 0o777); err != nil {
		t.Fatal(err)
	}
	config := fmt.Sprintf(`{"command": ["x"], "repositories": ["https://*"], "isolation": "none", "workDir": %q}`, shared)
	if _, err := r.openProvider(t.Context(), json.RawMessage(config), provider.Env{Name: "ci"}); !errors.Is(err, slipway.Invalid) {
		t.Errorf("a folder that all may write to: got %v, want invalid", err)
	}
}

func TestOneProjectHasOneSpelling(t *testing.T) {
	t.Parallel()
	for raw, want := range map[string]string{
		"https://Git.Example.com:443/Team/web.git/": "https://git.example.com/Team/web.git",
		"file:///srv/git/web/":                      "file:///srv/git/web",
		"file://localhost/srv/git/web":              "file:///srv/git/web",
		"git://host:9418/x":                         "git://host/x",
		"http://127.0.0.1:7199/x":                   "http://127.0.0.1:7199/x",
		"https://user:secret@host/x":                "",
		"https://host/a/../b":                       "",
		"https://host/a/%2e%2e/b":                   "",
		"https://host/x?y":                          "",
		"https://host":                              "",
		"git@host:x":                                "",
		"ext::sh -c id":                             "",
		"/srv/git/web":                              "",
		"":                                          "",
	} {
		if got, _ := normalise(raw); got != want {
			t.Errorf("%q: got %q, want %q", raw, got, want)
		}
	}
}

func TestConformance(t *testing.T) {
	t.Parallel()
	for _, engine := range []store.Engine{store.SQLite, store.Postgres} {
		t.Run(string(engine), func(t *testing.T) {
			t.Parallel()
			providertest.Run(t, func(t *testing.T) providertest.Harness {
				s := newSite(t, storetest.Open(t, engine, Migrations))
				project := s.repository("web", "exit 0")
				p := s.open(s.replica(), nil)
				return providertest.Harness{
					Provider: p, Project: project, Missing: "https://elsewhere.example.com/x", Entity: *component("web", project),
					Add:  func(t testing.TB, b slipway.Build) (id string) { return s.add(t, project, b) },
					Move: func(t testing.TB, id string, status slipway.BuildStatus) { s.move(t, id, status) },
					Write: func(t testing.TB, id, text string) {
						s.write(t, func(ctx context.Context, tx *store.Tx) error { return appendLastWord(ctx, tx, id, text) })
					},
				}
			})
		})
	}
}

func (s *site) write(t testing.TB, f func(context.Context, *store.Tx) error) {
	t.Helper()
	if err := s.db.Write(context.Background(), func(tx *store.Tx) error { return f(context.Background(), tx) }); err != nil {
		t.Error(err)
	}
}

// add stores a build as if it had been run.
func (s *site) add(t testing.TB, project string, b slipway.Build) (id string) {
	t.Helper()
	now := b.CreatedAt
	if now.IsZero() {
		now = time.Now()
	}
	s.write(t, func(ctx context.Context, tx *store.Tx) error {
		r, err := insertBuild(ctx, tx, row{Provider: "ci", Project: project, Build: slipway.Build{Commit: b.Commit, TriggeredBy: b.TriggeredBy, Trigger: slipway.TriggerAPI}}, now)
		id = r.ID
		return err
	})
	status := b.Status
	if status == "" {
		status = slipway.BuildRunning
	}
	s.move(t, id, status)
	return id
}

func (s *site) move(t testing.TB, id string, status slipway.BuildStatus) {
	t.Helper()
	var started, finished store.Time
	if status != slipway.BuildStarting {
		started = store.At(time.Now())
	}
	if status.Finished() {
		finished = store.At(time.Now())
	}
	s.write(t, func(ctx context.Context, tx *store.Tx) error {
		_, err := tx.Exec(ctx, `UPDATE local_build SET status = $1, started = $2, finished = $3 WHERE id = $4`, status, started, finished, id)
		return err
	})
}

func TestSchemaGoesDownAndUp(t *testing.T) {
	t.Parallel()
	storetest.UpDownUp(t, Migrations)
}

func TestALinkNamesNoEntityOfARepositoryThatSeveralShare(t *testing.T) {
	eachSite(t, func(t *testing.T, s *site) {
		project := s.repository("shared", "true")
		r := s.replica()
		one := r.annotated
		r.annotated = func(ctx context.Context, value string, f func(*slipway.Entity)) error {
			f(&slipway.Entity{Kind: "Component", Metadata: slipway.EntityMetadata{Name: "secret"}})
			return one(ctx, value, f)
		}
		if b := s.start(s.open(r, nil), project, "main"); b.URL != "http://slipway.example.com/" {
			t.Errorf("got page %s", b.URL)
		}
	})
}
