package argocd

import (
	"net/http"
	"slices"
	"strings"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/provider"
)

// verify checks the token that a notification brings: Argo CD signs nothing. What it says is therefore not believed, but makes the application be read again.
func (c *client) verify(h http.Header, _ []byte) error {
	if c.cfg.WebhookSecret == "" {
		return slipway.Errorf(slipway.Forbidden, "this provider takes no webhooks; set webhookSecret in its configuration, and have Argo CD's notifications send it as a bearer token")
	}
	token, ok := strings.CutPrefix(h.Get("Authorization"), "Bearer ")
	if !ok || !c.cfg.WebhookSecret.Is(token) {
		return slipway.Errorf(slipway.Unauthenticated, "the notification brings no bearer token, or another than webhookSecret; the header is Authorization: Bearer SECRET")
	}
	return nil
}

// parse reads which application a notification is about, from the template of our own or from any other that says `application`. Entities that name it are read again; those that
// choose applications by labels wait for their next look.
func parse(_ http.Header, body []byte) ([]provider.Delivery, error) {
	var said struct {
		Application  string `json:"application"`
		AppNamespace string `json:"appNamespace"`
		Project      string `json:"project"`
	}
	if err := provider.Unmarshal(body, &said); err != nil {
		return nil, slipway.Errorf(slipway.Invalid, "the notification's body is no JSON").WithCause(err)
	}
	if said.Application == "" {
		return nil, nil
	}
	var list []provider.Delivery
	for _, p := range []project{
		{name: said.Application}, {name: said.Application, of: said.Project},
		{name: said.Application, namespace: said.AppNamespace}, {name: said.Application, namespace: said.AppNamespace, of: said.Project},
	} {
		if text := p.String(); !slices.ContainsFunc(list, func(d provider.Delivery) bool { return d.Project == text }) {
			if _, err := find(text); err != nil {
				return nil, slipway.Errorf(slipway.Invalid, "the notification names no application of Argo CD")
			}
			list = append(list, provider.Delivery{Project: text, Task: "deployment"})
		}
	}
	return list, nil
}
