package blueprint

import (
	"context"
	"time"
)

// Pace is how often a command that follows something asks the server how it goes: often at first, then so seldom that two thirds of a user's rate limit are left
// for all else. Its zero value begins; it is for one goroutine.
type Pace struct{ last time.Duration }

// Wait waits until it is time to ask again. Its error is that of the context, which has ended.
func (p *Pace) Wait(ctx context.Context) error {
	t := time.NewTimer(p.next())
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

func (p *Pace) next() time.Duration {
	p.last = min(max(p.last*5/4, 250*time.Millisecond), 2*time.Second)
	return p.last
}
