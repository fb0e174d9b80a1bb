package workspace

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/slipway-platform/slipway/cluster"
)

// The resources of the DevWorkspace operator, and those that a namespace for workspaces needs.
var (
	devWorkspaces = cluster.Resource{Group: "workspace.devfile.io", Version: "v1alpha2", Name: "devworkspaces"}
	templates     = cluster.Resource{Group: "workspace.devfile.io", Version: "v1alpha2", Name: "devworkspacetemplates"}
	roleBindings  = cluster.Resource{Group: "rbac.authorization.k8s.io", Version: "v1", Name: "rolebindings"}
)

// What Che and the DevWorkspace operator read and write on objects. Sources: eclipse-che/che-operator and che-dashboard, devfile/devworkspace-operator pkg/constants.
const (
	partOfLabel        = "app.kubernetes.io/part-of"
	componentLabel     = "app.kubernetes.io/component"
	partOfChe          = "che.eclipse.org"
	ofWorkspaces       = "workspaces-namespace"
	usernameAnnotation = "che.eclipse.org/username"

	sourceAnnotation  = "che.eclipse.org/devfile-source"
	editorAnnotation  = "che.eclipse.org/che-editor"
	updatedAnnotation = "che.eclipse.org/last-updated-timestamp"
	startedAnnotation = "controller.devfile.io/started-at" // Unix milliseconds; gone once it is stopped
	idAnnotation      = "controller.devfile.io/devworkspace_id_override"
	starterAttribute  = "controller.devfile.io/use-starter-project"

	// Ours.
	ownerAnnotation   = "slipway.dev/owner"
	devfileAnnotation = "slipway.dev/devfile-name"
	versionAnnotation = "slipway.dev/devfile-version"
)

// The phases of a workspace. The first four are those that users ask for; the others come from the operator.
const (
	starting    = "Starting"
	running     = "Running"
	stopping    = "Stopping"
	stopped     = "Stopped"
	failing     = "Failing"
	failed      = "Failed"
	terminating = "Terminating"
)

// item is what the cache keeps of a DevWorkspace.
type item struct {
	namespace, name, uid string
	id                   string // what users call it by
	phase                string // as the operator says; "" before it has seen the workspace
	started              bool   // what is wanted
	deleting             bool
	mainURL, message     string
	devfile, version     string
	owner                string // who it was made for by Slipway; "" for those that others made
	created, used        time.Time
}

// keep reads a DevWorkspace.
func keep(o cluster.Object) item {
	i := item{
		namespace: o.Namespace(), name: o.Name(), uid: o.UID(), id: o.Text("status", "devworkspaceId"),
		phase: o.Text("status", "phase"), started: o.Bool("spec", "started"), deleting: o.Deleting(), mainURL: o.Text("status", "mainUrl"), message: o.Text("status", "message"),
		devfile: o.Annotation(devfileAnnotation), version: o.Annotation(versionAnnotation), owner: o.Annotation(ownerAnnotation), created: o.Created(),
	}
	if i.id == "" {
		i.id = workspaceID(o)
	}
	if len(i.message) > 1000 {
		i.message = i.message[:1000]
	}
	i.used = lastUsed(o)
	return i
}

// workspaceID is the id that the operator gives a workspace: "workspace" and the first three groups of the uid, or what an annotation says. It is known before
// the operator has seen the workspace.
func workspaceID(o cluster.Object) string {
	if id := o.Annotation(idAnnotation); id != "" && len(id) <= 25 {
		return id
	}
	groups := strings.SplitN(o.UID(), "-", 4)
	return "workspace" + strings.Join(groups[:min(3, len(groups))], "")
}

// lastUsed is when a workspace was last used, as far as can be told: when it was started, while it runs; else when it was last changed; else the last change of a condition.
func lastUsed(o cluster.Object) time.Time {
	if ms, err := strconv.ParseInt(o.Annotation(startedAnnotation), 10, 64); err == nil && ms > 0 && ms < 1e14 {
		return time.UnixMilli(ms).UTC()
	}
	if t, err := time.Parse(time.RFC3339, o.Annotation(updatedAnnotation)); err == nil {
		return t.UTC()
	}
	last := o.Created()
	for _, c := range o.List("status", "conditions") {
		if t := c.Time("lastTransitionTime"); t.After(last) {
			last = t
		}
	}
	return last
}

// status is the phase that a user is told: the operator's, but as soon as something else is wanted, that it is on its way.
func (i item) status() string {
	switch {
	case i.deleting:
		return terminating
	case i.started && (i.phase == "" || i.phase == stopped || i.phase == stopping):
		return starting
	case !i.started && i.phase == "":
		return stopped
	case !i.started && (i.phase == starting || i.phase == running):
		return stopping
	}
	return i.phase
}

// ended says that a workspace that was to start will not come further by itself.
func ended(status string) bool {
	return status == running || status == stopped || status == failed || status == "Error" || status == terminating
}

