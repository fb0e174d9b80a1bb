package kubernetes

import (
	"context"
	"sync"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/cluster"
)

var (
	deployments = cluster.Resource{Group: "apps", Version: "v1", Name: "deployments"}
	replicaSets = cluster.Resource{Group: "apps", Version: "v1", Name: "replicasets"}
)

const (
	maxViews  = 200         // namespaces that are watched one by one
	viewIdle  = time.Hour   // after which nobody asks for a view any more
	snapshots = time.Second // between two of what a view shows
)

// view is what is watched of a namespace; "" is all of them.
type view struct {
	workloads *cluster.Cache[workload]
	sets      *cluster.Cache[replicaSet]
	stop      context.CancelFunc
	asked     time.Time // under the client's lock

	mu    sync.Mutex
	taken time.Time
	all   []workload
	of    map[string][]replicaSet // by the UID of their Deployment
}

// view gives the view of a namespace, which begins to be watched when it is asked for first. Those that nobody asks for any more end.
func (c *client) view(namespace string) (*view, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.now()
	for name, v := range c.views {
		if name != namespace && now.Sub(v.asked) > viewIdle {
			v.stop()
			delete(c.views, name)
		}
	}
	v := c.views[namespace]
	if v == nil {
		if len(c.views) >= maxViews {
			return nil, slipway.Errorf(slipway.TooLarge, "entities name more than %d namespaces of the cluster %q; have them name none, and let Slipway watch all", maxViews, c.kube.Name())
		}
		ctx, stop := context.WithCancel(c.ctx)
		v = &view{stop: stop}
		o := cluster.CacheOptions{Namespace: namespace, Log: c.log, Now: c.now}
		v.workloads = cluster.NewCache(c.kube, deployments, o, func(o cluster.Object) workload {
			before, _ := v.workloads.Get(o.Namespace(), o.Name())
			return before.next(o, c.now())
		})
		v.sets = cluster.NewCache(c.kube, replicaSets, o, func(o cluster.Object) replicaSet { return readSet(o, c.cfg.Commit) })
		c.wait.Go(func() { _ = v.workloads.Run(ctx) })
		c.wait.Go(func() { _ = v.sets.Run(ctx) })
		c.views[namespace] = v
	}
	v.asked = now
	return v, nil
}

// forget ends a view.
func (c *client) forget(namespace string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if v := c.views[namespace]; v != nil {
		v.stop()
		delete(c.views, namespace)
	}
}

// read gives what is there now, or was a second ago: many ask for their part of it, one after the other. Nothing of it may be changed. The error says why the cluster cannot be watched.
func (v *view) read(ctx context.Context) ([]workload, map[string][]replicaSet, error) {
	if err := v.workloads.Ready(ctx); err != nil {
		return nil, nil, err
	}
	if err := v.sets.Ready(ctx); err != nil {
		return nil, nil, err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if time.Since(v.taken) > snapshots {
		v.all, v.of = v.workloads.List(""), map[string][]replicaSet{}
		for _, s := range v.sets.List("") {
			if s.owner != "" && s.revision > 0 {
				v.of[s.owner] = append(v.of[s.owner], s)
			}
		}
		v.taken = time.Now()
	}
	return v.all, v.of, nil
}
