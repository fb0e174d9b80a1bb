package task

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/provider"
	"github.com/slipway-platform/slipway/store"
)

// Standing is how a provider stands, as far as Slipway knows without asking the vendor.
type Standing struct {
	Name       string     `json:"name" doc:"Name of the provider" example:"github"`
	Type       string     `json:"type" doc:"Which vendor" example:"github"`
	Origin     string     `json:"origin" enum:"config,data" doc:"Where it is configured: the configuration file, or the Data API"`
	Visibility string     `json:"visibility" enum:"server,source" doc:"Who sees its items: whoever may read the entity, or of these only who may see the project at the vendor"`
	State      string     `json:"state" enum:"ok,failing,failed" doc:"failed: it could not be opened; failing: the last look at some of its projects failed"`
	Error      string     `json:"error,omitempty" doc:"Why it is not ok"`
	Projects   int64      `json:"projects" doc:"How many projects entities name at it"`
	Failing    int64      `json:"failing" doc:"At how many of them the last look failed"`
	Oldest     *time.Time `json:"oldest" nullable:"true" doc:"When the project that was read longest ago was read; null when one was never read, or there is none"`
	Webhook    *time.Time `json:"webhook" nullable:"true" doc:"When its last webhook was taken; null for never"`
}

// The states of a Standing.
const (
	standingOK      = "ok"
	standingFailing = "failing"
	standingFailed  = "failed"
)

// Standings lists the providers with how they stand, by name.
func (e *Engine) Standings(ctx context.Context) ([]Standing, error) {
	rows, err := e.DB.QueryContext(ctx, `SELECT s.provider, COUNT(*), COALESCE(SUM(CASE WHEN s.failures > 0 THEN 1 ELSE 0 END), 0), MIN(COALESCE(s.as_of, 0)),
		COALESCE(MAX(CASE WHEN s.failures > 0 THEN s.project || ': ' || s.error END), '') FROM task_source s
		WHERE EXISTS (SELECT 1 FROM task_binding b WHERE b.source_id = s.id AND NOT b.detached) GROUP BY s.provider`)
	if err != nil {
		return nil, store.Err(err)
	}
	found := map[string]Standing{}
	err = store.Each(rows, func(rows *sql.Rows) error {
		var s Standing
		var oldest int64
		if err := rows.Scan(&s.Name, &s.Projects, &s.Failing, &oldest, &s.Error); err != nil {
			return err
		}
		if oldest > 0 {
			s.Oldest = new(time.UnixMicro(oldest).UTC())
		}
		found[s.Name] = s
		return nil
	})
	if err != nil {
		return nil, err
	}
	hooks, err := e.hooks(ctx)
	if err != nil {
		return nil, err
	}
	list := []Standing{}
	for _, o := range e.Providers() {
		s := found[o.Name]
		s.Name, s.Type, s.Origin, s.Visibility, s.Webhook, s.State = o.Name, o.Type, o.Origin, visibleToReaders, hooks[o.Name].taken.Ptr(), standingOK
		if o.Visibility != "" {
			s.Visibility = o.Visibility
		}
		switch {
		case o.Err != nil:
			s.State, s.Error = standingFailed, sentence(o.Err)
		case s.Failing > 0:
			s.State = standingFailing
		}
		list = append(list, s)
	}
	return list, nil
}

// Finding is what was found out about one side of a provider.
type Finding struct {
	What  string `json:"what" enum:"configuration,address,credential,permissions,webhook,limits,projects" doc:"Which side of the provider"`
	State string `json:"state" enum:"ok,warning,failed,skipped" doc:"warning: it works, but not as well as it could; skipped: what failed before it had to work first"`
	Text  string `json:"text" doc:"What was found"`
	Do    string `json:"do,omitempty" doc:"What to do about it"`
}

// The states of a Finding.
const (
	findingOK      = "ok"
	findingWarning = "warning"
	findingFailed  = "failed"
	findingSkipped = "skipped"
)

