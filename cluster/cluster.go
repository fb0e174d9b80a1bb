// Package cluster is how Slipway talks to Kubernetes: named connections from the configuration, plain objects in and out, coded errors,
// and caches that a watch keeps in step. client-go reads kubeconfig files and proves who we are; nothing else of it is used, and nothing of
// it is seen outside. docs/decisions says why.
//
// It knows nothing of what the objects mean: a provider or a blueprint brings its own resources and reads of them what it needs.
package cluster

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/slipway-platform/slipway"
)

// Config is one entry of `clusters:`.
type Config struct {
	Name       string `yaml:"name" doc:"Unique name, by which tools, providers and workspaces mean it"`
	Kubeconfig string `yaml:"kubeconfig" doc:"File with address and credential; empty: the service account of the pod that Slipway runs in"`
	Context    string `yaml:"context" doc:"Context of that file; empty: its current one"`
}

// Check says what is wrong with entries of `clusters:`, by field. No file is read.
func Check(configs []Config) []slipway.Detail {
	var faults []slipway.Detail
	fault := func(i int, field, format string, args ...any) {
		faults = append(faults, slipway.Detail{Field: fmt.Sprintf("clusters[%d].%s", i, field), Code: slipway.Invalid, Message: fmt.Sprintf(format, args...)})
	}
	names := map[string]bool{}
	for i, c := range configs {
		switch {
		case c.Name == "":
			fault(i, "name", "is required")
		case names[c.Name]:
			fault(i, "name", "%q is used twice", c.Name)
		}
		names[c.Name] = true
		if c.Context != "" && c.Kubeconfig == "" {
			fault(i, "context", "is a context of a kubeconfig; name that file too")
		}
	}
	return faults
}

// Clients are the connections of an installation, by name. Safe for concurrent use.
type Clients struct{ clients []*Client }

// New makes the connections. It reads no file and talks to nobody: a cluster that is not there, or a kubeconfig with a fault, is an error of the calls that need
// it. The configs are those that Check has no fault with.
func New(configs []Config) *Clients {
	cs := &Clients{}
	for _, c := range configs {
		cs.clients = append(cs.clients, &Client{connection: &connection{config: c}})
	}
	return cs
}

// Get gives the connection of that name. An empty name means the only one. The errors say what to configure: Unsupported when there is no cluster at all, Invalid
// when there is none of that name.
func (cs *Clients) Get(name string) (*Client, error) {
	switch {
	case cs == nil || len(cs.clients) == 0:
		return nil, slipway.Errorf(slipway.Unsupported, "no Kubernetes cluster is configured; add one to `clusters:` with a name and a kubeconfig")
	case name == "" && len(cs.clients) == 1:
		return cs.clients[0], nil
	}
	for _, c := range cs.clients {
		if c.Name() == name {
			return c, nil
		}
	}
	if name == "" {
		return nil, slipway.Errorf(slipway.Invalid, "there are several clusters: %s; say which", strings.Join(cs.Names(), ", "))
	}
	return nil, slipway.Errorf(slipway.Invalid, "there is no cluster %q; configured are %s", name, strings.Join(cs.Names(), ", "))
}

// Names lists the connections, as configured.
func (cs *Clients) Names() []string {
	var names []string
	if cs != nil {
		for _, c := range cs.clients {
			names = append(names, c.Name())
		}
	}
	return names
}

// Close lets go of idle connections.
func (cs *Clients) Close() error {
	for _, c := range cs.clients {
		c.connection.close()
	}
	return nil
}

// Client talks to one cluster, as the account of its kubeconfig or, made by As, as somebody else. Safe for concurrent use.
//
// Its calls end with their context or after 20 seconds, whichever is first; they are never repeated by themselves. Their errors carry codes: NotFound (no such object
// or namespace), Unsupported (no such resource), Conflict (it exists already, or its namespace is being deleted), Precondition (it changed since it was read), Invalid (with
// the fields at fault), Forbidden, OverQuota, Unauthenticated (the cluster does not believe us; what is meant for a caller passes ForCaller first),
// RateLimited and Unavailable (with RetryAfter when the server said it).
type Client struct {
	connection *connection
	user       string // impersonated; "" is nobody
	groups     []string
}

