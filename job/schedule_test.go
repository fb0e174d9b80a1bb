package job

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/store"
)

func TestOneOfThreeReplicasFires(t *testing.T) {
	each(t, func(t *testing.T, db *store.DB) {
		c := newClock()
		var ran atomic.Int64
		var queues []*Queue
		for range 3 {
			q := newQueue(t, db, Work(func(context.Context, note) error { ran.Add(1); return nil }))
			q.Now, q.poll = c.now, time.Millisecond
			q.AddSchedule(Schedule{Name: "test.tick", Every: time.Minute, Args: note{}})
			start(t, q)
			queues = append(queues, q)
		}
		runs := func() int {
			s, err := queues[0].status(t.Context(), "test.tick")
			if err != nil {
				t.Fatal(err)
			}
			n := 0
			for _, h := range s.History {
				if h.State == Completed {
					n++
				}
			}
			return n
		}
		for i := 1; i <= 8; i++ {
			eventually(t, "it fired", func() bool { return runs() >= i })
			c.pass(time.Minute)
		}
		eventually(t, "it fired", func() bool { return runs() >= 9 })
		c.pass(59 * time.Second)
		var polls sync.WaitGroup // every replica looks at the times, at once
		for _, q := range queues {
			polls.Go(func() {
				if _, err := running(t, q).fire(t.Context()); err != nil {
					t.Error(err)
				}
			})
		}
		polls.Wait()
		if n := runs(); n != 9 || ran.Load() != 9 {
			t.Errorf("fired %d times, ran %d; want 9 of each", n, ran.Load())
		}
	})
}

func TestWhatWasMissedIsMadeUpForByOneRun(t *testing.T) {
	each(t, func(t *testing.T, db *store.DB) {
		c := newClock()
		run := func() (jobs int, next time.Time) {
			q := newQueue(t, db, Work(func(context.Context, note) error { return nil }))
			q.Now = c.now
			q.AddSchedule(Schedule{Name: "test.tick", Every: 10 * time.Minute, Args: note{}})
			stop := start(t, q)
			defer stop()
			var s ScheduleStatus
			eventually(t, "it fired and ran", func() bool {
				var err error
				s, err = q.status(t.Context(), "test.tick")
				return err == nil && s.NextRun != nil && s.NextRun.After(c.now()) && s.LastState == Completed && s.History[0].State == Completed
			})
			return len(s.History), *s.NextRun
		}
		began := c.now()
		run()
		c.pass(65 * time.Minute)
		if jobs, next := run(); jobs != 2 || !next.Equal(began.Add(70*time.Minute)) {
			t.Errorf("after 65 minutes away: %d runs, next at %s; want 2, and the grid kept", jobs, next)
		}
	})
}

