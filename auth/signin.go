package auth

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/secret"
)

// SignIn says by which issuers people and services sign in, beside Slipway's own tokens.
type SignIn struct {
	Issuers   []IssuerConfig   `yaml:"issuers" doc:"Issuers whose tokens (JWTs) are accepted"`
	TLSHeader TLSHeader        `yaml:"tlsHeader" doc:"Tools that a proxy knows by their certificate"`
	Login     Login            `yaml:"login" doc:"How people sign in with a browser, and through it the command line"`
	Remember  slipway.Duration `yaml:"remember" doc:"How long the groups that an issuer named for a user count for the user's sessions and tokens without being named again"`
}

// Login is the client that Slipway is to an OpenID issuer, and how long sign-ins last.
type Login struct {
	Issuer   string           `yaml:"issuer" doc:"Name of one of auth.issuers, of kind oidc; empty: nobody signs in with a browser"`
	ClientID string           `yaml:"clientID" doc:"Under which name the issuer knows Slipway's sign-in page. The address to register there is {externalURL}/auth/callback"`
	Secret   secret.Text      `yaml:"clientSecret" doc:"The client's secret, such as ${env:OIDC_SECRET}; empty: a public client, which PKCE protects"`
	Scopes   []string         `yaml:"scopes" doc:"What is asked of the issuer"`
	Idle     slipway.Duration `yaml:"idle" doc:"A browser's session ends when it was not used for so long"`
	Absolute slipway.Duration `yaml:"absolute" doc:"A browser's session ends so long after it began"`
	CLI      slipway.Duration `yaml:"cli" doc:"A command line's session ends so long after it began"`
}

func defaultSignIn() SignIn {
	const day = slipway.Duration(24 * time.Hour)
	return SignIn{
		Login:    Login{Scopes: []string{"openid", "profile", "email"}, Idle: slipway.Duration(time.Hour), Absolute: slipway.Duration(12 * time.Hour), CLI: 7 * day},
		Remember: 7 * day, TLSHeader: defaultTLSHeader(),
	}
}

// IssuerConfig is an issuer whose tokens are believed, and how its callers are called here.
type IssuerConfig struct {
	Name       string   `yaml:"name" doc:"Unique name; services of the issuer are known as service:<name>:<subject>"`
	Kind       string   `yaml:"kind" doc:"oidc, backstage or kubernetes"`
	Issuer     string   `yaml:"issuer" doc:"Address of the issuer, exactly as its tokens have it in iss"`
	Audience   string   `yaml:"audience" doc:"What aud must hold: the name under which the issuer knows this Slipway; backstage: backstage"`
	JWKSURL    string   `yaml:"jwksURL" doc:"Address of its keys; empty: by discovery, as /.well-known/openid-configuration below the issuer says"`
	Callers    string   `yaml:"callers" doc:"What its callers are: user or service; kubernetes: service, others: user"`
	UserClaim  string   `yaml:"userClaim" doc:"Claim that names the user; inner ones with dots; empty: sub. Users of the issuer must not be able to choose its value freely"`
	Groups     string   `yaml:"groupsClaim" doc:"Claim that lists the user's groups; inner ones with dots; empty: groups. Those of the catalog count besides"`
	Namespace  string   `yaml:"namespace" doc:"Namespace of users and groups that claims name; empty: default"`
	Algorithms []string `yaml:"algorithms" doc:"Which signatures are accepted; empty: RS256 to RS512, PS256 to PS512, ES256 to ES512, EdDSA"`
	CAFile     string   `yaml:"caFile" doc:"Certificates to trust for the issuer, in PEM; empty: the system's; kubernetes: those of the pod, where there are any"`
	TokenFile  string   `yaml:"tokenFile" doc:"File with a token to show when keys are read; kubernetes: that of the pod, where there is one"`
	Cluster    string   `yaml:"cluster" doc:"For kubernetes: ask this cluster (TokenReview) instead of checking signatures, so that a deleted pod's token ends at once"`
}

// The kinds of issuers.
const (
	kindOIDC       = "oidc"
	kindBackstage  = "backstage"
	kindKubernetes = "kubernetes"
)

// algorithms are the signatures that can be accepted. What is symmetric, and none, cannot be named.
var algorithms = []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}

