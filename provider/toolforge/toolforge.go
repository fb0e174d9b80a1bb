// Package toolforge is Toolforge as a builder of tools: its builds API builds, and its jobs API runs what was built. The README says what an operator sets up.
package toolforge

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/provider"
)

// Kind is Toolforge.
var Kind = provider.Kind{
	Name:        "toolforge",
	Text:        "Toolforge, as the builder and runner of tools: its builds API and its jobs API.",
	Config:      Config{},
	Annotations: []provider.Annotation{provider.ToolProjects},
	Open:        provider.Opening(newClient),
}

// Config is what the configuration says beside name and type.
type Config struct {
	URL            string                `json:"url" required:"true" doc:"Address of the gateway, below which /builds/v1 and /jobs/v1 lie"`
	CACertificates provider.Certificates `json:"caCertificates" doc:"Certificates of authorities in PEM form that are trusted besides the system's; ${file:/path} puts a file here"`
	Credential     provider.Credential   `json:"credential" doc:"A token (secretText) or an account (usernamePassword) that the gateway accepts for all tools; none: the network lets us in"`
	Interval       slipway.Duration      `json:"interval" default:"1m" doc:"How often the builds of a component are looked at for the Builds API, beside what deployments ask"`
}

// Check finds what the types do not say.
func (c *Config) Check() []slipway.Detail {
	return append(provider.CheckURL("url", c.URL), c.Credential.Faults("credential", provider.SecretText, provider.UsernamePassword)...)
}

func newClient(cfg Config, env provider.Env) (*client, error) {
	env = env.Trusting(cfg.CACertificates)
	c := &client{cfg: cfg, now: env.Clock(), starting: map[string]chan struct{}{}}
	var err error
	c.api, err = provider.NewClient(env, provider.ClientOptions{
		Vendor: "Toolforge", URL: strings.TrimRight(cfg.URL, "/"), Authorize: c.authorize, Header: http.Header{"Accept": {"application/json"}},
	})
	return c, err
}

// Provider is what it can do.
func (c *client) Provider() *provider.Provider {
	return &provider.Provider{
		Projects: func(e *slipway.Entity) []string {
			if project, ok := provider.ToolProject(e); ok {
				return []string{project}
			}
			return nil
		},
		Interval: c.cfg.Interval.Std(),
		Builds:   &provider.Builds{List: c.listProject, Get: c.getProject, Cancel: c.cancelProject, Logs: c.logsOfProject},
		Builder:  &provider.Builder{PerTool: true, Start: c.start, Get: c.get, Cancel: c.cancel, List: c.list, Logs: c.logs},
		Runner:   &provider.Runner{Run: c.run, List: c.listRuns},
		Check: func(ctx context.Context) error {
			_, err := c.api.JSON(ctx, provider.Request{Path: "/builds/v1/healthz"}, &json.RawMessage{})
			return err
		},
		Limits: c.api.Limits,
	}
}

// client is a Toolforge with a credential.
type client struct {
	cfg Config
	api *provider.Client
	now func() time.Time

	mu       sync.Mutex
	starting map[string]chan struct{} // by tool: its builds are started one after the other
}

func (c *client) authorize(context.Context, string) (provider.Authorization, error) {
	return c.cfg.Credential.Authorization(), nil
}

// keyVariable is an environment variable of a build that holds the key of its order: the builds API has no place of its own for one.
const keyVariable = "SLIPWAY_ORDER"

// The shapes of the builds API.
type (
	wireBuild struct {
		ID          string         `json:"build_id"`
		Status      string         `json:"status"`
		Message     string         `json:"message"`
		Start       string         `json:"start_time"` // "" when unset
		End         string         `json:"end_time"`
		Destination string         `json:"destination_image"`
		Resolved    string         `json:"resolved_ref"`
		Parameters  wireParameters `json:"parameters"`
	}
	wireParameters struct {
		Source     string            `json:"source_url"`
		Ref        string            `json:"ref"`
		Image      string            `json:"image_name"`
		Variables  map[string]string `json:"envvars"`
		Latest     bool              `json:"use_latest_versions"`
		Deprecated bool              `json:"use_deprecated_versions"`
	}
)

