package jenkins

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/provider"
)

// session is what a password needs to change something, and an API token does not: a crumb, and the cookie of the session that it is good for.
type session struct{ field, crumb, cookie string }

// post asks for a change, whose answer may lead elsewhere. Where Jenkins wants a crumb, one is got; what was refused for the lack of it has done nothing.
func (c *client) post(ctx context.Context, path string, query, form url.Values) (provider.Answer, error) {
	r := provider.Request{Method: http.MethodPost, Path: path, Query: query, Form: form, Leads: true}
	for again := false; ; again = true {
		c.mu.Lock()
		s := c.session
		c.mu.Unlock()
		if s.crumb != "" {
			r.Header = http.Header{s.field: {s.crumb}, "Cookie": {s.cookie}}
		}
		a, err := c.ask(ctx, r, nil)
		if again || !errors.Is(err, errNoCrumb) {
			return a, err
		}
		if bad := c.renew(ctx); errors.Is(bad, slipway.NotFound) {
			return a, err
		} else if bad != nil {
			return a, bad
		}
	}
}

func (c *client) renew(ctx context.Context) error {
	var said struct {
		Field string `json:"crumbRequestField"`
		Crumb string `json:"crumb"`
	}
	a, err := c.ask(ctx, provider.Request{Path: "/crumbIssuer/api/json"}, &said)
	if err == nil && (said.Crumb == "" || said.Field == "") {
		err = c.api.Strange(errors.New("the crumb is empty"))
	}
	if err != nil {
		return err
	}
	var cookies []string
	for _, cookie := range (&http.Response{Header: a.Header}).Cookies() {
		cookies = append(cookies, cookie.Name+"="+cookie.Value)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.session = session{said.Field, said.Crumb, strings.Join(cookies, "; ")}
	return nil
}

// definition is what is known of a job that is to be built.
type definition struct {
	Class    string       `json:"_class"`
	FullName string       `json:"fullName"`
	Able     *bool        `json:"buildable"` // absent of what holds jobs
	Next     int64        `json:"nextBuildNumber"`
	Jobs     []definition `json:"jobs"`
	Property []struct {
		Definitions []struct {
			Name string `json:"name"`
			Type string `json:"type"`
		} `json:"parameterDefinitions"`
	} `json:"property"`
}

const definitionTree = "fullName,buildable,nextBuildNumber,property[parameterDefinitions[name,type]]"

func (c *client) define(ctx context.Context, job, more string) (d definition, err error) {
	name, err := fullName(job)
	if err != nil {
		return d, err
	}
	_, err = c.ask(ctx, provider.Request{Path: jobPath(name) + "/api/json", Query: url.Values{"tree": {definitionTree + more}}}, &d)
	if err == nil && d.FullName == "" {
		err = c.api.Strange(errors.New("the job has no name"))
	}
	if err != nil {
		return d, fmt.Errorf("job %s: %w", job, err)
	}
	if d.Able != nil && !*d.Able {
		return d, slipway.Errorf(slipway.Conflict, "%s cannot be built now: it is disabled in Jenkins, or was never saved there", d.FullName)
	}
	return d, nil
}

func (d definition) parameters() []string {
	var names []string
	for _, p := range d.Property {
		for _, def := range p.Definitions {
			names = append(names, def.Name)
		}
	}
	return names
}

// refParameters are the names that jobs give to the parameter with the branch, tag or commit, in small letters.
var refParameters = []string{"ref", "git_ref", "branch", "branch_name", "git_branch", "revision", "tag", "commit"}

// refParameter is the parameter of a job that says what to build: one of a kind that is made for it, or of a name that is common.
func (d definition) refParameter() string {
	for _, p := range d.Property {
		for _, def := range p.Definitions {
			if strings.Contains(def.Type, "GitParameter") || strings.Contains(def.Type, "ListSubversionTags") {
				return def.Name
			}
		}
	}
	for _, name := range d.parameters() {
		if slices.Contains(refParameters, strings.ToLower(name)) {
			return name
		}
	}
	return ""
}

// start builds a job. The extra `inputs` holds its parameters. In what holds jobs, the pipeline names the job by its full name or from there on, and in a multibranch project
// the ref is the branch; a job that is not one of a branch has the ref in a parameter.
func (c *client) start(ctx context.Context, project string, o provider.StartOptions, _ slipway.Caller) (*slipway.Build, error) {
	inputs, err := provider.Inputs(o.Extra["inputs"])
	if err != nil {
		return nil, err
	}
	if o.Ref != "" {
		if err := provider.CheckRef(o.Ref); err != nil {
			return nil, err
		}
	}
	name, err := fullName(project)
	if err != nil {
		return nil, err
	}
	if o.Pipeline != "" {
		in, err := fullName(o.Pipeline)
		if err != nil {
			return nil, err
		}
		if in != name && !strings.HasPrefix(in, name+"/") {
			in = name + "/" + in
		}
		name = in
	}
	d, err := c.define(ctx, name, ",jobs["+definitionTree+"]")
	if err != nil {
		return nil, err
	}
	ref := o.Ref
	if d.Able == nil && d.Jobs != nil {
		if d, ref, err = d.choose(ref); err != nil {
			return nil, err
		}
	}
	if ref != "" {
		at := d.refParameter()
		if at == "" {
			return nil, slipway.Errorf(slipway.Invalid, "%s builds what it is configured to: leave ref out, or give the job a parameter called REF", d.FullName)
		}
		if _, given := inputs[at]; !given {
			inputs = maps.Clone(inputs)
			if inputs == nil {
				inputs = map[string]string{}
			}
			inputs[at] = ref
		}
	}
	return c.launch(ctx, d, inputs)
}

// choose finds the job that is to be built in what holds jobs: that of a branch, or the only one.
func (d definition) choose(ref string) (job definition, rest string, err error) {
	branches := strings.HasSuffix(d.Class, "MultiBranchProject")
	var able []definition
	var names []string
	for _, j := range d.Jobs {
		if branches && strings.EqualFold(branchName(j.short()), ref) {
			if j.Able != nil && !*j.Able {
				return j, "", slipway.Errorf(slipway.Conflict, "%s cannot be built now: it is disabled in Jenkins, or its branch is gone", j.FullName)
			}
			return j, "", nil
		}
		if j.Able != nil && *j.Able {
			able = append(able, j)
		}
		names = append(names, branchName(j.short()))
	}
	slices.Sort(names)
	if more := len(names) - 20; more > 0 {
		names = append(names[:20], fmt.Sprintf("and %d more", more))
	}
	switch {
	case branches && ref != "":
		return job, "", slipway.Errorf(slipway.NotFound, "%s has no branch %q; Jenkins finds new ones when it next looks at the repository", d.FullName, provider.Clip(ref))
	case branches:
		return job, "", slipway.Errorf(slipway.Invalid, "%s has several branches; set ref to one of: %s", d.FullName, strings.Join(names, ", "))
	case len(d.Jobs) == 1 && len(able) == 1:
		return able[0], ref, nil
	case len(d.Jobs) == 0:
		return job, "", slipway.Errorf(slipway.NotFound, "%s holds no job", d.FullName)
	}
	return job, "", slipway.Errorf(slipway.Invalid, "%s holds several jobs; set pipeline to one of: %s", d.FullName, strings.Join(names, ", "))
}

// short is the last part of a job's name.
func (d definition) short() string { return d.FullName[strings.LastIndexByte(d.FullName, '/')+1:] }

// launch has a job built with parameters, and waits a moment for the build to get its number. Jenkins passes over parameters that a job does not have, so they are refused here.
func (c *client) launch(ctx context.Context, d definition, inputs map[string]string) (*slipway.Build, error) {
	known := d.parameters()
	form := url.Values{"delay": {"0sec"}}
	for name, value := range inputs {
		if !slices.Contains(known, name) {
			return nil, slipway.Errorf(slipway.Invalid, "%s has no parameter %q; it has: %s", d.FullName, provider.Clip(name), cmp.Or(strings.Join(known, ", "), "none"))
		}
		form.Set(name, value)
	}
	what := "/build"
	if len(known) > 0 {
		what = "/buildWithParameters"
	}
	a, err := c.post(ctx, jobPath(d.FullName)+what, nil, form)
	if err != nil {
		return nil, fmt.Errorf("build %s: %w", d.FullName, err)
	}
	// 201, or 303 when the same was asked for already: both lead to what waits in the queue. Anything else leads back to the job.
	found := queued.FindStringSubmatch(a.Header.Get("Location"))
	if found == nil {
		return nil, slipway.Errorf(slipway.Conflict, "Jenkins did not queue %s; it may be about to shut down", d.FullName)
	}
	id, err := strconv.ParseInt(found[1], 10, 64)
	if err != nil {
		return nil, c.api.Strange(err)
	}
	return c.await(ctx, d.FullName, func(ctx context.Context) (int64, error) { return c.dequeued(ctx, d.FullName, id) })
}

// queued is where Jenkins leads to something in its queue. Its host is what its administrator calls it, and not ours to go to.
var queued = regexp.MustCompile(`/queue/item/(\d+)/?$`)

// await looks for the number of a build that was asked for. nil while it has none: it shows at one of the next looks.
func (c *client) await(ctx context.Context, job string, look func(context.Context) (int64, error)) (*slipway.Build, error) {
	pace := c.pace
	for range c.patience {
		if provider.Wait(ctx, pace) != nil {
			return nil, nil // it was accepted
		}
		number, err := look(ctx)
		if errors.Is(err, slipway.Conflict) {
			return nil, err
		}
		if err == nil && number > 0 {
			r, err := c.run(ctx, job, number, runTree)
			if err != nil {
				return nil, nil
			}
			b := c.build(job, r, false)
			return &b, nil
		}
		pace = min(pace*3/2, 5*c.pace)
	}
	return nil, nil
}

// dequeued gives the number of the build that something in the queue became, 0 while it waits. What has left the queue is known there for five minutes.
func (c *client) dequeued(ctx context.Context, job string, id int64) (int64, error) {
	var waiting struct {
		Cancelled  bool `json:"cancelled"`
		Executable *struct {
			Number int64 `json:"number"`
		} `json:"executable"`
	}
	_, err := c.ask(ctx, provider.Request{Path: fmt.Sprintf("/queue/item/%d/api/json", id)}, &waiting)
	switch {
	case errors.Is(err, slipway.NotFound):
		i, err := c.item(ctx, job, "fullName,allBuilds[number,queueId]{0,20}")
		for _, r := range i.Runs {
			if r.QueueID == id {
				return r.Number, nil
			}
		}
		return 0, err
	case err != nil:
		return 0, err
	case waiting.Cancelled:
		return 0, slipway.Errorf(slipway.Conflict, "somebody took the build out of Jenkins' queue before it began")
	case waiting.Executable != nil:
		return waiting.Executable.Number, nil
	}
	return 0, nil
}

// The ways to run a build again, in the extra `how`. Absent: the first of them that Jenkins has.
const (
	replay  = "replay"  // a pipeline with the same script, commit and parameters
	rebuild = "rebuild" // with the same parameters, those that are secret among them; needs the plugin Rebuilder
	anew    = "build"   // the job with the same parameters as far as Jenkins shows them
)

// retrigger runs a build again, as a build of its own. With the extra `inputs`, the job is built with these parameters in the place of the build's.
func (c *client) retrigger(ctx context.Context, project, id string, extra map[string]any, _ slipway.Caller) (*slipway.Build, error) {
	job, number, err := splitID(project, id)
	if err != nil {
		return nil, err
	}
	inputs, err := provider.Inputs(extra["inputs"])
	if err != nil {
		return nil, err
	}
	how, ok := extra["how"].(string)
	if !ok && extra["how"] != nil || !slices.Contains([]string{"", replay, rebuild, anew}, how) {
		return nil, slipway.Errorf(slipway.Invalid, "how must be one of: %s, %s, %s", replay, rebuild, anew)
	}
	if len(inputs) > 0 && how != "" && how != anew {
		return nil, slipway.Errorf(slipway.Invalid, "a %s keeps the build's parameters; leave inputs or how out", how)
	}
	r, err := c.run(ctx, job, number, strings.Replace(runTree, "parameters[name]", "parameters[name,value]", 1))
	if err != nil {
		return nil, err
	}
	if r.Building {
		return nil, slipway.Errorf(slipway.Conflict, "build %s is %s; only one that has ended can run again", id, r.words())
	}
	d, err := c.define(ctx, job, "")
	if err != nil {
		return nil, err
	}
	ways := []string{how}
	switch {
	case len(inputs) > 0:
		ways = []string{anew}
	case how == "" && strings.HasSuffix(r.Class, ".WorkflowRun"):
		ways = []string{replay, rebuild, anew}
	case how == "":
		ways = []string{rebuild, anew}
	}
	return c.again(ctx, d, r, ways, inputs)
}

// again tries one way after the other. The next one is for a Jenkins without the plugin, and for what a pipeline's replay refuses: passwords among the parameters.
func (c *client) again(ctx context.Context, d definition, r run, ways []string, inputs map[string]string) (*slipway.Build, error) {
	var refused error
	for _, way := range ways {
		var err error
		switch way {
		case replay:
			_, err = c.post(ctx, buildPath(d.FullName, r.Number, "/replay/rebuild"), nil, url.Values{})
		case rebuild:
			var a provider.Answer
			a, err = c.post(ctx, buildPath(d.FullName, r.Number, "/rebuild/"), url.Values{"autorebuild": {"true"}}, url.Values{})
			if err == nil && a.Status == http.StatusOK {
				err = slipway.Errorf(slipway.Conflict, "%s does not let its builds be rebuilt", d.FullName) // it says so by doing nothing
			}
		case anew:
			if inputs, err = r.parameters(d, inputs, refused); err == nil {
				return c.launch(ctx, d, inputs)
			}
		}
		code := slipway.CodeOf(err) // not that of a cause
		switch {
		case err == nil:
			return c.await(ctx, d.FullName, func(ctx context.Context) (int64, error) { return c.successor(ctx, d, r.Number) })
		case len(ways) == 1 && way != anew && code == slipway.NotFound:
			return nil, slipway.Errorf(slipway.Unsupported, "Jenkins cannot %s build %d of %s: the plugin is not installed, or the job does not allow it", way, r.Number, d.FullName)
		case len(ways) > 1 && way != anew && (code == slipway.NotFound || way == replay && code == slipway.Invalid):
			refused = cmp.Or(refused, err)
		default:
			return nil, fmt.Errorf("build %d of %s again: %w", r.Number, d.FullName, err)
		}
	}
	return nil, refused
}

// parameters gives those of a build's parameters that its job still has and, in their place, those that a caller gives. What Jenkins does not show cannot be given again.
func (r run) parameters(d definition, given map[string]string, why error) (map[string]string, error) {
	all, known := map[string]string{}, d.parameters()
	var hidden []string
	for _, a := range r.Actions {
		for _, p := range a.Parameters {
			if _, ok := given[p.Name]; ok || !slices.Contains(known, p.Name) {
				continue
			}
			switch v := p.Value.(type) {
			case string:
				all[p.Name] = v
			case bool:
				all[p.Name] = strconv.FormatBool(v)
			case float64:
				all[p.Name] = strconv.FormatFloat(v, 'f', -1, 64)
			default:
				hidden = append(hidden, p.Name)
			}
		}
	}
	if len(hidden) > 0 {
		return nil, slipway.Errorf(slipway.Conflict, "Jenkins does not show the value of %s, which is a password, a file or the like; give it in inputs", strings.Join(hidden, ", ")).WithCause(why)
	}
	maps.Copy(all, given)
	return all, nil
}

// successor finds the build that was asked for by running another one again: Jenkins names neither it nor its place in the queue.
func (c *client) successor(ctx context.Context, d definition, number int64) (int64, error) {
	i, err := c.item(ctx, d.FullName, "fullName,allBuilds[number,actions[causes[shortDescription,upstreamBuild]]]{0,10}")
	if err != nil {
		return 0, err
	}
	for _, r := range slices.Backward(i.Runs) {
		if r.Number < d.Next {
			continue
		}
		for _, c := range r.causes() {
			if of, ok := c.again(); ok && of == number {
				return r.Number, nil
			}
		}
	}
	return 0, nil
}

func (c *client) cancel(ctx context.Context, project, id string) error {
	job, number, err := splitID(project, id)
	if err != nil {
		return err
	}
	r, err := c.run(ctx, job, number, "number,building,result")
	if err != nil {
		return err
	}
	if !r.Building {
		return slipway.Errorf(slipway.Conflict, "build %s has ended: %s", id, r.words())
	}
	if _, err := c.post(ctx, buildPath(job, number, "/stop"), nil, url.Values{}); err != nil {
		return fmt.Errorf("stop build %d of %s: %w", number, job, err)
	}
	return nil
}
