package tool

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/auth"
	"github.com/slipway-platform/slipway/fetch"
	"github.com/slipway-platform/slipway/job"
	"github.com/slipway-platform/slipway/provider"
	"github.com/slipway-platform/slipway/store"
)

const (
	startsAtOnce = 8                // builds that one step starts, before it stores what became of them
	stepTime     = 20 * time.Second // after which a step gives its place to others
	maxList      = 500              // builds of a tool that are looked through for one to reuse
	maxWait      = 10 * time.Second // until a builder without room is asked again
	cancelTime   = time.Minute      // how long a builder is asked to cancel builds
	clockSkew    = time.Hour        // that a builder's clock may be off from ours
)

// texts that clients know.
const (
	textReused    = "Reusing existing build"
	textSkipped   = "Skipped due to previous failure"
	textCancelled = "The deployment was cancelled"
	textNoRunner  = "The builder of this installation does not run components"
)

// newDeployment is what a caller asks for.
type newDeployment struct {
	description          string
	forceBuild, forceRun bool
}

// create makes a deployment of the stored configuration. Its first step is a job of the same transaction.
func (s *service) create(ctx context.Context, tool string, o newDeployment) (Deployment, error) {
	stored, err := s.storage.Config(ctx, tool)
	if err != nil {
		return Deployment{}, err
	}
	name, _, err := s.builder("")
	if err != nil {
		return Deployment{}, err
	}
	before, err := s.deployments(ctx, tool)
	if err != nil {
		return Deployment{}, err
	}
	if err := s.oneActive(before); err != nil {
		return Deployment{}, err
	}
	cfg, err := readStored(stored.Document)
	if err != nil {
		return Deployment{}, err
	}
	if cfg.sourceURL != "" {
		if stored, cfg, err = s.readSource(ctx, stored, cfg); err != nil {
			return Deployment{}, err
		}
	}
	now := s.now()
	if n := len(before); n > 0 && !now.After(before[n-1].Created) {
		now = before[n-1].Created.Add(time.Microsecond) // the clock was put back; the order stays
	}
	d := Deployment{
		Tool: tool, ID: newID(tool, now), Created: now, Description: o.description, ForceBuild: o.forceBuild, ForceRun: o.forceRun,
		By: auth.CallerFrom(ctx).Subject, Builder: name, Status: Pending, Config: stored.Document,
	}
	for _, c := range cfg.components {
		k := Component{Name: c.name, ReuseFrom: c.reuseFrom, Build: BuildState{Status: BuildPending}, Run: RunState{Status: RunPending}}
		if c.reuseFrom != "" {
			k.Build = BuildState{Status: BuildSkipped, Detail: "Component re-uses build from " + c.reuseFrom}
		}
		d.Components = append(d.Components, k)
	}
	d, err = s.storage.Create(ctx, d, s.then(&d))
	if err != nil {
		return d, err
	}
	s.prune(ctx, append(before, d))
	return d, nil
}

// newID names a deployment: the tool, a date, and a number at random.
func newID(tool string, at time.Time) string {
	var b [4]byte
	_, _ = rand.Read(b[:]) // never fails, see its documentation
	return fmt.Sprintf("%s-deploy-%s-%05d", tool, at.UTC().Format("20060102150405"), binary.BigEndian.Uint32(b[:])%100_000)
}

// oneActive refuses a deployment while another one goes on.
func (s *service) oneActive(list []Deployment) error {
	if i := slices.IndexFunc(list, func(d Deployment) bool { return d.Status.Active() }); i >= 0 {
		return slipway.Errorf(slipway.Conflict, "There's already 1 running, the limit is 1. Wait for it to finish for now.")
	}
	return nil
}

// prune deletes the oldest deployments that are too many; what goes on stays.
func (s *service) prune(ctx context.Context, list []Deployment) {
	for _, d := range list[:max(0, len(list)-s.settings.Keep)] {
		if d.Status.Active() {
			continue
		}
		if _, err := s.discard(ctx, d.Tool, d.ID); err != nil && !errors.Is(err, slipway.NotFound) {
			s.log.WarnContext(ctx, "an old deployment was not deleted", "deployment", d.ID, "error", err)
		}
	}
}

