package platform

import (
	"bytes"
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"errors"
	"html/template"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/auth"
	"github.com/slipway-platform/slipway/blueprint"
	"github.com/slipway-platform/slipway/secret"
)

// The pages of sign-in, and the two OAuth endpoints of the command line. They are plain HTML without scripts.

//go:embed signin.html
var signinHTML string

const pageStyle = `:root{color-scheme:light dark;--line:#8884;--link:#0a66c2}
@media (prefers-color-scheme:dark){:root{--link:#6cb6ff}}
body{font:16px/1.55 system-ui,sans-serif;margin:0 auto;max-width:44rem;padding:1.5rem}
header{display:flex;gap:1rem;align-items:baseline;border-bottom:1px solid var(--line);margin-bottom:1rem;flex-wrap:wrap}
header strong{font-size:1.2rem}
a{color:var(--link)}
button,.button{font:inherit;padding:.3rem .9rem;border:1px solid var(--line);border-radius:6px;text-decoration:none;cursor:pointer}
table{border-collapse:collapse}
td,th{border-bottom:1px solid var(--line);padding:.3rem .8rem .3rem 0;text-align:left;vertical-align:top}
form{display:inline}
.code{font:600 1.6rem ui-monospace,monospace;letter-spacing:.15em}`

var (
	signinPages = template.Must(template.New("signin").Funcs(template.FuncMap{"style": func() template.CSS { return pageStyle }}).Parse(signinHTML))
	styleHash   = func() string {
		sum := sha256.Sum256([]byte(pageStyle))
		return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
	}()
)

// shown is what a page shows.
type shown struct {
	Title    string
	Text     string // what went wrong
	Again    string // where to begin again
	Caller   *slipway.Caller
	Offered  bool
	Own      string // id of the session that asks
	Sessions []auth.Session
	Device   auth.Device

	AgainText string
}

// html is the answer of a page, or a redirect.
type html struct {
	Status    int
	Location  string   `header:"Location" doc:"Where to go on"`
	SetCookie []string `header:"Set-Cookie" doc:"The session, or what a sign-in under way needs"`
	CSP       string   `header:"Content-Security-Policy" doc:"Nothing but our own style, and forms to ourselves"`
	Frames    string   `header:"X-Frame-Options" doc:"DENY"`
	Body      blueprint.Streamed
}

// show renders a page.
func (s *service) show(ctx context.Context, status int, name string, p shown) (*html, error) {
	var buf bytes.Buffer
	if p.Caller == nil {
		p.Caller = &slipway.Caller{}
	}
	if err := signinPages.ExecuteTemplate(&buf, name, p); err != nil {
		return nil, err
	}
	forms := "'self'"
	if name == "account" { // browsers hold a form also to where its answer redirects
		forms = strings.TrimSpace(forms + " " + s.auth.FormTargets(ctx))
	}
	return &html{
		Status: status, Frames: "DENY",
		CSP: "default-src 'none'; style-src " + styleHash + "; img-src data:; base-uri 'none'; frame-ancestors 'none'; form-action " + forms,
		Body: blueprint.Streamed{ContentType: "text/html; charset=utf-8", Write: func(_ context.Context, w io.Writer, _ func()) error {
			_, err := w.Write(buf.Bytes())
			return err
		}},
	}, nil
}

// failed is a page that says what went wrong.
func (s *service) failed(ctx context.Context, title string, err error, again, againText string) (*html, error) {
	coded, ok := errors.AsType[*slipway.Error](err)
	if !ok {
		return nil, err
	}
	status := map[slipway.Code]int{
		slipway.Unauthenticated: http.StatusUnauthorized, slipway.Unavailable: http.StatusServiceUnavailable, slipway.Unsupported: http.StatusNotImplemented,
		slipway.NotFound: http.StatusNotFound,
	}[coded.Code]
	if status == 0 {
		return nil, err
	}
	return s.show(ctx, status, "message", shown{Title: title, Text: coded.Message, Again: again, AgainText: againText})
}