// Diagnosis is what a check of a provider found.
type Diagnosis struct {
	Name     string    `json:"name" doc:"Name of the provider" example:"github"`
	Type     string    `json:"type" doc:"Which vendor" example:"github"`
	Works    bool      `json:"works" doc:"Whether nothing failed"`
	Findings []Finding `json:"findings" nullable:"false" doc:"Each side of it, in the order in which one depends on the other"`
}

func (d *Diagnosis) add(what, state, text, do string) {
	d.Findings = append(d.Findings, Finding{what, state, text, do})
	d.Works = d.Works && state != findingFailed
}

const (
	checkTimeout  = 15 * time.Second // of each call to the vendor
	checkProjects = 3                // projects that a check reads
)

// Check asks the vendor of a provider whether address, credential, permissions and webhook work. hook is the address of the provider's webhooks. NotFound when there is no such
// provider; whatever else is wrong is in the Diagnosis.
func (e *Engine) Check(ctx context.Context, name, hook string) (Diagnosis, error) {
	o, ok := e.opened(name)
	if !ok {
		return Diagnosis{}, slipway.Errorf(slipway.NotFound, "no provider is called %q; slipway provider list (GET /api/providers) shows them", clip(name))
	}
	d := Diagnosis{Name: o.Name, Type: o.Type, Works: true}
	if o.Err != nil {
		d.add("configuration", findingFailed, sentence(o.Err), "mend the provider's entry; slipway config check tells of those in the configuration file")
		for _, what := range []string{"address", "credential", "permissions", "webhook", "limits", "projects"} {
			d.add(what, findingSkipped, "the provider is not open", "")
		}
		return d, nil
	}
	d.add("configuration", findingOK, "the entry has no fault", "")
	projects, err := e.projectsOf(ctx, name)
	if err != nil {
		return d, err
	}
	d.reach(ctx, o, projects)
	if err := ctx.Err(); err != nil {
		return d, err
	}
	hooks, err := e.hooks(ctx)
	if err != nil {
		return d, err
	}
	d.webhook(o, hooks[name], hook, e.Now())
	d.limits(o, e.Now())
	standings, err := e.Standings(ctx)
	if err != nil {
		return d, err
	}
	for _, s := range standings {
		if s.Name == name {
			d.projects(o, s, e.Now())
		}
	}
	return d, nil
}

// reach finds out about address, credential and permissions: of each only when the one before it works.
func (d *Diagnosis) reach(ctx context.Context, o Provider, projects []string) {
	start := time.Now()
	var err error
	switch {
	case o.Provider.Check != nil:
		_, err = within(ctx, func(ctx context.Context) (struct{}, error) { return struct{}{}, o.Provider.Check(ctx) })
	case len(projects) > 0:
		err = firstPage(ctx, o, projects[0])
	}
	took := time.Since(start).Round(time.Millisecond)
	text := sentence(err)
	switch code := slipway.CodeOf(err); {
	case err == nil:
		d.add("address", findingOK, fmt.Sprintf("the vendor answers, in %s", took), "")
		d.add("credential", findingOK, d.credential(ctx, o, projects), "")
	case code == slipway.Unauthenticated, code == slipway.Forbidden:
		d.add("address", findingOK, fmt.Sprintf("the vendor answers, in %s", took), "")
		d.add("credential", findingFailed, text, "make a new credential at the vendor, and set it as the provider's credential")
	case code == slipway.RateLimited:
		d.add("address", findingOK, "the vendor answers", "")
		d.add("credential", findingWarning, text, "wait; or give the provider a credential that may ask more often")
		d.add("permissions", findingSkipped, "the vendor takes no more requests for now", "")
		return
	default:
		d.add("address", findingFailed, text, "see that the provider's url leads to the vendor's API, that this server may connect to it, and that fetch.allow lets it")
		d.add("credential", findingSkipped, "the vendor does not answer", "")
	}
	if err != nil {
		d.add("permissions", findingSkipped, "address and credential must work first", "")
		return
	}
	d.permissions(ctx, o, projects)
}