// cancel asks for the end of a deployment. What it has not begun, it will not begin.
func (s *service) cancel(ctx context.Context, tool, id string) (Deployment, error) {
	return s.update(ctx, tool, id, func(d *Deployment) error {
		if d.Status != Pending && d.Status != Running {
			return slipway.Errorf(slipway.Conflict, "Deployment %s is %s; only one that is pending or running can be cancelled", d.ID, d.Status)
		}
		d.Status, d.Detail = Cancelling, "The deployment is being cancelled"
		return nil
	})
}

// errUnchanged says that there is nothing to store.
var errUnchanged = errors.New("nothing changed")

// update changes a deployment as it stands, settles what follows from that, and stores it with what belongs to it. Somebody else may change it at the
// same moment: then change is called again, with what they stored. An error of change stores nothing.
func (s *service) update(ctx context.Context, tool, id string, change func(d *Deployment) error) (Deployment, error) {
	for try := 0; ; try++ {
		d, err := s.storage.Deployment(ctx, tool, id)
		if err != nil {
			return d, err
		}
		before := d
		d.Components = slices.Clone(d.Components)
		err = change(&d)
		if errors.Is(err, errUnchanged) || err == nil && !before.Status.Active() { // one that has ended never changes again: another one may have seen it end first
			return before, nil
		}
		if err != nil {
			return before, err
		}
		s.settle(&d, s.now())
		d, err = s.storage.Update(ctx, d, s.then(&d))
		if errors.Is(err, slipway.Conflict) && try < 50 {
			continue
		}
		if err != nil {
			return before, err
		}
		s.changed.ring(tool)
		if !d.Status.Active() {
			s.log.InfoContext(ctx, "a deployment has ended", "deployment", d.ID, "status", d.Status)
		}
		return d, nil
	}
}

// then stores with a deployment what belongs to it: the job of its next step, the events of its news, and what ends builds that nobody waits for.
func (s *service) then(d *Deployment) Then {
	return func(ctx context.Context, tx *store.Tx, n News) error {
		if at, ok := s.nextStep(d); ok && ctx.Value(stepping{}) != (stepArgs{d.Tool, d.ID}) {
			if err := s.insertStep(ctx, tx, d.Tool, d.ID, at); err != nil {
				return err
			}
		}
		var told []Status
		if n.Created {
			told = append(told, Pending)
		}
		if n.Ended {
			told = append(told, d.Status)
			if args, some := d.loose(); some {
				if _, _, err := s.host.Jobs.Insert(ctx, tx, args, job.Insert{Unique: d.ID}); err != nil {
					return err
				}
			}
		}
		for _, status := range told {
			if err := s.tell(ctx, tx, d, status); err != nil {
				return err
			}
		}
		if n.Ended && slices.ContainsFunc(d.Components, func(c Component) bool { return c.Run.Status == RunSuccessful }) {
			_, _, err := s.host.Jobs.Insert(ctx, tx, tellArgs{Tool: d.Tool, ID: d.ID}, job.Insert{})
			return err
		}
		return nil
	}
}

// nextStep says when something is to be done about a deployment that no look at the builder does.
func (s *service) nextStep(d *Deployment) (at time.Time, needed bool) {
	switch d.Status {
	case Pending, Cancelling:
		return time.Time{}, true
	case Running:
	default:
		return time.Time{}, false
	}
	ended := true
	for _, c := range d.Components {
		if c.Build.Status.Ended() {
			continue
		}
		ended = false
		if c.Build.ID != "" {
			continue
		}
		if c.Build.due(s.now()) {
			return time.Time{}, true
		}
		if !needed || c.Build.Next.Before(at) {
			at, needed = *c.Build.Next, true
		}
	}
	return at, needed || ended // what is all built is to be run
}

