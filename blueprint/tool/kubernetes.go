package tool

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/cluster"
	"github.com/slipway-platform/slipway/provider"
	"github.com/slipway-platform/slipway/store"
)

// The resources, whose definitions are deploy/tool-crds.yaml.
var (
	toolConfigs     = cluster.Resource{Group: "tool.slipway.dev", Version: "v1", Name: "toolconfigs"}
	toolDeployments = cluster.Resource{Group: "tool.slipway.dev", Version: "v1", Name: "tooldeployments"}
	deployTokens    = cluster.Resource{Group: "tool.slipway.dev", Version: "v1", Name: "deploytokens"}
)

// stageLabel is on each ToolDeployment. A draft has not been admitted yet, and nobody sees it: see Create.
const (
	stageLabel  = "tool.slipway.dev/stage"
	stageDraft  = "draft"
	stageActive = "active"
	stageEnded  = "ended"
)

// changeAnnotation makes each update a change: the cluster gives no new version to what has stayed the same.
const changeAnnotation = "tool.slipway.dev/change"

const (
	plainSize    = 64 << 10         // bytes of a document that is stored as text; larger ones are compressed
	documentSize = 8 << 20          // bytes of a document that is read
	attempts     = 50               // at a change that others are in the way of
	draftWait    = 2 * time.Second  // until a draft that holds a tool's place is taken for one that was left
	draftLife    = 10 * time.Minute // until a draft is deleted
)

// kubernetes is the Storage in a cluster: custom resources in the namespace of each tool, which people can look at and only Slipway changes. They are the truth;
// the database has the jobs. Versions are the cluster's, but for configurations, whose object changes with each deployment too.
//
// A tool has one active deployment: the one that its ToolConfig names in spec.active, which the resource version lets one replica write. A deployment is stored as a
// draft, gets its name there, and is shown only then; see Create.
type kubernetes struct {
	client *cluster.Client
	owed   owed
	active *cluster.Cache[Reference]
	log    *slog.Logger
	now    func() time.Time
}

var _ Storage = (*kubernetes)(nil)

func newKubernetes(c *cluster.Client, db *store.DB, log *slog.Logger, now func() time.Time) *kubernetes {
	k := &kubernetes{client: c, owed: owed{db, now}, log: log, now: now}
	k.active = cluster.NewCache(c, toolDeployments, cluster.CacheOptions{Labels: stageLabel + "=" + stageActive, Log: log, Now: now}, reference)
	return k
}

// run keeps the list of active deployments in step, and deletes drafts that a crash has left.
func (k *kubernetes) run(ctx context.Context) error {
	done := make(chan error, 1)
	go func() { done <- k.active.Run(ctx) }()
	t := time.NewTicker(draftLife / 2)
	defer t.Stop()
	for {
		if err := k.deleteDrafts(ctx); err != nil && ctx.Err() == nil {
			k.log.WarnContext(ctx, "drafts of deployments that were left could not be looked for; trying again", "error", err)
		}
		select {
		case err := <-done:
			return err
		case <-t.C:
		}
	}
}

func (k *kubernetes) deleteDrafts(ctx context.Context) error {
	page, err := k.client.List(ctx, toolDeployments, "", cluster.ListOptions{Labels: stageLabel + "=" + stageDraft, Limit: 500})
	if err != nil {
		return err
	}
	for _, o := range page.Items {
		if k.now().Sub(o.Created()) > draftLife {
			if err := k.client.Delete(ctx, toolDeployments, o.Namespace(), o.Name(), o.UID(), o.ResourceVersion()); err != nil && !lost(err) {
				return err
			}
		}
	}
	return nil
}

// lost says that an object is not any more what it was when it was read.
func lost(err error) bool {
	return errors.Is(err, slipway.Precondition) || errors.Is(err, slipway.NotFound)
}

// absent says that an error is of an object or namespace that is not there; a cluster without the definitions of our resources has a fault of another kind.
func (k *kubernetes) absent(err error, tool, format string, args ...any) error {
	if errors.Is(err, slipway.NotFound) {
		return slipway.Errorf(slipway.NotFound, "Unable to find namespace %s or %s", NamespaceOf(tool), fmt.Sprintf(format, args...)).WithCause(err)
	}
	return cluster.ForCaller(err)
}

