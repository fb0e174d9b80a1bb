package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/fetch"
	"github.com/slipway-platform/slipway/store"
)

// work claims builds and runs them until the context ends; then it ends those that still run, as interrupted.
func (s *service) work(ctx context.Context) error {
	builds, interrupt := context.WithCancelCause(context.WithoutCancel(ctx))
	var running sync.WaitGroup
	defer running.Wait()
	defer interrupt(errInterrupted)

	// On SQLite there is one server: what another has left running, nobody runs.
	s.interrupt(ctx, s.db.Engine() == store.SQLite)

	look := time.NewTicker(lookEvery)
	defer look.Stop()
	sweep := time.NewTicker(s.lease / 3)
	defer sweep.Stop()
	tidied := time.Time{}
	for {
		if time.Since(tidied) > tidyEvery {
			s.tidy(ctx)
			tidied = time.Now()
		}
		s.claim(ctx, func(p *ci, r row) { running.Go(func() { s.execute(builds, p, r) }) })
		select {
		case <-ctx.Done():
			return nil
		case <-s.woken:
		case <-look.C:
		case <-sweep.C:
			s.interrupt(ctx, false)
		}
	}
}

// providers lists those that are open now.
func (s *service) providers() (all []*ci) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.opened {
		all = append(all, p)
	}
	return all
}

// claim hands out waiting builds for as long as there is room for them.
func (s *service) claim(ctx context.Context, begin func(*ci, row)) {
	for _, p := range s.providers() {
		for s.enter(p) {
			var r row
			any, err := waiting(ctx, s.db, p.name, 1)
			if err == nil && !any {
				s.leave(p)
				break
			}
			err = s.db.Write(ctx, func(tx *store.Tx) (err error) {
				if r, err = s.claimBuild(ctx, tx, p.name); err != nil {
					return err
				}
				return s.tell(ctx, tx, r)
			})
			if err != nil {
				s.leave(p)
				if !errors.Is(err, slipway.NotFound) {
					s.complain(ctx, "waiting builds were not claimed; trying again", err, "provider", p.name)
				}
				break
			}
			begin(p, r)
		}
	}
}

// enter takes one of a provider's places, if there is one.
func (s *service) enter(p *ci) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.busy[p.name] >= p.Parallel {
		return false
	}
	s.busy[p.name]++
	return true
}

func (s *service) leave(p *ci) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.busy[p.name]--
}

// stop ends a build that runs here.
func (s *service) stop(id string, cause error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if end := s.running[id]; end != nil {
		end(cause)
	}
}

func (s *service) complain(ctx context.Context, what string, err error, args ...any) {
	if ctx.Err() == nil {
		s.log.WarnContext(ctx, what, append(args, "error", err)...)
	}
}

// outcome is how a build ended.
type outcome struct {
	status   slipway.BuildStatus
	detail   string
	exitCode *int
}

// execute runs a claimed build to its end.
func (s *service) execute(ctx context.Context, p *ci, r row) {
	ctx, end := context.WithCancelCause(ctx)
	s.mu.Lock()
	s.running[r.ID] = end
	s.mu.Unlock()
	alive, gone := context.WithCancel(context.WithoutCancel(ctx))
	var beating sync.WaitGroup
	beating.Go(func() { s.beat(alive, r.ID, end) })
	defer func() {
		gone()
		beating.Wait()
		s.mu.Lock()
		delete(s.running, r.ID)
		s.mu.Unlock()
		s.leave(p)
		s.wake()
		end(nil)
	}()

	log := &logWriter{ctx: ctx, service: s, id: r.ID}
	clean := s.redact.Writer(log)
	o := p.performSafely(ctx, r, clean)
	if err := clean.Close(); err != nil && !errors.Is(err, errNotOurs) {
		s.complain(ctx, "the end of a log was not kept", err, "build", r.ID)
	}
	err := s.insist(ctx, func(ctx context.Context) error {
		return s.db.Write(ctx, func(tx *store.Tx) error {
			r, err := s.endBuild(ctx, tx, r.ID, o)
			if err != nil {
				return err
			}
			return s.tell(ctx, tx, r)
		})
	})
	switch {
	case errors.Is(err, slipway.NotFound):
		s.log.WarnContext(ctx, "a build was closed by another replica while it ran here; its end is not kept", "build", r.ID)
	case err != nil:
		s.log.ErrorContext(ctx, "the end of a build was not kept; it will be closed as interrupted", "build", r.ID, "error", err)
	}
}