func (s *service) insertStep(ctx context.Context, tx *store.Tx, tool, id string, at time.Time) error {
	_, _, err := s.host.Jobs.Insert(ctx, tx, stepArgs{Tool: tool, ID: id}, job.Insert{Unique: tool + "/" + id, At: at})
	return err
}

// settle draws the conclusions of what is known of a deployment.
func (s *service) settle(d *Deployment, now time.Time) {
	if d.Status != Pending && d.Status != Running {
		return
	}
	end := func(status Status, detail, runs string) {
		d.Status, d.Detail, d.Finished = status, detail, &now
		for i := range d.Components {
			c := &d.Components[i]
			c.Build.Next = nil
			if c.Run.Status == RunPending {
				c.Run = RunState{Status: RunSkipped, Detail: runs}
			}
		}
	}
	var failed, late []string
	open := false
	for i := range d.Components {
		c := &d.Components[i]
		if c.Build.Since != nil && now.Before(*c.Build.Since) {
			c.Build.Since = &now // the clock was put back
		}
		if !c.Build.Status.Ended() && c.Build.Since != nil && now.Sub(*c.Build.Since) > s.settings.BuildTimeout.Std() {
			late = append(late, c.Name)
			c.Build.Status = BuildFailed
			c.Build.Detail = textLate + s.settings.BuildTimeout.String()
			if c.Build.ID == "" {
				c.Build.Detail = textNoRoom + s.settings.BuildTimeout.String()
			}
		}
		switch {
		case !c.Build.Status.Ended():
			open = true
		case c.Build.Status == BuildFailed || c.Build.Status == BuildCancelled:
			failed = append(failed, c.Name)
		}
	}
	if d.Started != nil && now.Before(*d.Started) {
		d.Started = &now // the clock was put back
	}
	if limit := s.settings.Timeout.Std(); now.Sub(d.since()) > limit {
		for i := range d.Components {
			if b := &d.Components[i].Build; !b.Status.Ended() {
				b.Status, b.Detail = BuildCancelled, "The deployment took too long"
			}
		}
		end(TimedOut, fmt.Sprintf("The deployment took longer than %s", s.settings.Timeout), "The deployment took too long")
		return
	}
	switch {
	case open || d.Status == Pending:
	case len(late) > 0:
		end(Failed, "Some builds took too long to finish: "+names(late), textSkipped)
	case len(failed) > 0:
		end(Failed, "Some builds failed: "+names(failed), textSkipped)
	case !s.runs(d.Builder):
		end(Successful, "Finished at "+now.UTC().Format(time.RFC3339), textNoRunner)
	default:
		broken := slices.ContainsFunc(d.Components, func(c Component) bool { return c.Run.Status == RunFailed })
		left := slices.ContainsFunc(d.Components, func(c Component) bool { return c.Run.Status == RunPending })
		switch {
		case broken:
			end(Failed, "Some runs failed", textSkipped)
		case !left:
			end(Successful, "Finished at "+now.UTC().Format(time.RFC3339), "")
		}
	}
}

// since is when the time of a deployment began to run.
func (d *Deployment) since() time.Time {
	if d.Started != nil {
		return *d.Started
	}
	return d.Created
}

func names(list []string) string {
	if len(list) > 20 {
		return strings.Join(list[:20], ", ") + fmt.Sprintf(" and %d more", len(list)-20)
	}
	return strings.Join(list, ", ")
}

// loose names the builds of a deployment that may go on though it has ended: it timed out, or a build took too long. Where no id is stored, the builder may have begun one of
// which nobody heard.
func (d *Deployment) loose() (args releaseArgs, some bool) {
	args = releaseArgs{Tool: d.Tool, ID: d.ID, Builder: d.Builder}
	for _, c := range d.Components {
		switch {
		case c.ReuseFrom != "" || !(d.Status == TimedOut && c.Build.Status == BuildCancelled || c.Build.Status == BuildFailed && c.Build.late()):
		case c.Build.ID != "":
			args.Builds = append(args.Builds, c.Build.ID)
		default:
			args.Ordered = append(args.Ordered, c.Name)
		}
	}
	if len(args.Ordered) > 0 {
		args.Since = &d.Created
	}
	return args, len(args.Builds)+len(args.Ordered) > 0
}