// statuses are what the builds API says. A build that is not there yet has no condition, and is pending.
var statuses = map[string]slipway.BuildStatus{
	"BUILD_PENDING": slipway.BuildStarting, "BUILD_RUNNING": slipway.BuildRunning, "BUILD_SUCCESS": slipway.BuildSucceeded, "BUILD_FAILURE": slipway.BuildFailed,
	"BUILD_TIMEOUT": slipway.BuildFailed, "BUILD_CANCELLED": slipway.BuildCanceled,
}

func (w wireBuild) build(tool string, now time.Time) provider.ComponentBuild {
	var b provider.ComponentBuild
	b.ID, b.Attempt, b.Trigger = w.ID, 1, slipway.TriggerAPI
	b.Pipeline = slipway.Pipeline{ID: "build", Name: "build"}
	b.URL = "https://toolsadmin.wikimedia.org/tools/id/" + url.PathEscape(tool)
	b.Status = slipway.BuildUnknown
	if s, ok := statuses[w.Status]; ok {
		b.Status = s
	}
	b.Detail = w.Status
	if w.Message != "" {
		b.Detail += ": " + w.Message
	}
	b.CreatedAt = now // a build without a start waits for it
	if start, err := time.Parse(time.RFC3339, w.Start); err == nil {
		b.CreatedAt = start.UTC()
		if b.Status != slipway.BuildStarting {
			began := b.CreatedAt
			b.StartedAt = &began
		}
	}
	if end, err := time.Parse(time.RFC3339, w.End); err == nil && b.Status.Finished() {
		end = end.UTC()
		b.FinishedAt = &end
		if b.StartedAt != nil {
			seconds := max(0, end.Sub(*b.StartedAt).Seconds())
			b.DurationSeconds = &seconds
		}
	}
	p := w.Parameters
	if w.Resolved != "" {
		b.Commit = &slipway.Commit{SHA: w.Resolved, Branch: p.Ref}
	}
	b.Order = provider.BuildOrder{
		Key: p.Variables[keyVariable], Tool: tool, Component: p.Image, Repository: p.Source, Ref: p.Ref, Commit: w.Resolved, LatestVersions: p.Latest, DeprecatedVersions: p.Deprecated,
	}
	if b.Status == slipway.BuildSucceeded {
		b.Image = w.Destination
	}
	return b
}

// ask is a request for a tool.
func ask(tool, method, path string, body any) provider.Request {
	return provider.Request{Method: method, Path: path, Body: body, Header: http.Header{"X-Toolforge-Tool": {tool}}}
}

func buildsPath(tool, rest string) string {
	return "/builds/v1/tool/" + url.PathEscape(tool) + "/builds" + rest
}

func (c *client) all(ctx context.Context, tool string) ([]provider.ComponentBuild, error) {
	var answer struct {
		Builds []wireBuild `json:"builds"`
	}
	if _, err := c.api.JSON(ctx, ask(tool, http.MethodGet, buildsPath(tool, ""), nil), &answer); err != nil {
		return nil, err
	}
	list := make([]provider.ComponentBuild, 0, len(answer.Builds))
	for _, w := range answer.Builds {
		list = append(list, w.build(tool, c.now()))
	}
	slices.SortStableFunc(list, func(a, b provider.ComponentBuild) int { return b.CreatedAt.Compare(a.CreatedAt) })
	return list, nil
}

func (c *client) list(ctx context.Context, q provider.ComponentQuery) ([]provider.ComponentBuild, error) {
	if !provider.ToolName(q.Tool) {
		return nil, slipway.Errorf(slipway.Invalid, "Toolforge lists the builds of one tool at a time")
	}
	list, err := c.all(ctx, q.Tool)
	if err != nil {
		return nil, err
	}
	list = slices.DeleteFunc(list, func(b provider.ComponentBuild) bool {
		return q.Component != "" && q.Component != b.Order.Component || !q.Since.IsZero() && b.CreatedAt.Before(q.Since) && b.Status.Finished()
	})
	if q.Limit > 0 && len(list) > q.Limit {
		list = list[:q.Limit]
	}
	return list, nil
}

