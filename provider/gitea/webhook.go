package gitea

import (
	"net/http"
	"strconv"
	"strings"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/provider"
)

func (c *client) verify(h http.Header, body []byte) error {
	if c.cfg.WebhookSecret == "" {
		return slipway.Errorf(slipway.Forbidden, "this provider takes no webhooks; set webhookSecret in its configuration and the same secret at Gitea")
	}
	if !c.cfg.WebhookSecret.Signs(body, h.Get("X-Gitea-Signature")) {
		return slipway.Errorf(slipway.Unauthenticated, "the webhook's signature does not fit its body; set the same secret at Gitea and as webhookSecret")
	}
	return nil
}

// parse reads whose runs or content changed. A run in a notification is without its creation and its attempt, so the project is read again, and the run asked for where it is an old one that runs again.
func parse(h http.Header, body []byte) ([]provider.Delivery, error) {
	event := h.Get("X-Gitea-Event")
	if event != "workflow_run" && event != "workflow_job" && event != "push" {
		return nil, nil
	}
	body, err := provider.Payload(h, body)
	if err != nil {
		return nil, err
	}
	var said struct {
		Run struct {
			ID int64 `json:"id"`
		} `json:"workflow_run"`
		Job struct {
			Run int64 `json:"run_id"`
		} `json:"workflow_job"`
		Repository struct {
			FullName string `json:"full_name"`
			HTMLURL  string `json:"html_url"`
		} `json:"repository"`
	}
	if err := provider.Unmarshal(body, &said); err != nil {
		return nil, slipway.Errorf(slipway.Invalid, "the webhook's body is no %s event", event).WithCause(err)
	}
	d := provider.Delivery{Project: strings.ToLower(said.Repository.FullName), ID: h.Get("X-Gitea-Delivery")}
	if !slug.MatchString(d.Project) {
		return nil, slipway.Errorf(slipway.Invalid, "the webhook's body names no repository")
	}
	if event == "push" {
		page := provider.RepositoryAddress(said.Repository.HTMLURL)
		if page == "" {
			return nil, slipway.Errorf(slipway.Invalid, "the webhook's body does not say where the repository is found")
		}
		d.Pushed = []string{page}
	} else if run := max(said.Run.ID, said.Job.Run); run > 0 {
		d.BuildID = strconv.FormatInt(run, 10)
	}
	return []provider.Delivery{d}, nil
}