// due says that it is time to try to start the build. What is to be waited for longer than anything is was written before the clock was put back.
func (b *BuildState) due(now time.Time) bool {
	return b.Next == nil || !b.Next.After(now) || b.Next.Sub(now) > maxWait
}

// The beginnings of what is said of builds that took too long.
const (
	textLate   = "The build took longer than "
	textNoRoom = "The builder had no room for the build within "
)

// late says that the build has failed because it took too long.
func (b *BuildState) late() bool {
	return strings.HasPrefix(b.Detail, textLate) || strings.HasPrefix(b.Detail, textNoRoom)
}

// stepArgs names a deployment that has something to be done.
type stepArgs struct {
	Tool string `json:"tool"`
	ID   string `json:"id"`
}

func (stepArgs) Kind() string { return "tool.step" }

// stepping is the key of a context for the step that it belongs to, which looks itself at what is next.
type stepping struct{}

// step does what is to be done about a deployment: each pass does one thing at the builder, which may be done twice, and stores what became of it. A
// pass that fails is repeated, here or on another replica.
func (s *service) step(ctx context.Context, a stepArgs) error {
	ctx = context.WithValue(auth.WithCaller(ctx, auth.System()), stepping{}, a)
	begun := time.Now()
	p := &pass{service: s, refs: map[string]resolved{}}
	for time.Since(begun) < stepTime {
		d, err := s.storage.Deployment(ctx, a.Tool, a.ID)
		switch {
		case errors.Is(err, slipway.NotFound):
			return nil
		case err != nil:
			return again(err)
		}
		at, needed := s.nextStep(&d)
		if !needed {
			if !d.Status.Active() {
				return s.releaseAll(ctx, &d)
			}
			before := d
			s.settle(&before, s.now())
			if before.Status.Active() {
				return nil
			}
		}
		if at.After(s.now()) {
			return s.db.Write(ctx, func(tx *store.Tx) error { return s.insertStep(ctx, tx, a.Tool, a.ID, at) })
		}
		if err := p.advance(ctx, &d); err != nil {
			return again(err)
		}
	}
	return s.db.Write(ctx, func(tx *store.Tx) error { return s.insertStep(ctx, tx, a.Tool, a.ID, time.Time{}) })
}

// releaseAll has the builder asked for builds of a deployment that has ended, where a run of the step before this one may have started some and died.
func (s *service) releaseAll(ctx context.Context, d *Deployment) error {
	if info, ok := job.FromContext(ctx); !ok || info.Attempt < 2 || d.Status == Successful {
		return nil
	}
	args := releaseArgs{Tool: d.Tool, ID: d.ID, Builder: d.Builder, Since: &d.Created}
	for _, c := range d.Components {
		if c.ReuseFrom == "" && c.Build.Status != BuildSuccessful {
			args.Ordered = append(args.Ordered, c.Name)
		}
	}
	return s.db.Write(ctx, func(tx *store.Tx) error {
		_, _, err := s.host.Jobs.Insert(ctx, tx, args, job.Insert{})
		return err
	})
}

// again makes an error one that the queue tries again, whatever its code says.
func again(err error) error {
	if err == nil {
		return nil
	}
	after := 2 * time.Second
	if e, ok := errors.AsType[*slipway.Error](err); ok && e.RetryAfter > 0 {
		after = min(e.RetryAfter, maxWait)
	}
	return slipway.Errorf(slipway.Unavailable, "a step of a deployment failed").WithCause(err).After(after)
}

// pass is what a run of a step remembers between its passes.
type pass struct {
	*service
	mu    sync.Mutex
	refs  map[string]resolved
	built []provider.ComponentBuild // what the tool has built before
	known bool
}

