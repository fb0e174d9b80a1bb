package catalog

import (
	"context"
	"encoding/json"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/event"
	"github.com/slipway-platform/slipway/job"
	"github.com/slipway-platform/slipway/store"
	"github.com/slipway-platform/slipway/task"
)

// readLocation reads one location and stores what changed.
type readLocation struct {
	ID    string   `json:"id"`
	Below []string `json:"below,omitempty"` // only files below these addresses; none: all
}

func (readLocation) Kind() string { return "catalog.read_location" }

// removeLocation takes away what a location brought, and then the location.
type removeLocation struct {
	ID string `json:"id"`
}

func (removeLocation) Kind() string { return "catalog.remove_location" }

// readPushed has the files read that lie below addresses: a repository has new content.
type readPushed struct {
	Below []string `json:"below"`
}

func (readPushed) Kind() string { return "catalog.read_pushed" }

// pushed is told of every push that a provider has verified.
func (s *service) pushed(ctx context.Context, tx *store.Tx, e event.Event) error {
	var p task.Push
	if err := json.Unmarshal(e.Data, &p); err != nil || len(p.Subject.Content.Below) == 0 {
		return slipway.Errorf(slipway.Invalid, "an event of a push without addresses").WithCause(err)
	}
	some, err := someBelow(ctx, tx, p.Subject.Content.Below)
	if err != nil || !some {
		return err
	}
	_, _, err = s.Jobs.Insert(ctx, tx, readPushed{p.Subject.Content.Below}, job.Insert{Unique: strings.Join(p.Subject.Content.Below, " "), Priority: 1})
	return err
}

