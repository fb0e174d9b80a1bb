package argocd

import (
	"cmp"
	"regexp"
	"slices"
	"strings"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/provider"
)

// application is Argo CD's own shape.
type application struct {
	Metadata struct {
		Name      string            `json:"name"`
		Namespace string            `json:"namespace"`
		Labels    map[string]string `json:"labels"`
	} `json:"metadata"`
	Spec struct {
		Project     string `json:"project"`
		Destination struct {
			Server    string `json:"server"`
			Name      string `json:"name"`
			Namespace string `json:"namespace"`
		} `json:"destination"`
	} `json:"spec"`
	Status struct {
		History        []history  `json:"history"`
		OperationState *operation `json:"operationState"`
	} `json:"status"`
}

// history is one sync that went well. Of a whole sync each; what was synced in part, or only tried, has none.
type history struct {
	DeployStartedAt provider.Time `json:"deployStartedAt"` // absent before Argo CD 1.8
	DeployedAt      provider.Time `json:"deployedAt"`
	InitiatedBy     initiator     `json:"initiatedBy"`
	content
}

// content is what was deployed: one revision of one source, or one each of several.
type content struct {
	Revision  string   `json:"revision"`
	Revisions []string `json:"revisions"`
	Source    source   `json:"source"`
	Sources   []source `json:"sources"`
}

type source struct {
	RepoURL        string `json:"repoURL"`
	TargetRevision string `json:"targetRevision"`
	Chart          string `json:"chart"`
	Helm           struct {
		Parameters []struct {
			Name  string `json:"name"`
			Value string `json:"value"`
		} `json:"parameters"`
	} `json:"helm"`
	Kustomize struct {
		Images []string `json:"images"`
	} `json:"kustomize"`
}

type initiator struct {
	Username  string `json:"username"`
	Automated bool   `json:"automated"`
}

// operation is the sync that runs, or the last one that ran.
type operation struct {
	Phase      string        `json:"phase"`
	Message    string        `json:"message"`
	StartedAt  provider.Time `json:"startedAt"`
	FinishedAt provider.Time `json:"finishedAt"`
	Operation  struct {
		InitiatedBy initiator `json:"initiatedBy"`
		Sync        *struct {
			DryRun    bool  `json:"dryRun"`
			Resources []any `json:"resources"`
			content
		} `json:"sync"`
	} `json:"operation"`
	SyncResult *struct {
		content
		Resources []struct {
			Images []string `json:"images"`
		} `json:"resources"`
	} `json:"syncResult"`
}

// phases is Argo CD's words in ours. One that is being terminated still runs; then it has failed.
var phases = map[string]slipway.DeploymentStatus{
	"Running": slipway.DeploymentRunning, "Terminating": slipway.DeploymentRunning,
	"Succeeded": slipway.DeploymentSucceeded, "Failed": slipway.DeploymentFailed, "Error": slipway.DeploymentFailed,
}

// synced is one sync of an application, whichever place of it tells.
type synced struct {
	app         *application
	phase       string
	message     string
	start, end  provider.Time
	initiatedBy initiator
	content     content
	images      []string // that it brought, where Argo CD says so
}

// syncs are the syncs that an application tells of: its history, and the operation where that one is not part of it. Syncs of some resources only, which repair what somebody has
// changed, and those that only try, are none.
func (a *application) syncs() (all []synced) {
	for _, h := range a.Status.History {
		start := cmp.Or(h.DeployStartedAt, h.DeployedAt)
		if start.IsZero() || slices.ContainsFunc(all, func(s synced) bool { return s.start == start }) {
			continue
		}
		all = append(all, synced{app: a, phase: "Succeeded", start: start, end: cmp.Or(h.DeployedAt, start), initiatedBy: h.InitiatedBy, content: h.content})
	}
	op := a.Status.OperationState
	if op == nil || op.StartedAt.IsZero() || op.Operation.Sync == nil || op.Operation.Sync.DryRun || len(op.Operation.Sync.Resources) > 0 {
		return all
	}
	s := synced{app: a, phase: op.Phase, message: op.Message, start: op.StartedAt, end: op.FinishedAt, initiatedBy: op.Operation.InitiatedBy, content: op.Operation.Sync.content}
	if r := op.SyncResult; r != nil {
		if s.content = r.content; r.Revision == "" && len(r.Revisions) == 0 {
			s.content.Revision, s.content.Revisions = op.Operation.Sync.Revision, op.Operation.Sync.Revisions
		}
		for _, resource := range r.Resources {
			s.images = append(s.images, resource.Images...)
		}
	}
	at := slices.IndexFunc(all, func(h synced) bool { return h.start == s.start })
	switch {
	case at < 0:
		all = append(all, s)
	case s.phase == "Succeeded":
		all[at].images = s.images
	default: // what the operation says of itself counts
		all[at].phase, all[at].message, all[at].end = s.phase, s.message, s.end
	}
	return all
}