// namespaceOf gives the namespace of a tool; a name that is none has none.
func namespaceOf(tool string) (string, error) {
	if !provider.ToolName(tool) {
		return "", slipway.Errorf(slipway.NotFound, "Unable to find a tool called %.70q", tool)
	}
	return NamespaceOf(tool), nil
}

func resourceOf(kind, namespace, name string, spec map[string]any) cluster.Object {
	return cluster.Object{
		"apiVersion": toolConfigs.APIVersion(), "kind": kind, "spec": spec,
		"metadata": map[string]any{"name": name, "namespace": namespace, "labels": map[string]any{"app.kubernetes.io/managed-by": "slipway"}},
	}
}

// pack writes a document: as text, so that people can read it, or compressed, because a cluster takes no object over 1.5 MB.
func pack(document json.RawMessage, spec map[string]any) error {
	delete(spec, "document")
	delete(spec, "documentGzip")
	if len(document) <= plainSize {
		spec["document"] = string(document)
		return nil
	}
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, err := w.Write(document)
	if err = errors.Join(err, w.Close()); err != nil {
		return err
	}
	spec["documentGzip"] = base64.StdEncoding.EncodeToString(b.Bytes())
	return nil
}

// unpack reads what pack wrote; nil where there is no document.
func unpack(o cluster.Object) (json.RawMessage, error) {
	packed := o.Text("spec", "documentGzip")
	if packed == "" {
		if text := o.Text("spec", "document"); text != "" {
			return json.RawMessage(text), nil
		}
		return nil, nil
	}
	r, err := gzip.NewReader(base64.NewDecoder(base64.StdEncoding, strings.NewReader(packed)))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", o.Name(), err)
	}
	b, err := io.ReadAll(io.LimitReader(r, documentSize+1))
	if err == nil && len(b) > documentSize {
		err = fmt.Errorf("a document has more than %d bytes", documentSize)
	}
	return b, err
}

// configOf reads a ToolConfig; one that holds no document only guards the place of a deployment.
func configOf(tool string, o cluster.Object) (c Config, ok bool, err error) {
	document, err := unpack(o)
	if err != nil || document == nil {
		return Config{Tool: tool}, false, err
	}
	return Config{Tool: tool, Document: document, Updated: o.Time("spec", "updated"), Version: fmt.Sprintf("%s.%d", o.UID(), revision(o))}, true, nil
}

func revision(o cluster.Object) int64 { n, _ := o.At("spec", "revision").(int64); return n }

func (k *kubernetes) Config(ctx context.Context, tool string) (Config, error) {
	ns, err := namespaceOf(tool)
	if err != nil {
		return Config{}, err
	}
	o, err := k.client.Get(ctx, toolConfigs, ns, tool)
	if err == nil {
		var c Config
		var ok bool
		if c, ok, err = configOf(tool, o); ok || err != nil {
			return c, err
		}
		err = slipway.NotFound
	}
	return Config{}, k.absent(err, tool, "a config for %s: it has no config yet", tool)
}

func (k *kubernetes) SetConfig(ctx context.Context, c Config, then Then) (Config, error) {
	ns, err := namespaceOf(c.Tool)
	if err == nil {
		err = k.owed.config(ctx, c.Tool, then)
	}
	if err != nil {
		return c, err
	}
	for range attempts {
		o, err := k.client.Get(ctx, toolConfigs, ns, c.Tool)
		made := errors.Is(err, slipway.NotFound)
		if made {
			if c.Version != "" {
				return c, changed("the config of " + c.Tool)
			}
			o, err = resourceOf("ToolConfig", ns, c.Tool, map[string]any{}), nil
		}
		if err != nil {
			return c, cluster.ForCaller(err)
		}
		if c.Version != "" {
			if now, _, err := configOf(c.Tool, o); err != nil || now.Version != c.Version {
				return c, cmp.Or(err, changed("the config of "+c.Tool))
			}
		}
		spec, _ := o["spec"].(map[string]any)
		if spec == nil {
			spec = map[string]any{}
			o["spec"] = spec
		}
		spec["revision"], spec["updated"] = revision(o)+1, c.Updated.UTC().Format(time.RFC3339Nano)
		if err := pack(c.Document, spec); err != nil {
			return c, err
		}
		write := k.client.Update
		if made {
			write = func(ctx context.Context, r cluster.Resource, o cluster.Object) (cluster.Object, error) {
				return k.client.Create(ctx, r, ns, o)
			}
		}
		o, err = write(ctx, toolConfigs, o)
		switch {
		case made && errors.Is(err, slipway.Conflict) && !terminating(err), !made && lost(err):
			continue // somebody else came first
		case err != nil:
			return c, k.absent(err, c.Tool, "its resources; a tool's namespace has to be there before its config")
		}
		out, _, err := configOf(c.Tool, o)
		if err != nil {
			return c, err
		}
		return out, k.SettleConfig(ctx, c.Tool, then)
	}
	return c, busy(c.Tool)
}