// turn gives the lock of a tool: two orders with one key must not both find nothing.
func (c *client) turn(tool string) chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	m := c.starting[tool]
	if m == nil {
		if len(c.starting) > 10_000 {
			clear(c.starting)
		}
		m = make(chan struct{}, 1)
		c.starting[tool] = m
	}
	return m
}

// start orders a build, unless one of that key is there.
func (c *client) start(ctx context.Context, o provider.BuildOrder) (provider.ComponentBuild, error) {
	var none provider.ComponentBuild
	if err := o.Check(); err != nil {
		return none, err
	}
	if strings.HasPrefix(o.Repository, "file:") {
		return none, slipway.Errorf(slipway.Invalid, "Toolforge cannot build a repository that lies in files; give an address of http, https or git")
	}
	turn := c.turn(o.Tool)
	select {
	case turn <- struct{}{}:
		defer func() { <-turn }()
	case <-ctx.Done():
		return none, ctx.Err()
	}
	list, err := c.all(ctx, o.Tool)
	if err != nil {
		return none, err
	}
	if i := slices.IndexFunc(list, func(b provider.ComponentBuild) bool { return b.Order.Key == o.Key }); i >= 0 {
		return list[i], nil
	}
	body := map[string]any{
		"source_url": o.Repository, "ref": o.Ref, "image_name": o.Component, "envvars": map[string]string{keyVariable: o.Key},
		"use_latest_versions": o.LatestVersions, "use_deprecated_versions": o.DeprecatedVersions,
	}
	var answer struct {
		New struct {
			Name     string `json:"name"`
			Resolved string `json:"resolved_ref"`
		} `json:"new_build"`
	}
	_, err = c.api.JSON(ctx, ask(o.Tool, http.MethodPost, buildsPath(o.Tool, ""), body), &answer)
	if errors.Is(err, slipway.Conflict) { // too many at a time; a build that is there is none of its reasons
		return none, slipway.Errorf(slipway.RateLimited, "%s", sentence(err)).After(10 * time.Second)
	}
	if err != nil {
		return none, err
	}
	if answer.New.Name == "" {
		return none, slipway.Errorf(slipway.Unavailable, "Toolforge took a build and did not name it")
	}
	w := wireBuild{ID: answer.New.Name, Status: "BUILD_PENDING", Resolved: answer.New.Resolved, Parameters: wireParameters{
		Source: o.Repository, Ref: o.Ref, Image: o.Component, Variables: map[string]string{keyVariable: o.Key}, Latest: o.LatestVersions, Deprecated: o.DeprecatedVersions,
	}}
	return w.build(o.Tool, c.now()), nil
}

// sentence is what of an error people may read.
func sentence(err error) string {
	if e, ok := errors.AsType[*slipway.Error](err); ok {
		return e.Message
	}
	return "Toolforge refuses"
}

var buildID = regexp.MustCompile(`^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$`)

// own says whether an id is one of a tool's builds: Toolforge names them after it.
func own(tool, id string) error {
	if !provider.ToolName(tool) || !buildID.MatchString(id) || !strings.HasPrefix(id, tool+"-buildpacks-pipelinerun-") {
		return slipway.Errorf(slipway.NotFound, "the tool %.70q has no build %.100q", tool, id)
	}
	return nil
}

func (c *client) get(ctx context.Context, tool, id string) (provider.ComponentBuild, error) {
	if err := ctx.Err(); err != nil {
		return provider.ComponentBuild{}, err
	}
	if err := own(tool, id); err != nil {
		return provider.ComponentBuild{}, err
	}
	var answer struct {
		Build wireBuild `json:"build"`
	}
	_, err := c.api.JSON(ctx, ask(tool, http.MethodGet, buildsPath(tool, "/"+url.PathEscape(id)), nil), &answer)
	if err == nil && answer.Build.ID != id {
		err = c.api.Strange(errors.New("it is another build"))
	}
	if err != nil {
		return provider.ComponentBuild{}, err
	}
	return answer.Build.build(tool, c.now()), nil
}