// redirect sends a browser on, by GET.
func redirect(to string, cookies ...http.Cookie) *html {
	h := &html{Status: http.StatusSeeOther, Location: to, Body: blueprint.Streamed{Write: func(context.Context, io.Writer, func()) error { return nil }}}
	for _, c := range cookies {
		h.SetCookie = append(h.SetCookie, c.String())
	}
	return h
}

// form reads the fields of a form.
func form(raw []byte) (url.Values, error) {
	values, err := url.ParseQuery(string(raw))
	if err != nil {
		return nil, slipway.Errorf(slipway.Invalid, "the body is no form: send application/x-www-form-urlencoded").WithCause(err)
	}
	return values, nil
}

func (s *service) account(ctx context.Context, _ *struct{}) (*html, error) {
	c := auth.CallerFrom(ctx)
	p := shown{Title: "Account", Offered: s.auth.LoginOffered()}
	if c.SessionID != "" {
		p.Caller, p.Own = c, c.SessionID
		var err error
		if p.Sessions, err = s.auth.ListSessions(ctx, auth.SessionQuery{User: c.Subject, AtMost: 100}); err != nil {
			return nil, err
		}
	}
	return s.show(ctx, http.StatusOK, "account", p)
}

func (s *service) login(ctx context.Context, in *struct {
	Return string `query:"return" maxLength:"2000" doc:"Path to go to afterwards; anything but a path here is the account page" example:"/docs"`
}) (*html, error) {
	to, cookie, err := s.auth.BeginLogin(ctx, in.Return)
	if err != nil {
		return s.failed(ctx, "Sign-in", err, "/auth/login?return="+url.QueryEscape(auth.LocalPath(in.Return)), "Try again")
	}
	return redirect(to, cookie), nil
}

func (s *service) callback(ctx context.Context, in *struct {
	Code        string `query:"code" maxLength:"4096" doc:"What the issuer gives for a token"`
	State       string `query:"state" maxLength:"100" doc:"As it was sent"`
	Issuer      string `query:"iss" maxLength:"2000" doc:"The issuer"`
	Error       string `query:"error" maxLength:"200" doc:"Why there is no code"`
	Description string `query:"error_description" maxLength:"2000" doc:"The same in words"`
	Headers     blueprint.Headers
}) (*html, error) {
	back, cookies, err := s.auth.EndLogin(ctx, auth.LoginAnswer{
		Code: in.Code, State: in.State, Issuer: in.Issuer, Error: in.Error, Description: in.Description,
		Cookies: (&http.Request{Header: in.Headers.Header}).Cookies(), Label: in.Headers.Get("User-Agent"), Before: auth.CallerFrom(ctx),
	})
	if err != nil {
		return s.failed(ctx, "Sign-in", err, "/auth/login", "Begin again")
	}
	return redirect(back, cookies...), nil
}

func (s *service) logout(ctx context.Context, in *struct {
	RawBody []byte `contentType:"application/x-www-form-urlencoded" doc:"session: id of another session of the same user to end; its own, or empty: this one ends"`
}) (*html, error) {
	fields, err := form(in.RawBody)
	if err != nil {
		return nil, err
	}
	c := auth.CallerFrom(ctx)
	if other := fields.Get("session"); other != "" && other != c.SessionID && c.SessionID != "" {
		if err := s.auth.EndSession(ctx, c, other, c.Subject); err != nil {
			return s.failed(ctx, "Account", err, "/auth", "Back")
		}
		return redirect("/auth"), nil
	}
	to, cookies, err := s.auth.Logout(ctx, c)
	if err != nil {
		return nil, err
	}
	return redirect(to, cookies...), nil
}