// objectID is the form of a full commit id.
var objectID = regexp.MustCompile(`^([0-9a-f]{40}|[0-9a-f]{64})$`)

type resolved struct {
	ref fetch.Ref
	err error
}

// advance does the next thing about an active deployment.
func (p *pass) advance(ctx context.Context, d *Deployment) error {
	switch d.Status {
	case Cancelling:
		return p.end(ctx, d)
	case Pending:
		now := p.now()
		_, err := p.update(ctx, d.Tool, d.ID, func(d *Deployment) error {
			if d.Status != Pending {
				return errUnchanged
			}
			d.Status, d.Started, d.Detail = Running, &now, "Started at "+now.UTC().Format(time.RFC3339)
			return nil
		})
		return err
	}
	now := p.now()
	var batch []int
	open := false
	for i, c := range d.Components {
		open = open || !c.Build.Status.Ended()
		if c.Build.ID == "" && !c.Build.Status.Ended() && c.Build.due(now) && len(batch) < startsAtOnce {
			batch = append(batch, i)
		}
	}
	switch {
	case len(batch) > 0:
		return p.start(ctx, d, batch)
	case !open:
		return p.run(ctx, d)
	}
	// Nothing but the time has changed.
	_, err := p.update(ctx, d.Tool, d.ID, func(*Deployment) error { return nil })
	return err
}

// start begins builds of a deployment, at the same time, and stores what became of them.
func (p *pass) start(ctx context.Context, d *Deployment, batch []int) error {
	cfg, err := readStored(d.Config)
	if err != nil {
		return err
	}
	_, b, err := p.builder(d.Builder)
	if err == nil && !p.known && !d.ForceBuild {
		p.built, err = b.List(ctx, provider.ComponentQuery{Tool: d.Tool, Limit: maxList})
		p.known = err == nil
	}
	states := make([]BuildState, len(batch))
	var wg sync.WaitGroup
	for n, i := range batch {
		state := d.Components[i].Build
		if state.Since == nil {
			now := p.now()
			state.Since = &now
		}
		if err != nil {
			states[n] = p.later(state, err)
			continue
		}
		wg.Go(func() { states[n] = p.begin(ctx, b, d, cfg.component(d.Components[i].Name), state) })
	}
	wg.Wait()
	if ctx.Err() != nil { // what was not done is no news; what was is found by its key
		return ctx.Err()
	}
	stored, err := p.update(ctx, d.Tool, d.ID, func(now *Deployment) error {
		if !now.Status.Active() {
			return errUnchanged
		}
		for n, i := range batch {
			if i < len(now.Components) && now.Components[i].Build.ID == "" && !now.Components[i].Build.Status.Ended() {
				now.Components[i].Build = states[n]
			}
		}
		return nil
	})
	if err != nil || stored.Status.Active() {
		return err
	}
	// It ended while its builds were started.
	var ids []string
	for _, state := range states {
		if state.ID != "" && !state.Status.Ended() {
			ids = append(ids, state.ID)
		}
	}
	if len(ids) == 0 {
		return nil
	}
	return p.db.Write(ctx, func(tx *store.Tx) error {
		_, _, err := p.host.Jobs.Insert(ctx, tx, releaseArgs{Tool: d.Tool, ID: d.ID, Builder: d.Builder, Builds: ids}, job.Insert{})
		return err
	})
}

// later is a build that has to wait because of an error, or has failed by it.
func (p *pass) later(state BuildState, err error) BuildState {
	wait := 2 * time.Second
	e, coded := errors.AsType[*slipway.Error](err)
	switch {
	case coded && e.Code == slipway.RateLimited:
		wait = min(cmp.Or(e.RetryAfter, 5*time.Second), maxWait)
		state.Detail = "Waiting for room at the builder: " + e.Message
	case coded && (e.Code == slipway.Unavailable || e.Code == slipway.Unauthenticated || e.Code == slipway.Forbidden):
		state.Detail = "Trying again: " + e.Message
	case coded && e.Code != slipway.Internal:
		state.Status, state.Detail, state.Next = BuildFailed, e.Message, nil
		return state
	default:
		state.Detail = "Trying again: the builder could not be asked"
		p.log.Warn("a build was not started; trying again", "error", err)
	}
	next := p.now().Add(wait)
	state.Next = &next
	return state
}

