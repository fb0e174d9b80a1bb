// Package jenkinstest is a Jenkins for tests: an HTTP handler with the remote access API, the queue, the crumbs and the oddities that programs meet. It was written after
// Jenkins' own sources (2.5xx, with the plugins Folders, Branch API, Pipeline, Git and Rebuilder), and is driven by a client that others wrote for the real one, see
// compat/jenkins.sh. Nothing is ever built: tests say how builds go on.
package jenkinstest

import (
	"slices"
	"strings"
	"sync"
	"time"
)

// Kind is what an item of Jenkins is.
type Kind string

// The kinds of items.
const (
	Freestyle    Kind = "hudson.model.FreeStyleProject"
	Pipeline     Kind = "org.jenkinsci.plugins.workflow.job.WorkflowJob"
	Folder       Kind = "com.cloudbees.hudson.plugins.folder.Folder"
	Multibranch  Kind = "org.jenkinsci.plugins.workflow.multibranch.WorkflowMultiBranchProject"
	Organization Kind = "jenkins.branch.OrganizationFolder"
)

// Where a build stands. Words that Jenkins does not have stand for themselves, as results.
const (
	NotStarted = "not started"
	Building   = "building"
	Success    = "SUCCESS"
	Unstable   = "UNSTABLE"
	Failure    = "FAILURE"
	NotBuilt   = "NOT_BUILT"
	Aborted    = "ABORTED"
)

// User is an account. What it may not see, it is told to be absent.
type User struct {
	Token, Password string
	Name            string
	Blind           bool // sees no items
	ReadOnly        bool // neither builds nor cancels
}

// Jenkins is a server. Its fields are set before it serves; what is read while it does is set within Do.
type Jenkins struct {
	Prefix  string // the path that it is served below: "/ci"
	Root    string // what its administrator calls it; not where tests reach it
	Users   map[string]User
	Open    bool // everybody may read
	NoCrumb bool // protection against forged requests is off
	Now     func() time.Time

	Without map[string]bool // plugins that are not there: "rebuild", "replay", "wfapi"
	Stall   int             // how often something in the queue is looked at before it begins; negative: it never does
	Took    bool            // somebody takes out of the queue whatever is looked at there
	Began   func(*Run)      // is told of a build that left the queue, within Do

	mu       sync.Mutex
	top      *Item
	queue    []*waiting
	lastID   int64
	sessions map[string]string // cookie → user
	asked    []string
}

// New makes an empty Jenkins with one account: bot, with the token 11aa and the password pw.
func New() *Jenkins {
	return &Jenkins{
		Root: "https://jenkins.example.com/", Users: map[string]User{"bot": {Token: "11aa", Password: "pw", Name: "Build Bot"}}, Now: time.Now,
		Without: map[string]bool{}, top: &Item{}, lastID: 100, sessions: map[string]string{},
	}
}

// Do changes a server that serves.
func (j *Jenkins) Do(f func()) {
	j.mu.Lock()
	defer j.mu.Unlock()
	f()
}

// Asked lists what was asked for, "METHOD /path?query" below the prefix.
func (j *Jenkins) Asked() []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.Clone(j.asked)
}

// Item is a job, or what holds jobs.
type Item struct {
	Kind       Kind
	Name       string // the last part of its full name: feature%2Fx
	Parent     *Item
	Disabled   bool
	Parameters []Parameter

	items []*Item
	runs  []*Run // oldest first
	next  int64  // number of the next build
}

// Parameter is the definition of a parameter of a job, or one of a build.
type Parameter struct {
	Name, Type, Value string // of a definition the default; the type is such as StringParameterDefinition
}

func (p Parameter) secret() bool { return strings.HasPrefix(p.Type, "Password") }

// FullName is its name with those of what it lies in.
func (i *Item) FullName() string {
	if i.Parent == nil || i.Parent.Parent == nil {
		return i.Name
	}
	return i.Parent.FullName() + "/" + i.Name
}

func (i *Item) holds() bool {
	return i.Kind == Folder || i.Kind == Multibranch || i.Kind == Organization || i.Parent == nil
}

// Run is a build. Its fields are read and set within Do.
type Run struct {
	Job         *Item
	Number      int64
	State       string // Building, NotStarted, or a result
	Provisional string // a result that may get worse, while it is building
	Begun       time.Time
	Duration    time.Duration
	QueueID     int64
	Causes      []Cause
	Parameters  []Parameter
	Checkouts   []Checkout
	Changes     []Change
	Paused      bool   // waits for input
	Log         string // as it lies on disk, with marks that nobody is shown
	NoLog       bool   // it was deleted
}

// Cause is why a build began.
type Cause struct {
	Class, Text      string
	UserID, UserName string
	Upstream         int64
}

// ByUser is somebody who asked for a build.
func ByUser(id, name string) Cause {
	return Cause{Class: "hudson.model.Cause$UserIdCause", Text: "Started by user " + name, UserID: id, UserName: name}
}