// credential says whose credential it is, where the vendor tells.
func (d *Diagnosis) credential(ctx context.Context, o Provider, projects []string) string {
	if o.Provider.Inspect == nil || len(projects) == 0 {
		return "the vendor accepts it"
	}
	i, err := within(ctx, func(ctx context.Context) (provider.Insight, error) { return o.Provider.Inspect(ctx, projects[0]) })
	if err != nil {
		return "the vendor accepts it"
	}
	text := "the vendor accepts it"
	if i.Account != "" {
		text = "the vendor knows it as " + i.Account
	}
	if !i.Expires.IsZero() {
		text += ", until " + i.Expires.UTC().Format(time.DateOnly)
	}
	return text
}

func (d *Diagnosis) permissions(ctx context.Context, o Provider, projects []string) {
	if len(projects) == 0 {
		var keys []string
		for _, a := range o.naming() {
			keys = append(keys, a.Key)
		}
		d.add("permissions", findingWarning, "no entity names a project at it, so that none could be read", "annotate an entity: "+strings.Join(keys, " or "))
		return
	}
	var read, lacks []string
	for _, project := range projects[:min(len(projects), checkProjects)] {
		if err := firstPage(ctx, o, project); err != nil {
			d.add("permissions", findingFailed, project+" could not be read: "+sentence(err), "see that the project is there, and that the credential may read its "+items(o))
			return
		}
		read = append(read, project)
		if o.Provider.Inspect != nil {
			if i, err := within(ctx, func(ctx context.Context) (provider.Insight, error) { return o.Provider.Inspect(ctx, project) }); err == nil {
				for _, l := range i.Lacks {
					lacks = append(lacks, project+": "+l)
				}
			}
		}
	}
	text := items(o) + " of " + strings.Join(read, ", ") + " can be read"
	if len(lacks) > 0 {
		d.add("permissions", findingWarning, text, strings.Join(lacks, "; "))
		return
	}
	d.add("permissions", findingOK, text, "")
}

func (d *Diagnosis) webhook(o Provider, h hookState, address string, now time.Time) {
	every := fmt.Sprintf("it is asked every %s, more often while something runs", o.interval())
	if o.Provider.Webhook == nil {
		d.add("webhook", findingOK, "this type takes none; "+every, "")
		return
	}
	switch err := o.Provider.Webhook.Verify(http.Header{}, nil); {
	case errors.Is(err, slipway.Forbidden):
		d.add("webhook", findingWarning, "none is taken, as no secret is configured; "+every, "set webhookSecret, and at the vendor a webhook to "+address+" with the same secret: "+items(o)+" are then seen at once")
	case h.refused.After(h.taken.Time):
		d.add("webhook", findingFailed, fmt.Sprintf("the last one, %s ago, was refused: %s", ago(now, h.refused.Time), h.reason), "set the same secret at the vendor and as webhookSecret")
	case h.taken.IsZero():
		d.add("webhook", findingWarning, "none has come yet; "+every, "set a webhook to "+address+" at the vendor, with the provider's webhookSecret")
	default:
		d.add("webhook", findingOK, fmt.Sprintf("the last one came %s ago", ago(now, h.taken.Time)), "")
	}
}

func (d *Diagnosis) limits(o Provider, now time.Time) {
	var all []provider.Limit
	if o.Provider.Limits != nil {
		all = o.Provider.Limits()
	}
	if len(all) == 0 {
		d.add("limits", findingOK, "the vendor has told of none", "")
		return
	}
	least := slices.MinFunc(all, func(a, b provider.Limit) int { return a.Remaining*b.Total - b.Remaining*a.Total })
	text := fmt.Sprintf("%d of %d requests are left", least.Remaining, least.Total)
	if least.Reset.After(now) {
		text += ", for " + least.Reset.Sub(now).Round(time.Second).String()
	}
	if o.nearLimit(now) {
		d.add("limits", findingWarning, text, "projects are read less often until then; webhooks, or a longer interval, need fewer requests")
		return
	}
	d.add("limits", findingOK, text, "")
}

