package job

import (
	"context"
	"encoding/json"
	"time"

	"github.com/slipway-platform/slipway/store"
)

// channel is where replicas tell each other what to look at. What is lost there, polls and heartbeats find.
const channel = "slipway_job"

// news is what a queue tells the queues of other replicas.
type news struct {
	From   string          `json:"from"`
	Kinds  map[string]bool `json:"kinds,omitempty"`  // may wait
	Cancel map[int64]bool  `json:"cancel,omitempty"` // running jobs to cancel
}

// maxNews keeps a message below PostgreSQL's 8,000 bytes.
const maxNews = 50

// wake has workers look for jobs of the kinds, here at once, and there with the next message. Jobs that are to begin later are
// looked for in time here; elsewhere the poll finds them.
func (q *Queue) wake(wait time.Duration, kinds ...string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	r := q.runner
	if wait > 0 {
		if r != nil {
			r.lookIn(wait)
		}
		return
	}
	if r != nil {
		r.heat(kinds...)
	}
	for _, kind := range kinds {
		if q.news.Kinds == nil {
			q.news.Kinds = map[string]bool{}
		}
		if len(q.news.Kinds) < maxNews {
			q.news.Kinds[kind] = true
		}
	}
	q.tell()
}

// cancel cancels the context of a running job, wherever it runs.
func (q *Queue) cancel(id int64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.runner != nil {
		q.runner.cancel(id)
	}
	if q.news.Cancel == nil {
		q.news.Cancel = map[int64]bool{}
	}
	if len(q.news.Cancel) < maxNews {
		q.news.Cancel[id] = true
	}
	q.tell()
}

// tell starts a sender unless one is at it. What comes up while it sends goes together into its next message.
// q.mu is held.
func (q *Queue) tell() {
	if q.db.Engine() == store.SQLite { // one process
		q.news = news{}
		return
	}
	if !q.sender {
		q.sender = true
		go q.send()
	}
}

// send notifies outside of any other transaction: in a business transaction NOTIFY would make all commits wait for each other.
func (q *Queue) send() {
	for {
		q.mu.Lock()
		if len(q.news.Kinds)+len(q.news.Cancel) == 0 {
			q.sender = false
			q.mu.Unlock()
			return
		}
		message := q.news
		q.news = news{}
		q.mu.Unlock()

		message.From = q.token
		text, _ := json.Marshal(message) // maps of plain keys
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		// Nothing is lost with the message, so its commit need not wait for the disk.
		_, err := q.db.Writer().ExecContext(ctx, "SELECT set_config('synchronous_commit', 'off', true), pg_notify($1, $2)", channel, string(text))
		cancel()
		if err != nil {
			q.log.Debug("other replicas could not be woken; they poll", "error", err)
		}
	}
}

// listen hears the news of other replicas on a connection of its own, and connects again when it breaks.
func (r *runner) listen(ctx context.Context) {
	if r.q.db.Engine() == store.SQLite {
		return
	}
	for pause := time.Second; ctx.Err() == nil; pause = min(2*pause, 30*time.Second) {
		start := time.Now()
		err := r.hear(ctx)
		if ctx.Err() != nil {
			return
		}
		if time.Since(start) > time.Minute {
			pause = time.Second
		}
		r.q.log.DebugContext(ctx, "no news of other replicas until connected again; jobs are found by polling", "error", err, "in", pause)
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

func (r *runner) hear(ctx context.Context) error {
	conn, err := r.q.db.Dial(ctx)
	if err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = conn.Close(ctx)
	}()
	if _, err := conn.Exec(ctx, "LISTEN "+channel); err != nil {
		return err
	}
	r.heat() // what was told before
	for {
		// A connection whose other end vanished says nothing for ever; so it is asked now and then.
		wait, cancel := context.WithTimeout(ctx, 30*time.Second)
		n, err := conn.WaitForNotification(wait)
		cancel()
		if err != nil {
			if ctx.Err() != nil || conn.IsClosed() {
				return err
			}
			ping, cancel := context.WithTimeout(ctx, 5*time.Second)
			err := conn.Ping(ping)
			cancel()
			if err != nil {
				return err
			}
			continue
		}
		var message news
		if json.Unmarshal([]byte(n.Payload), &message) != nil || message.From == r.q.token {
			continue
		}
		for id := range message.Cancel {
			r.cancel(id)
		}
		for kind := range message.Kinds {
			r.heat(kind)
		}
	}
}