// orderKey names the build of a component in a deployment for good.
func orderKey(deployment, component string) string {
	sum := sha256.Sum256([]byte(deployment + "/" + component))
	return "d-" + hex.EncodeToString(sum[:20])
}

// ordered gives the builds of a list that go on and were started for components of a deployment, by id.
func ordered(list []provider.ComponentBuild, deployment string, components []string) (ids []string) {
	keys := make(map[string]bool, len(components))
	for _, c := range components {
		keys[orderKey(deployment, c)] = true
	}
	for _, b := range list {
		if keys[b.Order.Key] && !b.Status.Finished() {
			ids = append(ids, b.ID)
		}
	}
	return ids
}

// begin finds a build to reuse, or starts one.
func (p *pass) begin(ctx context.Context, b *provider.Builder, d *Deployment, c *component, state BuildState) BuildState {
	if c == nil {
		state.Status, state.Detail = BuildFailed, "The configuration of the deployment has no such component"
		return state
	}
	ref, err := p.resolve(ctx, c.repository, c.ref)
	if err != nil {
		return p.later(state, err)
	}
	key := orderKey(d.ID, c.name)
	state.Commit = ref.Commit
	if old := p.reusable(c, key, ref.Commit); old != nil {
		state = follow(state, *old, d.Tool, c.name, p.logCommand(d.Builder))
		state.Changed = old.Order.Key == key || !state.Status.Ended()
		if old.Order.Key != key && state.Status == BuildSuccessful {
			state.Status, state.Detail = BuildSkipped, textReused
		}
		return state
	}
	started, err := b.Start(ctx, provider.BuildOrder{
		Key: key, Tool: d.Tool, Component: c.name, Repository: c.repository, Ref: c.ref, Commit: ref.Commit,
		LatestVersions: c.latest, DeprecatedVersions: c.deprecated, By: slipway.Caller{Kind: callerKind(d.By), Subject: d.By},
	})
	if err != nil {
		return p.later(state, err)
	}
	state.Changed = true
	return follow(state, started, d.Tool, c.name, p.logCommand(d.Builder))
}

func callerKind(subject string) slipway.CallerKind {
	kind, _, _ := strings.Cut(subject, ":")
	switch kind {
	case "user":
		return slipway.CallerUser
	case "tool":
		return slipway.CallerTool
	}
	return slipway.CallerService
}

// resolve finds the commit of a ref, once for all components of a pass.
func (p *pass) resolve(ctx context.Context, repository, ref string) (fetch.Ref, error) {
	if commit := strings.ToLower(ref); objectID.MatchString(commit) { // it stands for itself: nobody has to be asked
		return fetch.Ref{Commit: commit, Kind: fetch.Commit, Name: commit}, p.host.Fetch.CheckURL(repository)
	}
	key := repository + " " + ref
	p.mu.Lock()
	known, ok := p.refs[key]
	p.mu.Unlock()
	if ok {
		return known.ref, known.err
	}
	found, err := p.host.Fetch.ResolveRef(ctx, repository, ref)
	if err == nil || !errors.Is(err, slipway.Unavailable) && ctx.Err() == nil {
		p.mu.Lock()
		p.refs[key] = resolved{found, err}
		p.mu.Unlock()
	}
	return found, err
}

// reusable is the newest build that is what a component would be built to: the deployment's own, one that has succeeded, or one that goes on.
func (p *pass) reusable(c *component, key, commit string) *provider.ComponentBuild {
	for i := range p.built {
		b := &p.built[i]
		if b.Order.Key == key {
			return b
		}
		if b.Order.Component != c.name || b.Commit == nil || b.Commit.SHA != commit || b.Order.LatestVersions != c.latest || b.Order.DeprecatedVersions != c.deprecated ||
			sameRepository(b.Order.Repository) != sameRepository(c.repository) {
			continue
		}
		switch b.Status {
		case slipway.BuildSucceeded, slipway.BuildStarting, slipway.BuildRunning:
			return b
		}
	}
	return nil
}