func (s *service) readPushed(ctx context.Context, args readPushed) error {
	ids, err := locationsBelow(ctx, s.db, args.Below)
	if err != nil {
		return err
	}
	for part := range slices.Chunk(ids, 100) {
		err := s.db.Write(ctx, func(tx *store.Tx) error {
			for _, id := range part {
				_, _, err := s.Jobs.Insert(ctx, tx, readLocation{id, args.Below}, job.Insert{Unique: id + " " + strings.Join(args.Below, " "), Priority: 1})
				if err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// readDue has the locations read whose time has come.
type readDue struct{}

func (readDue) Kind() string { return "catalog.read_due" }

func (s *service) readDue(ctx context.Context, _ readDue) error {
	const batch = 100
	for {
		due, err := dueLocations(ctx, s.db, s.Now(), batch)
		if err != nil || len(due) == 0 {
			return err
		}
		err = s.db.Write(ctx, func(tx *store.Tx) error {
			for _, l := range due {
				if err := s.haveRead(ctx, tx, l.ID); err != nil {
					return err
				}
				// Not again before the job has had its turn; it sets its own time.
				if err := postpone(ctx, tx, l.ID, s.Now().Add(s.config.Refresh.Std())); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil || len(due) < batch {
			return err
		}
	}
}

// removeOrphans removes what no location brings any more once its time is over.
type removeOrphans struct{}

func (removeOrphans) Kind() string { return "catalog.remove_orphans" }

func (s *service) removeOrphans(ctx context.Context, _ removeOrphans) error {
	gone, err := s.Entities.RemoveOrphans(ctx, s.Now().Add(-s.config.Orphans.Std()))
	if len(gone) > 0 {
		s.Log.InfoContext(ctx, "entities that no location brings any more were removed", "count", len(gone), "first", gone[0].String())
	}
	return err
}

// haveRead inserts the job that reads a location, one at a time for each.
func (s *service) haveRead(ctx context.Context, tx *store.Tx, id string) error {
	_, _, err := s.Jobs.Insert(ctx, tx, readLocation{ID: id}, job.Insert{Unique: id})
	return err
}

func (s *service) readLocation(ctx context.Context, args readLocation) error {
	l, err := getLocation(ctx, s.db, args.ID)
	if slipway.CodeOf(err) == slipway.NotFound {
		return s.abandon(ctx, row{ID: args.ID}) // it was removed meanwhile
	} else if err != nil {
		return err
	}
	return s.readTree(ctx, l, args.Below, nil)
}

// describeSource names who brings an entity so that people find it.
func (s *service) describeSource(ctx context.Context, source string) string {
	if id, ok := strings.CutPrefix(source, "location:"); ok {
		if l, err := getLocation(ctx, s.db, id); err == nil {
			return "the location " + clip(l.Target)
		}
	}
	if source == "" {
		return "another reading"
	}
	return source
}

// couldNotRead notes why. What the location brought before stays. It is tried again by the schedule, not by the job queue: a location that is
// down for a week is no job that fails.
func (s *service) couldNotRead(l *row, cause error) {
	l.Status, l.Error = failed, reason(cause)
	l.Failures++
	l.NextRead = store.At(s.Now().Add(jitter(retryAfter(s.config.Refresh.Std(), l.Failures, cause))))
}

// retryAfter is how long a location that could not be read is left alone: a minute or two when it may be back soon, else the usual
// time, doubled with every failure up to an hour.
func retryAfter(refresh time.Duration, failures int, cause error) time.Duration {
	if slipway.CodeOf(cause) == slipway.Unavailable && failures <= 3 {
		return min(refresh, time.Duration(failures)*time.Minute)
	}
	wait, most := refresh, max(refresh, time.Hour)
	for i := 1; i < failures && wait < most; i++ {
		wait *= 2
	}
	return min(wait, most)
}

// save stores how a location stands, and the files that are as they were, at most filesAtOnce.
func (s *service) save(ctx context.Context, l row, same []file) error {
	there := false
	err := s.db.Write(ctx, func(tx *store.Tx) (err error) {
		if err := touchFiles(ctx, tx, l.ID, same); err != nil {
			return err
		}
		there, err = saveReading(ctx, tx, l)
		return err
	})
	if err != nil || there {
		return err
	}
	return s.abandon(ctx, l)
}

// abandon ends the reading of a location that is there no more. When it was removed, what was stored meanwhile goes too, also by a reading that a crash has cut short.
func (s *service) abandon(ctx context.Context, l row) error {
	if _, err := getLocation(ctx, s.db, l.ID); slipway.CodeOf(err) != slipway.NotFound {
		return err // it has got another target, and a reading of that is waiting
	}
	if _, err := s.Entities.Sync(ctx, l.source(), nil); err != nil {
		return err
	}
	return s.db.Write(ctx, func(tx *store.Tx) error { return deleteFiles(ctx, tx, l.ID) })
}

// jitter spreads readings over the last tenth of the wait, so that locations do not come due together.
func jitter(d time.Duration) time.Duration { return d - rand.N(d/10+1) }

// reason is what people read of an error: the sentence of a coded one.
func reason(err error) string {
	if e, ok := asError(err); ok {
		return e.Message
	}
	return oneLine(err.Error())
}

func (s *service) removeLocation(ctx context.Context, args removeLocation) error {
	l := row{ID: args.ID}
	if _, err := s.Entities.Sync(ctx, l.source(), nil); err != nil {
		return err
	}
	return s.db.Write(ctx, func(tx *store.Tx) error {
		if err := deleteFiles(ctx, tx, l.ID); err != nil {
			return err
		}
		return deleteRow(ctx, tx, l.ID)
	})
}

// remove marks a location as going and stores the job that does the rest.
func (s *service) remove(ctx context.Context, id string) error {
	return s.db.Write(ctx, func(tx *store.Tx) error { return s.removeIn(ctx, tx, id) })
}

func (s *service) removeIn(ctx context.Context, tx *store.Tx, id string) error {
	if err := markRemoving(ctx, tx, id); err != nil {
		return err
	}
	_, _, err := s.Jobs.Insert(ctx, tx, removeLocation{id}, job.Insert{Unique: id})
	return err
}

// keepConfigured makes the locations of the configuration be registered, and those that it no longer has be gone.
func (s *service) keepConfigured(ctx context.Context) error {
	for _, p := range s.config.Locations {
		err := s.db.Write(ctx, func(tx *store.Tx) error {
			l, err := findLocation(ctx, tx, p)
			if err == nil {
				if l.Origin == fromConfig || l.Status == removing {
					return nil // one that is going comes back at the next start
				}
				return setOrigin(ctx, tx, l.ID, fromConfig)
			} else if slipway.CodeOf(err) != slipway.NotFound {
				return err
			}
			l = s.newRow(p, fromConfig)
			if err := s.haveRead(ctx, tx, l.ID); err != nil {
				return err
			}
			return s.enter(ctx, tx, l)
		})
		if err != nil && slipway.CodeOf(err) != slipway.Conflict { // another replica was faster
			return err
		}
	}
	old, err := listLocations(ctx, s.db, `origin = $1 AND status <> 'removing'`, fromConfig)
	if err != nil {
		return err
	}
	for _, l := range old {
		if !slices.Contains(s.config.Locations, l.Place) {
			s.Log.InfoContext(ctx, "a location no longer stands in the configuration and is removed", "type", l.Type, "target", l.Target)
			if err := s.remove(ctx, l.ID); err != nil {
				return err
			}
		}
	}
	<-ctx.Done()
	return nil
}

// enter stores a new location and the entity that stands for it. It is a Conflict when the place is registered already.
func (s *service) enter(ctx context.Context, tx *store.Tx, l row) error {
	if err := insertLocation(ctx, tx, l); err != nil {
		return err
	}
	_, err := s.Entities.Put(ctx, tx, l.source(), []*slipway.Entity{l.entity()})
	return err
}

func (s *service) newRow(p Place, origin string) row {
	now := s.Now()
	return row{Place: p, ID: uuid.Must(uuid.NewV7()).String(), Origin: origin, Trusted: origin == fromConfig, Status: processing, CreatedAt: store.At(now), NextRead: store.At(now.Add(10 * time.Second))} // should we die before it is read
}