// terminating says that a Conflict is of a namespace that is being deleted, and not of a name that is taken.
func terminating(err error) bool {
	e, ok := errors.AsType[*slipway.Error](err)
	return ok && strings.Contains(e.Message, "namespace is being deleted")
}

func busy(tool string) error {
	return slipway.Errorf(slipway.Unavailable, "the resources of %s are being changed by others; try again", tool).After(time.Second)
}

func (k *kubernetes) DeleteConfig(ctx context.Context, tool string, then Then) (Config, error) {
	ns, err := namespaceOf(tool)
	if err != nil {
		return Config{}, err
	}
	for range attempts {
		o, err := k.client.Get(ctx, toolConfigs, ns, tool)
		c, ok := Config{}, false
		if err == nil {
			c, ok, err = configOf(tool, o)
		}
		if err == nil && !ok {
			err = slipway.NotFound
		}
		if err != nil {
			return Config{}, k.absent(err, tool, "a config for %s: it has no config yet", tool)
		}
		held, err := k.holds(ctx, ns, o.Text("spec", "active"))
		if err != nil {
			return Config{}, cluster.ForCaller(err)
		}
		if err := k.owed.config(ctx, tool, then); err != nil {
			return Config{}, err
		}
		if held == "" {
			err = k.client.Delete(ctx, toolConfigs, ns, tool, o.UID(), o.ResourceVersion())
		} else { // the object guards the place of a deployment
			spec, _ := o["spec"].(map[string]any)
			delete(spec, "document")
			delete(spec, "documentGzip")
			_, err = k.client.Update(ctx, toolConfigs, o)
		}
		switch {
		case lost(err):
			continue
		case err != nil:
			return Config{}, cluster.ForCaller(err)
		}
		return c, k.SettleConfig(ctx, tool, then)
	}
	return Config{}, busy(tool)
}

// holds says whether a deployment that a ToolConfig names takes the tool's place: stageActive or stageDraft; "" when it does not any more.
func (k *kubernetes) holds(ctx context.Context, namespace, id string) (string, error) {
	if id == "" {
		return "", nil
	}
	o, err := k.client.Get(ctx, toolDeployments, namespace, id)
	if errors.Is(err, slipway.NotFound) {
		return "", nil
	}
	if stage := o.Label(stageLabel); err != nil || stage == stageActive || stage == stageDraft {
		return stage, err
	}
	return "", nil
}

// deploymentOf reads a ToolDeployment.
func deploymentOf(o cluster.Object) (Deployment, error) {
	var d Deployment
	if err := o.Into(&d, "spec"); err != nil {
		return d, err
	}
	document, err := unpack(o)
	d.Config, d.Version = document, o.ResourceVersion()
	d.Change, _ = o.At("metadata", "annotations", changeAnnotation).(string)
	return d, err
}

func reference(o cluster.Object) Reference {
	return Reference{Tool: o.Text("spec", "tool"), ID: o.Name(), Builder: o.Text("spec", "builder"), Version: o.ResourceVersion(), Created: o.Time("spec", "created")}
}

// deploymentKeys are the keys of a deployment in JSON, but for its configuration.
var deploymentKeys = func() (keys []string) {
	t := reflect.TypeFor[Deployment]()
	for i := range t.NumField() {
		if key, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ","); key != "-" && key != "config" {
			keys = append(keys, key)
		}
	}
	return keys
}()

