package azure

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/provider"
)

// verify checks the password of the subscription. Azure signs nothing: it sends what is set there, as Basic authentication or as a header.
func (c *client) verify(h http.Header, _ []byte) error {
	if c.cfg.WebhookSecret == "" {
		return slipway.Errorf(slipway.Forbidden, "this provider takes no service hooks; set webhookSecret in its configuration and the same password at Azure DevOps")
	}
	given, bearer := strings.CutPrefix(h.Get("Authorization"), "Bearer ")
	if !bearer {
		_, given, _ = (&http.Request{Header: h}).BasicAuth()
	}
	if !c.cfg.WebhookSecret.Is(given) {
		return slipway.Errorf(slipway.Unauthenticated, "the service hook does not bring the password; set the same at Azure DevOps (Basic authentication password) and as webhookSecret")
	}
	return nil
}

// events are those that say something of a build.
var events = []string{
	"build.complete", "ms.vss-pipelines.run-state-changed-event", "ms.vss-pipelines.stage-state-changed-event", "ms.vss-pipelines.job-state-changed-event",
}

var guid = regexp.MustCompile(`^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$`)

// hook is what a notification says: that something happened to a build.
type hook struct {
	id, project string
	build       int64
}

// hookTime is how long the build of a notification is waited for.
const hookTime = 10 * time.Second

// parse asks for the build that a notification is about. Of itself it says neither who nor what nor whose, it may come late, and nobody signs it; a build that is asked for
// is as it is now. It is shown wherever it belongs: of a repository, of a pipeline, of both.
func (c *client) parse(_ http.Header, body []byte) ([]provider.Delivery, error) {
	n, err := readHook(body)
	if err != nil || n.build == 0 {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), hookTime)
	defer cancel()
	r, err := c.runOf(ctx, source{project: n.project}, n.build)
	if errors.Is(err, slipway.NotFound) {
		return nil, nil // deleted meanwhile
	}
	if code := slipway.CodeOf(err); err != nil && code != slipway.Unavailable && code != slipway.RateLimited {
		// It is our credential that is at fault, not the notification; Azure is to send it again.
		err = slipway.Errorf(slipway.Unavailable, "the build of the notification cannot be read; `slipway provider check` says why").WithCause(err)
	}
	if err != nil {
		return nil, err
	}
	b := c.build(r)
	var list []provider.Delivery
	for _, s := range r.sources() {
		list = append(list, provider.Delivery{Project: s.String(), ID: n.id, Build: &b})
	}
	return list, nil
}

// sources are all that a build belongs to.
func (r run) sources() []source {
	if r.Project == nil || r.Definition == nil {
		return nil
	}
	project, pipeline, repo := strings.ToLower(r.Project.Name), strings.ToLower(r.Definition.Name), ""
	if r.Repository != nil && strings.EqualFold(r.Repository.Type, "TfsGit") {
		repo = strings.ToLower(r.Repository.Name)
	}
	list := []source{{project, "", pipeline}}
	if repo != "" {
		list = []source{{project, repo, ""}, {project, "", pipeline}, {project, repo, pipeline}}
	}
	return slices.DeleteFunc(list, func(s source) bool { _, err := readSource(s.String()); return err != nil })
}

func readHook(body []byte) (n hook, err error) {
	var said struct {
		ID       string `json:"id"`
		Event    string `json:"eventType"`
		Resource struct {
			ID  int64  `json:"id"`
			URL string `json:"url"`
			Run struct {
				ID int64 `json:"id"`
			} `json:"run"`
		} `json:"resource"`
		Containers struct {
			Project struct {
				ID string `json:"id"`
			} `json:"project"`
		} `json:"resourceContainers"`
	}
	if err := provider.Unmarshal(body, &said); err != nil {
		return n, slipway.Errorf(slipway.Invalid, "the body is no service hook of Azure DevOps").WithCause(err)
	}
	if !slices.Contains(events, said.Event) {
		return n, nil
	}
	n = hook{id: said.ID, project: said.Containers.Project.ID, build: said.Resource.Run.ID}
	if said.Event == "build.complete" {
		n.build = said.Resource.ID
	}
	if n.build <= 0 || n.build > 1<<31-1 || !guid.MatchString(n.project) {
		return hook{}, slipway.Errorf(slipway.Invalid, "the service hook names no build or no project")
	}
	n.project = url.PathEscape(strings.ToLower(n.project))
	return n, nil
}
