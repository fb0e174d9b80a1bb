package gitlab

import (
	"cmp"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"strconv"
	"strings"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/provider"
)

// The headers of GitLab's webhooks.
const (
	eventHeader     = "X-Gitlab-Event"
	tokenHeader     = "X-Gitlab-Token"
	idHeader        = "Webhook-Id"
	timeHeader      = "Webhook-Timestamp"
	signatureHeader = "Webhook-Signature"
)

// verify checks the signature where there is one, and else the secret that GitLab sends in clear. A wrong signature is not made good by a right secret.
func (c *client) verify(h http.Header, body []byte) error {
	signing, secret := c.cfg.WebhookSigningToken, c.cfg.WebhookSecret
	switch signed := h.Get(signatureHeader) != ""; {
	case signing == "" && secret == "":
		return slipway.Errorf(slipway.Forbidden, "this provider takes no webhooks; set webhookSecret or webhookSigningToken in its configuration and the same at GitLab")
	case signing != "" && signed:
		return c.verifySigned(h, body)
	case secret != "" && secret.Is(h.Get(tokenHeader)):
		return nil
	case secret != "":
		return slipway.Errorf(slipway.Unauthenticated, "the webhook does not bring the secret token; set the same at GitLab and as webhookSecret")
	}
	return slipway.Errorf(slipway.Unauthenticated, "the webhook is not signed; set a signing token at GitLab, and the same as webhookSigningToken")
}

// verifySigned checks a signature in the form of Standard Webhooks: of the id, the time and the body.
func (c *client) verifySigned(h http.Header, body []byte) error {
	id, at := h.Get(idHeader), h.Get(timeHeader)
	good := false
	for _, key := range signingKeys(c.cfg.WebhookSigningToken) {
		m := hmac.New(sha256.New, key)
		m.Write([]byte(id + "." + at + "."))
		m.Write(body)
		want := m.Sum(nil)
		for _, signature := range strings.Fields(h.Get(signatureHeader)) {
			mac, ok := strings.CutPrefix(signature, "v1,")
			given, err := base64.StdEncoding.DecodeString(mac)
			good = good || ok && err == nil && hmac.Equal(given, want)
		}
	}
	if !good {
		return slipway.Errorf(slipway.Unauthenticated, "the webhook's signature does not fit its body; set the same signing token at GitLab and as webhookSigningToken")
	}
	return provider.Fresh(at, c.now())
}

// signingKeys are the keys that a signing token may stand for: itself, and what it encodes, as the form of Standard Webhooks has it.
func signingKeys(token provider.Secret) [][]byte {
	keys := [][]byte{[]byte(token)}
	if encoded, ok := strings.CutPrefix(string(token), "whsec_"); ok {
		if key, err := base64.StdEncoding.DecodeString(encoded); err == nil && len(key) > 0 {
			keys = append(keys, key)
		}
	}
	return keys
}

// parse reads whose pipeline or deployment changed. A notification does not say when GitLab last changed the pipeline, and calls its branch otherwise than the API does, so the
// project is read again, and the pipeline asked for where it is an old one that runs again: under its path and its number, as entities name either. Jobs change nothing that their pipeline does not tell. A push tells where the
// repository is found.
func parse(h http.Header, body []byte) ([]provider.Delivery, error) {
	event := h.Get(eventHeader)
	if event != "Pipeline Hook" && event != "Push Hook" && event != "Deployment Hook" {
		return nil, nil
	}
	var said struct {
		Pipeline struct {
			ID int64 `json:"id"`
		} `json:"object_attributes"`
		Deployment int64 `json:"deployment_id"`
		Project    struct {
			ID   int64  `json:"id"`
			Path string `json:"path_with_namespace"`
			URL  string `json:"web_url"`
		} `json:"project"`
	}
	if err := provider.Unmarshal(body, &said); err != nil {
		return nil, slipway.Errorf(slipway.Invalid, "the webhook's body is no %s event", strings.ToLower(strings.TrimSuffix(event, " Hook"))).WithCause(err)
	}
	id := cmp.Or(h.Get(idHeader), h.Get("Idempotency-Key"), h.Get("X-Gitlab-Event-UUID"))
	if event == "Push Hook" {
		project, page := strings.ToLower(said.Project.Path), provider.RepositoryAddress(said.Project.URL)
		if page == "" || !slug.MatchString(project) {
			return nil, slipway.Errorf(slipway.Invalid, "the webhook's body does not say where the repository is found; a custom template must keep project")
		}
		return []provider.Delivery{{Project: project, ID: id, Pushed: []string{page}}}, nil
	}
	var list []provider.Delivery
	task, item := "", said.Pipeline.ID
	if event == "Deployment Hook" {
		task, item = "deployment", said.Deployment
	}
	build := strconv.FormatInt(item, 10)
	if project := strings.ToLower(said.Project.Path); slug.MatchString(project) {
		list = append(list, provider.Delivery{Project: project, ID: id, Task: task, BuildID: build})
	}
	if said.Project.ID > 0 {
		list = append(list, provider.Delivery{Project: strconv.FormatInt(said.Project.ID, 10), ID: id, Task: task, BuildID: build})
	}
	if len(list) == 0 || item <= 0 {
		return nil, slipway.Errorf(slipway.Invalid, "the webhook's body names no pipeline or deployment of a project; a custom template must keep object_attributes.id, or deployment_id, and project")
	}
	return list, nil
}