// stateOf is a deployment without its configuration, as it stands in spec. What is empty is null, so that a merge takes it away.
func stateOf(d Deployment) (map[string]any, error) {
	d.Config = nil
	spec, err := cluster.ToObject(d)
	if err != nil {
		return nil, err
	}
	delete(spec, "config")
	for _, key := range deploymentKeys {
		if _, ok := spec[key]; !ok {
			spec[key] = nil
		}
	}
	return spec, nil
}

func stageOf(d Deployment) string {
	if d.Status.Active() {
		return stageActive
	}
	return stageEnded
}

// Create stores the deployment as a draft, which nobody sees; writes its name into the tool's ToolConfig, unless that names another one that is active; and
// then shows it. Of two at the same moment, one finds that the ToolConfig has changed. A replica that dies on the way leaves a draft: whoever finds one that does not move in
// the tool's place deletes it first, so that its maker, should it live, finds it gone and gives up.
func (k *kubernetes) Create(ctx context.Context, d Deployment, then Then) (Deployment, error) {
	ns, err := namespaceOf(d.Tool)
	if err != nil {
		return d, err
	}
	spec, err := stateOf(d)
	if err != nil {
		return d, err
	}
	for key, v := range spec {
		if v == nil {
			delete(spec, key)
		}
	}
	if err := pack(d.Config, spec); err != nil {
		return d, err
	}
	if err := k.owed.deployment(ctx, d, News{Created: true, Ended: !d.Status.Active()}, then); err != nil {
		return d, err
	}
	o := resourceOf("ToolDeployment", ns, d.ID, spec)
	o.Set(stageDraft, "metadata", "labels", stageLabel)
	if !d.Status.Active() {
		o.Set(stageEnded, "metadata", "labels", stageLabel)
	}
	if o, err = k.client.Create(ctx, toolDeployments, ns, o); err != nil {
		if errors.Is(err, slipway.Conflict) && !terminating(err) {
			return d, slipway.Errorf(slipway.Conflict, "there is a deployment %s already; ask again", d.ID)
		}
		if errors.Is(err, slipway.NotFound) {
			err = errors.Join(err, k.owed.forget(ctx, Owed{Tool: d.Tool, ID: d.ID}))
		}
		return d, k.absent(err, d.Tool, "its resources; a tool's namespace has to be there before its deployments")
	}
	if d.Status.Active() {
		if err := k.claim(ctx, ns, d.Tool, o); err != nil {
			k.withdraw(ctx, d.Tool, o)
			return d, err
		}
		o.Set(stageActive, "metadata", "labels", stageLabel)
		if o, err = k.client.Update(ctx, toolDeployments, o); err != nil {
			if lost(err) { // somebody took the draft for one that was left
				return d, oneRunning()
			}
			return d, cluster.ForCaller(err)
		}
	}
	k.active.Put(o)
	d.Version = o.ResourceVersion()
	if err := k.Settle(context.WithoutCancel(ctx), d, then); err != nil { // the deployment stands, and the sweep has it go on
		k.log.WarnContext(ctx, "what belongs to a new deployment was not stored; the next sweep has it go on", "deployment", d.ID, "error", err)
	}
	return d, nil
}

// withdraw deletes a draft that was not admitted. What is left over goes with deleteDrafts.
func (k *kubernetes) withdraw(ctx context.Context, tool string, o cluster.Object) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	err := k.client.Delete(ctx, toolDeployments, o.Namespace(), o.Name(), o.UID(), "")
	if err == nil || errors.Is(err, slipway.NotFound) {
		err = k.owed.forget(ctx, Owed{Tool: tool, ID: o.Name()})
	}
	if err != nil {
		k.log.WarnContext(ctx, "a draft of a deployment was not deleted; it goes later", "deployment", o.Name(), "error", err)
	}
}

func oneRunning() error {
	return slipway.Errorf(slipway.Conflict, "There's already 1 running, the limit is 1. Wait for it to finish for now.")
}

