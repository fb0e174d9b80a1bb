package kubernetes

import (
	"cmp"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/cluster"
	"github.com/slipway-platform/slipway/provider"
)

// What the controller of Deployments writes, and people with kubectl.
const (
	revisionAnnotation = "deployment.kubernetes.io/revision"
	historyAnnotation  = "deployment.kubernetes.io/revision-history" // revisions that the ReplicaSet had before it was rolled back to
	causeAnnotation    = "kubernetes.io/change-cause"
	versionLabel       = "app.kubernetes.io/version"
	containerDefault   = "kubectl.kubernetes.io/default-container"
)

const (
	maxPast    = 30 // revisions of a Deployment that are remembered beyond the newest
	maxHistory = 50 // revisions that one ReplicaSet is said to have had
)

// workload is what is kept of a Deployment: how its rollouts went, as far as they were watched.
type workload struct {
	namespace, name, uid string
	labels, annotations  map[string]string
	revision             int64 // of the newest rollout; 0: none has begun
	seen                 map[int64]outcome
}

// outcome is how a rollout stands, or stood when the next took its place.
type outcome struct {
	start  time.Time // when the Deployment was changed to it; zero: it is not known
	by     string    // what changed it: a program, as Kubernetes knows it
	status slipway.DeploymentStatus
	detail string
	end    time.Time
}

// next is what is kept of a Deployment as it is now, where w was kept of it before.
func (w workload) next(o cluster.Object, now time.Time) workload {
	n := workload{namespace: o.Namespace(), name: o.Name(), uid: o.UID(), labels: o.Texts("metadata", "labels"), annotations: o.Texts("metadata", "annotations"), seen: map[int64]outcome{}}
	n.revision = number(n.annotations[revisionAnnotation])
	for _, useless := range []string{"kubectl.kubernetes.io/last-applied-configuration", revisionAnnotation} {
		delete(n.annotations, useless)
	}
	watched := w.uid == n.uid && w.revision > 0
	if watched {
		n.seen = maps.Clone(w.seen)
		maps.DeleteFunc(n.seen, func(revision int64, _ outcome) bool { return revision < n.revision-maxPast })
	}
	if n.revision == 0 {
		return n
	}
	changed, by := changedAt(o)
	was, known := n.seen[n.revision]
	stands := progress(o, was, now)
	stands.start, stands.by = was.start, was.by
	switch {
	case known:
	case watched && changed.IsZero():
		stands.start = now
	case watched, stands.end.IsZero(), !changed.After(stands.end): // else something was changed since, and not this
		stands.start, stands.by = changed, by
	}
	n.seen[n.revision] = stands
	if before, ok := n.seen[w.revision]; watched && ok && w.revision < n.revision && !before.status.Finished() {
		before.status, before.detail, before.end = slipway.DeploymentCanceled, "superseded by revision "+strconv.FormatInt(n.revision, 10), cmp.Or(stands.start, now)
		n.seen[w.revision] = before
	}
	return n
}

// progress is how the newest rollout of a Deployment stands. What has gone well once stays so: pods that die later are no rollout.
//
// Source: https://kubernetes.io/docs/concepts/workloads/controllers/deployment/#deployment-status, and what `kubectl rollout status` waits for.
func progress(o cluster.Object, was outcome, now time.Time) outcome {
	if was.status == slipway.DeploymentSucceeded {
		return was
	}
	count := func(path ...string) int64 { n, _ := o.At(path...).(int64); return n }
	out := outcome{status: slipway.DeploymentRunning, detail: "waiting for the controller"}
	if count("status", "observedGeneration") < count("metadata", "generation") { // the rest of the status is of what was there before
		if was.status != "" {
			return was
		}
		return out
	}
	whole := count("status", "updatedReplicas") == count("status", "replicas")
	for _, c := range o.List("status", "conditions") {
		if c.Text("type") != "Progressing" {
			continue
		}
		reason, at := c.Text("reason"), c.Time("lastUpdateTime")
		out.detail = cmp.Or(reason, "Progressing")
		switch {
		case reason == "NewReplicaSetAvailable" && whole:
			out.status, out.end = slipway.DeploymentSucceeded, at
		case reason == "NewReplicaSetAvailable":
			out.detail = "ReplicaSetUpdated" // what it says is of the rollout before
		case reason == "ProgressDeadlineExceeded":
			out.status, out.end, out.detail = slipway.DeploymentFailed, at, provider.Cut(reason+": "+provider.FirstLine(c.Text("message")), 300)
		}
		return out
	}
	// A Deployment without a deadline has no such condition. When it came to its end is when that was seen.
	want, said := o.At("spec", "replicas").(int64)
	if !said {
		want = 1
	}
	if whole && count("status", "replicas") == want && count("status", "availableReplicas") == want {
		out.status, out.detail = slipway.DeploymentSucceeded, "Available"
		if was.status != "" {
			out.end = now.UTC().Truncate(time.Second)
		}
	}
	return out
}

// changedAt is when somebody last changed what a Deployment runs, and what program it was; zero where the API server does not say.
func changedAt(o cluster.Object) (at time.Time, by string) {
	for _, m := range o.List("metadata", "managedFields") {
		t := m.Time("time")
		if m.Text("subresource") == "" && m.At("fieldsV1", "f:spec", "f:template") != nil && t.After(at) {
			at, by = t, provider.Cut(m.Text("manager"), 128)
		}
	}
	return at, by
}

