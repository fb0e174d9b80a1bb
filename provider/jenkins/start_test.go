package jenkins

import (
	"strings"
	"testing"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/provider"
	"github.com/slipway-platform/slipway/provider/jenkinstest"
)

// last is the newest build of a job.
func (v *vendor) last(t testing.TB, job *jenkinstest.Item) (r jenkinstest.Run) {
	t.Helper()
	v.Do(func() {
		all := job.Runs()
		r = *all[len(all)-1]
	})
	return r
}

func value(r jenkinstest.Run, parameter string) string {
	for _, p := range r.Parameters {
		if p.Name == parameter {
			return p.Value
		}
	}
	return ""
}

func TestStartFindsTheJob(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		project string
		o       provider.StartOptions
		want    string       // id of the build
		code    slipway.Code // or why there is none
		says    string
	}{
		"a job":                          {project: "alone", want: "alone#1"},
		"a job of another spelling":      {project: "ALONE", want: "alone#1"},
		"a job with a ref":               {project: "withref", o: provider.StartOptions{Ref: "release/1.x"}, want: "withref#1"},
		"a job with a parameter for git": {project: "withgit", o: provider.StartOptions{Ref: "v1"}, want: "withgit#1"},
		"a job without one":              {project: "alone", o: provider.StartOptions{Ref: "main"}, code: slipway.Invalid, says: "leave ref out"},
		"a branch":                       {project: "site", o: provider.StartOptions{Ref: "feature/x"}, want: "site/feature%2Fx#1"},
		"no such branch":                 {project: "site", o: provider.StartOptions{Ref: "gone"}, code: slipway.NotFound, says: "no branch"},
		"a branch that is dead":          {project: "site", o: provider.StartOptions{Ref: "dead"}, code: slipway.Conflict, says: "gone"},
		"which branch":                   {project: "site", code: slipway.Invalid, says: "feature/x, main"},
		"a folder with one job":          {project: "single", want: "single/only#1"},
		"a folder with several":          {project: "many", code: slipway.Invalid, says: "a, b"},
		"one of them":                    {project: "many", o: provider.StartOptions{Pipeline: "b"}, want: "many/b#1"},
		"one by its full name":           {project: "many", o: provider.StartOptions{Pipeline: "Many/B"}, want: "many/b#1"},
		"none of them":                   {project: "many", o: provider.StartOptions{Pipeline: "c"}, code: slipway.NotFound},
		"a job of another folder":        {project: "many", o: provider.StartOptions{Pipeline: "../alone"}, code: slipway.NotFound},
		"a repository's branch":          {project: "org", o: provider.StartOptions{Pipeline: "repo", Ref: "main"}, want: "org/repo/main#1"},
		"an empty folder":                {project: "empty", code: slipway.NotFound, says: "holds no job"},
		"a job that is off":              {project: "off", code: slipway.Conflict, says: "disabled"},
		"an unknown parameter":           {project: "withref", o: provider.StartOptions{Extra: map[string]any{"inputs": map[string]any{"BRNCH": "x"}}}, code: slipway.Invalid, says: "BRANCH"},
		"a parameter of none":            {project: "alone", o: provider.StartOptions{Extra: map[string]any{"inputs": map[string]any{"X": "x"}}}, code: slipway.Invalid, says: "none"},
		"inputs that are none":           {project: "withref", o: provider.StartOptions{Extra: map[string]any{"inputs": []any{"x"}}}, code: slipway.Invalid},
		"nothing":                        {project: "nowhere", code: slipway.NotFound},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v := newVendor(t, jenkinstest.Freestyle)
			j := v.Jenkins
			j.Add(jenkinstest.Freestyle, "alone")
			j.Add(jenkinstest.Freestyle, "withref").Parameters = []jenkinstest.Parameter{{Name: "BRANCH", Type: "StringParameterDefinition", Value: "main"}}
			j.Add(jenkinstest.Freestyle, "withgit").Parameters = []jenkinstest.Parameter{{Name: "BRANCH", Type: "StringParameterDefinition"}, {Name: "WHAT", Type: "GitParameterDefinition"}}
			j.Add(jenkinstest.Multibranch, "site")
			j.Add(jenkinstest.Pipeline, "site/main")
			j.Add(jenkinstest.Pipeline, "site/feature%2Fx")
			j.Add(jenkinstest.Pipeline, "site/dead").Disabled = true
			j.Add(jenkinstest.Pipeline, "single/only")
			j.Add(jenkinstest.Pipeline, "many/a")
			j.Add(jenkinstest.Pipeline, "many/b")
			j.Add(jenkinstest.Organization, "org")
			j.Add(jenkinstest.Multibranch, "org/repo")
			j.Add(jenkinstest.Pipeline, "org/repo/main")
			j.Add(jenkinstest.Folder, "empty")
			j.Add(jenkinstest.Freestyle, "off").Disabled = true
			b, err := v.client(t, nil, provider.Env{}).start(t.Context(), test.project, test.o, slipway.Caller{})
			switch {
			case slipway.CodeOf(err) != test.code:
				t.Errorf("got %v, want %q", err, test.code)
			case err != nil && !strings.Contains(err.Error(), test.says):
				t.Errorf("got %v, want word of %q", err, test.says)
			case err == nil && (b == nil || b.ID != test.want):
				t.Errorf("got %+v, want %s", b, test.want)
			}
		})
	}
}

