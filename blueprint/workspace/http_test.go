package workspace_test

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/auth"
	"github.com/slipway-platform/slipway/blueprint"
	"github.com/slipway-platform/slipway/blueprint/blueprinttest"
	"github.com/slipway-platform/slipway/blueprint/workspace"
	"github.com/slipway-platform/slipway/cluster"
	"github.com/slipway-platform/slipway/cluster/clustertest"
	"github.com/slipway-platform/slipway/event"
	"github.com/slipway-platform/slipway/server"
	"github.com/slipway-platform/slipway/store"
)

const path = "/api/che-launcher/workspaces"

var (
	devWorkspaces = cluster.Resource{Group: "workspace.devfile.io", Version: "v1alpha2", Name: "devworkspaces"}
	templates     = cluster.Resource{Group: "workspace.devfile.io", Version: "v1alpha2", Name: "devworkspacetemplates"}
	roleBindings  = cluster.Resource{Group: "rbac.authorization.k8s.io", Version: "v1", Name: "rolebindings"}
)

// devfiles serves devfiles over TLS.
type devfiles struct {
	*httptest.Server
	ca    string // file
	mu    sync.Mutex
	files map[string]http.HandlerFunc
	asked atomic.Int64
}

func newDevfiles(t *testing.T) *devfiles {
	t.Helper()
	d := &devfiles{files: map[string]http.HandlerFunc{}, ca: filepath.Join(t.TempDir(), "ca.pem")}
	d.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		d.asked.Add(1)
		d.mu.Lock()
		f := d.files[r.URL.Path]
		d.mu.Unlock()
		if f == nil {
			http.NotFound(w, r)
			return
		}
		f(w, r)
	}))
	t.Cleanup(d.Close)
	if err := os.WriteFile(d.ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: d.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"goldenpath-python", "goldenpath-ai"} {
		data, err := os.ReadFile(filepath.Join("testdata", "devfiles", name+".yaml"))
		if err != nil {
			t.Fatal(err)
		}
		d.put("/"+name+".yaml", string(data))
	}
	return d
}

func (d *devfiles) handle(path string, f http.HandlerFunc) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.files[path] = f
}

func (d *devfiles) put(path, text string) {
	d.handle(path, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", fmt.Sprintf(`"%x"`, len(text)))
		if r.Header.Get("If-None-Match") == w.Header().Get("ETag") {
			w.WriteHeader(http.StatusNotModified)
			return
		}
		_, _ = w.Write([]byte(text))
	})
}

// world is a server with workspaces on a real API server.
type world struct {
	*blueprinttest.Server
	kube     *clustertest.Server
	devfiles *devfiles
	mark     string // in the names of this world's users
}

// options say how a world differs.
type options struct {
	config func(c *workspace.Config)
	kube   func(t *testing.T) (*clustertest.Server, cluster.Config)
	nobody bool // no cluster at all
	more   []cluster.Config
	now    func() time.Time
}

func each(t *testing.T, o options, test func(t *testing.T, w *world)) {
	t.Helper()
	for _, e := range []store.Engine{store.SQLite, store.Postgres} {
		t.Run(string(e), func(t *testing.T) {
			t.Parallel()
			test(t, newWorld(t, e, o))
		})
	}
}

func newWorld(t *testing.T, e store.Engine, o options) *world {
	t.Helper()
	w := &world{devfiles: newDevfiles(t), mark: strings.ToLower(rand.Text()[:6])}
	var config cluster.Config
	switch {
	case o.nobody:
	case o.kube != nil:
		w.kube, config = o.kube(t)
	default:
		w.kube = clustertest.Shared(t)
		config = w.kube.Config("main", "admin")
	}
	if w.kube != nil {
		w.kube.Apply(t, clustertest.DevWorkspaceCRDs(t)...)
	}
	editor := filepath.Join(t.TempDir(), "editor.yaml")
	if err := os.WriteFile(editor, []byte(codeEditor), 0o600); err != nil {
		t.Fatal(err)
	}
	w.Server = blueprinttest.Start(t, e, blueprinttest.Options{
		Blueprints: []blueprint.Blueprint{workspace.Blueprint}, Now: o.now,
		Configure: func(c *server.Config) {
			if config.Name != "" {
				c.Clusters = append([]cluster.Config{config}, o.more...)
			}
			c.Fetch.Allow, c.Fetch.CAFile = []string{w.devfiles.URL + "/*"}, w.devfiles.ca
			c.Auth.RateLimits.User = 0
			ws := c.Sections["workspaces"].(*workspace.Config)
			ws.URL, ws.Editor = "https://che.fawkes.example.com", editor
			if o.config != nil {
				o.config(ws)
			}
		},
	})
	return w
}

// codeEditor is the definition of an editor, in the form of che-code's.
const codeEditor = `schemaVersion: 2.2.2
metadata: {name: che-code, displayName: VS Code, attributes: {publisher: che-incubator}}
components:
- name: che-code-injector
  container: {image: quay.io/example/code, command: [/entrypoint-init-container.sh], volumeMounts: [{name: checode, path: /checode}]}
- name: checode
  volume: {}
commands:
- {id: init-container-command, apply: {component: che-code-injector}}
events: {preStart: [init-container-command]}
`

// user is a client of a user of this world, with all rights on workspaces.
func (w *world) user(name string) *blueprinttest.Client {
	return w.As(w.NewToken(auth.NewToken{Name: name + "-" + w.mark, User: "user:default/" + name + "-" + w.mark, Permissions: []string{"workspace.*"}}))
}

// namespace is that of a user.
func (w *world) namespace(name string) string { return name + "-" + w.mark + "-workspaces" }

