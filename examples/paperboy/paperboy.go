// Package paperboy is an example of a provider: Paperboy is a small CI that exists only in this package's tests. docs/providers.md walks
// through it.
package paperboy

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

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
	Open:        open,
}

// Config is what the configuration says beside name and type.
type Config struct {
	URL   string `json:"url" required:"true" doc:"Address of the Paperboy server"`
	Token string `json:"token" doc:"Token of an account that may run jobs; none: only reading"`
}

// Check finds what the types do not say.
func (c Config) Check() []slipway.Detail {
	if !strings.HasPrefix(c.URL, "http") {
		return []slipway.Detail{{Field: "url", Code: slipway.Invalid, Message: "write an address such as https://paperboy.example.com"}}
	}
	return nil
}

func open(_ context.Context, raw json.RawMessage, env provider.Env) (*provider.Provider, error) {
	var cfg Config
	if err := provider.Decode(raw, &cfg); err != nil {
		return nil, err
	}
	c := &client{cfg: cfg, http: env.HTTP}
	return &provider.Provider{
		Projects: projects,
		Builds:   &provider.Builds{List: c.list, Get: c.get, Retrigger: c.retrigger}, // Paperboy keeps no logs
	}, nil
}

func projects(e *slipway.Entity) []string {
	return strings.FieldsFunc(e.Metadata.Annotations[Annotation], func(r rune) bool { return r == ',' || r == ' ' })
}

type client struct {
	cfg  Config
	http *http.Client
}

// run is Paperboy's own shape. It never leaves this package.
type run struct {
	ID    int64      `json:"id"`
	Color string     `json:"color"` // "white" waiting, "yellow" running, "green", "red", "grey" stopped
	Asked time.Time  `json:"asked"`
	Begun *time.Time `json:"begun"`
	Ended *time.Time `json:"ended"`
	By    string     `json:"by"`
	Rev   string     `json:"rev"`
	Page  string     `json:"page"`
}

var statuses = map[string]slipway.BuildStatus{
	"white": slipway.BuildStarting, "yellow": slipway.BuildRunning, "green": slipway.BuildSucceeded, "red": slipway.BuildFailed, "grey": slipway.BuildCanceled,
}

func (r run) build(job string) slipway.Build {
	b := slipway.Build{
		ID: strconv.FormatInt(r.ID, 10), Number: r.ID, Attempt: 1, Pipeline: slipway.Pipeline{ID: job, Name: job},
		Status: cmp.Or(statuses[r.Color], slipway.BuildUnknown), Detail: r.Color,
		CreatedAt: r.Asked, StartedAt: r.Begun, FinishedAt: r.Ended, URL: r.Page, Trigger: slipway.TriggerOther,
	}
	if r.By != "" {
		b.TriggeredBy = &slipway.Person{ID: r.By}
	}
	if r.Rev != "" {
		b.Commit = &slipway.Commit{SHA: r.Rev}
	}
	if r.Begun != nil && r.Ended != nil {
		seconds := r.Ended.Sub(*r.Begun).Seconds()
		b.DurationSeconds = &seconds
	}
	b.Retriggerable = b.Status == slipway.BuildFailed || b.Status == slipway.BuildCanceled
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
	if err := c.call(ctx, http.MethodGet, "/jobs/"+url.PathEscape(job)+"/runs?"+query.Encode(), nil, &runs); err != nil {
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
	if err := c.call(ctx, http.MethodGet, runPath(job, id), nil, &r); err != nil {
		return slipway.Build{}, fmt.Errorf("run %q of %q: %w", id, job, err)
	}
	return r.build(job), nil
}

func (c *client) retrigger(ctx context.Context, job, id string, extra map[string]any, _ slipway.Caller) (*slipway.Build, error) {
	var r run
	if err := c.call(ctx, http.MethodPost, runPath(job, id)+"/again", extra, &r); err != nil {
		return nil, fmt.Errorf("run %q of %q again: %w", id, job, err)
	}
	b := r.build(job)
	return &b, nil
}

func runPath(job, id string) string {
	return "/jobs/" + url.PathEscape(job) + "/runs/" + url.PathEscape(id)
}

func (c *client) call(ctx context.Context, method, path string, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, method, strings.TrimSuffix(c.cfg.URL, "/")+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+c.cfg.Token)
	res, err := c.http.Do(req)
	if err != nil {
		return errors.Join(ctx.Err(), slipway.Errorf(slipway.Unavailable, "Paperboy does not answer").WithCause(err))
	}
	defer res.Body.Close()
	if err := check(res); err != nil {
		return err
	}
	return json.NewDecoder(io.LimitReader(res.Body, 10<<20)).Decode(out)
}

// check is the one place that reads Paperboy's statuses.
func check(res *http.Response) error {
	switch res.StatusCode {
	case http.StatusOK, http.StatusAccepted:
		return nil
	case http.StatusBadRequest:
		return slipway.Errorf(slipway.Invalid, "Paperboy refuses the request")
	case http.StatusUnauthorized:
		return slipway.Errorf(slipway.Unauthenticated, "Paperboy does not know the token; set `token` of this provider")
	case http.StatusNotFound:
		return slipway.Errorf(slipway.NotFound, "Paperboy has no such job or run")
	case http.StatusConflict:
		return slipway.Errorf(slipway.Conflict, "the run has not ended; wait, or stop it at Paperboy")
	}
	return slipway.Errorf(slipway.Unavailable, "Paperboy answered %s", res.Status)
}
