package cluster

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	utiljson "k8s.io/apimachinery/pkg/util/json"

	"github.com/slipway-platform/slipway"
)

const (
	callTime   = 20 * time.Second // of a call that is no stream
	answerSize = 64 << 20         // bytes of one answer; an object has at most 1.5 MB
	statusSize = 1 << 20          // bytes of an answer that says what went wrong
)

// ListOptions says which objects to read.
type ListOptions struct {
	Labels string // selector, such as app=web,tier!=test; "" is all
	Limit  int    // at most so many a page; 0 is all at once
	Next   string // from the page before
}

// List is one page of objects, ordered by namespace and name: the API has no other order.
type List struct {
	Items   []Object
	Next    string // continues; "" at the end. It is good for some minutes, then Invalid
	Version string // the resource version that the whole list stands for
}

// Get reads an object. namespace is "" for resources that have none.
func (c *Client) Get(ctx context.Context, r Resource, namespace, name string) (Object, error) {
	return c.object(ctx, http.MethodGet, r, namespace, name, "", "", nil, nil)
}

// List reads objects of one namespace; with "" of all.
func (c *Client) List(ctx context.Context, r Resource, namespace string, o ListOptions) (List, error) {
	query := url.Values{}
	set(query, "labelSelector", o.Labels)
	set(query, "continue", o.Next)
	if o.Limit > 0 {
		query.Set("limit", strconv.Itoa(o.Limit))
	}
	q, err := c.request(http.MethodGet, r, namespace, "", "", query)
	if err != nil {
		return List{}, err
	}
	var page struct {
		Metadata struct {
			Continue        string `json:"continue"`
			ResourceVersion string `json:"resourceVersion"`
		} `json:"metadata"`
		APIVersion string            `json:"apiVersion"`
		Kind       string            `json:"kind"`
		Items      []json.RawMessage `json:"items"`
	}
	if err := c.call(ctx, q, &page); err != nil {
		return List{}, err
	}
	out := List{Next: page.Metadata.Continue, Version: page.Metadata.ResourceVersion, Items: make([]Object, 0, len(page.Items))}
	for i, raw := range page.Items {
		item, err := ParseObject(raw)
		if err != nil {
			return List{}, err
		}
		if item.Text("kind") == "" { // the core's lists leave it to the list
			item["apiVersion"], item["kind"] = page.APIVersion, strings.TrimSuffix(page.Kind, "List")
		}
		out.Items, page.Items[i] = append(out.Items, item), nil
	}
	return out, nil
}

// Create makes an object: apiVersion, kind and metadata.name (or generateName) are the caller's to set. It comes back as it was stored. Fields that
// the resource does not have are Invalid.
func (c *Client) Create(ctx context.Context, r Resource, namespace string, o Object) (Object, error) {
	return c.object(ctx, http.MethodPost, r, namespace, "", "", "application/json", strict(), o)
}

// CreateSub makes what belongs to an object and has no name of its own: the binding of a pod, the token of a service account. The name is in metadata too.
func (c *Client) CreateSub(ctx context.Context, r Resource, namespace, name, sub string, o Object) (Object, error) {
	if name == "" || sub == "" {
		return nil, slipway.Errorf(slipway.Invalid, "what belongs to an object is made for one with a name")
	}
	return c.object(ctx, http.MethodPost, r, namespace, name, sub, "application/json", strict(), o)
}

// Update replaces an object. One that carries a resourceVersion which is not the newest is a Precondition.
func (c *Client) Update(ctx context.Context, r Resource, o Object) (Object, error) {
	if o.Name() == "" {
		return nil, slipway.Errorf(slipway.Invalid, "an object that is updated has a name")
	}
	return c.object(ctx, http.MethodPut, r, o.Namespace(), o.Name(), "", "application/json", strict(), o)
}

// Patch merges a patch (RFC 7386) into an object: null takes away. A metadata.resourceVersion in it must be the newest, else Precondition.
func (c *Client) Patch(ctx context.Context, r Resource, namespace, name string, patch Object) (Object, error) {
	return c.patch(ctx, r, namespace, name, "", patch)
}

// PatchStatus is Patch for the status of an object.
func (c *Client) PatchStatus(ctx context.Context, r Resource, namespace, name string, patch Object) (Object, error) {
	return c.patch(ctx, r, namespace, name, "status", patch)
}

