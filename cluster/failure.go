package cluster

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/slipway-platform/slipway"
)

// status is what the API server says when it refuses.
type status struct {
	Message string `json:"message"`
	Reason  string `json:"reason"`
	Details struct {
		Name              string `json:"name"`
		Kind              string `json:"kind"`
		RetryAfterSeconds int    `json:"retryAfterSeconds"`
		Causes            []struct {
			Reason  string `json:"reason"`
			Message string `json:"message"`
			Field   string `json:"field"`
		} `json:"causes"`
	} `json:"details"`
}

// errOverQuota is in the chain of a Forbidden when a quota of the namespace, and not a right, stands in the way.
var errOverQuota = errors.New("over quota")

// OverQuota says that a quota of the namespace stands in the way: it may go when something else has ended.
func OverQuota(err error) bool { return errors.Is(err, errOverQuota) }

// ForCaller is err as somebody may see it who did not choose the cluster: that the cluster does not believe Slipway, or does not let it, is no fault of theirs,
// and 401 or 403 would say so. Quotas stay Forbidden: they concern the caller.
func ForCaller(err error) error {
	if code := slipway.CodeOf(err); (code == slipway.Unauthenticated || code == slipway.Forbidden) && !OverQuota(err) {
		e, _ := errors.AsType[*slipway.Error](err)
		return slipway.Errorf(slipway.Unavailable, "%s", e.Message).WithCause(err)
	}
	return err
}

// refused makes an error of an answer that is no success.
func (c *Client) refused(q request, res *http.Response, body []byte) error {
	var s status
	_ = json.Unmarshal(body, &s) // a proxy before the API server may say anything
	cause := fmt.Errorf("%s %s: %s %s: %s", q.method, q.path, res.Status, s.Reason, s.Message)
	e := func(code slipway.Code, format string, args ...any) *slipway.Error {
		return slipway.Errorf(code, format, args...).WithCause(cause)
	}
	wait := time.Duration(s.Details.RetryAfterSeconds) * time.Second
	if n, err := strconv.Atoi(res.Header.Get("Retry-After")); err == nil && n >= 0 && n <= 86400 {
		wait = time.Duration(n) * time.Second
	}
	because := func(reason string) bool {
		for _, x := range s.Details.Causes {
			if x.Reason == reason {
				return true
			}
		}
		return false
	}
	switch res.StatusCode {
	case http.StatusUnauthorized:
		return e(slipway.Unauthenticated, "the cluster %q does not accept Slipway's credential; it may have expired: renew the kubeconfig", c.Name())
	case http.StatusForbidden:
		switch {
		case because("NamespaceTerminating"):
			return e(slipway.Conflict, "the namespace is being deleted; wait until it is gone, or use another")
		case strings.Contains(s.Message, "exceeded quota"): // the API has no reason of its own for it
			return e(slipway.Forbidden, "%s", quota(s.Message)).WithCause(errors.Join(errOverQuota, cause))
		}
		who := "Slipway"
		if c.user != "" {
			who = "the user " + c.user
		}
		return e(slipway.Forbidden, "the cluster %q does not let %s %s %s; its account needs a role that allows it", c.Name(), who, verb(q.method), q.what)
	case http.StatusNotFound:
		switch {
		case s.Details.Kind == "namespaces" && s.Details.Name != "":
			return e(slipway.NotFound, "the cluster %q has no namespace %q", c.Name(), s.Details.Name)
		case s.Details.Name == "" && s.Reason == "NotFound" || s.Reason == "": // the path itself is not there
			return e(slipway.Unsupported, "the cluster %q does not know %s; its definition has to be installed", c.Name(), q.what)
		}
		return e(slipway.NotFound, "the cluster %q has no %s", c.Name(), q.what)
	case http.StatusConflict:
		if s.Reason == "AlreadyExists" {
			return e(slipway.Conflict, "the cluster %q has %s %q already", c.Name(), q.what, s.Details.Name)
		}
		return e(slipway.Precondition, "%s has changed since it was read; read it again", q.what)
	case http.StatusGone:
		return e(slipway.Invalid, "the cluster %q has forgotten where the list stopped; begin it again", c.Name())
	case http.StatusRequestEntityTooLarge:
		return e(slipway.TooLarge, "%s is too large for the cluster %q", q.what, c.Name())
	case http.StatusBadRequest, http.StatusUnprocessableEntity:
		bad := e(slipway.Invalid, "the cluster %q does not accept %s: %s", c.Name(), q.what, s.Message)
		for _, x := range s.Details.Causes {
			bad = bad.WithDetails(slipway.Detail{Field: x.Field, Code: slipway.Invalid, Message: x.Message})
		}
		return bad
	case http.StatusTooManyRequests:
		return e(slipway.RateLimited, "the cluster %q has enough requests for now", c.Name()).After(max(wait, time.Second))
	case http.StatusMethodNotAllowed:
		return e(slipway.Unsupported, "the cluster %q cannot %s %s", c.Name(), verb(q.method), q.what)
	}
	return e(slipway.Unavailable, "the cluster %q is out of order: it answered %d", c.Name(), res.StatusCode).After(wait)
}

// quota is the API server's own sentence, from where it begins to speak of the quota.
func quota(message string) string {
	_, rest, _ := strings.Cut(message, "exceeded quota")
	return "the namespace has used up its quota" + rest
}

func verb(method string) string {
	switch method {
	case http.MethodPost:
		return "create"
	case http.MethodPut, http.MethodPatch:
		return "change"
	case http.MethodDelete:
		return "delete"
	}
	return "read"
}

// broken makes an error of an exchange that did not come to its end. Addresses and credentials, which *url.Error would show, stay out of the message.
func (c *Client) broken(ctx context.Context, q request, err error) error {
	if u, ok := errors.AsType[*url.Error](err); ok {
		err = u.Err
	}
	cause := fmt.Errorf("%s %s: %w", q.method, q.path, err)
	switch {
	case errors.Is(ctx.Err(), context.Canceled):
		return ctx.Err()
	case ctx.Err() != nil || errors.Is(err, context.DeadlineExceeded):
		return slipway.Errorf(slipway.Unavailable, "the cluster %q did not answer in time", c.Name()).WithCause(cause)
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return slipway.Errorf(slipway.Unavailable, "the cluster %q shows a certificate that its kubeconfig does not trust", c.Name()).WithCause(cause)
	}
	return slipway.Errorf(slipway.Unavailable, "the cluster %q does not answer; check the address in its kubeconfig and the network between", c.Name()).WithCause(cause)
}

// unsent says that an error came before the API server saw the request, so that it may be sent to another address.
func unsent(err error) bool {
	op, ok := errors.AsType[*net.OpError](err)
	_, untrusted := errors.AsType[*tls.CertificateVerificationError](err)
	return ok && op.Op == "dial" || untrusted
}