// Name is the name in the configuration.
func (c *Client) Name() string { return c.connection.config.Name }

// As gives a client that does everything as that user, with those groups. The account of the kubeconfig must have the right to impersonate them.
func (c *Client) As(user string, groups ...string) *Client {
	return &Client{connection: c.connection, user: user, groups: slices.Clone(groups)}
}

// Check tells whether the cluster answers and believes us. It asks what any account may ask.
func (c *Client) Check(ctx context.Context) error {
	return c.call(ctx, request{method: http.MethodGet, path: "/version", what: "its version"}, nil)
}

// Version is the cluster's version, such as v1.36.3.
func (c *Client) Version(ctx context.Context) (string, error) {
	var v struct {
		GitVersion string `json:"gitVersion"`
	}
	err := c.call(ctx, request{method: http.MethodGet, path: "/version", what: "its version"}, &v)
	return v.GitVersion, err
}

// connection is what the clients of one cluster share.
type connection struct {
	config Config

	mu     sync.Mutex
	http   *http.Client // nil until the first call
	base   *url.URL
	loaded fileState // of the kubeconfig when it was read
}

// fileState tells versions of a file apart.
type fileState struct {
	size int64
	time time.Time
}

func stateOf(file string) fileState {
	info, err := os.Stat(file)
	if err != nil {
		return fileState{}
	}
	return fileState{info.Size(), info.ModTime()}
}

// open gives the HTTP client, reading the kubeconfig first when that has not worked yet.
func (c *connection) open() (*http.Client, *url.URL, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.http != nil {
		return c.http, c.base, nil
	}
	c.loaded = stateOf(c.config.Kubeconfig)
	config, err := c.read()
	if err != nil {
		return nil, nil, err
	}
	config.UserAgent = "slipway"
	config.Timeout = 0 // each call has its own
	hc, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, nil, slipway.Errorf(slipway.Unavailable, "the kubeconfig of cluster %q is of no use", c.config.Name).WithCause(err)
	}
	base, _, err := rest.DefaultServerUrlFor(config)
	if err != nil {
		return nil, nil, slipway.Errorf(slipway.Unavailable, "the kubeconfig of cluster %q has no usable address", c.config.Name).WithCause(err)
	}
	own := *hc                                                                                        // it may be http.DefaultClient
	own.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse } // our credential goes to no other host
	c.http, c.base = &own, base
	return c.http, c.base, nil
}

func (c *connection) read() (*rest.Config, error) {
	if c.config.Kubeconfig == "" {
		config, err := rest.InClusterConfig()
		if err != nil {
			return nil, slipway.Errorf(slipway.Unavailable, "cluster %q has no kubeconfig, and Slipway does not run in a pod with a service account; set `kubeconfig`", c.config.Name).WithCause(err)
		}
		return config, nil
	}
	file, err := filepath.Abs(c.config.Kubeconfig)
	if err != nil {
		return nil, slipway.Errorf(slipway.Unavailable, "the kubeconfig of cluster %q cannot be read", c.config.Name).WithCause(err)
	}
	config, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(
		&clientcmd.ClientConfigLoadingRules{ExplicitPath: file}, &clientcmd.ConfigOverrides{CurrentContext: c.config.Context},
	).ClientConfig()
	switch {
	case errors.Is(err, os.ErrNotExist), errors.Is(err, os.ErrPermission):
		return nil, slipway.Errorf(slipway.Unavailable, "the kubeconfig of cluster %q cannot be read; check `kubeconfig` and the rights of that file", c.config.Name).WithCause(err)
	case err != nil:
		return nil, slipway.Errorf(slipway.Unavailable, "the kubeconfig of cluster %q has a fault: its context %s is missing or incomplete", c.config.Name,
			cmp.Or(c.config.Context, "(the current one)")).WithCause(err)
	}
	return config, nil
}

// renewed says that the kubeconfig is another one since it was read, and makes the next call read it.
func (c *connection) renewed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.config.Kubeconfig == "" || c.http == nil || stateOf(c.config.Kubeconfig) == c.loaded {
		return false
	}
	c.http.CloseIdleConnections()
	c.http = nil
	return true
}

func (c *connection) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.http != nil {
		c.http.CloseIdleConnections()
	}
}