func TestStartGivesParametersAndNoSecretInAddresses(t *testing.T) {
	t.Parallel()
	v := newVendor(t, jenkinstest.Freestyle)
	v.jobs[0].Parameters = append(v.jobs[0].Parameters,
		jenkinstest.Parameter{Name: "LEVEL", Type: "StringParameterDefinition", Value: "1"}, jenkinstest.Parameter{Name: "KEY", Type: "PasswordParameterDefinition"})
	o := provider.StartOptions{Ref: "main", Extra: map[string]any{"inputs": map[string]any{"LEVEL": 3, "KEY": "hush&hush"}}}
	if _, err := v.client(t, nil, provider.Env{}).start(t.Context(), project, o, slipway.Caller{}); err != nil {
		t.Fatal(err)
	}
	r := v.last(t, v.jobs[0])
	if value(r, "BRANCH") != "main" || value(r, "LEVEL") != "3" || value(r, "KEY") != "hush&hush" {
		t.Errorf("got %+v", r.Parameters)
	}
	for _, asked := range v.Jenkins.Asked() {
		if strings.Contains(asked, "hush") {
			t.Errorf("a secret stands in an address: %s", asked)
		}
	}
}

func TestQueueIsFollowedForAWhile(t *testing.T) {
	t.Parallel()
	start := func(t *testing.T, v *vendor) (*slipway.Build, error) {
		t.Helper()
		return v.client(t, nil, provider.Env{}).start(t.Context(), project, provider.StartOptions{Ref: "main"}, slipway.Caller{})
	}
	t.Run("until the build has a number", func(t *testing.T) {
		t.Parallel()
		v := newVendor(t, jenkinstest.Pipeline)
		v.Stall = 4
		if b, err := start(t, v); err != nil || b == nil || b.ID != "Shop/Web#1" || b.Trigger != slipway.TriggerManual {
			t.Errorf("got %+v, %v", b, err)
		}
	})
	t.Run("no longer than a while", func(t *testing.T) {
		t.Parallel()
		v := newVendor(t, jenkinstest.Pipeline)
		v.Stall = -1
		if b, err := start(t, v); err != nil || b != nil {
			t.Errorf("got %+v, %v; want that it was accepted and has no name yet", b, err)
		}
	})
	t.Run("where an equal one waits, to that one", func(t *testing.T) {
		t.Parallel()
		v := newVendor(t, jenkinstest.Pipeline)
		v.Stall = -1
		for range 2 {
			if b, err := start(t, v); err != nil || b != nil {
				t.Fatalf("got %+v, %v", b, err)
			}
		}
		v.Do(func() { v.Stall = 0 })
		page, err := v.client(t, nil, provider.Env{}).list(t.Context(), project, provider.ListOptions{})
		if err != nil || len(page.Items) != 1 {
			t.Errorf("got %d builds, %v; want the one that both wanted", len(page.Items), err)
		}
	})
	t.Run("until somebody takes it out", func(t *testing.T) {
		t.Parallel()
		v := newVendor(t, jenkinstest.Pipeline)
		v.Stall = -1
		v.Took = true
		if _, err := start(t, v); slipway.CodeOf(err) != slipway.Conflict || !strings.Contains(err.Error(), "queue") {
			t.Errorf("got %v, want a conflict", err)
		}
	})
	t.Run("or left it long ago", func(t *testing.T) {
		t.Parallel()
		v := newVendor(t, jenkinstest.Pipeline)
		now := time.Now()
		v.Now = func() time.Time { now = now.Add(6 * time.Minute); return now } // the build began, and its place in the queue is forgotten
		if b, err := start(t, v); err != nil || b == nil || b.Number != 1 {
			t.Errorf("got %+v, %v; want the build, found by its place in the queue", b, err)
		}
	})
}