// operator plays the DevWorkspace operator in the namespaces of this world: it follows spec.started through the phases and starts nothing. hold keeps a workspace in a
// phase; fails says why one cannot start.
func (w *world) operator(t *testing.T, fails func(o cluster.Object) string, hold func(o cluster.Object, phase string) bool) {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	t.Cleanup(func() { stop(); wg.Wait() })
	client := w.kube.Client()
	cache := cluster.NewCache(client, devWorkspaces, cluster.CacheOptions{}, func(o cluster.Object) cluster.Object { return o })
	wg.Go(func() { _ = cache.Run(ctx) })
	wg.Go(func() {
		for {
			changed := cache.Changed()
			for _, o := range cache.List("") {
				if !strings.Contains(o.Namespace(), w.mark) || o.Deleting() {
					continue
				}
				status := map[string]any{"devworkspaceId": "workspace" + strings.Join(strings.Split(o.UID(), "-")[:3], "")}
				phase := o.Text("status", "phase")
				url := fmt.Sprintf("https://che.fawkes.example.com/%s/%s/3100/", o.Namespace(), o.Name())
				now := time.Now().UTC().Format(time.RFC3339)
				condition := func(kind, text string) []any {
					list, _ := o.At("status", "conditions").([]any)
					if kind == "Started" {
						list = nil
					}
					return append(append([]any{}, list...), map[string]any{"type": kind, "status": "True", "message": text, "lastTransitionTime": now})
				}
				next := ""
				switch started := o.Bool("spec", "started"); {
				case started && (phase == "" || phase == "Stopped" || phase == "Stopping"):
					next, status["message"], status["conditions"] = "Starting", "Waiting for workspace deployment", condition("Started", "DevWorkspace is starting")
				case started && phase == "Starting":
					if why := fails(o); why != "" {
						next, status["message"] = "Failed", why
					} else {
						next, status["message"], status["mainUrl"], status["conditions"] = "Running", url, url, condition("Ready", "")
					}
				case !started && (phase == "Running" || phase == "Starting" || phase == "Failed"):
					next, status["message"] = "Stopping", nil
				case !started && (phase == "" || phase == "Stopping"):
					next, status["message"], status["mainUrl"] = "Stopped", "Stopped", nil
				}
				if next == "" || hold != nil && hold(o, next) {
					continue
				}
				status["phase"] = next
				_, _ = client.PatchStatus(ctx, devWorkspaces, o.Namespace(), o.Name(), cluster.Object{ // one that has changed comes again
					"metadata": map[string]any{"resourceVersion": o.ResourceVersion()}, "status": status,
				})
			}
			select {
			case <-ctx.Done():
				return
			case <-changed:
			case <-time.After(100 * time.Millisecond): // pacing
			}
		}
	})
}

func never(cluster.Object) string { return "" }

func until(t *testing.T, c *blueprinttest.Client, id, status string) (w workspace.Workspace) {
	t.Helper()
	blueprinttest.Eventually(t, "the workspace is "+status, func() bool {
		c.Get(path + "/" + id).Is(200).Into(&w)
		return w.Status == status
	})
	return w
}

func TestTheConversationOfTheSeed(t *testing.T) {
	t.Parallel()
	each(t, options{}, func(t *testing.T, w *world) {
		w.operator(t, never, nil)
		jane := w.user("jane")
		request := map[string]any{"devfileUrl": w.devfiles.URL + "/goldenpath-python.yaml", "name": "my-python-workspace"}

		var made workspace.Workspace
		jane.Post(path, request).Is(201).Into(&made)
		if !strings.HasPrefix(made.WorkspaceID, "workspace") || len(made.WorkspaceID) != 25 || made.Name != "my-python-workspace" || made.Status != "Starting" ||
			made.IDEURL != "https://che.fawkes.example.com/dashboard/#/ide/"+w.namespace("jane")+"/my-python-workspace" || made.Devfile != (workspace.DevfileName{Name: "goldenpath-python", Version: "1.0.0"}) {
			t.Errorf("got %+v", made)
		}
		f := jane.Post(path, map[string]any{"devfileUrl": strings.Replace(w.devfiles.URL, "https", "http", 1) + "/goldenpath-python.yaml"}).Fails(400, slipway.Invalid)
		if f.Error != "Invalid devfileUrl: URL must be HTTPS" {
			t.Errorf("got %q", f.Error)
		}
		f = jane.Post(path, request).Fails(409, slipway.Conflict)
		if f.Error != "Workspace with name 'my-python-workspace' already exists" {
			t.Errorf("got %q", f.Error)
		}
		got := until(t, jane, made.WorkspaceID, "Running")
		if !strings.HasSuffix(got.IDEURL, "/my-python-workspace/3100/") || len(got.Conditions) == 0 {
			t.Errorf("a running workspace has its own address and its conditions: got %+v", got)
		}
		var list workspace.Workspaces
		blueprinttest.Eventually(t, "the list has it running", func() bool {
			list = workspace.Workspaces{}
			jane.Get(path + "?status=Running").Is(200).Into(&list)
			return list.Total == 1
		})
		if l := list.Workspaces[0]; l.WorkspaceID != made.WorkspaceID || l.CreatedAt.IsZero() || l.LastUsed.IsZero() || l.Devfile.Version != "1.0.0" {
			t.Errorf("got %+v", l)
		}
		jane.Get(path + "?status=Stopped").Is(200).Into(&list)
		if list.Total != 0 {
			t.Errorf("a running workspace is listed as stopped")
		}
		jane.Do("DELETE", path+"/"+made.WorkspaceID, nil).Is(204)
		blueprinttest.Eventually(t, "it is gone", func() bool { return jane.Get(path+"/"+made.WorkspaceID).Status == 404 })
		f = jane.Do("DELETE", path+"/"+made.WorkspaceID, nil).Fails(404, slipway.NotFound)
		if f.Error != "Workspace not found" {
			t.Errorf("got %q", f.Error)
		}
		jane.Get(path+"?status=Sleeping").Fails(400, slipway.Invalid)
		w.As("").Get(path).Is(401)
		w.With("workspace.workspace.delete").Get(path).Is(403)
	})
}

