// Package paperboy is an example of a provider: Paperboy is a small CI that exists only in this package's tests. docs/providers.md walks
// through it.
package paperboy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/provider"
)

// Annotation is where an entity names its jobs at Paperboy, separated by commas.
const Annotation = "paperboy.example.com/job"

// Kind is Paperboy.
var Kind = provider.Kind{
	Name:        "paperboy",
	Text:        "Paperboy, a small CI.",
	Config:      Config{},
	Annotations: []provider.Annotation{{Key: Annotation, Project: true, Text: "Jobs at Paperboy, separated by commas.", Example: "web"}},
	Open:        provider.Opening(newClient),
}

// Config is what the configuration says beside name and type.
type Config struct {
	URL   string          `json:"url" required:"true" doc:"Address of the Paperboy server"`
	Token provider.Secret `json:"token" doc:"Token of an account that may run jobs; none: only reading"`
}

// Check finds what the types do not say.
func (c Config) Check() []slipway.Detail { return provider.CheckURL("url", c.URL) }

// client is a Paperboy with a token.
type client struct {
	cfg Config
	api *provider.Client
}

func newClient(cfg Config, env provider.Env) (*client, error) {
	c := &client{cfg: cfg}
	var err error
	c.api, err = provider.NewClient(env, provider.ClientOptions{Vendor: "Paperboy", URL: cfg.URL, Authorize: c.authorize, Classify: classify})
	return c, err
}

// Provider is what it can do.
func (c *client) Provider() *provider.Provider {
	return &provider.Provider{
		Projects: projects,
		Builds:   &provider.Builds{List: c.list, Get: c.get, Retrigger: c.retrigger}, // Paperboy keeps no logs
	}
}

func (c *client) authorize(context.Context, string) (provider.Authorization, error) {
	if c.cfg.Token == "" {
		return provider.Authorization{}, nil
	}
	return provider.Bearer(c.cfg.Token, "token "), nil
}

// classify knows what Paperboy means by its statuses, where it is more than they say.
func classify(r provider.Request, a provider.Answer) error {
	if r.Method == http.MethodPost && a.Status == http.StatusConflict {
		return slipway.Errorf(slipway.Conflict, "the run has not ended; wait, or stop it at Paperboy")
	}
	return nil
}

func projects(e *slipway.Entity) []string {
	return provider.Words(e, Annotation)
}

// run is Paperboy's own shape. It never leaves this package.
type run struct {
	ID    int64         `json:"id"`
	Color string        `json:"color"` // "white" waiting, "yellow" running, "green", "red", "grey" stopped
	Asked provider.Time `json:"asked"`
	Begun provider.Time `json:"begun"` // null until then
	Ended provider.Time `json:"ended"` // null until then
	By    string        `json:"by"`
	Rev   string        `json:"rev"`
	Page  string        `json:"page"`
}

var statuses = map[string]slipway.BuildStatus{
	"white": slipway.BuildStarting, "yellow": slipway.BuildRunning, "green": slipway.BuildSucceeded, "red": slipway.BuildFailed, "grey": slipway.BuildCanceled,
}

func (r run) build(job string) slipway.Build {
	b := slipway.Build{
		ID: strconv.FormatInt(r.ID, 10), Number: r.ID, Attempt: 1, Pipeline: slipway.Pipeline{ID: job, Name: job},
		Status: cmp.Or(statuses[r.Color], slipway.BuildUnknown), Detail: r.Color,
		CreatedAt: r.Asked.Time, StartedAt: r.Begun.Ptr(), FinishedAt: r.Ended.Ptr(), URL: r.Page, Trigger: slipway.TriggerOther,
	}
	if r.By != "" {
		b.TriggeredBy = &slipway.Person{ID: r.By}
	}
	if r.Rev != "" {
		b.Commit = &slipway.Commit{SHA: r.Rev}
	}
	provider.Derive(&b)
	return b
}

const pageSize = 50

// list reads on by the id of the last run seen: ids grow, so that new runs never move a page.
func (c *client) list(ctx context.Context, job string, o provider.ListOptions) (provider.Page[slipway.Build], error) {
	limit := cmp.Or(o.Limit, pageSize)
	query := url.Values{"limit": {strconv.Itoa(limit)}}
	if o.Cursor != "" {
		query.Set("before", o.Cursor)
	}
	var runs []run
	_, err := c.api.JSON(ctx, provider.Request{Path: "/jobs/" + url.PathEscape(job) + "/runs", Query: query}, &runs)
	if err == nil && runs == nil {
		err = c.api.Strange(errors.New("there is no list of runs"))
	}
	if err != nil {
		return provider.Page[slipway.Build]{}, fmt.Errorf("runs of %q: %w", job, err)
	}
	var page provider.Page[slipway.Build]
	for _, r := range runs {
		page.Items = append(page.Items, r.build(job))
	}
	if len(runs) == limit {
		page.Next = page.Items[limit-1].ID
	}
	return page, nil
}

func (c *client) get(ctx context.Context, job, id string) (slipway.Build, error) {
	var r run
	if _, err := c.api.JSON(ctx, provider.Request{Path: runPath(job, id)}, &r); err != nil {
		return slipway.Build{}, fmt.Errorf("run %q of %q: %w", id, job, err)
	}
	return r.build(job), nil
}

func (c *client) retrigger(ctx context.Context, job, id string, extra map[string]any, _ slipway.Caller) (*slipway.Build, error) {
	var r run
	if _, err := c.api.JSON(ctx, provider.Request{Method: http.MethodPost, Path: runPath(job, id) + "/again", Body: extra}, &r); err != nil {
		return nil, fmt.Errorf("run %q of %q again: %w", id, job, err)
	}
	b := r.build(job)
	return &b, nil
}

func runPath(job, id string) string {
	return "/jobs/" + url.PathEscape(job) + "/runs/" + url.PathEscape(id)
}
