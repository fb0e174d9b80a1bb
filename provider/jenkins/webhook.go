package jenkins

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/provider"
)

// verify checks the password that the notification plugin brings when it stands in its address: nothing that Jenkins sends is signed. What a notification says is therefore
// not believed, but makes the job be read again.
func (c *client) verify(h http.Header, _ []byte) error {
	if c.cfg.WebhookSecret == "" {
		return slipway.Errorf(slipway.Forbidden, "this provider takes no webhooks; set webhookSecret in its configuration and put it into the address that Jenkins notifies")
	}
	_, password, _ := (&http.Request{Header: h}).BasicAuth()
	if !c.cfg.WebhookSecret.Is(password) {
		return slipway.Errorf(slipway.Unauthenticated, "the webhook brings no password, or another than webhookSecret; Jenkins notifies https://jenkins:SECRET@…")
	}
	return nil
}

// parse reads which job a notification is about. The job, and every folder that it lies in, is read again where an entity is bound to it.
func parse(h http.Header, body []byte) ([]provider.Delivery, error) {
	if strings.Contains(h.Get("Content-Type"), "xml") {
		return nil, slipway.Errorf(slipway.Invalid, "the webhook's body is XML; set the format of the notification to JSON")
	}
	var said struct {
		URL   string `json:"url"` // of the job: job/shop/job/web/
		Build *struct {
			Number json.Number `json:"number"`
			Phase  string      `json:"phase"`
		} `json:"build"`
	}
	if err := provider.Unmarshal(body, &said); err != nil {
		return nil, slipway.Errorf(slipway.Invalid, "the webhook's body is no notification").WithCause(err)
	}
	if said.Build == nil {
		return nil, nil // of something else than a build
	}
	name, ok := jobOf(said.URL)
	if !ok {
		return nil, slipway.Errorf(slipway.Invalid, "the webhook's body names no job in url; it is such as job/shop/job/web/")
	}
	id := fmt.Sprintf("%s#%s %s", name, provider.Clip(said.Build.Number.String()), provider.Clip(said.Build.Phase))
	var list []provider.Delivery
	for {
		list = append(list, provider.Delivery{Project: name, ID: id})
		at := strings.LastIndexByte(name, '/')
		if at < 0 {
			return list, nil
		}
		name = name[:at]
	}
}

// jobOf reads the full name of a job out of its address, whole or from Jenkins' own on.
func jobOf(address string) (string, bool) {
	u, err := url.Parse(address)
	if err != nil {
		return "", false
	}
	path := "/" + strings.Trim(u.EscapedPath(), "/") + "/"
	at := strings.Index(path, "/job/")
	if at < 0 {
		return "", false
	}
	parts := strings.Split(strings.Trim(path[at:], "/"), "/")
	if len(parts)%2 != 0 || len(parts) > 2*maxLevels {
		return "", false
	}
	var names []string
	for i := 0; i < len(parts); i += 2 {
		name, err := url.PathUnescape(parts[i+1])
		if err != nil || parts[i] != "job" || strings.Contains(name, "/") {
			return "", false
		}
		names = append(names, name)
	}
	name, err := fullName(strings.Join(names, "/"))
	return name, err == nil
}

const maxLevels = 10 // of folders that a notification is about