func TestAWorkspaceIsMadeAsCheMakesIt(t *testing.T) {
	t.Parallel()
	w := newWorld(t, store.SQLite, options{})
	jane := w.user("jane")
	var made workspace.Workspace
	jane.Post(path, map[string]any{"devfileUrl": w.devfiles.URL + "/goldenpath-python.yaml"}).Is(201).Into(&made)
	ns, ctx := w.namespace("jane"), t.Context()
	if !strings.HasPrefix(made.Name, "goldenpath-python-") || made.Namespace != ns {
		t.Errorf("got the name %q in %q", made.Name, made.Namespace)
	}
	n, err := w.kube.Client().Get(ctx, cluster.Namespaces, "", ns)
	if err != nil || n.Label("app.kubernetes.io/part-of") != "che.eclipse.org" || n.Label("app.kubernetes.io/component") != "workspaces-namespace" || n.Annotation("che.eclipse.org/username") != "jane-"+w.mark {
		t.Errorf("namespace: %v, %v", n, err)
	}
	o, err := w.kube.Client().Get(ctx, devWorkspaces, ns, made.Name)
	if err != nil {
		t.Fatal(err)
	}
	for what, got := range map[string][2]any{
		"started":      {o.Bool("spec", "started"), true},
		"routingClass": {o.Text("spec", "routingClass"), "che"},
		"editor":       {o.Annotation("che.eclipse.org/che-editor"), "che-code"},
		"source":       {o.Annotation("che.eclipse.org/devfile-source"), "factory:\n  params: url=" + w.devfiles.URL + "/goldenpath-python.yaml\n"},
		"starter":      {o.Text("spec", "template", "attributes", "controller.devfile.io/use-starter-project"), "python-fastapi"},
		"contribution": {o.List("spec", "contributions")[0].Text("kubernetes", "name"), "che-code-" + made.Name},
		"label":        {o.Label("kubernetes.io/metadata.name"), made.Name},
		"command":      {o.List("spec", "template", "commands")[0].Text("id"), "install-dependencies"},
	} {
		if got[0] != got[1] {
			t.Errorf("%s: got %v, want %v", what, got[0], got[1])
		}
	}
	if at, err := time.Parse(time.RFC3339, o.Annotation("che.eclipse.org/last-updated-timestamp")); err != nil || time.Since(at) > time.Hour {
		t.Errorf("last updated: %v, %v", at, err)
	}
	e, err := w.kube.Client().Get(ctx, templates, ns, "che-code-"+made.Name)
	if err != nil || len(e.List("metadata", "ownerReferences")) != 1 || e.List("metadata", "ownerReferences")[0].Text("uid") != o.UID() || len(e.List("spec", "components")) != 2 || e.At("spec", "metadata") != nil {
		t.Errorf("editor: %v, %v", e, err)
	}
}

func TestNobodySeesAnothersWorkspaces(t *testing.T) {
	t.Parallel()
	w := newWorld(t, store.SQLite, options{config: func(c *workspace.Config) {
		c.Namespaces = []workspace.Namespace{{Name: "shared-{user}", To: []string{"*"}}}
	}})
	jane, joe := w.user("jane"), w.user("joe")
	var made workspace.Workspace
	jane.Post(path, map[string]any{"devfileUrl": w.devfiles.URL + "/goldenpath-ai.yaml", "name": "mine"}).Is(201).Into(&made)
	for _, c := range []*blueprinttest.Answer{
		joe.Get(path + "/" + made.WorkspaceID), joe.Do("DELETE", path+"/"+made.WorkspaceID, nil), joe.Post(path+"/"+made.WorkspaceID+"/stop", nil), joe.Post(path+"/"+made.WorkspaceID+"/start", nil),
	} {
		if f := c.Fails(404, slipway.NotFound); f.Error != "Workspace not found" {
			t.Errorf("got %q", f.Error)
		}
	}
	var list workspace.Workspaces
	joe.Get(path).Is(200).Into(&list)
	if list.Total != 0 {
		t.Errorf("joe sees %+v", list)
	}
	f := joe.Post(path, map[string]any{"devfileUrl": w.devfiles.URL + "/goldenpath-ai.yaml", "namespace": w.namespace("jane")}).Fails(403, slipway.Forbidden)
	if !strings.Contains(f.Error, w.namespace("joe")) {
		t.Errorf("the error does not say which namespace is joe's: %q", f.Error)
	}
	joe.Post(path, map[string]any{"devfileUrl": w.devfiles.URL + "/goldenpath-ai.yaml", "namespace": "kube-system"}).Fails(403, slipway.Forbidden)

	// A namespace of the right name that is another's, or nobody's.
	for name, annotations := range map[string]map[string]any{"eve": {"che.eclipse.org/username": "somebody"}, "adam": {}} {
		w.kube.Create(t, cluster.Namespaces, "", cluster.Object{"apiVersion": "v1", "kind": "Namespace", "metadata": map[string]any{
			"name": w.namespace(name), "annotations": annotations, "labels": map[string]any{"app.kubernetes.io/component": "workspaces-namespace"},
		}})
		w.kube.Create(t, devWorkspaces, w.namespace(name), cluster.Object{
			"apiVersion": "workspace.devfile.io/v1alpha2", "kind": "DevWorkspace", "metadata": map[string]any{"name": "theirs"}, "spec": map[string]any{"started": false, "template": map[string]any{}},
		})
		w.user(name).Post(path, map[string]any{"devfileUrl": w.devfiles.URL + "/goldenpath-ai.yaml"}).Fails(403, slipway.Forbidden)
		w.user(name + "2").Get(path).Is(200)
		w.As(w.NewToken(auth.NewToken{Name: name + "-again-" + w.mark, User: "user:default/" + name + "-" + w.mark, Permissions: []string{"workspace.*"}})).Get(path).Is(200).Into(&list)
		if list.Total != 0 {
			t.Errorf("%s sees what is in a namespace of another: %+v", name, list)
		}
	}
	// A namespace that Che made for the user, with a workspace of its dashboard.
	w.kube.Create(t, cluster.Namespaces, "", cluster.Object{"apiVersion": "v1", "kind": "Namespace", "metadata": map[string]any{
		"name": w.namespace("ada"), "annotations": map[string]any{"che.eclipse.org/username": "ada-" + w.mark}, "labels": map[string]any{"app.kubernetes.io/component": "workspaces-namespace"},
	}})
	w.kube.Create(t, devWorkspaces, w.namespace("ada"), cluster.Object{
		"apiVersion": "workspace.devfile.io/v1alpha2", "kind": "DevWorkspace", "metadata": map[string]any{"name": "from-the-dashboard"}, "spec": map[string]any{"started": false, "template": map[string]any{}},
	})
	ada := w.user("ada")
	blueprinttest.Eventually(t, "a workspace of Che's dashboard is listed", func() bool {
		ada.Get(path).Is(200).Into(&list)
		return list.Total == 1 && list.Workspaces[0].Name == "from-the-dashboard" && list.Workspaces[0].Status == "Stopped"
	})
	// A shared namespace shows each their own.
	shared := "shared-ada-" + w.mark
	w.kube.MakeNamespace(t, shared)
	ada.Post(path, map[string]any{"devfileUrl": w.devfiles.URL + "/goldenpath-ai.yaml", "namespace": shared, "name": "in-shared"}).Is(201)
	ada.Get(path).Is(200).Into(&list)
	if list.Total != 2 {
		t.Errorf("ada sees %+v", list)
	}
}

