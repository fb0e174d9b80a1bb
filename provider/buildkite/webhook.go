package buildkite

import (
	"net/http"
	"regexp"
	"strconv"
	"strings"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/provider"
)

// verify checks the signature, or the token where Buildkite was told to send that instead.
func (c *client) verify(h http.Header, body []byte) error {
	secret, signature := c.cfg.WebhookSecret, h.Get("X-Buildkite-Signature")
	switch {
	case secret == "":
		return slipway.Errorf(slipway.Forbidden, "this provider takes no webhooks; set webhookSecret in its configuration to the token of Buildkite's webhook")
	case signature == "" && secret.Is(h.Get("X-Buildkite-Token")):
		return nil
	case signature == "":
		return slipway.Errorf(slipway.Unauthenticated, "the webhook does not bring the token; set webhookSecret to that of Buildkite's webhook")
	}
	said := map[string]string{}
	for part := range strings.SplitSeq(signature, ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(part), "=")
		said[name] = value
	}
	signed := append([]byte(said["timestamp"]+"."), body...)
	if !secret.Signs(signed, said["signature"]) {
		return slipway.Errorf(slipway.Unauthenticated, "the webhook's signature does not fit its body; set webhookSecret to the token of Buildkite's webhook")
	}
	return provider.Fresh(said["timestamp"], c.now())
}

var (
	ofPipeline = regexp.MustCompile(`/organizations/([a-z0-9-]+)/pipelines/([a-z0-9-]+)(?:/|$)`)
	jobID      = regexp.MustCompile(`^[0-9a-zA-Z-]{1,64}$`)
)

// parse reads which build changed. One that has ended stands in the notification as it is; of any other it lacks the jobs, which date it, so that the project is read again,
// and the build asked for where it is an old one that runs again.
// A notification may show a newer state than its name says: the name is not believed.
func parse(h http.Header, body []byte) ([]provider.Delivery, error) {
	event := h.Get("X-Buildkite-Event")
	if !strings.HasPrefix(event, "build.") {
		return nil, nil
	}
	var said struct {
		Build    nativeBuild `json:"build"`
		Pipeline struct {
			URL string `json:"url"`
		} `json:"pipeline"`
	}
	if err := provider.Unmarshal(body, &said); err != nil {
		return nil, slipway.Errorf(slipway.Invalid, "the webhook's body is no %s event", event).WithCause(err)
	}
	d := provider.Delivery{ID: said.Build.ID + " " + event}
	for _, address := range []string{said.Build.URL, said.Pipeline.URL} {
		if m := ofPipeline.FindStringSubmatch(strings.ToLower(address)); m != nil {
			d.Project = m[1] + "/" + m[2]
			break
		}
	}
	if !slug.MatchString(d.Project) {
		return nil, slipway.Errorf(slipway.Invalid, "the webhook's body names no pipeline")
	}
	if n := said.Build; n.Number > 0 && n.status().Finished() && !n.CreatedAt.IsZero() && !n.FinishedAt.IsZero() {
		b := n.build(d.Project, n.changed())
		d.Build = &b
	} else if n.Number > 0 {
		d.BuildID = strconv.FormatInt(n.Number, 10)
	}
	return []provider.Delivery{d}, nil
}