// check names what is wrong. All faults come back together.
func (c SignIn) check() []slipway.Detail {
	var faults []slipway.Detail
	fault := func(field, format string, args ...any) {
		faults = append(faults, slipway.Detail{Field: field, Code: slipway.Invalid, Message: fmt.Sprintf(format, args...)})
	}
	c.TLSHeader.check(fault)
	names := map[string]bool{}
	for i, issuer := range c.Issuers {
		at := func(key string) string { return fmt.Sprintf("auth.issuers[%d].%s", i, key) }
		switch {
		case !namePattern.MatchString(issuer.Name):
			fault(at("name"), "%.60q: letters, digits, dash, underscore and dot, at most 63, starting with a letter or digit", issuer.Name)
		case names[issuer.Name]:
			fault(at("name"), "%q is used twice", issuer.Name)
		}
		names[issuer.Name] = true
		switch issuer.Kind {
		case kindOIDC, kindKubernetes, kindBackstage:
		default:
			fault(at("kind"), "%.60q is not oidc, backstage or kubernetes", issuer.Kind)
		}
		if issuer.Audience == "" && issuer.Kind != kindBackstage {
			fault(at("audience"), "is required: without it, a token that was made for another service would be believed here")
		}
		if err := checkURL(issuer.Issuer); err != nil {
			fault(at("issuer"), "%v", err)
		}
		if err := checkURL(issuer.JWKSURL); err != nil && issuer.JWKSURL != "" {
			fault(at("jwksURL"), "%v", err)
		}
		switch {
		case issuer.Callers != "" && issuer.Callers != "user" && issuer.Callers != "service":
			fault(at("callers"), "%.60q is not user or service", issuer.Callers)
		case issuer.Callers == "user" && issuer.Kind == kindKubernetes:
			fault(at("callers"), "what a cluster gives tokens to are services")
		case issuer.Callers == "service" && issuer.Kind == kindBackstage:
			fault(at("callers"), "Backstage's tokens are its users'")
		}
		if n := issuer.Namespace; n != "" {
			if err := (slipway.EntityRef{Kind: "user", Namespace: n, Name: "x"}).Validate(); err != nil {
				fault(at("namespace"), "%s", err.Message)
			}
		}
		for _, alg := range issuer.Algorithms {
			if !slices.Contains(algorithms, alg) {
				fault(at("algorithms"), "%.60q is none of %s", alg, strings.Join(algorithms, ", "))
			}
		}
		if issuer.Cluster != "" && issuer.Kind != kindKubernetes {
			fault(at("cluster"), "is for issuers of kind kubernetes")
		}
	}
	l := c.Login
	switch i := slices.IndexFunc(c.Issuers, func(i IssuerConfig) bool { return i.Name == l.Issuer }); {
	case l.Issuer == "":
	case i < 0:
		fault("auth.login.issuer", "there is no issuer %.60q under auth.issuers", l.Issuer)
	case c.Issuers[i].Kind != kindOIDC || c.Issuers[i].Callers == "service":
		fault("auth.login.issuer", "the issuer %q is not of kind oidc with users", l.Issuer)
	case l.ClientID == "":
		fault("auth.login.clientID", "is required with auth.login.issuer")
	case !slices.Contains(l.Scopes, "openid"):
		fault("auth.login.scopes", "must hold openid")
	}
	for _, d := range []struct {
		key   string
		value slipway.Duration
	}{{"login.idle", l.Idle}, {"login.absolute", l.Absolute}, {"login.cli", l.CLI}, {"remember", c.Remember}} {
		if d.value.Std() < time.Minute {
			fault("auth."+d.key, "%s is shorter than a minute", d.value)
		}
	}
	return faults
}

func checkURL(s string) error {
	u, err := url.Parse(s)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" || u.User != nil || u.Fragment != "" {
		return fmt.Errorf("%.100q is no https or http address", s)
	}
	return nil
}

// filled is the entry with its defaults.
func (c IssuerConfig) filled() IssuerConfig {
	set := func(s *string, value string) {
		if *s == "" {
			*s = value
		}
	}
	set(&c.Callers, map[string]string{kindKubernetes: "service"}[c.Kind])
	set(&c.Callers, "user")
	set(&c.Audience, "backstage")
	set(&c.UserClaim, "sub")
	set(&c.Groups, "groups")
	set(&c.Namespace, slipway.DefaultNamespace)
	if len(c.Algorithms) == 0 {
		c.Algorithms = algorithms
	}
	return c
}