// beat renews the lease of a build until its context ends, and ends the build when somebody wants that or when the build must be
// taken for another's: the lease was lost, or could not be renewed for as long as it lasts.
func (s *service) beat(ctx context.Context, id string, end context.CancelCauseFunc) {
	tick := time.NewTicker(s.lease / 4)
	defer tick.Stop()
	renewed := time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		asked := time.Now()
		short, cancel := context.WithTimeout(ctx, s.lease/2)
		canceled, err := s.renew(short, id)
		cancel()
		switch {
		case ctx.Err() != nil:
			return
		case errors.Is(err, slipway.NotFound), err != nil && time.Since(renewed) > s.lease:
			end(errInterrupted)
		case err != nil:
			s.complain(ctx, "the lease of a build was not renewed; trying again", err, "build", id)
		default:
			renewed = asked
			if canceled {
				end(context.Canceled)
			}
		}
	}
}

// performSafely is perform, of which a panic ends the build and not the server.
func (p *ci) performSafely(ctx context.Context, r row, log io.Writer) (o outcome) {
	defer func() {
		if v := recover(); v != nil {
			p.log.ErrorContext(ctx, "a build met a fault of ours", "build", r.ID, "panic", v, "stack", string(debug.Stack()))
			o = outcome{status: slipway.BuildFailed, detail: "an internal fault; the server's log says more"}
		}
	}()
	return p.perform(ctx, r, log)
}

// perform does a build: it clones, runs the command and says how that went. The log begins with what is done.
func (p *ci) perform(ctx context.Context, r row, log io.Writer) outcome {
	ctx, cancel := context.WithTimeout(ctx, p.Timeout.Std())
	defer cancel()
	// ended tells the log of an end that the command did not choose.
	ended := func(reason string) outcome {
		status := slipway.BuildFailed
		switch reason {
		case reasonCanceled:
			status = slipway.BuildCanceled
			fmt.Fprintf(log, "slipway: canceled\n")
		case reasonTimeout:
			fmt.Fprintf(log, "slipway: ended: it took longer than %s\n", p.Timeout)
		case reasonOutput:
			fmt.Fprintf(log, "\nslipway: ended: it printed more than %s\n", p.MaxOutput)
		case reasonDisk:
			fmt.Fprintf(log, "slipway: ended: it took more than %s of disk\n", p.MaxDisk)
		case reasonInterrupted:
			fmt.Fprintf(log, "slipway: interrupted: the server stopped\n")
		}
		return outcome{status: status, detail: reason}
	}
	failed := func(what string, err error) outcome {
		if ctx.Err() != nil {
			return ended(reasonOf(ctx))
		}
		sentence := "an internal fault; the server's log says more"
		if coded, ok := errors.AsType[*slipway.Error](err); ok && coded.Code != slipway.Internal {
			sentence = coded.Message
		} else {
			p.log.ErrorContext(ctx, "a build could not be run", "build", r.ID, "step", what, "error", err)
		}
		fmt.Fprintf(log, "slipway: %s: %s\n", what, sentence)
		return outcome{status: slipway.BuildFailed, detail: clip(what + ": " + sentence)}
	}

	ref := r.Ref
	if r.Commit != nil {
		ref = r.Commit.SHA
	}
	what := r.Project
	if r.Order.Tool != "" {
		what = fmt.Sprintf("component %s of tool %s, from %s", r.Order.Component, r.Order.Tool, r.Order.Repository)
	}
	fmt.Fprintf(log, "slipway: build %d of %s, attempt %d\n", r.Number, what, r.Attempt)
	fmt.Fprintf(log, "slipway: cloning %s\n", strings.TrimSpace(describe(r)))
	dir := filepath.Join(p.workDir, r.ID)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return failed("prepare", err)
	}
	defer func() {
		if err := removeAll(dir); err != nil {
			p.log.WarnContext(ctx, "the folder of a build was not removed", "folder", dir, "error", err)
		}
	}()
	checkout, err := p.fetch.Clone(ctx, fetch.CloneOptions{
		URL: r.repository(), Ref: ref, Dir: filepath.Join(dir, sourceDir), Depth: p.Depth, MaxBytes: int64(p.MaxDisk), Timeout: p.Timeout.Std(),
	})
	if err != nil {
		return failed("clone", err)
	}
	commit := slipway.Commit{SHA: checkout.Commit, Message: checkout.Subject, Author: checkout.Author, Branch: checkout.Branch + checkout.Tag}
	if r.Commit != nil {
		commit.Branch = r.Commit.Branch
	}
	err = p.insist(ctx, func(ctx context.Context) error {
		return p.db.Write(ctx, func(tx *store.Tx) error {
			r, err := p.recordCommit(ctx, tx, r.ID, commit, checkout.AuthorEmail)
			if err != nil {
				return err
			}
			return p.tell(ctx, tx, r)
		})
	})
	if err != nil {
		return failed("note the commit", err)
	}
	fmt.Fprintf(log, "slipway: commit %s by %s: %s\n", commit.SHA, commit.Author, commit.Message)
	fmt.Fprintf(log, "slipway: running %s\n", strings.Join(p.Command, " "))

	env := map[string]string{
		"SLIPWAY_BUILD_ID":     r.ID,
		"SLIPWAY_BUILD_NUMBER": strconv.FormatInt(r.Number, 10),
		"SLIPWAY_REPOSITORY":   r.repository(),
		"SLIPWAY_COMMIT":       commit.SHA,
		"SLIPWAY_BRANCH":       commit.Branch,
	}
	if r.Order.Tool != "" {
		env["SLIPWAY_TOOL"], env["SLIPWAY_COMPONENT"] = r.Order.Tool, r.Order.Component
	}
	for name, value := range p.Environment {
		env[name] = value
	}
	res, err := run(ctx, spec{
		Command: p.Command, Dir: dir, Env: env, RunAs: p.account,
		MaxOutput: int64(p.MaxOutput), MaxDisk: int64(p.MaxDisk), Grace: p.grace,
		Log: func(chunk []byte) error { _, err := log.Write(chunk); return err },
	})
	if err != nil {
		return failed("run", err)
	}
	if res.Reason != "" {
		return ended(res.Reason)
	}
	o := outcome{status: slipway.BuildSucceeded, detail: fmt.Sprintf("exit status %d", res.ExitCode), exitCode: &res.ExitCode}
	if res.ExitCode != 0 {
		o.status = slipway.BuildFailed
	}
	fmt.Fprintf(log, "slipway: %s after %s\n", o.detail, res.FinishedAt.Sub(res.StartedAt).Round(time.Millisecond))
	return o
}