// deployment is a sync in the words of all vendors. It is named by when it began: that is known from its first moment on, and stays when the operation becomes history.
func (c *client) deployment(p project, s synced) slipway.Deployment {
	app := s.app
	name := app.Metadata.Name
	if p.namespace != "" || p.name == "" {
		name = app.Metadata.Namespace + "." + name
	}
	d := slipway.Deployment{
		ID: name + "@" + s.start.Format("20060102T150405Z"), Environment: c.environment(app),
		Status: cmp.Or(phases[s.phase], slipway.DeploymentUnknown), Detail: cmp.Or(s.phase, "none"),
		CreatedAt: s.start.Time, StartedAt: s.start.Ptr(), UpdatedAt: s.start.Ptr(), URL: c.web + "/applications/" + app.Metadata.Namespace + "/" + app.Metadata.Name,
	}
	if text := provider.FirstLine(s.message); text != "" && d.Status == slipway.DeploymentFailed {
		d.Detail += ": " + provider.Cut(text, 300)
	}
	if d.Status.Finished() {
		end := s.end
		if end.Before(s.start.Time) {
			end = s.start
		}
		d.FinishedAt, d.UpdatedAt = end.Ptr(), end.Ptr()
	}
	switch {
	case s.initiatedBy.Username != "":
		d.TriggeredBy = &slipway.Person{ID: s.initiatedBy.Username}
	case s.initiatedBy.Automated:
		d.TriggeredBy = &slipway.Person{ID: "automated"}
	}
	d.Commit, _ = s.content.commit()
	d.Version = cmp.Or(s.content.image(), tagOf(s.images), s.content.chart())
	if d.Version == "" && d.Commit != nil {
		d.Version = d.Commit.Branch
	}
	provider.DeriveDeployment(&d)
	return d
}

// ends is how the names of applications tell where they deploy to.
var ends = regexp.MustCompile(`(?i)[-_.](prod|production|prd|live|stag|stage|staging|preprod|uat|dev|development|test|qa)$`)

func (c *client) environment(a *application) string {
	to := a.Spec.Destination
	server := strings.TrimPrefix(to.Server, "https://")
	if to.Server == "https://kubernetes.default.svc" {
		server = "in-cluster" // Argo CD's name for its own
	}
	cluster := cmp.Or(to.Name, server)
	said := c.cfg.Environment.Fill(func(name string) string {
		if key, ok := strings.CutPrefix(name, "label:"); ok {
			return a.Metadata.Labels[key]
		}
		return map[string]string{"name": a.Metadata.Name, "project": a.Spec.Project, "cluster": cluster, "namespace": to.Namespace}[name]
	})
	if c.cfg.Environment == "" {
		said = cmp.Or(a.Metadata.Labels["environment"], strings.TrimLeft(ends.FindString(a.Metadata.Name), "-_."))
	}
	return cmp.Or(said, to.Namespace, cluster, a.Metadata.Name)
}

// pairs gives each source with its revision.
func (c content) pairs() ([]source, []string) {
	if len(c.Sources) > 0 {
		revisions := make([]string, len(c.Sources))
		copy(revisions, c.Revisions)
		return c.Sources, revisions
	}
	return []source{c.Source}, []string{c.Revision}
}

var sha = regexp.MustCompile(`^[0-9a-f]{7,64}$`)

// commit is that of the first source that is a repository, and which source it is.
func (c content) commit() (*slipway.Commit, int) {
	sources, revisions := c.pairs()
	for i, s := range sources {
		if s.Chart != "" || !sha.MatchString(revisions[i]) {
			continue
		}
		commit := &slipway.Commit{SHA: revisions[i]}
		if s.TargetRevision != "HEAD" && s.TargetRevision != revisions[i] {
			commit.Branch = strings.TrimPrefix(strings.TrimPrefix(s.TargetRevision, "refs/heads/"), "refs/tags/")
		}
		if page := provider.RepositoryAddress(s.RepoURL); page != "" {
			commit.URL = page + "/commit/" + revisions[i]
		}
		return commit, i
	}
	return nil, 0
}

// chart is the version of the first source that is a Helm chart.
func (c content) chart() string {
	sources, revisions := c.pairs()
	for i, s := range sources {
		if s.Chart != "" {
			return cmp.Or(revisions[i], s.TargetRevision)
		}
	}
	return ""
}

// image is the tag that a source names in so many words, as promotion by Argo CD Image Updater and by `argocd app set` does.
func (c content) image() string {
	sources, _ := c.pairs()
	for _, s := range sources {
		for _, p := range s.Helm.Parameters {
			if p.Name == "image.tag" {
				return p.Value
			}
		}
		if tag := tagOf(s.Kustomize.Images); tag != "" {
			return tag
		}
	}
	return ""
}

// tagOf is the tag of images, where they have one in common: name=repository:tag, repository:tag, repository:tag@digest.
func tagOf(images []string) (tag string) {
	for _, image := range images {
		image, _, _ = strings.Cut(image[strings.IndexByte(image, '=')+1:], "@")
		at := strings.LastIndexByte(image, ':')
		if at < 0 || strings.Contains(image[at:], "/") || tag != "" && tag != image[at+1:] {
			return ""
		}
		tag = image[at+1:]
	}
	return tag
}
