package fake

import (
	"context"
	"io"
	"slices"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/provider"
)

// tools is the vendor's part as the builder of tools, and where that is switched on, as their runner. A component's builds are those of the
// project provider.ComponentProject; tests move them as any others.
type tools struct {
	orders map[string]provider.BuildOrder // by id of the build
	keys   map[string]string              // ids by key of the order
	images map[string]string              // the same
	room   int                            // builds that may go on at a time; 0: any number
	asked  int                            // lists
	all    int                            // those of them that were of all tools
	starts int                            // orders that were taken
	lose   bool                           // the answer to the next start is lost

	runs   bool // it runs what it builds
	ran    []provider.RunOrder
	refuse map[string]error // what a run of a component is refused with
}

// Room sets how many ordered builds may go on at a time; 0: any number.
func (v *Vendor) Room(n int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.tools.room = n
}

// LoseStart has the vendor do what the next order says, and lose its answer.
func (v *Vendor) LoseStart() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.tools.lose = true
}

// Image sets what an ordered build has made.
func (v *Vendor) Image(id, image string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.tools.images[id] = image
}

// Ordered says how many orders were taken, and how often builds were listed for a Builder.
func (v *Vendor) Ordered() (starts, lists int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.tools.starts, v.tools.asked
}

// ListedAll says how often the builds of all tools were listed.
func (v *Vendor) ListedAll() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.tools.all
}

// RunTools switches on that the vendor runs what it builds.
func (v *Vendor) RunTools() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.tools.runs = true
}

// RefuseRun has the runs of a component refused with an error; nil: taken again.
func (v *Vendor) RefuseRun(component string, err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.tools.refuse[component] = err
}

// Ran is what the vendor was asked to run, in order.
func (v *Vendor) Ran() []provider.RunOrder {
	v.mu.Lock()
	defer v.mu.Unlock()
	return slices.Clone(v.tools.ran)
}

func newTools() tools {
	return tools{orders: map[string]provider.BuildOrder{}, keys: map[string]string{}, images: map[string]string{}, refuse: map[string]error{}}
}

func (v *Vendor) builder() *provider.Builder {
	return &provider.Builder{Start: v.order, Get: v.ordered, Cancel: v.cancelOrdered, List: v.listOrdered, Logs: v.logsOfOrdered}
}

func (v *Vendor) runner() *provider.Runner {
	if !v.tools.runs {
		return nil
	}
	return &provider.Runner{Run: v.run, List: func(context.Context, string) ([]provider.RunOrder, error) { return v.Ran(), nil }}
}

func (v *Vendor) component(b *build) provider.ComponentBuild {
	c := provider.ComponentBuild{Build: b.Build, Order: v.tools.orders[b.ID]}
	c.Order.By = slipway.Caller{}
	if b.Status == slipway.BuildSucceeded {
		c.Image = v.tools.images[b.ID]
	}
	return c
}

func (v *Vendor) order(ctx context.Context, o provider.BuildOrder) (c provider.ComponentBuild, err error) {
	if err := o.Check(); err != nil {
		return c, err
	}
	err = v.call(ctx, func() error {
		if id, known := v.tools.keys[o.Key]; known {
			if b := v.project(provider.ComponentProject(v.tools.orders[id].Tool, v.tools.orders[id].Component)).find(id); b != nil {
				c = v.component(b)
				return nil
			}
		}
		if going := v.going(); v.tools.room > 0 && going >= v.tools.room {
			return slipway.Errorf(slipway.RateLimited, "%d builds go on already", going)
		}
		project := provider.ComponentProject(o.Tool, o.Component)
		b := v.add(project, slipway.Build{Status: slipway.BuildStarting, Trigger: slipway.TriggerAPI, TriggeredBy: person(o.By), Commit: &slipway.Commit{SHA: o.Commit, Branch: o.Ref}})
		v.pace(v.project(project), b)
		v.tools.orders[b.ID], v.tools.keys[o.Key] = o, b.ID
		v.tools.starts++
		if v.tools.lose {
			v.tools.lose = false
			return slipway.Errorf(slipway.Unavailable, "the answer was lost")
		}
		c = v.component(b)
		return nil
	})
	return c, err
}

// going counts the ordered builds that have not ended, where their number matters.
func (v *Vendor) going() (n int) {
	if v.tools.room == 0 {
		return 0
	}
	for id, o := range v.tools.orders {
		if b := v.project(provider.ComponentProject(o.Tool, o.Component)).find(id); b != nil && !b.Status.Finished() {
			n++
		}
	}
	return n
}

// find gives an ordered build of a tool.
func (v *Vendor) find(tool, id string) (project string, b *build, err error) {
	if o, ok := v.tools.orders[id]; ok && o.Tool == tool {
		project = provider.ComponentProject(o.Tool, o.Component)
		b = v.project(project).find(id)
	}
	if b == nil {
		err = slipway.Errorf(slipway.NotFound, "the tool %q has no build %q", tool, id)
	}
	return project, b, err
}

func (v *Vendor) ordered(ctx context.Context, tool, id string) (c provider.ComponentBuild, err error) {
	err = v.call(ctx, func() error {
		_, b, err := v.find(tool, id)
		if err == nil {
			c = v.component(b)
		}
		return err
	})
	return c, err
}

func (v *Vendor) cancelOrdered(ctx context.Context, tool, id string) error {
	var project string
	err := v.call(ctx, func() (err error) {
		project, _, err = v.find(tool, id)
		return err
	})
	if err != nil {
		return err
	}
	return v.cancel(ctx, project, id)
}

func (v *Vendor) listOrdered(ctx context.Context, q provider.ComponentQuery) (list []provider.ComponentBuild, err error) {
	err = v.call(ctx, func() error {
		v.tools.asked++
		if q.Tool == "" {
			v.tools.all++
		}
		var found []*build
		for name, p := range v.projects {
			tool, component, ok := provider.ToolOf(name)
			if !ok || q.Tool != "" && q.Tool != tool || q.Component != "" && q.Component != component {
				continue
			}
			for _, b := range p.builds {
				if q.Since.IsZero() || !b.CreatedAt.Before(q.Since) || !b.Status.Finished() {
					found = append(found, b)
				}
			}
		}
		slices.SortFunc(found, newestFirst)
		if q.Limit > 0 && len(found) > q.Limit {
			found = found[:q.Limit]
		}
		for _, b := range found {
			list = append(list, v.component(b))
		}
		return nil
	})
	return list, err
}

func (v *Vendor) logsOfOrdered(ctx context.Context, tool, id string, follow bool) (io.ReadCloser, error) {
	var project string
	err := v.call(ctx, func() (err error) {
		project, _, err = v.find(tool, id)
		return err
	})
	if err != nil {
		return nil, err
	}
	return v.logs(ctx, project, id, follow)
}

func (v *Vendor) run(ctx context.Context, o provider.RunOrder) (r provider.RunResult, err error) {
	err = v.call(ctx, func() error {
		v.tools.ran = append(v.tools.ran, o)
		if err := v.tools.refuse[o.Component]; err != nil {
			return err
		}
		r.Message = "created or updated job " + o.Component
		if o.Restart {
			r.Message = "restarted job " + o.Component
		}
		return nil
	})
	return r, err
}