func (s *service) devicePage(ctx context.Context, in *struct {
	Code string `query:"user_code" maxLength:"40" doc:"The code that slipway login shows" example:"WDJB-MJHT"`
}) (*html, error) {
	c := auth.CallerFrom(ctx)
	if c.SessionID == "" {
		if !s.auth.LoginOffered() {
			return s.show(ctx, http.StatusOK, "account", shown{Title: "Account"})
		}
		return redirect("/auth/login?return=" + url.QueryEscape("/auth/device?user_code="+url.QueryEscape(in.Code))), nil
	}
	p := shown{Title: "Let a command line in", Caller: c}
	if in.Code == "" {
		return s.show(ctx, http.StatusOK, "device", p)
	}
	d, err := s.auth.WaitingDevice(ctx, in.Code)
	if coded, ok := errors.AsType[*slipway.Error](err); ok && coded.Code == slipway.NotFound {
		p.Text = coded.Message
		return s.show(ctx, http.StatusNotFound, "device", p)
	} else if err != nil {
		return nil, err
	}
	if p.Device = d; d.Label == "" {
		p.Device.Label = "a machine without a name"
	}
	return s.show(ctx, http.StatusOK, "device", p)
}

func (s *service) answerDevice(ctx context.Context, in *struct {
	RawBody []byte `contentType:"application/x-www-form-urlencoded" doc:"user_code, and answer: allow or deny"`
}) (*html, error) {
	fields, err := form(in.RawBody)
	if err != nil {
		return nil, err
	}
	let := fields.Get("answer") == "allow"
	if err := s.auth.AnswerDevice(ctx, auth.CallerFrom(ctx), fields.Get("user_code"), let); err != nil {
		return s.failed(ctx, "Let a command line in", err, "/auth/device", "Type a code")
	}
	text := "The command line was turned away."
	if let {
		text = "The command line is let in. You can close this page; it goes on in a moment."
	}
	return s.show(ctx, http.StatusOK, "message", shown{Title: "Let a command line in", Text: text, Again: "/auth", AgainText: "Your sessions"})
}

// deviceAnswer is RFC 8628 section 3.2.
type deviceAnswer struct {
	DeviceCode string `json:"device_code" doc:"Secret of the command line, to poll with"`
	UserCode   string `json:"user_code" doc:"What the user types" example:"WDJB-MJHT"`
	URI        string `json:"verification_uri" doc:"Where the user types it"`
	Complete   string `json:"verification_uri_complete" doc:"The same, with the code in it"`
	ExpiresIn  int    `json:"expires_in" doc:"Seconds until both are forgotten" example:"600"`
	Interval   int    `json:"interval" doc:"Seconds between two polls" example:"3"`
}

func (s *service) deviceAuthorization(ctx context.Context, in *struct {
	RawBody []byte `contentType:"application/x-www-form-urlencoded" doc:"client_id: slipway-cli; label: what the command line says of itself, such as the name of its machine"`
}) (*body[deviceAnswer], error) {
	fields, err := form(in.RawBody)
	if err != nil {
		return nil, err
	}
	d, err := s.auth.NewDevice(ctx, fields.Get("label"))
	if err != nil {
		return nil, err
	}
	page := s.url() + "/auth/device"
	return &body[deviceAnswer]{deviceAnswer{
		DeviceCode: d.Secret, UserCode: d.Code, URI: page, Complete: page + "?user_code=" + d.Code,
		ExpiresIn: int(d.ExpiresAt.Sub(d.CreatedAt).Seconds()), Interval: int(auth.DeviceInterval.Seconds()),
	}}, nil
}

// tokenAnswer is RFC 6749 section 5.1, or 5.2.
type tokenAnswer struct {
	AccessToken  string `json:"access_token,omitempty" doc:"To send as Authorization: Bearer"`
	TokenType    string `json:"token_type,omitempty" doc:"Bearer" example:"Bearer"`
	ExpiresIn    int    `json:"expires_in,omitempty" doc:"Seconds that it is good for" example:"3600"`
	RefreshToken string `json:"refresh_token,omitempty" doc:"To get the next one with; good once"`
	Error        string `json:"error,omitempty" enum:"authorization_pending,slow_down,access_denied,expired_token,invalid_grant,unsupported_grant_type,invalid_request" doc:"Why there is none"`
	Description  string `json:"error_description,omitempty" doc:"The same in words"`
}

type tokenOutput struct {
	Status int
	Body   tokenAnswer
}

const deviceGrant = "urn:ietf:params:oauth:grant-type:device_code"