// claim writes the name of a draft into the ToolConfig of its tool.
func (k *kubernetes) claim(ctx context.Context, ns, tool string, draft cluster.Object) error {
	waited := ""
	since := time.Now()
	for try := 0; try < attempts; {
		o, err := k.client.Get(ctx, toolConfigs, ns, tool)
		if errors.Is(err, slipway.NotFound) {
			_, err = k.client.Create(ctx, toolConfigs, ns, resourceOf("ToolConfig", ns, tool, map[string]any{"revision": 0, "active": draft.Name()}))
			if errors.Is(err, slipway.Conflict) && !terminating(err) {
				try++
				continue
			}
			return k.absent(err, tool, "its resources")
		}
		if err != nil {
			return cluster.ForCaller(err)
		}
		holder := o.Text("spec", "active")
		stage, err := k.holds(ctx, ns, holder)
		switch {
		case err != nil:
			return cluster.ForCaller(err)
		case stage == stageActive:
			return oneRunning()
		case stage == stageDraft && (holder != waited || time.Since(since) < draftWait):
			if holder != waited {
				waited, since = holder, time.Now()
			}
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(50 * time.Millisecond):
			}
			continue
		case stage == stageDraft:
			left, err := k.client.Get(ctx, toolDeployments, ns, holder)
			if err == nil && left.Label(stageLabel) == stageDraft {
				err = k.client.Delete(ctx, toolDeployments, ns, holder, left.UID(), left.ResourceVersion())
			}
			if err != nil && !lost(err) {
				return cluster.ForCaller(err)
			}
			try++
			continue
		}
		o.Set(draft.Name(), "spec", "active")
		if _, err = k.client.Update(ctx, toolConfigs, o); !lost(err) {
			return cluster.ForCaller(err)
		}
		try++
	}
	return busy(tool)
}

// deployment reads the object of a deployment that has been admitted.
func (k *kubernetes) deployment(ctx context.Context, tool, id string) (cluster.Object, error) {
	ns, err := namespaceOf(tool)
	if err != nil {
		return nil, err
	}
	o, err := k.client.Get(ctx, toolDeployments, ns, id)
	if err == nil && o.Label(stageLabel) == stageDraft || errors.Is(err, slipway.Invalid) { // an empty name
		err = slipway.NotFound
	}
	return o, k.absent(err, tool, "deployment %.100q for %s", id, tool)
}

func (k *kubernetes) Deployment(ctx context.Context, tool, id string) (Deployment, error) {
	o, err := k.deployment(ctx, tool, id)
	if err != nil {
		return Deployment{}, err
	}
	return deploymentOf(o)
}

func (k *kubernetes) Deployments(ctx context.Context, tool string) ([]Deployment, error) {
	ns, err := namespaceOf(tool)
	if err != nil {
		return nil, err
	}
	list := []Deployment{}
	o := cluster.ListOptions{Labels: stageLabel + "!=" + stageDraft, Limit: 50}
	for {
		page, err := k.client.List(ctx, toolDeployments, ns, o)
		if err != nil {
			return nil, cluster.ForCaller(err)
		}
		for _, item := range page.Items {
			d, err := deploymentOf(item)
			if err != nil {
				return nil, err
			}
			list = append(list, d)
		}
		if o.Next = page.Next; o.Next == "" {
			break
		}
	}
	slices.SortFunc(list, func(a, b Deployment) int { return cmp.Or(a.Created.Compare(b.Created), cmp.Compare(a.ID, b.ID)) })
	return list, nil
}

func (k *kubernetes) Active(ctx context.Context) ([]Reference, error) {
	if _, err := k.active.State(); err == nil {
		return append([]Reference{}, k.active.List("")...), nil
	}
	list := []Reference{}
	o := cluster.ListOptions{Labels: stageLabel + "=" + stageActive, Limit: 200}
	for {
		page, err := k.client.List(ctx, toolDeployments, "", o)
		if err != nil {
			return nil, cluster.ForCaller(err)
		}
		for _, item := range page.Items {
			list = append(list, reference(item))
		}
		if o.Next = page.Next; o.Next == "" {
			return list, nil
		}
	}
}

func (k *kubernetes) Update(ctx context.Context, d Deployment, then Then) (Deployment, error) {
	ns, err := namespaceOf(d.Tool)
	if err != nil {
		return d, err
	}
	spec, err := stateOf(d)
	if err != nil {
		return d, err
	}
	for _, key := range []string{"tool", "id", "created"} {
		delete(spec, key)
	}
	d.Change = rand.Text()
	if err := k.owed.deployment(ctx, d, News{Ended: !d.Status.Active()}, then); err != nil {
		return d, err
	}
	o, err := k.client.Patch(ctx, toolDeployments, ns, d.ID, cluster.Object{
		"metadata": map[string]any{
			"resourceVersion": d.Version, "labels": map[string]any{stageLabel: stageOf(d)},
			"annotations": map[string]any{changeAnnotation: d.Change},
		},
		"spec": spec,
	})
	switch {
	case lost(err):
		return d, changed("deployment " + d.ID)
	case err != nil:
		return d, cluster.ForCaller(err)
	}
	k.active.Put(o)
	out, err := deploymentOf(o)
	if err != nil {
		return d, err
	}
	return out, k.Settle(ctx, out, then)
}