func TestWorkspacesAreStartedAndStopped(t *testing.T) {
	t.Parallel()
	each(t, options{}, func(t *testing.T, w *world) {
		var broken atomic.Bool
		broken.Store(true)
		w.operator(t, func(cluster.Object) string {
			if broken.Load() {
				return "the image cannot be pulled"
			}
			return ""
		}, nil)
		jane := w.user("jane")
		var ws workspace.Workspace
		jane.Post(path, map[string]any{"devfileUrl": w.devfiles.URL + "/goldenpath-ai.yaml", "name": "one"}).Is(201).Into(&ws)
		if got := until(t, jane, ws.WorkspaceID, "Failed"); got.Message != "the image cannot be pulled" {
			t.Errorf("got %+v", got)
		}
		var list workspace.Workspaces
		jane.Get(path + "?status=Failed").Is(200).Into(&list)
		if list.Total != 1 {
			t.Errorf("a failed workspace is not listed as such: %+v", list)
		}
		broken.Store(false)
		jane.Post(path+"/"+ws.WorkspaceID+"/start", nil).Is(202)
		until(t, jane, ws.WorkspaceID, "Running")
		jane.Post(path+"/"+ws.WorkspaceID+"/start", nil).Is(202).Into(&ws)
		if ws.Status != "Running" {
			t.Errorf("a start of what runs: got %s", ws.Status)
		}
		jane.Post(path+"/"+ws.WorkspaceID+"/stop", nil).Is(202).Into(&ws)
		if ws.Status != "Stopping" {
			t.Errorf("got %s after a stop", ws.Status)
		}
		until(t, jane, ws.WorkspaceID, "Stopped")
		// Whoever made a workspace may have died before it had its editor.
		if err := w.kube.Client().Delete(t.Context(), templates, ws.Namespace, "che-code-one", "", ""); err != nil {
			t.Fatal(err)
		}
		jane.Post(path+"/"+ws.WorkspaceID+"/start", nil).Is(202).Into(&ws)
		if ws.Status != "Starting" {
			t.Errorf("got %s after a start", ws.Status)
		}
		if _, err := w.kube.Client().Get(t.Context(), templates, ws.Namespace, "che-code-one"); err != nil {
			t.Errorf("the editor is not made again: %v", err)
		}
		jane.Do("DELETE", path+"/"+ws.WorkspaceID, nil).Is(204) // while it starts
		jane.Post(path+"/workspacenothing/start", nil).Fails(404, slipway.NotFound)

		// What was done is told in the words of CDEvents, to who may read all events.
		var told []string
		blueprinttest.Eventually(t, "the events are listed", func() bool {
			told = nil
			events, _, err := w.Server.Server.Events().List(t.Context(), auth.System(), 0, []string{"dev.cdevents.environment.*"}, 100)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range events {
				var data event.CDEvent[event.CDEnvironment, struct{ Action, WorkspaceID string }]
				if err := json.Unmarshal(e.Data, &data); err != nil || data.Context.Type != e.Type || data.Subject.ID != ws.Namespace+"/one" || e.Subject != data.Subject.ID || data.Subject.Content.Name != "one" {
					t.Fatalf("got %s, %v", e.Data, err)
				}
				told = append(told, strings.TrimPrefix(e.Type, "dev.cdevents.environment.")+" "+data.CustomData.Action)
			}
			return len(told) >= 5
		})
		if diff := cmp.Diff([]string{"created.0.3.0 create", "modified.0.3.0 start", "modified.0.3.0 stop", "modified.0.3.0 start", "deleted.0.3.0 delete"}, told); diff != "" {
			t.Errorf("events (-want +got):\n%s", diff)
		}
		other := &slipway.Caller{Kind: slipway.CallerUser, Subject: "user:default/jane"}
		if events, _, err := w.Server.Server.Events().List(t.Context(), other, 0, []string{"dev.cdevents.environment.*"}, 100); err != nil || len(events) != 0 {
			t.Errorf("others are told of workspaces: %+v, %v", events, err)
		}
	})
}