// sameRepository writes the addresses of one repository the same.
func sameRepository(address string) string {
	scheme, rest, _ := strings.Cut(address, "://")
	host, path, _ := strings.Cut(rest, "/")
	return strings.ToLower(scheme) + "://" + strings.ToLower(host) + "/" + strings.TrimSuffix(strings.TrimRight(path, "/"), ".git")
}

// follow is the state of a build that stands at its builder.
func follow(state BuildState, b provider.ComponentBuild, tool, component, logs string) BuildState {
	state.ID, state.Next, state.Image = b.ID, nil, cmp.Or(b.Image, state.Image)
	if b.Commit != nil {
		state.Commit = cmp.Or(b.Commit.SHA, state.Commit)
	}
	status, detail := BuildUnknown, b.Detail
	switch b.Status {
	case slipway.BuildStarting:
		status = BuildPending
	case slipway.BuildRunning:
		status = BuildRunning
	case slipway.BuildSucceeded:
		status = BuildSuccessful
		detail = "You can see the logs with `" + strings.NewReplacer("{tool}", tool, "{component}", component, "{id}", b.ID).Replace(logs) + "`"
	case slipway.BuildFailed:
		status = BuildFailed
		detail = strings.TrimSuffix("The build failed: "+b.Detail, ": ")
	case slipway.BuildCanceled:
		status, detail = BuildFailed, "The build was cancelled"
	case slipway.BuildSkipped:
		status, detail = BuildFailed, "The builder skipped the build"
	}
	state.Status, state.Detail = status, detail
	return state
}

// run runs what was built, one component after the other in the order of the configuration. The first failure ends it.
func (p *pass) run(ctx context.Context, d *Deployment) error {
	i := slices.IndexFunc(d.Components, func(c Component) bool { return c.Run.Status == RunPending })
	runner, err := p.runner(d.Builder)
	if err != nil {
		return err
	}
	if i < 0 || runner == nil {
		_, err := p.update(ctx, d.Tool, d.ID, func(*Deployment) error { return nil }) // settled by what is known
		return err
	}
	cfg, err := readStored(d.Config)
	if err != nil {
		return err
	}
	c := d.Components[i]
	built := c.Build
	if c.ReuseFrom != "" {
		if j := slices.IndexFunc(d.Components, func(o Component) bool { return o.Name == c.ReuseFrom }); j >= 0 {
			built = d.Components[j].Build
		}
	}
	order := provider.RunOrder{Tool: d.Tool, Component: c.Name, Image: built.Image, Restart: d.ForceRun || built.Changed, Fields: map[string]json.RawMessage{}}
	if k := cfg.component(c.Name); k != nil {
		order.Scheduled = k.kind == scheduled
		for name, value := range k.run {
			raw, err := value.MarshalJSON()
			if err != nil {
				return err
			}
			order.Fields[name] = raw
		}
	}
	result, err := runner.Run(ctx, order)
	state := RunState{Status: RunSuccessful, Detail: result.Message}
	if err != nil {
		e, coded := errors.AsType[*slipway.Error](err)
		if !coded || e.Code == slipway.Unavailable || e.Code == slipway.RateLimited || e.Code == slipway.Internal {
			return err // it is asked again
		}
		state = RunState{Status: RunFailed, Detail: e.Message}
	}
	_, err = p.update(ctx, d.Tool, d.ID, func(now *Deployment) error {
		if now.Status != Running || now.Components[i].Run.Status != RunPending {
			return errUnchanged
		}
		now.Components[i].Run = state
		return nil
	})
	return err
}