func (c *client) cancel(ctx context.Context, tool, id string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := own(tool, id); err != nil {
		return err
	}
	_, err := c.api.JSON(ctx, ask(tool, http.MethodPut, buildsPath(tool, "/"+url.PathEscape(id)+"/cancel"), nil), &json.RawMessage{})
	return err
}

// logs reads the log of a build, which comes as one JSON object for each line.
func (c *client) logs(ctx context.Context, tool, id string, follow bool) (io.ReadCloser, error) {
	b, err := c.get(ctx, tool, id)
	if err != nil {
		return nil, err
	}
	r := ask(tool, http.MethodGet, buildsPath(tool, "/"+url.PathEscape(id)+"/logs"), nil)
	if follow && !b.Status.Finished() {
		r.Query = url.Values{"follow": {"true"}}
	}
	body, err := c.api.Open(ctx, r)
	if err != nil {
		return nil, err
	}
	return provider.Pipe(ctx, func(ctx context.Context, w io.Writer) error {
		defer body.Close()
		stop := context.AfterFunc(ctx, func() { _ = body.Close() })
		defer stop()
		lines := bufio.NewReaderSize(body, 64<<10)
		for {
			line, err := readLine(lines)
			if text := strings.TrimSpace(string(line)); text != "" {
				var l struct {
					Line  *string  `json:"line"`
					Error []string `json:"error"`
				}
				switch {
				case json.Unmarshal([]byte(text), &l) == nil && l.Line != nil:
					text = *l.Line
				case len(l.Error) > 0:
					text = "error: " + strings.Join(l.Error, "; ")
				}
				if _, werr := io.WriteString(w, text+"\n"); werr != nil {
					return werr
				}
			}
			switch {
			case ctx.Err() != nil:
				return ctx.Err()
			case errors.Is(err, io.EOF):
				return nil
			case err != nil:
				return slipway.Errorf(slipway.Unavailable, "the log of Toolforge broke off").WithCause(err)
			}
		}
	}), nil
}

// maxLine is how many bytes of a line are shown.
const maxLine = 1 << 20

// readLine reads a line, of which it keeps the first maxLine bytes. The last one of a log may have no end.
func readLine(r *bufio.Reader) (line []byte, err error) {
	for {
		part, err := r.ReadSlice('\n')
		line = append(line, part[:min(len(part), maxLine-len(line))]...)
		if err != bufio.ErrBufferFull {
			return line, err
		}
	}
}

// component gives the tool and the component that a project names.
func component(project string) (tool, name string, err error) {
	tool, name, ok := provider.ToolOf(project)
	if !ok || !provider.ToolName(tool) {
		return "", "", slipway.Errorf(slipway.NotFound, "there is no project %.100q at Toolforge", project)
	}
	return tool, name, nil
}

func (c *client) listProject(ctx context.Context, project string, o provider.ListOptions) (page provider.Page[slipway.Build], err error) {
	tool, name, err := component(project)
	if err != nil {
		return page, err
	}
	list, err := c.list(ctx, provider.ComponentQuery{Tool: tool, Component: name})
	if err != nil {
		return page, err
	}
	builds := make([]slipway.Build, len(list))
	for i, b := range list {
		builds[i] = b.Build
	}
	return provider.Whole(builds, func(b slipway.Build) (time.Time, string) { return b.CreatedAt, b.ID }, o)
}

func (c *client) getProject(ctx context.Context, project, id string) (slipway.Build, error) {
	tool, name, err := component(project)
	if err != nil {
		return slipway.Build{}, err
	}
	b, err := c.get(ctx, tool, id)
	if err == nil && b.Order.Component != name {
		err = slipway.Errorf(slipway.NotFound, "the component %s has no build %.100q", name, id)
	}
	return b.Build, err
}

