package azure

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/provider"
)

// entra gets tokens for an application from Microsoft Entra ID. They are kept until shortly before their end.
type entra struct {
	cfg  Config
	api  *provider.Client
	now  func() time.Time
	lock chan struct{} // one asks at a time, and the others wait as long as they may

	value provider.Secret
	until time.Time
}

// azureDevOps is the resource that tokens are for, the same in every directory.
const azureDevOps = "499b84ac-1321-427f-aa17-5740ca26789b/.default"

// tokenMargin is how long before its end a token is replaced.
const tokenMargin = 5 * time.Minute

func newEntra(cfg Config, env provider.Env) (*entra, error) {
	e := &entra{cfg: cfg, now: env.Clock(), lock: make(chan struct{}, 1)}
	var err error
	e.api, err = provider.NewClient(env, provider.ClientOptions{
		Vendor: "Microsoft Entra ID", URL: cfg.LoginURL, Header: http.Header{"Accept": {"application/json"}},
		Classify: func(_ provider.Request, a provider.Answer) error {
			if a.Status == http.StatusBadRequest || a.Status == http.StatusUnauthorized {
				return slipway.Errorf(slipway.Unauthenticated, "Microsoft Entra ID gives the application no token (%s); check tenant, and the client id and secret of `credential`", a.Message)
			}
			return nil
		},
	})
	return e, err
}

func (e *entra) authorize(ctx context.Context) (auth provider.Authorization, err error) {
	select {
	case e.lock <- struct{}{}:
		defer func() { <-e.lock }()
	case <-ctx.Done():
		return auth, ctx.Err()
	}
	if now := e.now(); !now.Before(e.until.Add(-tokenMargin)) {
		var made struct {
			Token   provider.Secret `json:"access_token"`
			Seconds int64           `json:"expires_in"`
		}
		_, err := e.api.JSON(ctx, provider.Request{
			Method: http.MethodPost, Path: "/" + url.PathEscape(e.cfg.Tenant) + "/oauth2/v2.0/token",
			Form: url.Values{
				"grant_type": {"client_credentials"}, "client_id": {e.cfg.Credential.Username}, "client_secret": {string(e.cfg.Credential.Password)}, "scope": {azureDevOps},
			},
		}, &made)
		if err == nil && made.Token == "" {
			err = e.api.Strange(errors.New("there is no access_token"))
		}
		if err != nil {
			return auth, err
		}
		e.value, e.until = made.Token, now.Add(max(time.Duration(made.Seconds)*time.Second, tokenMargin+time.Minute))
	}
	return provider.Authorization{Header: "Authorization", Value: "Bearer " + string(e.value), Account: "application " + e.cfg.Credential.Username}, nil
}

// forget drops a token that Azure DevOps refused before its end. false: there is none.
func (e *entra) forget(ctx context.Context) bool {
	select {
	case e.lock <- struct{}{}:
		defer func() { <-e.lock }()
	case <-ctx.Done():
		return false
	}
	had := e.value != ""
	e.value, e.until = "", time.Time{}
	return had
}