// end cancels the builds of a deployment, also those of which nobody has heard yet: their keys tell them.
func (p *pass) end(ctx context.Context, d *Deployment) error {
	ids := map[string]string{}                   // of builds that go on, by component
	over := map[string]provider.ComponentBuild{} // builds of which nobody had heard, and which have ended
	for _, c := range d.Components {
		if !c.Build.Status.Ended() && c.Build.ID != "" {
			ids[c.Name] = c.Build.ID
		}
	}
	_, b, err := p.builder(d.Builder)
	if err == nil {
		var list []provider.ComponentBuild
		list, err = b.List(ctx, provider.ComponentQuery{Tool: d.Tool, Since: d.Created.Add(-clockSkew)})
		for _, c := range d.Components {
			key := orderKey(d.ID, c.Name)
			for _, found := range list {
				switch {
				case found.Order.Key != key || c.Build.ID != "":
				case found.Status.Finished() && found.Status != slipway.BuildCanceled: // that one may have been cancelled by a run of this step before
					over[c.Name] = found
				default:
					ids[c.Name] = found.ID
				}
			}
		}
	}
	if err == nil {
		for _, id := range ids {
			if cerr := b.Cancel(ctx, d.Tool, id); cerr != nil && !errors.Is(cerr, slipway.Conflict) && !errors.Is(cerr, slipway.NotFound) {
				err = cerr
			}
		}
	}
	// A builder that does not let go is asked for a while, and not waited for.
	if err != nil && p.now().Sub(d.since()) < p.settings.Timeout.Std() && p.patient(ctx) {
		return err
	}
	now := p.now()
	_, err = p.update(ctx, d.Tool, d.ID, func(d *Deployment) error {
		if d.Status != Cancelling {
			return errUnchanged
		}
		d.Status, d.Detail, d.Finished = Cancelled, "Deployment was cancelled", &now
		for i := range d.Components {
			c := &d.Components[i]
			if found, ok := over[c.Name]; ok && !c.Build.Status.Ended() && c.Build.ID == "" {
				c.Build = follow(c.Build, found, d.Tool, c.Name, p.logCommand(d.Builder))
			}
			if !c.Build.Status.Ended() {
				c.Build.ID = cmp.Or(c.Build.ID, ids[c.Name])
				c.Build.Status, c.Build.Detail = BuildCancelled, textCancelled
			}
			c.Build.Next = nil
			if c.Run.Status == RunPending {
				c.Run = RunState{Status: RunSkipped, Detail: textCancelled}
			}
		}
		return nil
	})
	return err
}

// patient says whether this job may still be tried again: an attempt takes 2 seconds to 10.
func (p *pass) patient(ctx context.Context) bool {
	info, ok := job.FromContext(ctx)
	return ok && info.Attempt < int(cancelTime/(5*time.Second))
}

// releaseArgs names builds that nobody waits for any more.
type releaseArgs struct {
	Tool    string   `json:"tool"`
	ID      string   `json:"id"` // of the deployment
	Builder string   `json:"builder"`
	Builds  []string `json:"builds"` // by their ids

	// Ordered are components whose builds are found by their keys, among those since then.
	Ordered []string   `json:"ordered,omitempty"`
	Since   *time.Time `json:"since,omitempty"`
}

func (releaseArgs) Kind() string { return "tool.release" }

// release cancels builds that nobody waits for any more.
func (s *service) release(ctx context.Context, a releaseArgs) error {
	_, b, err := s.builder(a.Builder)
	if err != nil {
		return again(err)
	}
	builds := a.Builds
	if a.Since != nil {
		list, err := b.List(ctx, provider.ComponentQuery{Tool: a.Tool, Since: a.Since.Add(-clockSkew)})
		if err != nil {
			return again(err)
		}
		builds = append(builds, ordered(list, a.ID, a.Ordered)...)
	}
	for _, id := range builds {
		err := b.Cancel(ctx, a.Tool, id)
		if err != nil && !errors.Is(err, slipway.Conflict) && !errors.Is(err, slipway.NotFound) {
			return again(err)
		}
	}
	return nil
}
