package job

import (
	"context"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/robfig/cron/v3"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/store"
)

// Schedule inserts a job again and again. It is a row claimed by one UPDATE, so one replica fires it and no memory holds it.
// A schedule with an interval fires at once when a database sees it for the first time, then on the grid from there. What was missed while
// no replica ran is made up for by one run.
type Schedule struct {
	Name  string        // "<blueprint>.<what>"
	Text  string        // what it does, for people
	Every time.Duration // the interval, at least 1 s; or
	Cron  string        // five fields, UTC
	Args  Args          // the job; inserted as unique by the schedule's name (a run that is still going is not overlapped)
}

var (
	scheduleName = regexp.MustCompile(`^[a-z][a-z0-9]*([._-][a-z0-9]+)*$`)
	cronParser   = cron.NewParser(cron.Minute | cron.Hour | cron.Dom | cron.Month | cron.Dow)
)

// Check says what is wrong with a schedule; nil: nothing.
func (s Schedule) Check() error {
	switch {
	case !scheduleName.MatchString(s.Name) || len(s.Name) > 100:
		return fmt.Errorf("schedule %q: a name is made of lower-case words joined by . _ -", s.Name)
	case s.Args == nil:
		return fmt.Errorf("schedule %q: no job to insert", s.Name)
	case (s.Every != 0) == (s.Cron != ""):
		return fmt.Errorf("schedule %q: one of interval and cron", s.Name)
	case s.Cron == "" && s.Every < time.Second:
		return fmt.Errorf("schedule %q: the interval %s is below 1 s", s.Name, s.Every)
	case s.Cron == "":
		return nil
	case strings.Contains(s.Cron, "="): // the parser would take a time zone
		return fmt.Errorf("schedule %q: cron %q is in UTC and names no time zone", s.Name, s.Cron)
	}
	parsed, err := cronParser.Parse(s.Cron)
	if err != nil {
		return fmt.Errorf("schedule %q: cron %q needs five fields: minute hour day month weekday: %w", s.Name, s.Cron, err)
	}
	if parsed.Next(time.Unix(0, 0).UTC()).IsZero() {
		return fmt.Errorf("schedule %q: cron %q never comes", s.Name, s.Cron)
	}
	return nil
}

// spec is how the times are stored, to notice a change.
func (s Schedule) spec() string {
	if s.Cron != "" {
		return s.Cron
	}
	return s.Every.String()
}

// first is when a schedule fires that the database has not seen.
func (s Schedule) first(now time.Time) time.Time {
	if s.Cron != "" {
		return s.after(now, now)
	}
	return now
}

// after is the first time of the schedule after now; last is one of its times.
func (s Schedule) after(last, now time.Time) time.Time {
	if s.Cron == "" {
		return last.Add(max(1, now.Sub(last)/s.Every+1) * s.Every)
	}
	parsed, err := cronParser.Parse(s.Cron)
	if err != nil { // Check has parsed it
		return now.Add(time.Hour)
	}
	return parsed.Next(now.UTC())
}

// declare stores the schedules of this replica. One whose times changed starts anew.
func (r *runner) declare(ctx context.Context) error {
	if len(r.q.schedules) == 0 {
		return nil
	}
	now := r.q.now()
	return r.q.db.Write(ctx, func(tx *store.Tx) error {
		for _, name := range slices.Sorted(maps.Keys(r.q.schedules)) { // sorted: replicas that start together wait, they do not deadlock
			s := r.q.schedules[name]
			if _, err := tx.Exec(ctx, `
				INSERT INTO job_schedule (name, spec, next_at) VALUES ($1, $2, $3)
				ON CONFLICT (name) DO UPDATE SET spec = excluded.spec, next_at = excluded.next_at WHERE job_schedule.spec <> excluded.spec`,
				name, s.spec(), store.At(s.first(now))); err != nil {
				return err
			}
		}
		return nil
	})
}

type scheduleRow struct {
	next   store.Time
	paused bool
}

// rows reads the stored side of the schedules that this replica knows as they are stored.
func (q *Queue) rows(ctx context.Context, from store.Querier) (map[string]scheduleRow, error) {
	rows, err := from.QueryContext(ctx, "SELECT name, spec, next_at, paused FROM job_schedule")
	if err != nil {
		return nil, store.Err(err)
	}
	defer func() { _ = rows.Close() }()
	all := map[string]scheduleRow{}
	for rows.Next() {
		var name, spec string
		var row scheduleRow
		if err := rows.Scan(&name, &spec, &row.next, &row.paused); err != nil {
			return nil, store.Err(err)
		}
		// While versions with different times run side by side, those that stored theirs fire.
		if s, ok := q.schedules[name]; ok && s.spec() == spec {
			all[name] = row
		}
	}
	return all, store.Err(rows.Err())
}