func (k *kubernetes) Owed(ctx context.Context, of, after Owed) ([]Owed, error) {
	return k.owed.list(ctx, of, after)
}

func (k *kubernetes) Settle(ctx context.Context, d Deployment, then Then) error {
	return k.owed.settle(ctx, d, then)
}

func (k *kubernetes) SettleConfig(ctx context.Context, tool string, then Then) error {
	return k.owed.settleConfig(ctx, tool, then)
}

func (k *kubernetes) Forget(ctx context.Context, o Owed) error { return k.owed.forget(ctx, o) }

func (k *kubernetes) Delete(ctx context.Context, tool, id string) (Deployment, error) {
	for range attempts {
		o, err := k.deployment(ctx, tool, id)
		if err != nil {
			return Deployment{}, err
		}
		d, err := deploymentOf(o)
		if err != nil {
			return d, err
		}
		if o.Label(stageLabel) == stageActive {
			return d, slipway.Errorf(slipway.Conflict, "deployment %s is %s; cancel it and wait for its end before you delete it", id, d.Status)
		}
		err = k.client.Delete(ctx, toolDeployments, o.Namespace(), id, o.UID(), o.ResourceVersion())
		if !lost(err) {
			return d, cluster.ForCaller(err)
		}
	}
	return Deployment{}, busy(tool)
}

func storedToken(tool string, o cluster.Object) DeployToken {
	return DeployToken{Tool: tool, Hash: o.Text("spec", "hash"), Created: o.Time("spec", "created"), Expires: o.Time("spec", "expires"), Version: o.ResourceVersion()}
}

func (k *kubernetes) token(ctx context.Context, tool string) (cluster.Object, error) {
	ns, err := namespaceOf(tool)
	if err != nil {
		return nil, err
	}
	o, err := k.client.Get(ctx, deployTokens, ns, tool)
	return o, k.absent(err, tool, "a deploy token for %s", tool)
}

func (k *kubernetes) DeployToken(ctx context.Context, tool string) (DeployToken, error) {
	o, err := k.token(ctx, tool)
	if err != nil {
		return DeployToken{}, err
	}
	return storedToken(tool, o), nil
}

func (k *kubernetes) SetDeployToken(ctx context.Context, t DeployToken) error {
	ns, err := namespaceOf(t.Tool)
	if err != nil {
		return err
	}
	o := resourceOf("DeployToken", ns, t.Tool, map[string]any{
		"hash": t.Hash, "created": t.Created.UTC().Format(time.RFC3339Nano), "expires": t.Expires.UTC().Format(time.RFC3339Nano),
	})
	if t.Version == "" {
		_, err = k.client.Create(ctx, deployTokens, ns, o)
		if errors.Is(err, slipway.Conflict) && !terminating(err) {
			return changed("the deploy token of " + t.Tool)
		}
		return k.absent(err, t.Tool, "its resources; a tool's namespace has to be there before its token")
	}
	o.Set(t.Version, "metadata", "resourceVersion")
	_, err = k.client.Update(ctx, deployTokens, o)
	if lost(err) || errors.Is(err, slipway.Invalid) { // a version that is none of the cluster's
		return changed("the deploy token of " + t.Tool)
	}
	return cluster.ForCaller(err)
}

func (k *kubernetes) DeleteDeployToken(ctx context.Context, tool string) (DeployToken, error) {
	for range attempts {
		o, err := k.token(ctx, tool)
		if err != nil {
			return DeployToken{}, err
		}
		if err = k.client.Delete(ctx, deployTokens, o.Namespace(), tool, o.UID(), o.ResourceVersion()); !lost(err) {
			return storedToken(tool, o), cluster.ForCaller(err)
		}
	}
	return DeployToken{}, busy(tool)
}