func TestRetriggerTakesTheBestWayThereIs(t *testing.T) {
	t.Parallel()
	const hidden = "hunter2"
	for name, test := range map[string]struct {
		kind    jenkinstest.Kind
		without []string
		secret  bool // the build has a password among its parameters
		extra   map[string]any
		asked   string // what was asked for last that changes something
		cause   string // end of the class of the last cause
		code    slipway.Code
		says    string
	}{
		"a pipeline is replayed":                    {kind: jenkinstest.Pipeline, asked: "/replay/rebuild", cause: ".ReplayCause"},
		"a job is rebuilt":                          {kind: jenkinstest.Freestyle, asked: "/rebuild/?autorebuild=true", cause: ".RebuildCause"},
		"an old server rebuilds pipelines":          {kind: jenkinstest.Pipeline, without: []string{"replay"}, asked: "/rebuild/?autorebuild=true", cause: ".RebuildCause"},
		"a password is not replayed but rebuilt":    {kind: jenkinstest.Pipeline, secret: true, asked: "/rebuild/?autorebuild=true", cause: ".RebuildCause"},
		"without plugins the job is built":          {kind: jenkinstest.Freestyle, without: []string{"rebuild"}, asked: "/buildWithParameters", cause: "UserIdCause"},
		"but not without its password":              {kind: jenkinstest.Freestyle, secret: true, without: []string{"rebuild"}, code: slipway.Conflict, says: "KEY"},
		"nor a pipeline without its password":       {kind: jenkinstest.Pipeline, secret: true, without: []string{"rebuild"}, code: slipway.Conflict, says: "KEY"},
		"unless it is given":                        {kind: jenkinstest.Pipeline, secret: true, extra: map[string]any{"inputs": map[string]any{"KEY": hidden}}, asked: "/buildWithParameters", cause: "UserIdCause"},
		"the way that is asked for":                 {kind: jenkinstest.Pipeline, extra: map[string]any{"how": "rebuild"}, asked: "/rebuild/?autorebuild=true", cause: ".RebuildCause"},
		"the job as it is now":                      {kind: jenkinstest.Pipeline, extra: map[string]any{"how": "build"}, asked: "/buildWithParameters", cause: "UserIdCause"},
		"a way that there is not":                   {kind: jenkinstest.Freestyle, extra: map[string]any{"how": "replay"}, code: slipway.Unsupported, says: "replay"},
		"a way that nobody knows":                   {kind: jenkinstest.Freestyle, extra: map[string]any{"how": "twice"}, code: slipway.Invalid, says: "replay, rebuild, build"},
		"a way that is no word":                     {kind: jenkinstest.Freestyle, extra: map[string]any{"how": 7}, code: slipway.Invalid},
		"a way that keeps what is to be changed":    {kind: jenkinstest.Freestyle, extra: map[string]any{"how": "rebuild", "inputs": map[string]any{"BRANCH": "x"}}, code: slipway.Invalid},
		"a parameter that there is not":             {kind: jenkinstest.Freestyle, extra: map[string]any{"inputs": map[string]any{"X": "x"}}, code: slipway.Invalid, says: "BRANCH"},
		"extras that mean nothing do no harm":       {kind: jenkinstest.Pipeline, extra: map[string]any{"reason": "flaky"}, asked: "/replay/rebuild", cause: ".ReplayCause"},
		"a password that is to be kept by a replay": {kind: jenkinstest.Pipeline, secret: true, extra: map[string]any{"how": "replay"}, code: slipway.Invalid, says: "password"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v := newVendor(t, test.kind)
			v.Stall = 2
			id := v.add(t, slipway.Build{Status: slipway.BuildFailed})
			v.Do(func() {
				r := v.find2(id)
				r.Parameters = []jenkinstest.Parameter{{Name: "BRANCH", Type: "StringParameterValue", Value: "topic"}}
				if test.secret {
					r.Parameters = append(r.Parameters, jenkinstest.Parameter{Name: "KEY", Type: "PasswordParameterValue", Value: hidden})
					r.Job.Parameters = append(r.Job.Parameters, jenkinstest.Parameter{Name: "KEY", Type: "PasswordParameterDefinition", Value: ""})
				}
				for _, plugin := range test.without {
					v.Without[plugin] = true
				}
			})
			b, err := v.client(t, nil, provider.Env{}).retrigger(t.Context(), project, id, test.extra, slipway.Caller{})
			if test.code != "" {
				if slipway.CodeOf(err) != test.code || !strings.Contains(err.Error(), test.says) {
					t.Errorf("got %v, want %s and word of %q", err, test.code, test.says)
				}
				return
			}
			if err != nil || b == nil || b.Number != 2 || b.Status != slipway.BuildRunning {
				t.Fatalf("got %+v, %v; want build 2, running", b, err)
			}
			r := v.last(t, v.jobs[0])
			if value(r, "BRANCH") != "topic" || test.secret && value(r, "KEY") != hidden || !strings.HasSuffix(r.Causes[len(r.Causes)-1].Class, test.cause) {
				t.Errorf("got %+v because of %+v; want the parameters kept, and a %s", r.Parameters, r.Causes, test.cause)
			}
			var posts []string
			for _, asked := range v.Jenkins.Asked() {
				if strings.HasPrefix(asked, "POST ") {
					posts = append(posts, asked)
				}
			}
			if len(posts) == 0 || !strings.HasSuffix(posts[len(posts)-1], test.asked) {
				t.Errorf("asked for %q, want %s in the end", posts, test.asked)
			}
			if test.cause != "UserIdCause" && b.Trigger != slipway.TriggerRetry {
				t.Errorf("its trigger is %s, want retry", b.Trigger)
			}
		})
	}
}

