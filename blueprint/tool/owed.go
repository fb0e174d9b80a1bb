package tool

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/slipway-platform/slipway"
)

// How long a change may be on its way. A note of something that is not there later than this is of a change that never was.
const (
	deploymentOnItsWay = draftLife
	configOnItsWay     = time.Minute
)

// mend does what a crash, or a database that was away, has left undone beside changes that were made; of all tools, or of one deployment. What fails is in
// nobody's way: all is tried.
func (s *service) mend(ctx context.Context, of Owed) error {
	var first error
	failed, tried := 0, 0
	for after := (Owed{}); ; {
		list, err := s.storage.Owed(ctx, of, after)
		if err != nil {
			return err
		}
		for _, o := range list {
			if err := s.mendOne(ctx, o); err != nil {
				first = cmp.Or(first, err)
				failed++
			}
		}
		tried += len(list)
		if len(list) < owedPage || ctx.Err() != nil {
			break
		}
		after = list[len(list)-1]
	}
	if failed > 1 { // one says what the others would
		return fmt.Errorf("%d of %d changes, the first: %w", failed, tried, first)
	}
	return first
}

func (s *service) mendOne(ctx context.Context, o Owed) error {
	age := s.now().Sub(o.Since) // below zero when the clock was put back
	if o.ID == "" {
		if age >= 0 && age < configOnItsWay { // it may not have been made yet
			return nil
		}
		return s.storage.SettleConfig(ctx, o.Tool, s.entitiesFollow(o.Tool))
	}
	d, err := s.storage.Deployment(ctx, o.Tool, o.ID)
	switch {
	case errors.Is(err, slipway.NotFound) && age >= 0 && age < deploymentOnItsWay:
		return nil
	case errors.Is(err, slipway.NotFound):
		return s.storage.Forget(ctx, o)
	case err != nil:
		return err
	}
	return s.storage.Settle(ctx, d, s.then(&d))
}

// discard deletes a deployment that has ended, after what is owed for it was done.
func (s *service) discard(ctx context.Context, tool, id string) (Deployment, error) {
	if err := s.mend(ctx, Owed{Tool: tool, ID: id}); err != nil {
		return Deployment{}, err
	}
	return s.storage.Delete(ctx, tool, id)
}