func TestListsArePaged(t *testing.T) {
	t.Parallel()
	w := newWorld(t, store.SQLite, options{})
	jane := w.user("jane")
	for i := range 5 {
		jane.Post(path, map[string]any{"devfileUrl": w.devfiles.URL + "/goldenpath-ai.yaml", "name": fmt.Sprintf("w%d", i)}).Is(201)
	}
	var names []string
	cursor := ""
	for range 3 {
		var list workspace.Workspaces
		jane.Get(path + "?limit=2" + cursor).Is(200).Into(&list)
		if list.Total != 5 {
			t.Errorf("got total %d, want 5", list.Total)
		}
		for _, ws := range list.Workspaces {
			names = append(names, ws.Name)
		}
		cursor = "&cursor=" + list.PageInfo.NextCursor
		if list.PageInfo.HasMore != (len(names) < 5) {
			t.Errorf("got hasMore %v after %d", list.PageInfo.HasMore, len(names))
		}
	}
	seen := map[string]bool{}
	for _, n := range names {
		seen[n] = true
	}
	if len(names) != 5 || len(seen) != 5 {
		t.Errorf("got the pages %v", names)
	}
	var list workspace.Workspaces
	jane.Get(path + "?limit=2").Is(200).Into(&list)
	jane.Get(path+"?limit=2&status=Running&cursor="+list.PageInfo.NextCursor).Fails(400, slipway.Invalid)
	jane.Get(path+"?cursor=nonsense").Fails(400, slipway.Invalid)
	w.user("joe").Get(path+"?limit=2&cursor="+list.PageInfo.NextCursor).Fails(400, slipway.Invalid)
}

func TestFaultyRequestsAreRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t, store.SQLite, options{config: func(c *workspace.Config) { c.MaxPerUser = 1; c.Devfiles = append(c.Devfiles, "https://*") }})
	jane := w.user("jane")
	w.devfiles.put("/faulty.yaml", "schemaVersion: 2.2.2\ncomponents: [{name: a, container: {}}, {name: a, volume: {}}]\n")
	w.devfiles.put("/bomb.yaml", "schemaVersion: 2.2.2\nattributes:\n  a: &a [x,x,x,x,x,x,x,x,x,x]\n  b: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a,*a]\n  c: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b,*b]\n  d: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c,*c]\n  e: [*d,*d,*d,*d,*d,*d,*d,*d,*d,*d]\n")
	w.devfiles.handle("/huge.yaml", func(rw http.ResponseWriter, r *http.Request) {
		for range 50 << 4 {
			if _, err := rw.Write(make([]byte, 64<<10)); err != nil {
				return
			}
		}
	})
	w.devfiles.handle("/away.yaml", func(rw http.ResponseWriter, r *http.Request) {
		http.Redirect(rw, r, "https://10.0.0.1/devfile.yaml", http.StatusFound)
	})
	w.devfiles.handle("/metadata.yaml", func(rw http.ResponseWriter, r *http.Request) {
		http.Redirect(rw, r, "http://169.254.169.254/latest/meta-data", http.StatusFound)
	})
	for name, c := range map[string]struct {
		body map[string]any
		says string
	}{
		"no address":         {map[string]any{}, "Invalid devfileUrl: it is required"},
		"http":               {map[string]any{"devfileUrl": "http://example.com/x"}, "Invalid devfileUrl: URL must be HTTPS"},
		"file":               {map[string]any{"devfileUrl": "file:///etc/passwd"}, "Invalid devfileUrl: URL must be HTTPS"},
		"a private address":  {map[string]any{"devfileUrl": "https://10.0.0.1/devfile.yaml"}, "Invalid devfileUrl: "},
		"not allowed":        {map[string]any{"devfileUrl": "https://example.com/devfile.yaml"}, "Invalid devfileUrl: "},
		"nothing there":      {map[string]any{"devfileUrl": w.devfiles.URL + "/none.yaml"}, "Invalid devfileUrl: "},
		"a faulty devfile":   {map[string]any{"devfileUrl": w.devfiles.URL + "/faulty.yaml"}, "Invalid devfile: components[0].container.image: is required"},
		"a bomb":             {map[string]any{"devfileUrl": w.devfiles.URL + "/bomb.yaml"}, "Invalid devfile: "},
		"a huge devfile":     {map[string]any{"devfileUrl": w.devfiles.URL + "/huge.yaml"}, "Invalid devfileUrl: "},
		"a redirect inwards": {map[string]any{"devfileUrl": w.devfiles.URL + "/away.yaml"}, "Invalid devfileUrl: "},
		"one to metadata":    {map[string]any{"devfileUrl": w.devfiles.URL + "/metadata.yaml"}, "Invalid devfileUrl: "},
		"a bad name":         {map[string]any{"devfileUrl": w.devfiles.URL + "/goldenpath-ai.yaml", "name": "My Workspace"}, "Invalid name: "},
		"a long name":        {map[string]any{"devfileUrl": w.devfiles.URL + "/goldenpath-ai.yaml", "name": strings.Repeat("a", 64)}, "Invalid name: "},
		"an unknown cluster": {map[string]any{"devfileUrl": w.devfiles.URL + "/goldenpath-ai.yaml", "cluster": "moon"}, `there is no cluster "moon"`},
		"an unknown field":   {map[string]any{"devfileUrl": w.devfiles.URL + "/goldenpath-ai.yaml", "nmae": "x"}, ""},
	} {
		if f := jane.Post(path, c.body).Fails(400, slipway.Invalid); !strings.Contains(f.Error, c.says) {
			t.Errorf("%s: got %q, want %q in it", name, f.Error, c.says)
		}
	}
	jane.Post(path, map[string]any{"devfileUrl": w.devfiles.URL + "/goldenpath-ai.yaml"}).Is(201)
	f := jane.Post(path, map[string]any{"devfileUrl": w.devfiles.URL + "/goldenpath-ai.yaml"}).Fails(403, slipway.Forbidden)
	if f.Error != "You have 1 of at most 1 workspaces; delete one first" {
		t.Errorf("got %q", f.Error)
	}
}

func TestADevfileIsReadAgainOnlyWhenItHasChanged(t *testing.T) {
	t.Parallel()
	w := newWorld(t, store.SQLite, options{})
	jane := w.user("jane")
	for range 3 {
		jane.Post(path, map[string]any{"devfileUrl": w.devfiles.URL + "/goldenpath-ai.yaml"}).Is(201)
	}
	if n := w.devfiles.asked.Load(); n != 1 {
		t.Errorf("a devfile was asked for %d times within a minute, want 1", n)
	}
}

