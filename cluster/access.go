package cluster

import (
	"cmp"
	"context"
	"net/http"
	"net/url"
	"strings"

	"k8s.io/apimachinery/pkg/labels"

	"github.com/slipway-platform/slipway"
)

// Selects says whether a label selector chooses an object, as List would. One that is none is Invalid.
func Selects(selector string, o Object) (bool, error) {
	matches, err := Selector(selector)
	return err == nil && matches(o.Texts("metadata", "labels")), err
}

// Selector reads a label selector once, for many labels. Invalid: it is none.
func Selector(selector string) (matches func(map[string]string) bool, err error) {
	s, err := labels.Parse(selector)
	if err != nil {
		return nil, slipway.Errorf(slipway.Invalid, "%.200q is no label selector", selector).WithCause(err)
	}
	return func(l map[string]string) bool { return s.Matches(labels.Set(l)) }, nil
}

// Account is whom the cluster takes us for, such as system:serviceaccount:slipway:slipway.
func (c *Client) Account(ctx context.Context) (string, error) {
	r := Resource{Group: "authentication.k8s.io", Version: "v1", Name: "selfsubjectreviews"}
	o, err := c.Create(ctx, r, "", Object{"apiVersion": r.APIVersion(), "kind": "SelfSubjectReview"})
	return o.Text("status", "userInfo", "username"), err
}

// May asks the cluster whether it would let us: a verb such as list, on a resource or a part of it such as log; in all namespaces with "".
func (c *Client) May(ctx context.Context, verb string, r Resource, sub, namespace string) (bool, error) {
	review := Resource{Group: "authorization.k8s.io", Version: "v1", Name: "selfsubjectaccessreviews"}
	asked := map[string]any{"verb": verb, "group": r.Group, "version": r.Version, "resource": r.Name}
	for key, value := range map[string]string{"subresource": sub, "namespace": namespace} {
		if value != "" {
			asked[key] = value
		}
	}
	o, err := c.Create(ctx, review, "", Object{
		"apiVersion": review.APIVersion(), "kind": "SelfSubjectAccessReview", "spec": map[string]any{"resourceAttributes": asked},
	})
	return o.Bool("status", "allowed"), err
}

// URL is where an object stands in the API; "" while the kubeconfig cannot be read.
func (c *Client) URL(r Resource, namespace, name string) string {
	_, base, err := c.connection.open()
	if err != nil {
		return ""
	}
	q, err := c.request(http.MethodGet, r, namespace, name, "", nil)
	if err != nil {
		return ""
	}
	at := url.URL{Scheme: cmp.Or(base.Scheme, "https"), Host: base.Host, Path: strings.TrimSuffix(base.Path, "/") + q.path}
	return at.String()
}
