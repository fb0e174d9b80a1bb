package jenkinstest

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// address is what Jenkins calls itself, which need not be where it was asked.
func (j *Jenkins) address(path string) string {
	return strings.TrimSuffix(j.Root, "/") + j.Prefix + path
}

func (j *Jenkins) root(q *request) *node {
	return &node{"hudson.model.Hudson", []prop{
		{"mode", is("NORMAL"), plain}, {"nodeDescription", is("the Jenkins controller's built-in node"), plain}, {"numExecutors", is(2), plain},
		{"jobs", func() any { return j.itemNodes(j.top.items, q.j.Users[q.user].Blind) }, plain},
		{"quietingDown", is(false), plain}, {"url", is(j.address("/")), plain}, {"useCrumbs", is(!j.NoCrumb), plain}, {"useSecurity", is(true), plain},
	}}
}

func (j *Jenkins) itemNodes(items []*Item, blind bool) []*node {
	list := []*node{}
	for _, i := range items {
		if !blind {
			list = append(list, j.itemNode(i))
		}
	}
	return list
}

func (j *Jenkins) itemNode(i *Item) *node {
	n := &node{string(i.Kind), []prop{
		{"description", is(nil), plain}, {"displayName", is(i.Name), plain}, {"fullDisplayName", is(strings.ReplaceAll(i.FullName(), "/", " » ")), plain},
		{"fullName", is(i.FullName()), plain}, {"name", is(i.Name), brief}, {"url", is(j.address(i.path())), brief},
	}}
	if i.holds() {
		n.props = append(n.props, prop{"jobs", func() any { return j.itemNodes(i.items, false) }, plain})
		return n
	}
	permalink := func(name string) prop {
		return prop{name, func() any {
			if r := i.permalink(name); r != nil {
				return j.runNode(r)
			}
			return nil
		}, plain}
	}
	n.props = append(n.props,
		prop{"buildable", is(!i.Disabled), plain},
		prop{"builds", func() any { return j.runNodes(i, 100) }, plain}, // the newest hundred, and no more
		prop{"allBuilds", func() any { return j.runNodes(i, len(i.runs)) }, hidden},
		prop{"color", is(i.color()), brief},
		permalink("firstBuild"), permalink("lastBuild"), permalink("lastCompletedBuild"), permalink("lastFailedBuild"),
		permalink("lastStableBuild"), permalink("lastSuccessfulBuild"), permalink("lastUnstableBuild"), permalink("lastUnsuccessfulBuild"),
		prop{"inQueue", is(slices.ContainsFunc(j.queue, func(w *waiting) bool { return w.job == i && w.waits() })), plain},
		prop{"keepDependencies", is(false), plain},
		prop{"nextBuildNumber", is(i.next), plain},
		prop{"property", func() any {
			if len(i.Parameters) == 0 {
				return []*node{{}}
			}
			var defs []*node
			for _, p := range i.Parameters {
				value := &node{"hudson.model." + strings.TrimSuffix(p.Type, "Definition") + "Value", []prop{{"name", is(p.Name), plain}}}
				if !p.secret() {
					value.props = append(value.props, prop{"value", is(p.Value), plain})
				}
				defs = append(defs, &node{"hudson.model." + p.Type, []prop{
					{"name", is(p.Name), plain}, {"type", is(p.Type), plain}, {"description", is(""), plain}, {"defaultParameterValue", is(value), plain},
				}})
			}
			return []*node{{}, {"hudson.model.ParametersDefinitionProperty", []prop{{"parameterDefinitions", is(defs), plain}}}}
		}, plain},
	)
	if i.Kind == Freestyle {
		n.props = append(n.props, prop{"disabled", is(i.Disabled), plain})
	}
	return n
}

func (i *Item) color() string {
	if i.Disabled {
		return "disabled"
	}
	color := "notbuilt"
	for _, r := range slices.Backward(i.runs) {
		if r.building() {
			continue
		}
		color = orElse(map[string]string{Success: "blue", Unstable: "yellow", Failure: "red", Aborted: "aborted"}[r.State], "notbuilt")
		break
	}
	if len(i.runs) > 0 && i.runs[len(i.runs)-1].building() {
		color += "_anime"
	}
	return color
}

func (j *Jenkins) runNodes(i *Item, most int) []*node {
	list := []*node{}
	for _, r := range slices.Backward(i.runs) {
		if len(list) == most {
			break
		}
		list = append(list, j.runNode(r))
	}
	return list
}