// Checkout is a repository at a commit.
type Checkout struct{ SHA, Branch, Remote string }

// Change is a commit that came since the build before.
type Change struct{ SHA, Message, AuthorID, AuthorName, AuthorEmail string }

// Add makes an item with a full name, and folders for what it lies in where there are none. One that is there is given back.
func (j *Jenkins) Add(kind Kind, fullName string) *Item {
	j.mu.Lock()
	defer j.mu.Unlock()
	at := j.top
	names := strings.Split(fullName, "/")
	for n, name := range names {
		found := at.find(name)
		if found == nil {
			found = &Item{Kind: Folder, Name: name, Parent: at, next: 1}
			if n == len(names)-1 {
				found.Kind = kind
			}
			at.items = append(at.items, found)
		}
		at = found
	}
	return at
}

// find does not tell capital letters from small ones.
func (i *Item) find(name string) *Item {
	for _, item := range i.items {
		if strings.EqualFold(item.Name, name) {
			return item
		}
	}
	return nil
}

// Run makes a build of a job in a state, begun now unless a time is given.
func (j *Jenkins) Run(job *Item, state string, begun time.Time) *Run {
	j.mu.Lock()
	defer j.mu.Unlock()
	r := j.begin(job, &waiting{id: j.id()})
	if !begun.IsZero() {
		r.Begun = begun
	}
	j.set(r, state)
	return r
}

// Delete takes a job out, with its builds.
func (j *Jenkins) Delete(i *Item) {
	j.mu.Lock()
	defer j.mu.Unlock()
	i.Parent.items = slices.DeleteFunc(i.Parent.items, func(other *Item) bool { return other == i })
}

// Set moves a build to a state.
func (j *Jenkins) Set(r *Run, state string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.set(r, state)
}

func (j *Jenkins) set(r *Run, state string) {
	r.State = state
	if r.building() {
		r.Duration = 0
	} else if r.Duration == 0 {
		r.Duration = max(j.Now().Sub(r.Begun), 0)
	}
}

func (r *Run) building() bool { return r.State == Building || r.State == NotStarted }

// Write appends to a build's log.
func (j *Jenkins) Write(r *Run, text string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	r.Log += text
}

// Runs lists a job's builds, the oldest first; within Do.
func (i *Item) Runs() []*Run { return i.runs }

// Find gives a build of a job, nil for none.
func (j *Jenkins) Find(fullName string, number int64) *Run {
	j.mu.Lock()
	defer j.mu.Unlock()
	at := j.top
	for name := range strings.SplitSeq(fullName, "/") {
		if at = at.find(name); at == nil {
			return nil
		}
	}
	return at.run(number)
}

func (i *Item) run(number int64) *Run {
	for _, r := range i.runs {
		if r.Number == number {
			return r
		}
	}
	return nil
}

// waiting is something in the queue, or what has left it.
type waiting struct {
	id         int64
	job        *Item
	causes     []Cause
	parameters []Parameter
	checkouts  []Checkout // of a pipeline that is replayed
	looks      int
	run        *Run // since it began
	canceled   bool
	left       time.Time
}

func (w *waiting) waits() bool { return w.run == nil && !w.canceled }

func (j *Jenkins) id() int64 {
	j.lastID++
	return j.lastID
}

// leftItems is how long what has left the queue can be asked for.
const leftItems = 5 * time.Minute

// schedule puts a job into the queue. An equal item that waits there is given instead, and then it is not new.
func (j *Jenkins) schedule(w *waiting) (at *waiting, fresh bool) {
	for _, other := range j.queue {
		if other.waits() && other.job == w.job && slices.Equal(other.parameters, w.parameters) {
			other.causes = append(other.causes, w.causes...)
			return other, false
		}
	}
	w.id = j.id()
	j.queue = append(j.queue, w)
	j.advance(w)
	return w, true
}

// advance lets something in the queue begin when it was looked at often enough.
func (j *Jenkins) advance(w *waiting) {
	switch {
	case w.waits() && j.Took:
		w.canceled, w.left = true, j.Now()
		return
	case !w.waits() || j.Stall < 0:
		return
	}
	if w.looks++; w.looks > j.Stall {
		w.run = j.begin(w.job, w)
		w.left = j.Now()
		if j.Began != nil {
			j.Began(w.run)
		}
	}
}

func (j *Jenkins) begin(job *Item, w *waiting) *Run {
	r := &Run{
		Job: job, Number: job.next, State: Building, Begun: j.Now(), QueueID: w.id, Causes: w.causes, Parameters: w.parameters, Checkouts: w.checkouts,
	}
	job.next++
	job.runs = append(job.runs, r)
	return r
}

func (j *Jenkins) inQueue(id int64) *waiting {
	for _, w := range j.queue {
		if w.id == id && (w.left.IsZero() || j.Now().Sub(w.left) < leftItems) {
			return w
		}
	}
	return nil
}
