package github

import (
	"net/http"
	"strconv"
	"strings"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/provider"
)

func (c *client) verify(h http.Header, body []byte) error {
	if c.cfg.WebhookSecret == "" {
		return slipway.Errorf(slipway.Forbidden, "this provider takes no webhooks; set webhookSecret in its configuration and the same secret at GitHub")
	}
	mac, ok := strings.CutPrefix(h.Get("X-Hub-Signature-256"), "sha256=")
	if !ok || !c.cfg.WebhookSecret.Signs(body, mac) {
		return slipway.Errorf(slipway.Unauthenticated, "the webhook's signature does not fit its body; set the same secret at GitHub and as webhookSecret")
	}
	return nil
}

// parse reads what happened to a run, that something happened to a deployment, or that a repository has new content. The run in the body is that of the API. What happened to a job says that
// its run is to be looked at.
func parse(h http.Header, body []byte) ([]provider.Delivery, error) {
	event := h.Get("X-GitHub-Event")
	if event != "workflow_run" && event != "workflow_job" && event != "push" && event != "deployment" && event != "deployment_status" {
		return nil, nil
	}
	body, err := provider.Payload(h, body)
	if err != nil {
		return nil, err
	}
	var said struct {
		Run        *workflowRun `json:"workflow_run"`
		Deployment *deployment  `json:"deployment"`
		Repository repository   `json:"repository"`
	}
	if err := provider.Unmarshal(body, &said); err != nil {
		return nil, slipway.Errorf(slipway.Invalid, "the webhook's body is no %s event", event).WithCause(err)
	}
	d := provider.Delivery{Project: strings.ToLower(said.Repository.FullName), ID: h.Get("X-GitHub-Delivery")}
	if !slug.MatchString(d.Project) {
		return nil, slipway.Errorf(slipway.Invalid, "the webhook's body names no repository")
	}
	switch event {
	case "deployment", "deployment_status": // how it went is told by all of its statuses
		if said.Deployment == nil || said.Deployment.ID <= 0 {
			return nil, slipway.Errorf(slipway.Invalid, "the webhook's body holds no deployment")
		}
		d.Task, d.BuildID = "deployment", strconv.FormatInt(said.Deployment.ID, 10)
	case "push":
		page := provider.RepositoryAddress(said.Repository.HTMLURL)
		if page == "" {
			return nil, slipway.Errorf(slipway.Invalid, "the webhook's body does not say where the repository is found")
		}
		d.Pushed = []string{page}
		if strings.EqualFold(page, "https://github.com/"+d.Project) { // there files have a host of their own
			d.Pushed = append(d.Pushed, "https://raw.githubusercontent.com/"+said.Repository.FullName)
		}
	case "workflow_run":
		if said.Run == nil || said.Run.ID <= 0 || said.Run.CreatedAt.IsZero() {
			return nil, slipway.Errorf(slipway.Invalid, "the webhook's body holds no run")
		}
		b := said.Run.build()
		d.Build = &b
	}
	return []provider.Delivery{d}, nil
}