func TestWithoutAClusterItSaysWhatToConfigure(t *testing.T) {
	t.Parallel()
	w := newWorld(t, store.SQLite, options{nobody: true})
	jane := w.user("jane")
	for _, a := range []*blueprinttest.Answer{
		jane.Get(path), jane.Get(path + "/x"), jane.Post(path, map[string]any{"devfileUrl": w.devfiles.URL + "/goldenpath-ai.yaml"}), jane.Do("DELETE", path+"/x", nil), jane.Post(path+"/x/start", nil),
	} {
		if f := a.Fails(501, slipway.Unsupported); !strings.Contains(f.Error, "clusters") {
			t.Errorf("got %q", f.Error)
		}
	}
}

func TestQuotasOfTheClusterAreToldInWords(t *testing.T) {
	t.Parallel()
	w := newWorld(t, store.SQLite, options{})
	w.kube.Controllers(t)
	jane := w.user("jane")
	jane.Post(path, map[string]any{"devfileUrl": w.devfiles.URL + "/goldenpath-ai.yaml"}).Is(201)
	w.kube.Create(t, cluster.Resource{Version: "v1", Name: "resourcequotas"}, w.namespace("jane"), cluster.Object{
		"apiVersion": "v1", "kind": "ResourceQuota", "metadata": map[string]any{"name": "one"}, "spec": map[string]any{"hard": map[string]any{"count/devworkspaces.workspace.devfile.io": "1"}},
	})
	clustertest.Eventually(t, "the quota is counted", func() bool {
		q, err := w.kube.Client().Get(t.Context(), cluster.Resource{Version: "v1", Name: "resourcequotas"}, w.namespace("jane"), "one")
		return err == nil && q.Text("status", "used", "count/devworkspaces.workspace.devfile.io") == "1"
	})
	f := jane.Post(path, map[string]any{"devfileUrl": w.devfiles.URL + "/goldenpath-ai.yaml"}).Fails(403, slipway.Forbidden)
	if !strings.Contains(f.Error, "quota") {
		t.Errorf("got %q", f.Error)
	}
}

func TestANamespaceThatIsBeingDeleted(t *testing.T) {
	t.Parallel()
	w := newWorld(t, store.SQLite, options{})
	w.kube.Controllers(t)
	jane := w.user("jane")
	var ws workspace.Workspace
	jane.Post(path, map[string]any{"devfileUrl": w.devfiles.URL + "/goldenpath-ai.yaml", "name": "one"}).Is(201).Into(&ws)
	ctx, c := t.Context(), w.kube.Client()
	if _, err := c.Patch(ctx, devWorkspaces, ws.Namespace, "one", cluster.Object{"metadata": map[string]any{"finalizers": []any{"test.example.org/hold"}}}); err != nil {
		t.Fatal(err)
	}
	jane.Do("DELETE", path+"/"+ws.WorkspaceID, nil).Is(204)
	jane.Do("DELETE", path+"/"+ws.WorkspaceID, nil).Is(204) // again, while it goes
	jane.Get(path + "/" + ws.WorkspaceID).Is(200).Into(&ws)
	if ws.Status != "Terminating" {
		t.Errorf("got %s while a finalizer holds it", ws.Status)
	}
	jane.Post(path+"/"+ws.WorkspaceID+"/start", nil).Fails(409, slipway.Conflict)
	if err := c.Delete(ctx, cluster.Namespaces, "", ws.Namespace, "", ""); err != nil {
		t.Fatal(err)
	}
	blueprinttest.Eventually(t, "the namespace is known to go", func() bool {
		a := jane.Post(path, map[string]any{"devfileUrl": w.devfiles.URL + "/goldenpath-ai.yaml"})
		return a.Status == 409 && strings.Contains(string(a.Body), "is being deleted")
	})
	if _, err := c.Patch(ctx, devWorkspaces, ws.Namespace, "one", cluster.Object{"metadata": map[string]any{"finalizers": nil}}); err != nil && !errors.Is(err, slipway.NotFound) {
		t.Fatal(err)
	}
	blueprinttest.Eventually(t, "a new namespace takes its place", func() bool {
		return jane.Post(path, map[string]any{"devfileUrl": w.devfiles.URL + "/goldenpath-ai.yaml"}).Status == 201
	})
}

func TestImpersonatedUsersAreTheCreators(t *testing.T) {
	t.Parallel()
	w := newWorld(t, store.SQLite, options{
		config: func(c *workspace.Config) { c.Impersonate = "che:{user}" },
		kube: func(t *testing.T) (*clustertest.Server, cluster.Config) {
			s := clustertest.Shared(t)
			bind(t, s, "bob", "slipway-workspaces", "slipway-workspaces-impersonator")
			return s, s.Config("main", "bob")
		},
	})
	ctx, c := t.Context(), w.kube.Client()
	w.operator(t, never, nil)
	jane := w.user("jane")
	var ws workspace.Workspace
	jane.Post(path, map[string]any{"devfileUrl": w.devfiles.URL + "/goldenpath-ai.yaml", "name": "one"}).Is(201).Into(&ws)
	if b, err := c.Get(ctx, roleBindings, ws.Namespace, "slipway-workspaces"); err != nil || b.List("subjects")[0].Text("name") != "che:jane-"+w.mark {
		t.Errorf("role binding: %v, %v", b, err)
	}
	until(t, jane, ws.WorkspaceID, "Running")
	jane.Post(path+"/"+ws.WorkspaceID+"/stop", nil).Is(202)
	// What the cluster refuses to the user is refused to them.
	if err := c.Delete(ctx, roleBindings, ws.Namespace, "slipway-workspaces", "", ""); err != nil {
		t.Fatal(err)
	}
	blueprinttest.Eventually(t, "the right is gone", func() bool { return jane.Post(path+"/"+ws.WorkspaceID+"/start", nil).Status == 403 })
}

