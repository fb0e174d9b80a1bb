package circleci

import (
	"net/http"
	"strings"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/provider"
)

// verify checks the signature of the first version; CircleCI may add others.
func (c *client) verify(h http.Header, body []byte) error {
	if c.cfg.WebhookSecret == "" {
		return slipway.Errorf(slipway.Forbidden, "this provider takes no webhooks; set webhookSecret in its configuration and the same secret at CircleCI")
	}
	for signature := range strings.SplitSeq(h.Get("Circleci-Signature"), ",") {
		if mac, ok := strings.CutPrefix(strings.TrimSpace(signature), "v1="); ok && c.cfg.WebhookSecret.Signs(body, mac) {
			return nil
		}
	}
	return slipway.Errorf(slipway.Unauthenticated, "the webhook's signature does not fit its body; set the same secret at CircleCI and as webhookSecret")
}

// parse reads what ended: a workflow, which the body holds, or a job. Either says too that its project is to be looked at: who ran a workflow again stands only there. The
// workflow may be one of an old pipeline.
func (c *client) parse(_ http.Header, body []byte) ([]provider.Delivery, error) {
	var said struct {
		ID       string    `json:"id"`
		Type     string    `json:"type"`
		Workflow *workflow `json:"workflow"`
		Pipeline pipeline  `json:"pipeline"`
		Project  struct {
			Slug string `json:"slug"`
		} `json:"project"`
	}
	if err := provider.Unmarshal(body, &said); err != nil {
		return nil, slipway.Errorf(slipway.Invalid, "the webhook's body is no event of CircleCI").WithCause(err)
	}
	if said.Type != "workflow-completed" && said.Type != "job-completed" {
		return nil, nil
	}
	d := provider.Delivery{ID: said.ID}
	var ok bool
	if d.Project, ok = canonical(said.Project.Slug); !ok {
		return nil, slipway.Errorf(slipway.Invalid, "the webhook's body names no project")
	}
	c.forget(said.Pipeline.ID)
	look := d
	if said.Workflow != nil {
		look.BuildID = said.Workflow.ID
	}
	if said.Type == "job-completed" {
		return []provider.Delivery{look}, nil
	}
	w, p := said.Workflow, said.Pipeline
	if w == nil || w.ID == "" || w.CreatedAt.IsZero() {
		return nil, slipway.Errorf(slipway.Invalid, "the webhook's body holds no workflow")
	}
	p.ProjectSlug = d.Project
	b := c.build(*w, p, place{knew: toldByWebhook})
	d.Build = &b
	return []provider.Delivery{d, look}, nil
}
