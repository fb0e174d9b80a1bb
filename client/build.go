package client

import (
	"context"
	"io"
	"iter"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/slipway-platform/slipway"
)

// BuildQuery narrows a search for builds. The zero value asks for the newest ones.
type BuildQuery struct {
	Limit       int      // per page; 0: the server's default
	Cursor      string   // NextCursor of the page before
	PageNumber  int      // instead of Cursor
	Order       string   // "desc" (newest first) or "asc"
	TriggeredBy string   // id, name, e-mail address or entity ref; "me" is the caller
	Status      []string // any of these
	Branch      []string // any of these
	Pipeline    []string // any of these
	Since       time.Time
	Until       time.Time
	Fresh       bool // wait up to 5 s for sources that are stale

	// The rest narrows SearchBuilds only.
	Owner, System, Kind string
	Entity              []string
}

func (q BuildQuery) encode() string {
	v := url.Values{}
	set := func(key string, values ...string) {
		for _, s := range values {
			if s != "" {
				v.Add(key, s)
			}
		}
	}
	number := func(n int) string {
		if n == 0 {
			return ""
		}
		return strconv.Itoa(n)
	}
	moment := func(t time.Time) string {
		if t.IsZero() {
			return ""
		}
		return t.UTC().Format(time.RFC3339Nano)
	}
	set("limit", number(q.Limit))
	set("cursor", q.Cursor)
	set("pageNumber", number(q.PageNumber))
	set("order", q.Order)
	set("triggeredBy", q.TriggeredBy)
	set("status", q.Status...)
	set("branch", q.Branch...)
	set("pipeline", q.Pipeline...)
	set("since", moment(q.Since))
	set("until", moment(q.Until))
	set("owner", q.Owner)
	set("system", q.System)
	set("kind", q.Kind)
	set("entity", q.Entity...)
	if q.Fresh {
		set("fresh", "true")
	}
	if len(v) == 0 {
		return ""
	}
	return "?" + v.Encode()
}

// BuildPage is one page of builds and how fresh its sources are.
type BuildPage struct {
	Items    []slipway.Build  `json:"items"`
	PageInfo slipway.PageInfo `json:"pageInfo"`
	Sources  []slipway.Source `json:"sources"`
}

// BuildAccepted is the answer to a retrigger or a start.
type BuildAccepted struct {
	Accepted bool           `json:"accepted"`
	Build    *slipway.Build `json:"build"` // nil while the vendor has not named it
	URL      string         `json:"url"`
}

// EntityBuilds gives one page of an entity's builds.
func (c *Client) EntityBuilds(ctx context.Context, entityRef string, q BuildQuery) (BuildPage, error) {
	return get[BuildPage](ctx, c, byEntity(entityRef)+"/search"+q.encode())
}

// AllEntityBuilds walks through all builds of an entity, page by page. It stops after the first error.
func (c *Client) AllEntityBuilds(ctx context.Context, entityRef string, q BuildQuery) iter.Seq2[slipway.Build, error] {
	return Items[slipway.Build](ctx, c, byEntity(entityRef)+"/search"+q.encode())
}

// SearchBuilds gives one page of the builds of all entities that fit.
func (c *Client) SearchBuilds(ctx context.Context, q BuildQuery) (BuildPage, error) {
	return get[BuildPage](ctx, c, "/api/build/search"+q.encode())
}

// Build reads one build.
func (c *Client) Build(ctx context.Context, entityRef, id string) (slipway.Build, error) {
	return get[slipway.Build](ctx, c, byEntity(entityRef)+"/builds/"+url.PathEscape(id))
}

// BuildLogs reads the log of a build; with follow, until the build ends. Close it.
func (c *Client) BuildLogs(ctx context.Context, entityRef, id string, follow bool) (io.ReadCloser, error) {
	path := byEntity(entityRef) + "/builds/" + url.PathEscape(id) + "/logs"
	if follow {
		path += "?follow=true"
	}
	return c.Stream(ctx, path)
}

// RetriggerBuild runs a finished build again. Extra goes to the provider; with an empty id it has to
// find one build. Force also takes one that neither failed nor was canceled.
func (c *Client) RetriggerBuild(ctx context.Context, entityRef, id string, force bool, extra map[string]any) (BuildAccepted, error) {
	body := map[string]any{}
	for k, v := range extra {
		body[k] = v
	}
	if id != "" {
		body["buildId"] = id
	}
	path := byEntity(entityRef) + "/retrigger"
	if force {
		path += "?force=true"
	}
	return post[BuildAccepted](ctx, c, path, body)
}

// StartBuild begins a build of a branch, tag or commit; an empty ref is the default branch.
func (c *Client) StartBuild(ctx context.Context, entityRef, ref, pipeline string, extra map[string]any) (BuildAccepted, error) {
	body := map[string]any{}
	for k, v := range extra {
		body[k] = v
	}
	if ref != "" {
		body["ref"] = ref
	}
	if pipeline != "" {
		body["pipeline"] = pipeline
	}
	return post[BuildAccepted](ctx, c, byEntity(entityRef)+"/start", body)
}

// CancelBuild ends a build that waits or runs. The build may go on for a moment; the answer has it as it stands.
func (c *Client) CancelBuild(ctx context.Context, entityRef, id string) (BuildAccepted, error) {
	return post[BuildAccepted](ctx, c, byEntity(entityRef)+"/builds/"+url.PathEscape(id)+"/cancel", nil)
}

func byEntity(ref string) string { return "/api/build/by-entity/" + url.PathEscape(ref) }

// get reads a T.
func get[T any](ctx context.Context, c *Client, path string) (T, error) {
	var out T
	err := c.Do(ctx, http.MethodGet, path, nil, &out)
	return out, err
}

// post sends a body and reads a T.
func post[T any](ctx context.Context, c *Client, path string, body any) (T, error) {
	var out T
	err := c.Do(ctx, http.MethodPost, path, body, &out)
	return out, err
}