func (c *Client) patch(ctx context.Context, r Resource, namespace, name, sub string, patch Object) (Object, error) {
	if name == "" {
		return nil, slipway.Errorf(slipway.Invalid, "an object that is patched has a name")
	}
	return c.object(ctx, http.MethodPatch, r, namespace, name, sub, "application/merge-patch+json", strict(), patch)
}

// Delete asks for the end of an object, and what belongs to it goes with it in the background. uid and version, where they are not empty, must be those of the object, else
// Precondition. It may return before the object is gone: finalizers run first.
func (c *Client) Delete(ctx context.Context, r Resource, namespace, name, uid, version string) error {
	if name == "" {
		return slipway.Errorf(slipway.Invalid, "an object that is deleted has a name")
	}
	q, err := c.request(http.MethodDelete, r, namespace, name, "", nil)
	if err != nil {
		return err
	}
	body := Object{"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"}
	if uid != "" {
		body.Set(uid, "preconditions", "uid")
	}
	if version != "" {
		body.Set(version, "preconditions", "resourceVersion")
	}
	q.body, q.contentType = body, "application/json"
	return c.call(ctx, q, nil)
}

// LogOptions says what of a container's log to read.
type LogOptions struct {
	Container string // "" where the pod has one
	Follow    bool   // go on until the container ends
	Limit     int64  // at most so many bytes; 0 is no limit
}

// Logs reads a container's log as text, as far as the API server gives it. The caller closes it. A container that has not begun is a Conflict; a pod that
// is gone is NotFound.
func (c *Client) Logs(ctx context.Context, namespace, pod string, o LogOptions) (io.ReadCloser, error) {
	query := url.Values{}
	set(query, "container", o.Container)
	if o.Follow {
		query.Set("follow", "true")
	}
	if o.Limit > 0 {
		query.Set("limitBytes", strconv.FormatInt(o.Limit, 10))
	}
	q, err := c.request(http.MethodGet, Pods, namespace, pod, "log", query)
	if err != nil {
		return nil, err
	}
	q.accept = "*/*"
	body, err := c.stream(ctx, q)
	if e, ok := errors.AsType[*slipway.Error](err); ok && e.Code == slipway.Invalid {
		return nil, &slipway.Error{Code: slipway.Conflict, Message: "the container has not begun, so it has no log yet", Cause: e.Cause}
	}
	return body, err
}

func strict() url.Values { return url.Values{"fieldValidation": {"Strict"}} }

func set(q url.Values, key, value string) {
	if value != "" {
		q.Set(key, value)
	}
}

func (c *Client) object(ctx context.Context, method string, r Resource, namespace, name, sub, contentType string, query url.Values, body Object) (Object, error) {
	if method == http.MethodGet && name == "" {
		return nil, slipway.Errorf(slipway.Invalid, "an object that is read has a name")
	}
	q, err := c.request(method, r, namespace, name, sub, query)
	if err != nil {
		return nil, err
	}
	if body != nil {
		q.body, q.contentType = body, contentType
	}
	var o Object
	return o, c.call(ctx, q, &o)
}

// request is one call before it is sent.
type request struct {
	method, path        string
	query               url.Values
	body                Object
	contentType, accept string
	what                string // for messages: pipelineruns.tekton.dev "x" in namespace "y"
}

// request makes the path. What cannot be a segment of one, such as a name with a slash, is NotFound: no object is called so.
func (c *Client) request(method string, r Resource, namespace, name, sub string, query url.Values) (request, error) {
	q := request{method: method, query: query, what: r.String(), accept: "application/json"}
	segments := []string{"apis", r.Group, r.Version}
	if r.Group == "" {
		segments = []string{"api", r.Version}
	}
	if namespace != "" {
		segments = append(segments, "namespaces", namespace)
	}
	segments = append(segments, r.Name)
	if name != "" {
		segments = append(segments, name)
		q.what += fmt.Sprintf(" %q", name)
	}
	if sub != "" {
		segments = append(segments, sub)
	}
	if namespace != "" {
		q.what += fmt.Sprintf(" in namespace %q", namespace)
	}
	for _, s := range segments {
		if s == "." || s == ".." || strings.ContainsAny(s, "/%?#\\ \x00\n\r") {
			return request{}, slipway.Errorf(slipway.NotFound, "the cluster %q has no %s: no object can be called so", c.Name(), q.what)
		}
	}
	q.path = "/" + strings.Join(segments, "/")
	return q, nil
}