// describe says what a build is made of, for its log.
func describe(r row) string {
	name := r.Ref
	if name == "" {
		name = "the default branch"
	}
	if r.Commit == nil || r.Commit.SHA == r.Ref {
		return name
	}
	return name + " at " + r.Commit.SHA
}

// clip keeps a detail short.
func clip(s string) string {
	if len(s) > 300 {
		s = strings.ToValidUTF8(s[:300], "") + "…"
	}
	return s
}

// interrupt closes running builds whose replica is gone.
func (s *service) interrupt(ctx context.Context, allButOurs bool) {
	if any, err := s.anyOthers(ctx); err == nil && !any {
		return
	}
	for ctx.Err() == nil {
		var r row
		err := s.db.Write(ctx, func(tx *store.Tx) (err error) {
			if r, err = s.interruptOne(ctx, tx, allButOurs); err != nil {
				return err
			}
			if err := appendLastWord(ctx, tx, r.ID, "slipway: interrupted: the server that ran it is gone\n"); err != nil {
				return err
			}
			return s.tell(ctx, tx, r)
		})
		if errors.Is(err, slipway.NotFound) {
			return
		}
		if err != nil {
			s.complain(ctx, "builds of lost replicas were not closed; trying again", err)
			return
		}
		s.log.WarnContext(ctx, "a build was interrupted: the replica that ran it is gone", "build", r.ID, "project", r.Project)
	}
}

// tidy removes the folders that killed servers have left. A folder is left alone while its build runs, and for a minute after
// that, as its supervisor may still be ending its processes.
func (s *service) tidy(ctx context.Context) {
	for _, p := range s.providers() {
		entries, err := os.ReadDir(p.workDir)
		if err != nil {
			s.complain(ctx, "folders of old builds were not removed", err)
			continue
		}
		for _, e := range entries {
			info, err := e.Info()
			if err != nil || !e.IsDir() || time.Since(info.ModTime()) < time.Minute {
				continue
			}
			over, err := isOver(ctx, s.db, e.Name(), s.now().Add(-time.Minute))
			if err == nil && over {
				err = removeAll(filepath.Join(p.workDir, e.Name()))
			}
			if err != nil {
				s.complain(ctx, "the folder of an old build was not removed", err, "folder", e.Name())
			}
		}
	}
}

// prune deletes builds that ended long ago.
func (s *service) prune(ctx context.Context) error {
	for {
		err := s.db.Write(ctx, func(tx *store.Tx) error { return pruneBuild(ctx, tx, s.now().Add(-s.keep)) })
		if errors.Is(err, slipway.NotFound) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