func (s *service) oauthToken(ctx context.Context, in *struct {
	RawBody []byte `contentType:"application/x-www-form-urlencoded" doc:"grant_type: urn:ietf:params:oauth:grant-type:device_code with device_code, or refresh_token with refresh_token"`
}) (*tokenOutput, error) {
	fields, err := form(in.RawBody)
	if err != nil {
		return nil, err
	}
	var t auth.Tokens
	switch fields.Get("grant_type") {
	case deviceGrant:
		t, err = s.auth.DeviceTokens(ctx, fields.Get("device_code"))
	case "refresh_token":
		t, err = s.auth.RefreshTokens(ctx, fields.Get("refresh_token"))
	default:
		return &tokenOutput{http.StatusBadRequest, tokenAnswer{Error: "unsupported_grant_type", Description: "use device_code or refresh_token"}}, nil
	}
	if refused, ok := errors.AsType[auth.OAuthError](err); ok {
		return &tokenOutput{http.StatusBadRequest, tokenAnswer{Error: string(refused), Description: refused.Text()}}, nil
	}
	if err != nil {
		return nil, err
	}
	return &tokenOutput{http.StatusOK, tokenAnswer{AccessToken: t.Access, TokenType: "Bearer", ExpiresIn: int(t.Expires.Seconds()), RefreshToken: t.Refresh}}, nil
}

func (s *service) oauthRevoke(ctx context.Context, in *struct {
	RawBody []byte `contentType:"application/x-www-form-urlencoded" doc:"token: the refresh token"`
}) (*struct{}, error) {
	fields, err := form(in.RawBody)
	if err != nil {
		return nil, err
	}
	return &struct{}{}, s.auth.EndByRefresh(ctx, fields.Get("token"))
}

// sessionKey is a session's place in the list.
type sessionKey struct {
	Created int64  `json:"c"` // µs
	ID      string `json:"i"`
}

func (s *service) listSessions(ctx context.Context, in *struct {
	User   string `query:"user" doc:"Whose sessions: a user, or * for everybody's; absent: your own. Others' take platform.session.read" example:"user:default/jane"`
	All    bool   `query:"all" doc:"Also those that are over"`
	Limit  int    `query:"limit" minimum:"1" maximum:"100" default:"20" doc:"How many on a page"`
	Cursor string `query:"cursor" doc:"pageInfo.nextCursor of the page before"`
}) (*body[blueprint.List[auth.Session]], error) {
	c := auth.CallerFrom(ctx)
	q := auth.SessionQuery{User: c.Subject, All: in.All, AtMost: in.Limit + 1}
	switch in.User {
	case "":
	case "*":
		q.User = ""
	default:
		ref, err := slipway.ParseEntityRef(in.User, slipway.EntityRef{Kind: "user"})
		if err != nil {
			return nil, err
		}
		q.User = ref.String()
	}
	if q.User != c.Subject || c.TokenID != "" { // a token may do less than the user whose it is
		if err := auth.Require(ctx, sessionRead, auth.Object{}); err != nil {
			return nil, err
		}
	}
	cursors := secret.CursorsOf[sessionKey](s.keys, "sessions", q.User, in.All)
	after, err := cursors.Read(in.Cursor)
	if err != nil {
		return nil, err
	}
	if after != nil {
		q.After = &auth.Session{ID: after.ID, CreatedAt: microseconds(after.Created)}
	}
	list, err := s.auth.ListSessions(ctx, q)
	if err != nil {
		return nil, err
	}
	return cut(list, in.Limit, cursors, func(one auth.Session) sessionKey { return sessionKey{one.CreatedAt.UnixMicro(), one.ID} }), nil
}

func (s *service) endSession(ctx context.Context, in *struct {
	ID string `path:"id" maxLength:"100" doc:"Id of the session" example:"7hQ2bV90mXwC"`
}) (*struct{}, error) {
	c := auth.CallerFrom(ctx)
	whose := c.Subject
	if auth.Allows(c, sessionEnd, auth.Object{}) {
		whose = ""
	} else if c.TokenID != "" { // a token may do less than the user whose it is
		return nil, auth.Require(ctx, sessionEnd, auth.Object{})
	}
	return &struct{}{}, s.auth.EndSession(ctx, c, in.ID, whose)
}
