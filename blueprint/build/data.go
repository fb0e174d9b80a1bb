package build

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/auth"
	"github.com/slipway-platform/slipway/resource"
)

// The documents of the Data API that lie over the index: jobs are projects at vendors as far as entities are bound to them, and runs are their builds. Both are
// shapes of their own, not the index's.
var (
	jobs = resource.Kind{
		Name: "jobs", Text: "Projects at vendors whose builds are known, to read. Their runs are at /data/job/{name}/runs.", Permissions: resource.Permissions{Read: readPermission},
		Source: &resource.Source{},
	}
	runs = resource.Kind{
		Name: "runs", Text: "Builds of jobs, to read, newest first.", Permissions: resource.Permissions{Read: readPermission}, Source: &resource.Source{},
	}
)

type jobDocument struct {
	ID       string              `json:"id"`
	Name     string              `json:"name"`
	Provider slipway.ProviderRef `json:"provider"`
	AsOf     *time.Time          `json:"asOf,omitempty"`
}

type runDocument struct {
	ID         string              `json:"id"`
	Job        string              `json:"job"`
	Provider   slipway.ProviderRef `json:"provider"`
	Number     int64               `json:"number,omitempty"`
	Status     slipway.BuildStatus `json:"status"`
	CreatedAt  time.Time           `json:"createdAt"`
	StartedAt  *time.Time          `json:"startedAt,omitempty"`
	FinishedAt *time.Time          `json:"finishedAt,omitempty"`
	URL        string              `json:"url,omitempty"`
	Commit     *slipway.Commit     `json:"commit,omitempty"`
}

func (s *service) jobKind(k resource.Kind) resource.Kind {
	k.Source = &resource.Source{
		List: func(ctx context.Context, q resource.SourceQuery) ([]resource.Fixed, error) {
			return s.listJobs(ctx, "", q.After, q.Limit)
		},
		Get: func(ctx context.Context, id string) (resource.Fixed, error) {
			found, err := s.listJobs(ctx, id, "", 1)
			if err == nil && len(found) == 0 {
				err = slipway.Errorf(slipway.NotFound, "there is no job %.80q that you may see; GET /data/jobs lists them", id)
			}
			if err != nil {
				return resource.Fixed{}, err
			}
			return found[0], nil
		},
	}
	return k
}

func (s *service) listJobs(ctx context.Context, id, after string, limit int) ([]resource.Fixed, error) {
	if err := s.engine.Admit(ctx, auth.Narrowed(ctx), id); err != nil {
		return nil, err
	}
	found, err := s.selectJobs(ctx, s.engine.DB, auth.Narrowed(ctx), id, after, limit)
	if err != nil {
		return nil, err
	}
	var list []resource.Fixed
	for _, j := range found {
		raw, err := json.Marshal(j)
		if err != nil {
			return nil, err
		}
		list = append(list, resource.Fixed{ID: j.ID, Document: raw})
	}
	return list, nil
}

func (s *service) runKind(k resource.Kind) resource.Kind {
	k.Source = &resource.Source{
		List: func(ctx context.Context, q resource.SourceQuery) ([]resource.Fixed, error) {
			if q.Parent == "" {
				return nil, slipway.Errorf(slipway.Invalid, "runs are listed by job: GET /data/job/{name}/runs")
			}
			after, err := parseRunKey(q.After)
			if err != nil {
				return nil, err
			}
			if err := s.engine.Admit(ctx, auth.Narrowed(ctx), q.Parent); err != nil {
				return nil, err
			}
			found, err := s.selectRuns(ctx, s.engine.DB, auth.Narrowed(ctx), q.Parent, after, q.Limit)
			if err != nil {
				return nil, err
			}
			var list []resource.Fixed
			for _, r := range found {
				raw, err := json.Marshal(r.document())
				if err != nil {
					return nil, err
				}
				list = append(list, resource.Fixed{ID: r.build.ID, Document: raw, Key: r.key.String()})
			}
			return list, nil
		},
		Get: func(context.Context, string) (resource.Fixed, error) {
			return resource.Fixed{}, slipway.Errorf(slipway.NotFound, "runs are listed by job: GET /data/job/{name}/runs")
		},
	}
	return k
}

// foundRun is a run with its place in the order of lists.
type foundRun struct {
	job   string
	build slipway.Build
	key   runKey
}

func (r foundRun) document() runDocument {
	b := r.build
	return runDocument{b.ID, r.job, b.Provider, b.Number, b.Status, b.CreatedAt, b.StartedAt, b.FinishedAt, b.URL, b.Commit}
}

// runKey orders runs: newest first, then by source and id. The zero key stands before all.
type runKey struct {
	created, source int64
	id              string
}

func (k runKey) String() string { return fmt.Sprintf("%d %d %s", k.created, k.source, k.id) }

func parseRunKey(text string) (k runKey, err error) {
	if text == "" {
		return runKey{created: 1<<63 - 1}, nil
	}
	created, rest, _ := strings.Cut(text, " ")
	source, id, ok := strings.Cut(rest, " ")
	k.id = id
	if k.created, err = strconv.ParseInt(created, 10, 64); err == nil {
		k.source, err = strconv.ParseInt(source, 10, 64)
	}
	if err != nil || !ok {
		return runKey{}, slipway.Errorf(slipway.Invalid, "the cursor does not fit; begin again without it").WithCause(err)
	}
	return k, nil
}