func (d *Diagnosis) projects(o Provider, s Standing, now time.Time) {
	switch {
	case s.Projects == 0:
		d.add("projects", findingOK, "no entity names one", "")
	case s.Failing > 0:
		d.add("projects", findingFailed, fmt.Sprintf("the last look at %d of %d failed; %s", s.Failing, s.Projects, s.Error), "they show their last known "+items(o)+", and are tried again by themselves")
	case s.Oldest == nil:
		d.add("projects", findingWarning, fmt.Sprintf("%d are named, and not all were read yet", s.Projects), "wait a moment; see that a server with the role worker runs")
	default:
		count := "1 project is read"
		if s.Projects > 1 {
			count = fmt.Sprintf("%d projects are read", s.Projects)
		}
		d.add("projects", findingOK, fmt.Sprintf("%s; the oldest reading is %s old", count, ago(now, *s.Oldest)), "")
	}
}

func ago(now, then time.Time) string { return max(now.Sub(then), 0).Round(time.Second).String() }

// within is one call to a vendor, for checkTimeout at most.
func within[R any](ctx context.Context, ask func(context.Context) (R, error)) (R, error) {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	return ask(ctx)
}

// items are what a provider has of projects, in a word for people.
func items(o Provider) string {
	if o.Provider.Builds == nil && o.Provider.Deployments != nil {
		return "deployments"
	}
	return "builds"
}

// firstPage reads a little of a project, whatever the provider has of it.
func firstPage(ctx context.Context, o Provider, project string) error {
	_, err := within(ctx, func(ctx context.Context) (none struct{}, err error) {
		switch one := (provider.ListOptions{Limit: 1}); {
		case o.Provider.Builds != nil:
			_, err = o.Provider.Builds.List(ctx, project, one)
		case o.Provider.Deployments != nil:
			_, err = o.Provider.Deployments.List(ctx, project, one)
		}
		return none, err
	})
	return err
}

// projectsOf are some projects that entities name at a provider: those that fail first, so that a check tells of them.
func (e *Engine) projectsOf(ctx context.Context, name string) (list []string, err error) {
	rows, err := e.DB.QueryContext(ctx, `SELECT s.project FROM task_source s WHERE s.provider = $1
		AND EXISTS (SELECT 1 FROM task_binding b WHERE b.source_id = s.id AND NOT b.detached) ORDER BY s.failures DESC, s.project LIMIT $2`, name, checkProjects)
	if err != nil {
		return nil, store.Err(err)
	}
	return list, store.Each(rows, func(rows *sql.Rows) error {
		var project string
		err := rows.Scan(&project)
		list = append(list, project)
		return err
	})
}

// hookState is what is known of a provider's webhooks.
type hookState struct {
	taken, refused store.Time
	reason         string
}

func (e *Engine) hooks(ctx context.Context) (map[string]hookState, error) {
	rows, err := e.DB.QueryContext(ctx, `SELECT provider, taken, refused, reason FROM task_hook`)
	if err != nil {
		return nil, store.Err(err)
	}
	all := map[string]hookState{}
	return all, store.Each(rows, func(rows *sql.Rows) error {
		var name string
		var h hookState
		err := rows.Scan(&name, &h.taken, &h.refused, &h.reason)
		all[name] = h
		return err
	})
}

// hookNoted is how often it is written down at most, by each replica, that a provider's webhooks come or are refused: anybody can send one.
const hookNoted = time.Minute

// noteHook writes down, behind the answer, that a webhook was taken or why it was not.
func (e *Engine) noteHook(ctx context.Context, name string, refusal error) {
	now := e.Now()
	key := fmt.Sprintf("%s %t", name, refusal == nil)
	e.mu.Lock()
	if last, ok := e.noted[key]; ok && now.Sub(last) < hookNoted {
		e.mu.Unlock()
		return
	}
	e.noted[key] = now
	e.mu.Unlock()
	column, reason := "taken", ""
	if refusal != nil {
		column, reason = "refused", sentence(refusal)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	e.background.Go(func() {
		defer cancel()
		err := e.DB.Write(ctx, func(tx *store.Tx) error {
			_, err := tx.Exec(ctx, `INSERT INTO task_hook (provider, `+column+`, reason) VALUES ($1, $2, $3)
				ON CONFLICT (provider) DO UPDATE SET `+column+` = excluded.`+column+`, reason = excluded.reason`, name, store.At(now), reason)
			return err
		})
		if err != nil {
			e.Log.WarnContext(ctx, "that a webhook came was not noted", "provider", name, "error", err)
		}
	})
}