func (c *client) cancelProject(ctx context.Context, project, id string) error {
	if _, err := c.getProject(ctx, project, id); err != nil {
		return err
	}
	tool, _, _ := provider.ToolOf(project)
	return c.cancel(ctx, tool, id)
}

func (c *client) logsOfProject(ctx context.Context, project, id string, follow bool) (io.ReadCloser, error) {
	if _, err := c.getProject(ctx, project, id); err != nil {
		return nil, err
	}
	tool, _, _ := provider.ToolOf(project)
	return c.logs(ctx, tool, id, follow)
}

func jobsPath(tool, rest string) string {
	return "/jobs/v1/tool/" + url.PathEscape(tool) + "/jobs" + rest
}

// run creates or changes a job, and restarts it where only its image is new.
func (c *client) run(ctx context.Context, o provider.RunOrder) (provider.RunResult, error) {
	job := map[string]any{"name": o.Component, "imagename": o.Image, "job_type": "continuous"}
	if o.Scheduled {
		job["job_type"] = "scheduled"
	}
	for name, value := range o.Fields {
		switch name {
		case "command":
			job["cmd"] = value
		case "health_check_http":
			job["health_check"] = map[string]any{"type": "http", "path": value}
		case "health_check_script":
			job["health_check"] = map[string]any{"type": "script", "script": value}
		default:
			job[name] = value
		}
	}
	var answer struct {
		Changed  bool `json:"job_changed"`
		Messages struct {
			Info []string `json:"info"`
		} `json:"messages"`
	}
	if _, err := c.api.JSON(ctx, ask(o.Tool, http.MethodPatch, jobsPath(o.Tool, "/"), job), &answer); err != nil {
		return provider.RunResult{}, err
	}
	text := "created or updated job " + o.Component
	switch {
	case answer.Changed:
	case o.Restart:
		if _, err := c.api.JSON(ctx, ask(o.Tool, http.MethodPost, jobsPath(o.Tool, "/"+url.PathEscape(o.Component)+"/restart/"), nil), &json.RawMessage{}); err != nil {
			return provider.RunResult{}, err
		}
		text = "restarted job " + o.Component
	default:
		text = fmt.Sprintf("job %s is already up to date", o.Component)
	}
	for _, m := range answer.Messages.Info {
		text += ", [info] " + m
	}
	return provider.RunResult{Message: text}, nil
}

// listRuns gives the jobs of a tool that a configuration can hold.
func (c *client) listRuns(ctx context.Context, tool string) ([]provider.RunOrder, error) {
	r := ask(tool, http.MethodGet, jobsPath(tool, "/"), nil)
	r.Query = url.Values{"include_unset": {"false"}}
	var answer struct {
		Jobs []map[string]json.RawMessage `json:"jobs"`
	}
	if _, err := c.api.JSON(ctx, r, &answer); err != nil {
		return nil, err
	}
	var list []provider.RunOrder
	for _, job := range answer.Jobs {
		text := func(field string) (s string) { _ = json.Unmarshal(job[field], &s); return s }
		kind := text("job_type")
		if kind != "continuous" && kind != "scheduled" {
			continue
		}
		o := provider.RunOrder{Tool: tool, Component: text("name"), Image: text("imagename"), Scheduled: kind == "scheduled", Fields: map[string]json.RawMessage{}}
		for name, value := range job {
			switch name {
			case "name", "imagename", "job_type", "status_short", "status_long", "schedule_actual", "image", "image_state":
			case "cmd":
				command, err := json.Marshal(strings.TrimPrefix(text("cmd"), "launcher "))
				if err != nil {
					return nil, err
				}
				o.Fields["command"] = command
			case "health_check":
				var check struct{ Type, Path, Script string }
				if json.Unmarshal(value, &check) == nil {
					field, what := "health_check_http", check.Path
					if check.Type == "script" {
						field, what = "health_check_script", check.Script
					}
					if raw, err := json.Marshal(what); err == nil {
						o.Fields[field] = raw
					}
				}
			default:
				o.Fields[name] = value
			}
		}
		list = append(list, o)
	}
	return list, nil
}