// replicaSet is what is kept of a ReplicaSet: what a rollout brought.
type replicaSet struct {
	owner    string // UID of the Deployment; "" where it has another master
	created  time.Time
	revision int64   // of the last rollout that brought it
	earlier  []int64 // of those before
	cause    string
	version  string
	commit   string
}

func readSet(o cluster.Object, commitKey string) replicaSet {
	s := replicaSet{created: o.Created(), revision: number(o.Annotation(revisionAnnotation)), cause: provider.Cut(provider.FirstLine(o.Annotation(causeAnnotation)), 200)}
	for _, r := range o.List("metadata", "ownerReferences") {
		if r.Text("kind") == "Deployment" && r.Bool("controller") {
			s.owner = r.Text("uid")
		}
	}
	if text := o.Annotation(historyAnnotation); text != "" {
		for _, word := range strings.SplitN(text, ",", maxHistory+1)[:min(maxHistory, strings.Count(text, ",")+1)] {
			if n := number(word); n > 0 && n < s.revision {
				s.earlier = append(s.earlier, n)
			}
		}
		slices.Sort(s.earlier)
		s.earlier = slices.Compact(s.earlier)
	}
	image := mainImage(o)
	labels, annotations := o.Texts("spec", "template", "metadata", "labels"), o.Texts("spec", "template", "metadata", "annotations")
	if commitKey != "" {
		s.commit = provider.Cut(cmp.Or(annotations[commitKey], labels[commitKey], o.Annotation(commitKey), o.Label(commitKey)), 128)
	}
	tag, digest := parts(image)
	s.version = tag
	if tag == "" || tag == "latest" {
		s.version = cmp.Or(labels[versionLabel], tag, provider.Cut(digest, len("sha256:")+12))
	}
	if sha := strings.TrimPrefix(strings.TrimPrefix(tag, "sha-"), "git-"); s.commit == "" && isCommit(sha) {
		s.commit = sha
	}
	return s
}

// mainImage is the image of the container that is meant: the one that is annotated as the default, or has the name of the Deployment, or comes first.
func mainImage(o cluster.Object) string {
	containers := o.List("spec", "template", "spec", "containers")
	name := o.Name()
	if at := strings.LastIndexByte(name, '-'); at > 0 {
		name = name[:at] // without the hash
	}
	for _, want := range []string{o.Text("spec", "template", "metadata", "annotations", containerDefault), name} {
		for _, c := range containers {
			if want != "" && c.Text("name") == want {
				return c.Text("image")
			}
		}
	}
	if len(containers) == 0 {
		return ""
	}
	return containers[0].Text("image")
}

// parts are the tag and the digest of an image: repository:tag@sha256:…
func parts(image string) (tag, digest string) {
	image, digest, _ = strings.Cut(image, "@")
	if at := strings.LastIndexByte(image, ':'); at >= 0 && !strings.Contains(image[at:], "/") {
		tag = provider.Cut(image[at+1:], 128)
	}
	return tag, digest
}

var hexadecimal = regexp.MustCompile(`^[0-9a-f]{7,40}$`)

// isCommit says whether a tag is a commit, or begins like one: not a date, not a word.
func isCommit(tag string) bool {
	return hexadecimal.MatchString(tag) && strings.ContainsAny(tag, "0123456789") && strings.ContainsAny(tag, "abcdef")
}

// rollout is one time that a Deployment was changed.
type rollout struct {
	replicaSet
	outcome
	revision int64
}

// rollouts are those that a Deployment's ReplicaSets tell of, the oldest first. A rollback brings an old ReplicaSet as a new revision. How one went that was over before it was watched is
// not known: Kubernetes keeps it of the newest only.
func (w workload) rollouts(sets []replicaSet) []rollout {
	var all []rollout
	for _, s := range sets {
		for _, revision := range append(s.earlier, s.revision) {
			r := rollout{replicaSet: s, outcome: w.seen[revision], revision: revision}
			if revision != s.revision {
				r.cause = "" // it is that of the last one
			}
			if len(s.earlier) == 0 || revision == s.earlier[0] {
				r.start = s.created
			}
			all = append(all, r)
		}
	}
	slices.SortFunc(all, func(a, b rollout) int { return cmp.Compare(a.revision, b.revision) })
	all = slices.CompactFunc(all, func(a, b rollout) bool { return a.revision == b.revision })
	all = slices.DeleteFunc(all, func(r rollout) bool { return r.revision > w.revision }) // the Deployment's own news are on their way
	for i := range all {
		r := &all[i]
		if i > 0 && r.start.Before(all[i-1].start) {
			r.start = all[i-1].start
		}
		if r.start.IsZero() {
			r.start = r.created
		}
	}
	for i := range all {
		r := &all[i]
		switch {
		case r.status == "":
			r.status, r.detail = slipway.DeploymentUnknown, "superseded"
			if i+1 < len(all) {
				r.end = all[i+1].start
			} else {
				r.end = r.start
			}
		case r.status == slipway.DeploymentFailed && len(r.earlier) > 0 && r.end.Before(r.start): // the failure is that of the rollout before
			r.status, r.detail, r.end = slipway.DeploymentRunning, "ReplicaSetUpdated", time.Time{}
		case r.status.Finished() && r.end.Before(r.start):
			r.end = r.start
		}
	}
	return all
}

// number is a revision; 0 where there is none.
func number(s string) int64 {
	n, err := strconv.ParseInt(strings.TrimSpace(s), 10, 64)
	if err != nil || n < 0 {
		return 0
	}
	return n
}