// bind gives a user of the cluster roles of deploy/workspaces.yaml, everywhere.
func bind(t *testing.T, s *clustertest.Server, user string, roles ...string) {
	t.Helper()
	s.Apply(t, "../../deploy/workspaces.yaml")
	for _, role := range roles {
		s.Create(t, cluster.Resource{Group: "rbac.authorization.k8s.io", Version: "v1", Name: "clusterrolebindings"}, "", cluster.Object{
			"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": map[string]any{"name": user + "-" + role},
			"roleRef":  map[string]any{"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
			"subjects": []any{map[string]any{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}},
		})
	}
	clustertest.Eventually(t, user+" has the role", func() bool {
		_, err := s.Client().As(user).List(t.Context(), cluster.Namespaces, "", cluster.ListOptions{Limit: 1})
		return err == nil
	})
}

func TestTheRoleThatIsShippedIsEnough(t *testing.T) {
	t.Parallel()
	w := newWorld(t, store.SQLite, options{kube: func(t *testing.T) (*clustertest.Server, cluster.Config) {
		s := clustertest.Shared(t)
		bind(t, s, "alice", "slipway-workspaces")
		return s, s.Config("main", "alice")
	}})
	w.operator(t, never, nil)
	jane := w.user("jane")
	var ws workspace.Workspace
	jane.Post(path, map[string]any{"devfileUrl": w.devfiles.URL + "/goldenpath-ai.yaml"}).Is(201).Into(&ws)
	until(t, jane, ws.WorkspaceID, "Running")
	jane.Post(path+"/"+ws.WorkspaceID+"/stop", nil).Is(202)
	until(t, jane, ws.WorkspaceID, "Stopped")
	jane.Post(path+"/"+ws.WorkspaceID+"/start", nil).Is(202)
	jane.Get(path).Is(200)
	jane.Do("DELETE", path+"/"+ws.WorkspaceID, nil).Is(204)
}

func TestWhileTheAPIServerIsAway(t *testing.T) {
	t.Parallel()
	var gate *clustertest.Gate
	w := newWorld(t, store.SQLite, options{kube: func(t *testing.T) (*clustertest.Server, cluster.Config) {
		s := clustertest.Shared(t)
		gate = s.Gate(t, "admin")
		return s, cluster.Config{Name: "main", Kubeconfig: gate.Kubeconfig}
	}})
	jane := w.user("jane")
	var ws workspace.Workspace
	jane.Post(path, map[string]any{"devfileUrl": w.devfiles.URL + "/goldenpath-ai.yaml", "name": "one"}).Is(201).Into(&ws)
	gate.Close()
	blueprinttest.Eventually(t, "the list says that it is old", func() bool {
		a := jane.Get(path).Is(200)
		return strings.Contains(a.Header.Get("Warning"), "does not answer") && strings.Contains(string(a.Body), ws.WorkspaceID)
	})
	a := jane.Post(path, map[string]any{"devfileUrl": w.devfiles.URL + "/goldenpath-ai.yaml", "name": "two"})
	if a.Fails(503, slipway.Unavailable); a.Header.Get("Retry-After") == "" {
		t.Error("503 without Retry-After")
	}
	jane.Get(path+"/"+ws.WorkspaceID).Fails(503, slipway.Unavailable)
	w.kube.Create(t, devWorkspaces, ws.Namespace, cluster.Object{
		"apiVersion": "workspace.devfile.io/v1alpha2", "kind": "DevWorkspace", "metadata": map[string]any{"name": "meanwhile"}, "spec": map[string]any{"started": false, "template": map[string]any{}},
	})
	gate.Open(t)
	blueprinttest.Eventually(t, "what happened meanwhile is known", func() bool {
		a := jane.Get(path).Is(200)
		return a.Header.Get("Warning") == "" && strings.Contains(string(a.Body), "meanwhile")
	})
}

func TestACredentialThatTheClusterDoesNotAccept(t *testing.T) {
	t.Parallel()
	w := newWorld(t, store.SQLite, options{kube: func(t *testing.T) (*clustertest.Server, cluster.Config) {
		s := clustertest.Shared(t)
		data, err := os.ReadFile(s.Kubeconfig("alice"))
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(t.TempDir(), "expired.kubeconfig")
		if err := os.WriteFile(file, []byte(strings.ReplaceAll(string(data), "token: ", "token: expired-")), 0o600); err != nil {
			t.Fatal(err)
		}
		return s, cluster.Config{Name: "main", Kubeconfig: file}
	}})
	f := w.user("jane").Get(path).Fails(503, slipway.Unavailable)
	if !strings.Contains(f.Error, "credential") {
		t.Errorf("got %q", f.Error)
	}
}

func TestSeveralClusters(t *testing.T) {
	t.Parallel()
	near, far := clustertest.Shared(t), clustertest.New(t)
	far.Apply(t, clustertest.DevWorkspaceCRDs(t)...)
	w := newWorld(t, store.SQLite, options{
		kube: func(*testing.T) (*clustertest.Server, cluster.Config) { return near, near.Config("near", "admin") },
		more: []cluster.Config{far.Config("far", "admin")},
		config: func(c *workspace.Config) {
			c.Cluster, c.Clusters, c.URL, c.MaxRunning = "near", []string{"far"}, "https://che.{cluster}.example.com", 2
		},
	})
	jane := w.user("jane")
	devfile := w.devfiles.URL + "/goldenpath-ai.yaml"
	var here, there workspace.Workspace
	jane.Post(path, map[string]any{"devfileUrl": devfile, "name": "one"}).Is(201).Into(&here)
	jane.Post(path, map[string]any{"devfileUrl": devfile, "name": "one", "cluster": "far"}).Is(201).Into(&there)
	if here.Cluster != "near" || there.Cluster != "far" || !strings.HasPrefix(there.IDEURL, "https://che.far.example.com/dashboard/") {
		t.Errorf("got %+v and %+v", here, there)
	}
	var list workspace.Workspaces
	jane.Get(path).Is(200).Into(&list)
	if list.Total != 2 {
		t.Errorf("got %+v, want one of each cluster", list)
	}
	if f := jane.Post(path, map[string]any{"devfileUrl": devfile, "cluster": "far"}).Fails(403, slipway.Forbidden); f.Error != "You have 2 of at most 2 running workspaces; stop one first" {
		t.Errorf("got %q", f.Error)
	}
	jane.Post(path+"/"+there.WorkspaceID+"/stop", nil).Is(202)
	jane.Post(path, map[string]any{"devfileUrl": devfile, "cluster": "far"}).Is(201)
	jane.Post(path+"/"+there.WorkspaceID+"/start", nil).Fails(403, slipway.Forbidden)
	jane.Do("DELETE", path+"/"+there.WorkspaceID, nil).Is(204)

	// One that is away takes nothing from the other.
	far.Stop(t)
	blueprinttest.Eventually(t, "the list says that a part of it is old", func() bool {
		a := jane.Get(path).Is(200)
		return strings.Contains(a.Header.Get("Warning"), "the cluster far does not answer") && strings.Contains(string(a.Body), here.WorkspaceID)
	})
	jane.Get(path + "/" + here.WorkspaceID).Is(200)
	jane.Post(path+"/"+here.WorkspaceID+"/stop", nil).Is(202)
}

func TestAnAPIServerThatIsBusyOrLosesAnswers(t *testing.T) {
	t.Parallel()
	var proxy *clustertest.Proxy
	w := newWorld(t, store.SQLite, options{kube: func(t *testing.T) (*clustertest.Server, cluster.Config) {
		s := clustertest.Shared(t)
		proxy = s.Proxy(t, "")
		return s, cluster.Config{Name: "main", Kubeconfig: proxy.Kubeconfig}
	}})
	jane := w.user("jane")
	devfile := w.devfiles.URL + "/goldenpath-ai.yaml"
	jane.Post(path, map[string]any{"devfileUrl": devfile, "name": "one"}).Is(201)
	proxy.Lose("POST")
	var ws workspace.Workspace
	jane.Post(path, map[string]any{"devfileUrl": devfile, "name": "two"}).Is(201).Into(&ws)
	if ws.Status != "Starting" {
		t.Errorf("got %+v after an answer was lost", ws)
	}
	if _, err := w.kube.Client().Get(t.Context(), templates, ws.Namespace, "che-code-two"); err != nil {
		t.Errorf("its editor: %v", err)
	}
	proxy.Limit("7")
	a := jane.Post(path, map[string]any{"devfileUrl": devfile, "name": "three"})
	if a.Fails(503, slipway.Unavailable); a.Header.Get("Retry-After") != "7" {
		t.Errorf("got Retry-After %q, want that of the API server", a.Header.Get("Retry-After"))
	}
	jane.Get(path).Is(200)
}

func TestADevfileThatIsOldIsAskedForByItsETag(t *testing.T) {
	t.Parallel()
	var clock atomic.Int64 // hours that the server's clock is off
	w := newWorld(t, store.SQLite, options{now: func() time.Time { return time.Now().Add(time.Duration(clock.Load()) * time.Hour) }})
	jane := w.user("jane")
	var tags []string
	var mu sync.Mutex
	text := "schemaVersion: 2.3.0\nmetadata: {name: newer, version: 2.0.0}\ncomponents: [{name: a, container: {image: x}}]\n"
	w.devfiles.put("/newer.yaml", text)
	w.devfiles.mu.Lock()
	plain := w.devfiles.files["/newer.yaml"]
	w.devfiles.mu.Unlock()
	w.devfiles.handle("/newer.yaml", func(rw http.ResponseWriter, r *http.Request) {
		mu.Lock()
		tags = append(tags, r.Header.Get("If-None-Match"))
		mu.Unlock()
		plain(rw, r)
	})
	for _, hours := range []int64{0, 1, -48} { // an hour later, and with a clock that was put back
		clock.Store(hours)
		var ws workspace.Workspace
		jane.Post(path, map[string]any{"devfileUrl": w.devfiles.URL + "/newer.yaml"}).Is(201).Into(&ws)
		if ws.Devfile != (workspace.DevfileName{Name: "newer", Version: "2.0.0"}) || ws.Status != "Starting" {
			t.Errorf("got %+v", ws)
		}
		jane.Get(path + "/" + ws.WorkspaceID).Is(200)
	}
	mu.Lock()
	defer mu.Unlock()
	if len(tags) != 3 || tags[0] != "" || tags[1] == "" || tags[2] == "" {
		t.Errorf("the devfile was asked for with the tags %q, want it whole once, and by its tag twice", tags)
	}
}

func TestAnAccountWithoutRights(t *testing.T) {
	t.Parallel()
	w := newWorld(t, store.SQLite, options{kube: func(t *testing.T) (*clustertest.Server, cluster.Config) {
		s := clustertest.Shared(t)
		proxy := s.Proxy(t, "nobody-at-all")
		return s, cluster.Config{Name: "main", Kubeconfig: proxy.Kubeconfig}
	}})
	f := w.user("jane").Get(path).Fails(503, slipway.Unavailable)
	if !strings.Contains(f.Error, "does not let") {
		t.Errorf("got %q, want what the account lacks", f.Error)
	}
}

func TestAnAPIServerThatIsSlow(t *testing.T) {
	t.Parallel()
	var proxy *clustertest.Proxy
	w := newWorld(t, store.SQLite, options{kube: func(t *testing.T) (*clustertest.Server, cluster.Config) {
		s := clustertest.Shared(t)
		proxy = s.Proxy(t, "")
		return s, cluster.Config{Name: "main", Kubeconfig: proxy.Kubeconfig}
	}})
	jane := w.user("jane")
	var ws workspace.Workspace
	jane.Post(path, map[string]any{"devfileUrl": w.devfiles.URL + "/goldenpath-ai.yaml"}).Is(201).Into(&ws)
	proxy.Hang(t)
	jane.Get(path+"/"+ws.WorkspaceID).Fails(503, slipway.Unavailable)
	if a := jane.Get(path).Is(200); !strings.Contains(string(a.Body), ws.WorkspaceID) { // it asks nobody
		t.Errorf("got %s", a.Body)
	}
}