// fire inserts the jobs of due schedules and says when the next one is due.
func (r *runner) fire(ctx context.Context) (time.Duration, error) {
	wait := r.q.poll
	if len(r.q.schedules) == 0 {
		return wait, nil
	}
	rows, err := r.q.rows(ctx, r.q.db)
	if err != nil {
		return wait, err
	}
	for name, row := range rows {
		now := r.q.now()
		if row.paused {
			continue
		}
		if d := row.next.Sub(now); d > 0 {
			wait = min(wait, d)
			continue
		}
		s := r.q.schedules[name]
		next := store.At(s.after(row.next.Time, now))
		err := r.q.db.Write(ctx, func(tx *store.Tx) error {
			// Of all replicas one finds the time that it has read.
			n, err := tx.Exec(ctx, "UPDATE job_schedule SET next_at = $3 WHERE name = $1 AND next_at = $2 AND NOT paused", name, row.next, next)
			if err != nil || n == 0 {
				return err
			}
			_, _, err = r.q.insert(ctx, tx, s.Args, Insert{Unique: name}, name, false)
			return err
		})
		if err != nil {
			return wait, err
		}
		wait = min(wait, max(next.Sub(now), 0))
	}
	return wait, nil
}

// ScheduleStatus is a schedule as people see it.
type ScheduleStatus struct {
	Name      string        `json:"name" doc:"Name" example:"build.refresh"`
	Text      string        `json:"text" doc:"What it does"`
	Kind      string        `json:"kind" doc:"Kind of its jobs"`
	Every     string        `json:"every,omitempty" doc:"Interval" example:"5m0s"`
	Cron      string        `json:"cron,omitempty" doc:"Five fields, UTC" example:"0 3 * * *"`
	Paused    bool          `json:"paused" doc:"Fires only when asked to"`
	NextRun   *time.Time    `json:"nextRun" nullable:"true" doc:"When it fires next; null while paused"`
	LastRun   *time.Time    `json:"lastRun" nullable:"true" doc:"When its newest run began"`
	LastState State         `json:"lastState,omitempty" doc:"Where the newest job that ran stands"`
	LastError string        `json:"lastError,omitempty" doc:"What went wrong in it"`
	History   []ScheduleRun `json:"history" doc:"The last 10 jobs, newest first"`
}

// ScheduleRun is one job of a schedule.
type ScheduleRun struct {
	ID         int64      `json:"id" doc:"Job"`
	State      State      `json:"state" doc:"Where it stands"`
	StartedAt  *time.Time `json:"startedAt" nullable:"true" doc:"When its last run began"`
	FinishedAt *time.Time `json:"finishedAt" nullable:"true" doc:"When it ended for good"`
	Error      string     `json:"error,omitempty" doc:"What went wrong last"`
}

// Schedules lists the added schedules by name.
func (q *Queue) Schedules(ctx context.Context) ([]ScheduleStatus, error) {
	return q.statuses(ctx, slices.Sorted(maps.Keys(q.schedules))...)
}

func (q *Queue) statuses(ctx context.Context, names ...string) ([]ScheduleStatus, error) {
	stored, err := q.rows(ctx, q.db)
	if err != nil {
		return nil, err
	}
	all := []ScheduleStatus{}
	for _, name := range names {
		s := q.schedules[name]
		status := ScheduleStatus{Name: name, Text: s.Text, Kind: s.Args.Kind(), Cron: s.Cron, History: []ScheduleRun{}}
		if s.Every > 0 {
			status.Every = s.Every.String()
		}
		if row, ok := stored[name]; ok {
			status.Paused = row.paused
			if !row.paused {
				status.NextRun = row.next.Ptr()
			}
		}
		all = append(all, status)
	}
	err = q.histories(ctx, all)
	return all, err
}