func (j *Jenkins) runNode(r *Run) *node {
	class, changes := "hudson.model.FreeStyleBuild", "changeSet"
	if r.Job.Kind == Pipeline {
		class, changes = "org.jenkinsci.plugins.workflow.job.WorkflowRun", "changeSets"
	}
	var result any
	switch {
	case !r.building() && r.State != "":
		result = r.State
	case r.Provisional != "":
		result = r.Provisional
	}
	return &node{class, []prop{
		{"actions", func() any { return j.actions(r) }, plain},
		{"artifacts", is([]*node{}), plain},
		{"building", is(r.building()), plain}, {"inProgress", is(r.State == Building), plain},
		{"description", is(nil), plain}, {"displayName", is(fmt.Sprintf("#%d", r.Number)), plain},
		{"duration", is(r.Duration.Milliseconds()), plain}, {"estimatedDuration", is(-1), plain}, {"executor", is(nil), plain},
		{"fullDisplayName", is(strings.ReplaceAll(r.Job.FullName(), "/", " » ") + fmt.Sprintf(" #%d", r.Number)), plain},
		{"id", is(fmt.Sprint(r.Number)), plain}, {"keepLog", is(false), plain}, {"number", is(r.Number), brief}, {"queueId", is(r.QueueID), plain},
		{"result", is(result), plain}, {"timestamp", is(millis(r.Begun)), plain},
		{"url", is(j.address(r.Job.path() + fmt.Sprintf("%d/", r.Number))), brief},
		{changes, func() any {
			var items []*node
			for _, c := range r.Changes {
				items = append(items, &node{"hudson.plugins.git.GitChangeSet", []prop{
					{"commitId", is(c.SHA), plain}, {"msg", is(c.Message), plain}, {"authorEmail", is(c.AuthorEmail), plain},
					{"author", is(&node{"hudson.model.User", []prop{{"absoluteUrl", is(j.address("/user/" + c.AuthorID)), brief}, {"fullName", is(c.AuthorName), brief}, {"id", is(c.AuthorID), hidden}}}), plain},
				}})
			}
			set := &node{"hudson.plugins.git.GitChangeSetList", []prop{{"items", is(items), plain}, {"kind", is("git"), plain}}}
			if changes == "changeSet" {
				return set
			}
			if items == nil {
				return []*node{}
			}
			return []*node{set}
		}, plain},
	}}
}

func millis(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

func (j *Jenkins) actions(r *Run) []*node {
	list := []*node{}
	if len(r.Parameters) > 0 {
		var values []*node
		for _, p := range r.Parameters {
			v := &node{"hudson.model." + p.Type, []prop{{"name", is(p.Name), brief}}}
			switch {
			case p.secret():
			case strings.HasPrefix(p.Type, "Boolean"):
				v.props = append(v.props, prop{"value", is(p.Value == "true"), brief})
			default:
				v.props = append(v.props, prop{"value", is(p.Value), brief})
			}
			values = append(values, v)
		}
		list = append(list, &node{"hudson.model.ParametersAction", []prop{{"parameters", is(values), brief}}})
	}
	var causes []*node
	for _, c := range r.Causes {
		n := &node{c.Class, []prop{{"shortDescription", is(c.Text), brief}}}
		switch {
		case strings.HasSuffix(c.Class, "UserIdCause"):
			var id any = c.UserID
			if c.UserID == "" {
				id = nil
			}
			n.props = append(n.props, prop{"userId", is(id), brief}, prop{"userName", is(c.UserName), brief})
		case c.Upstream > 0:
			n.props = append(n.props, prop{"upstreamBuild", is(c.Upstream), brief}, prop{"upstreamProject", is(r.Job.FullName()), brief}, prop{"upstreamUrl", is(strings.TrimPrefix(r.Job.path(), "/")), brief})
		}
		causes = append(causes, n)
	}
	list = append(list, &node{"hudson.model.CauseAction", []prop{{"causes", is(causes), brief}}}, &node{}) // what is not for the API is {}
	for _, c := range r.Checkouts {
		list = append(list, &node{"hudson.plugins.git.util.BuildData", []prop{
			{"lastBuiltRevision", is(&node{"hudson.plugins.git.Revision", []prop{
				{"SHA1", is(c.SHA), brief}, {"branch", is([]*node{{"hudson.plugins.git.Branch", []prop{{"SHA1", is(c.SHA), brief}, {"name", is(c.Branch), brief}}}}), brief},
			}}), brief},
			{"remoteUrls", is([]string{c.Remote}), brief}, {"scmName", is(""), brief},
		}}, &node{})
	}
	if r.State == Aborted && r.Job.Kind == Pipeline {
		list = append(list, &node{"jenkins.model.InterruptedBuildAction", []prop{{"causes", is([]*node{
			{"jenkins.model.CauseOfInterruption$UserInterruption", []prop{{"shortDescription", is("Aborted by somebody"), brief}}},
		}), brief}}})
	}
	return append(list, &node{}, &node{"org.jenkinsci.plugins.displayurlapi.actions.RunDisplayAction", nil})
}

func (j *Jenkins) queued(w *waiting) *node {
	class := "hudson.model.Queue$BuildableItem"
	switch {
	case w.run != nil || w.canceled:
		class = "hudson.model.Queue$LeftItem"
	}
	var why any
	if w.waits() {
		why = "Waiting for next available executor"
	}
	n := &node{class, []prop{
		{"blocked", is(false), plain}, {"buildable", is(w.waits()), plain}, {"id", is(w.id), plain}, {"stuck", is(false), plain},
		{"task", is(j.itemNode(w.job)), plain}, {"url", is(fmt.Sprintf("queue/item/%d/", w.id)), plain}, {"why", is(why), plain},
	}}
	if !w.waits() {
		n.props = append(n.props, prop{"cancelled", is(w.canceled), plain}, prop{"executable", func() any {
			if w.run == nil {
				return nil
			}
			return j.runNode(w.run)
		}, plain})
	}
	return n
}