// namespaceItem is what the cache keeps of a namespace for workspaces.
type namespaceItem struct {
	name, owner, username string
	deleting              bool
}

func keepNamespace(o cluster.Object) namespaceItem {
	return namespaceItem{o.Name(), o.Annotation(ownerAnnotation), o.Annotation(usernameAnnotation), o.Deleting()}
}

// of says whether a namespace belongs to somebody.
func (n namespaceItem) of(o owner) bool {
	if n.owner != "" {
		return n.owner == o.subject
	}
	return n.username != "" && n.username == o.name
}

// order is what a DevWorkspace is made of.
type order struct {
	namespace, name string
	owner           owner
	devfile         *devfile
	url             string // of the devfile
	editor          *editor
	now             time.Time
}

// templateName is the name of the template with the workspace's editor.
func (r order) templateName() string {
	return trimName(r.editor.name+"-"+r.name, 63)
}

// workspace makes the DevWorkspace. It is created stopped, so that its editor is there before the operator looks.
func (r order) workspace() cluster.Object {
	annotations := map[string]any{
		ownerAnnotation: r.owner.subject, devfileAnnotation: r.devfile.name, versionAnnotation: r.devfile.version,
		sourceAnnotation:  "factory:\n  params: url=" + r.url + "\n",
		updatedAnnotation: r.now.UTC().Format("2006-01-02T15:04:05.000Z"),
	}
	spec := map[string]any{"started": false, "routingClass": "che", "template": r.devfile.template}
	if r.editor != nil {
		annotations[editorAnnotation] = r.editor.id
		spec["contributions"] = []any{map[string]any{"name": "editor", "kubernetes": map[string]any{"name": r.templateName()}}}
	}
	return cluster.Object{
		"apiVersion": devWorkspaces.APIVersion(), "kind": "DevWorkspace",
		"metadata": map[string]any{"namespace": r.namespace, "name": r.name, "labels": map[string]any{"kubernetes.io/metadata.name": r.name}, "annotations": annotations},
		"spec":     spec,
	}
}

// template makes the template with the editor, which goes when the workspace goes.
func (e *editor) object(w cluster.Object, name string) cluster.Object {
	return cluster.Object{
		"apiVersion": templates.APIVersion(), "kind": "DevWorkspaceTemplate",
		"metadata": map[string]any{
			"namespace": w.Namespace(), "name": name,
			"ownerReferences": []any{map[string]any{"apiVersion": devWorkspaces.APIVersion(), "kind": "DevWorkspace", "name": w.Name(), "uid": w.UID()}},
		},
		"spec": maps.Clone(e.template),
	}
}

// contribution names the template with the editor that a workspace asks for; "" without.
func contribution(w cluster.Object) string {
	for _, c := range w.List("spec", "contributions") {
		if c.Text("name") == "editor" {
			return c.Text("kubernetes", "name")
		}
	}
	return ""
}

// Condition is how far a workspace has come in one respect.
type Condition struct {
	Type    string     `json:"type" doc:"What it is about" example:"DeploymentReady"`
	Status  string     `json:"status" doc:"True, False or Unknown" example:"True"`
	Reason  string     `json:"reason,omitempty" doc:"A word for the program"`
	Message string     `json:"message,omitempty" doc:"A sentence of the operator" example:"Workspace deployment ready"`
	Since   *time.Time `json:"since,omitempty" doc:"When it became so"`
}

func conditions(o cluster.Object) []Condition {
	list := []Condition{}
	for _, c := range o.List("status", "conditions") {
		k := Condition{Type: c.Text("type"), Status: c.Text("status"), Reason: c.Text("reason"), Message: c.Text("message")}
		if t := c.Time("lastTransitionTime"); !t.IsZero() {
			k.Since = &t
		}
		list = append(list, k)
	}
	slices.SortStableFunc(list, func(a, b Condition) int {
		switch {
		case a.Since == nil || b.Since == nil:
			return 0
		default:
			return a.Since.Compare(*b.Since)
		}
	})
	return list
}

var dnsLabel = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`)

var unsafeName = regexp.MustCompile(`[^a-z0-9]+`)

// safeName makes a text a part of a DNS label. ok says that nothing was lost on the way.
func safeName(s string) (name string, ok bool) {
	name = strings.Trim(unsafeName.ReplaceAllString(strings.ToLower(s), "-"), "-")
	return name, name == s
}

// trimName cuts a name to a length at which it still is one.
func trimName(s string, length int) string {
	if len(s) > length {
		s = s[:length]
	}
	return strings.Trim(s, "-")
}

func checkName(name string) error {
	if len(name) > 63 || !dnsLabel.MatchString(name) {
		return fmt.Errorf("%.80q is no name of a workspace: write 1 to 63 of a-z, 0-9 and -, beginning and ending with a letter or digit", name)
	}
	return nil
}