func TestPauseResumeAndRunNow(t *testing.T) {
	each(t, func(t *testing.T, db *store.DB) {
		c := newClock()
		fail := atomic.Bool{}
		q := newQueue(t, db, Work(func(context.Context, note) error {
			if fail.Load() {
				return Final(errors.New("broken"))
			}
			return nil
		}))
		q.Now = c.now
		q.AddSchedule(Schedule{Name: "test.tick", Text: "Ticks.", Cron: "30 3 * * *", Args: note{}})
		if s, err := q.Schedules(t.Context()); err != nil || len(s) != 1 || s[0].NextRun != nil || s[0].Cron != "30 3 * * *" || s[0].Kind != "test.note" {
			t.Errorf("before any replica runs: got %+v, %v", s, err)
		}
		start(t, q)
		status := func() ScheduleStatus {
			t.Helper()
			s, err := q.Schedules(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			return s[0]
		}
		night := time.Date(2026, 3, 2, 3, 30, 0, 0, time.UTC)
		eventually(t, "it is stored", func() bool { return status().NextRun != nil })
		if s := status(); !s.NextRun.Equal(night) || s.LastRun != nil {
			t.Errorf("got %+v; want the next run at %s and none yet", s, night)
		}
		if s, err := q.Pause(t.Context(), "test.tick"); err != nil || !s.Paused || s.NextRun != nil {
			t.Errorf("pause: got %+v, %v", s, err)
		}
		c.pass(24 * time.Hour)
		if _, err := running(t, q).fire(t.Context()); err != nil {
			t.Fatal(err)
		}
		if s := status(); len(s.History) != 0 {
			t.Errorf("fired while paused: %+v", s.History)
		}
		fail.Store(true)
		if _, err := q.RunNow(t.Context(), "test.tick"); err != nil {
			t.Fatal(err)
		}
		eventually(t, "it ran when asked to", func() bool { return status().LastState == Discarded })
		if s := status(); s.LastError != "broken" || s.LastRun == nil || len(s.History) != 1 || s.History[0].FinishedAt == nil {
			t.Errorf("got %+v; want the failed run", s)
		}
		if s, err := q.Resume(t.Context(), "test.tick"); err != nil || s.Paused || !s.NextRun.Equal(night.Add(24*time.Hour)) {
			t.Errorf("resume: got %+v, %v; want the first time from now on", s, err)
		}
		if _, err := q.RunNow(t.Context(), "none"); !errors.Is(err, slipway.NotFound) {
			t.Errorf("an unknown one: got %v, want not found", err)
		}
		fail.Store(false)
		c.pass(time.Hour * 24 * 30)
		eventually(t, "it ran by itself", func() bool { return status().LastState == Completed })
		c.pass(time.Hour)
		if n, err := q.Prune(t.Context(), time.Minute); n != 1 || err != nil {
			t.Errorf("pruned %d, %v; want all but the last run", n, err)
		}
		if s := status(); s.LastState != Completed {
			t.Errorf("the last run is gone: %+v", s)
		}
	})
}

func TestASlowRunIsNotOverlappedAndRunNowDuringItRunsOnceMore(t *testing.T) {
	each(t, func(t *testing.T, db *store.DB) {
		c := newClock()
		began, finish := make(chan bool), make(chan bool)
		q := newQueue(t, db, Work(func(context.Context, note) error { began <- true; <-finish; return nil }))
		q.Now = c.now
		q.AddSchedule(Schedule{Name: "test.tick", Every: time.Minute, Args: note{}})
		start(t, q)
		<-began
		c.pass(5 * time.Minute)
		eventually(t, "its time has passed by", func() bool {
			s, err := q.status(t.Context(), "test.tick")
			return err == nil && s.NextRun.After(c.now())
		})
		finish <- true
		eventually(t, "one job ended", func() bool {
			s, err := q.status(t.Context(), "test.tick")
			return err == nil && len(s.History) == 1 && s.LastState == Completed
		})
		c.pass(time.Minute)
		<-began
		if _, err := q.RunNow(t.Context(), "test.tick"); err != nil {
			t.Fatal(err)
		}
		finish <- true
		<-began
		finish <- true
	})
}

func TestAScheduleThatChangesStartsAnew(t *testing.T) {
	each(t, func(t *testing.T, db *store.DB) {
		c := newClock()
		for _, every := range []time.Duration{24 * time.Hour, time.Hour, time.Hour} {
			q := newQueue(t, db, Work(func(context.Context, note) error { return nil }))
			q.Now = c.now
			q.AddSchedule(Schedule{Name: "test.tick", Every: every, Args: note{}})
			stop := start(t, q)
			eventually(t, "the interval counts", func() bool {
				s, err := q.status(t.Context(), "test.tick")
				return err == nil && s.NextRun != nil && s.NextRun.After(c.now()) && s.NextRun.Sub(c.now()) <= every
			})
			stop()
			c.pass(time.Minute)
		}
	})
}

func TestScheduleCheck(t *testing.T) {
	t.Parallel()
	for want, s := range map[string]Schedule{
		"":                   {Name: "build.refresh", Every: time.Second, Args: note{}},
		"lower-case":         {Name: "Build refresh", Every: time.Second, Args: note{}},
		"no job":             {Name: "a.b", Every: time.Second},
		"one of":             {Name: "a.b", Every: time.Second, Cron: "* * * * *", Args: note{}},
		"below 1 s":          {Name: "a.b", Every: time.Millisecond, Args: note{}},
		"five fields":        {Name: "a.b", Cron: "* * * *", Args: note{}},
		"needs five fields:": {Name: "a.b", Cron: "@daily", Args: note{}},
		"no time zone":       {Name: "a.b", Cron: "TZ=Asia/Tokyo * * * * *", Args: note{}},
		"never comes":        {Name: "a.b", Cron: "0 0 30 2 *", Args: note{}},
	} {
		err := s.Check()
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: got %v, want %q", s, err, want)
		}
	}
}

func TestTheTimesOfASchedule(t *testing.T) {
	t.Parallel()
	day := func(text string) time.Time {
		at, err := time.Parse(time.DateTime, text)
		if err != nil {
			t.Fatal(err)
		}
		return at
	}
	minute := Schedule{Every: time.Minute}
	weekday := Schedule{Cron: "15 9 * * 1-5"}
	for _, c := range []struct {
		s               Schedule
		last, now, want string
	}{
		{minute, "2026-03-01 12:00:00", "2026-03-01 12:00:00", "2026-03-01 12:01:00"},
		{minute, "2026-03-01 12:00:00", "2026-03-01 12:00:59", "2026-03-01 12:01:00"},
		{minute, "2026-03-01 12:00:00", "2026-03-01 12:01:00", "2026-03-01 12:02:00"},
		{minute, "2026-03-01 12:00:00", "2026-03-02 12:01:30", "2026-03-02 12:02:00"},
		{minute, "2026-03-01 12:00:00", "2026-03-01 11:00:00", "2026-03-01 12:01:00"}, // a clock that went back
		{weekday, "2026-03-06 09:15:00", "2026-03-06 09:15:00", "2026-03-09 09:15:00"},
		{weekday, "2026-03-06 09:15:00", "2026-03-10 10:00:00", "2026-03-11 09:15:00"},
	} {
		if got := c.s.after(day(c.last), day(c.now)); !got.Equal(day(c.want)) {
			t.Errorf("%s, last %s, now %s: got %s, want %s", c.s.spec(), c.last, c.now, got, c.want)
		}
	}
	if !slices.Contains(States(), Retrying) {
		t.Error("States lacks one")
	}
}