func TestParametersThatTheJobLostAreLeftOut(t *testing.T) {
	t.Parallel()
	v := newVendor(t, jenkinstest.Freestyle)
	id := v.add(t, slipway.Build{Status: slipway.BuildFailed})
	v.Do(func() {
		v.find2(id).Parameters = []jenkinstest.Parameter{
			{Name: "BRANCH", Type: "StringParameterValue", Value: "topic"}, {Name: "OLD", Type: "StringParameterValue", Value: "x"}, {Name: "OLDKEY", Type: "PasswordParameterValue", Value: "x"},
		}
		v.Without["rebuild"] = true
	})
	b, err := v.client(t, nil, provider.Env{}).retrigger(t.Context(), project, id, nil, slipway.Caller{})
	if r := v.last(t, v.jobs[0]); err != nil || b == nil || value(r, "BRANCH") != "topic" || len(r.Parameters) != 1 {
		t.Errorf("got %+v, %v with %+v; want a build with the parameter that there still is", b, err, r.Parameters)
	}
}

func TestRetriggerNamesTheRightBuild(t *testing.T) {
	t.Parallel()
	v := newVendor(t, jenkinstest.Pipeline)
	id := v.add(t, slipway.Build{Status: slipway.BuildFailed})
	c := v.client(t, nil, provider.Env{})
	first, err := c.retrigger(t.Context(), project, id, nil, slipway.Caller{})
	if err != nil || first == nil || first.Number != 2 {
		t.Fatalf("got %+v, %v", first, err)
	}
	v.add(t, slipway.Build{Status: slipway.BuildRunning}) // of somebody else
	second, err := c.retrigger(t.Context(), project, id, nil, slipway.Caller{})
	if err != nil || second == nil || second.Number != 4 {
		t.Errorf("got %+v, %v; want build 4: 2 is of the time before, 3 is somebody else's", second, err)
	}
	v.Do(func() { v.Stall = -1 })
	if third, err := c.retrigger(t.Context(), project, id, nil, slipway.Caller{}); err != nil || third != nil {
		t.Errorf("while it waits in the queue: got %+v, %v; want that it was accepted and has no name yet", third, err)
	}
	v.Do(func() { v.jobs[0].Disabled = true })
	if _, err := c.retrigger(t.Context(), project, id, nil, slipway.Caller{}); slipway.CodeOf(err) != slipway.Conflict {
		t.Errorf("of a job that is off: got %v, want a conflict", err)
	}
}

func TestChangesNeedPermission(t *testing.T) {
	t.Parallel()
	v := newVendor(t, jenkinstest.Pipeline)
	failed, running := v.add(t, slipway.Build{Status: slipway.BuildFailed}), v.add(t, slipway.Build{Status: slipway.BuildRunning})
	v.Do(func() { v.Users["bot"] = jenkinstest.User{Token: token, ReadOnly: true} })
	c := v.client(t, nil, provider.Env{})
	_, retrigger := c.retrigger(t.Context(), project, failed, nil, slipway.Caller{})
	_, start := c.start(t.Context(), project, provider.StartOptions{}, slipway.Caller{})
	withPassword := v.client(t, map[string]any{"credential": map[string]any{"type": "usernamePassword", "username": "pam", "password": "pw"}}, provider.Env{})
	v.Do(func() { v.Users["pam"] = jenkinstest.User{Password: "pw", ReadOnly: true} })
	if err := withPassword.cancel(t.Context(), project, running); slipway.CodeOf(err) != slipway.Forbidden || !strings.Contains(err.Error(), "Job/Cancel") {
		t.Errorf("with a crumb: got %v, want that Job/Cancel is lacking", err)
	}
	for what, err := range map[string]error{"Job/Build": retrigger, "permission Job/Build": start, "Job/Cancel": c.cancel(t.Context(), project, running)} {
		if slipway.CodeOf(err) != slipway.Forbidden || !strings.Contains(err.Error(), what) {
			t.Errorf("got %v, want that %s is lacking", err, what)
		}
	}
}