// histories reads the last jobs of all schedules at once, by one limited index scan for each.
func (q *Queue) histories(ctx context.Context, all []ScheduleStatus) error {
	if len(all) == 0 {
		return nil
	}
	index := map[string]int{}
	var names []string
	var args []any
	for i, s := range all {
		index[s.Name] = i
		args = append(args, s.Name)
		names = append(names, fmt.Sprintf("(CAST($%d AS TEXT))", len(args)))
	}
	rows, err := q.db.QueryContext(ctx, `
		WITH s (name) AS (VALUES `+strings.Join(names, ", ")+`)
		SELECT s.name, j.id, j.state, j.started_at, j.finished_at, j.errors FROM s
		JOIN job j ON j.id IN (SELECT h.id FROM job h WHERE h.schedule = s.name ORDER BY h.id DESC LIMIT 10)
		ORDER BY j.id DESC`, args...)
	if err != nil {
		return store.Err(err)
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var name, stored string
		var run ScheduleRun
		var started, finished store.Time
		if err := rows.Scan(&name, &run.ID, &run.State, &started, &finished, &stored); err != nil {
			return store.Err(err)
		}
		run.StartedAt, run.FinishedAt = started.Ptr(), finished.Ptr()
		failures, err := failuresOf(stored)
		if err != nil {
			return err
		}
		if len(failures) > 0 {
			run.Error = failures[len(failures)-1].Error
		}
		s := &all[index[name]]
		s.History = append(s.History, run)
		if s.LastRun == nil && run.StartedAt != nil {
			s.LastRun, s.LastState, s.LastError = run.StartedAt, run.State, run.Error
		}
	}
	return store.Err(rows.Err())
}

// known gives an added schedule, or NotFound.
func (q *Queue) known(name string) (Schedule, error) {
	s, ok := q.schedules[name]
	if !ok {
		return s, slipway.Errorf(slipway.NotFound, "there is no schedule %q; slipway schedule list (GET /api/schedules) shows them", name)
	}
	return s, nil
}

func (q *Queue) status(ctx context.Context, name string) (ScheduleStatus, error) {
	all, err := q.statuses(ctx, name)
	if err != nil {
		return ScheduleStatus{}, err
	}
	return all[0], nil
}

// RunNow inserts the schedule's job at once, paused or not; its times stay. If a job of it waits, that one may run now;
// if one runs, it will run once more.
func (q *Queue) RunNow(ctx context.Context, name string) (ScheduleStatus, error) {
	s, err := q.known(name)
	if err != nil {
		return ScheduleStatus{}, err
	}
	err = q.db.Write(ctx, func(tx *store.Tx) error {
		id, inserted, err := q.insert(ctx, tx, s.Args, Insert{Unique: name, Priority: 1}, name, true)
		if err != nil || inserted {
			return err
		}
		_, err = tx.Exec(ctx, "UPDATE job SET state = 'available' WHERE id = $1 AND state IN ('retrying', 'scheduled')", id)
		return err
	})
	if err != nil {
		return ScheduleStatus{}, err
	}
	return q.status(ctx, name)
}

// Pause stops a schedule from firing, on all replicas, until Resume. Jobs that it has inserted run.
func (q *Queue) Pause(ctx context.Context, name string) (ScheduleStatus, error) {
	return q.setPaused(ctx, name, true)
}

// Resume lets a paused schedule fire again, from its next time on: what was missed is not made up for.
func (q *Queue) Resume(ctx context.Context, name string) (ScheduleStatus, error) {
	return q.setPaused(ctx, name, false)
}

func (q *Queue) setPaused(ctx context.Context, name string, paused bool) (ScheduleStatus, error) {
	s, err := q.known(name)
	if err != nil {
		return ScheduleStatus{}, err
	}
	now := q.now()
	err = q.db.Write(ctx, func(tx *store.Tx) error {
		// A schedule can be paused before a replica has run it.
		if _, err := tx.Exec(ctx, "INSERT INTO job_schedule (name, spec, next_at) VALUES ($1, $2, $3) ON CONFLICT (name) DO NOTHING",
			name, s.spec(), store.At(s.first(now))); err != nil {
			return err
		}
		n, err := tx.Exec(ctx, "UPDATE job_schedule SET paused = $2 WHERE name = $1 AND paused <> $2", name, paused)
		if err != nil || n == 0 || paused {
			return err
		}
		stored, err := q.rows(ctx, tx)
		row, ok := stored[name]
		if err != nil || !ok || row.next.After(now) {
			return err
		}
		_, err = tx.Exec(ctx, "UPDATE job_schedule SET next_at = $2 WHERE name = $1", name, store.At(s.after(row.next.Time, now)))
		return err
	})
	if err != nil {
		return ScheduleStatus{}, err
	}
	return q.status(ctx, name)
}