// call sends a request and decodes the answer.
func (c *Client) call(ctx context.Context, q request, out any) error {
	limited, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	body, err := c.send(limited, q)
	if err == nil {
		defer func() { _ = body.Close() }()
		err = c.decode(limited, q, body, out)
	}
	if err != nil && ctx.Err() != nil {
		return ctx.Err() // the caller's own end, whatever came of it
	}
	return err
}

func (c *Client) decode(ctx context.Context, q request, body io.Reader, out any) error {
	b, err := io.ReadAll(io.LimitReader(body, answerSize+1))
	switch {
	case err != nil:
		return c.broken(ctx, q, err)
	case len(b) > answerSize:
		return slipway.Errorf(slipway.TooLarge, "the cluster %q answers with more than %d MiB about %s", c.Name(), answerSize>>20, q.what)
	case out == nil:
		return nil
	}
	if o, ok := out.(*Object); ok {
		err = utiljson.Unmarshal(b, (*map[string]any)(o))
	} else {
		err = json.Unmarshal(b, out)
	}
	if err != nil {
		return slipway.Errorf(slipway.Unavailable, "the cluster %q does not answer as Kubernetes does; check the address in its kubeconfig", c.Name()).WithCause(err)
	}
	return nil
}

// stream sends a request whose answer has no end of its own. Only its head is waited for with a limit.
func (c *Client) stream(ctx context.Context, q request) (io.ReadCloser, error) {
	streaming, cancel := context.WithCancel(ctx)
	head := time.AfterFunc(callTime, cancel)
	body, err := c.send(streaming, q)
	if !head.Stop() && err == nil {
		_ = body.Close()
		err = c.broken(ctx, q, context.DeadlineExceeded)
	}
	if err != nil {
		cancel()
		switch {
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case errors.Is(err, context.Canceled):
			return nil, c.broken(ctx, q, context.DeadlineExceeded)
		}
		return nil, err
	}
	return &stream{body, ctx, cancel, func(err error) error { return c.broken(ctx, q, err) }}, nil
}

// stream is the body of an answer. Its reads end with the context, and with its error.
type stream struct {
	io.ReadCloser
	ctx    context.Context
	cancel context.CancelFunc
	broken func(error) error
}

func (s *stream) Read(p []byte) (int, error) {
	n, err := s.ReadCloser.Read(p)
	switch {
	case err == nil || err == io.EOF:
	case s.ctx.Err() != nil:
		err = s.ctx.Err()
	default:
		err = s.broken(err)
	}
	return n, err
}

func (s *stream) Close() error {
	s.cancel()
	return s.ReadCloser.Close()
}

// send sends a request, once more where the kubeconfig has been renewed since it was read. What is no success is an error.
func (c *Client) send(ctx context.Context, q request) (io.ReadCloser, error) {
	body, err := c.attempt(ctx, q)
	if code := slipway.CodeOf(err); (code == slipway.Unauthenticated || code == slipway.Unavailable && unsent(err)) && ctx.Err() == nil && c.connection.renewed() {
		return c.attempt(ctx, q)
	}
	return body, err
}

func (c *Client) attempt(ctx context.Context, q request) (io.ReadCloser, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	hc, base, err := c.connection.open()
	if err != nil {
		return nil, err
	}
	address := *base
	address.Path = strings.TrimSuffix(base.Path, "/") + q.path
	address.RawQuery = q.query.Encode()
	var body io.Reader
	if q.body != nil {
		b, err := json.Marshal(q.body)
		if err != nil {
			return nil, slipway.Errorf(slipway.Invalid, "what is meant for the cluster %q is no JSON", c.Name()).WithCause(err)
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, q.method, address.String(), body)
	if err != nil {
		return nil, slipway.Errorf(slipway.Invalid, "this names nothing in the cluster %q", c.Name()).WithCause(err)
	}
	req.Header.Set("Accept", cmp.Or(q.accept, "application/json"))
	if body != nil {
		req.Header.Set("Content-Type", q.contentType)
	}
	if c.user != "" {
		req.Header.Set("Impersonate-User", c.user)
		req.Header["Impersonate-Group"] = c.groups
	}
	res, err := hc.Do(req)
	if err != nil {
		return nil, c.broken(ctx, q, err)
	}
	if res.StatusCode/100 == 2 {
		return res.Body, nil
	}
	defer func() { _ = res.Body.Close() }()
	b, _ := io.ReadAll(io.LimitReader(res.Body, statusSize))
	return nil, c.refused(q, res, b)
}
