package store

import (
	"context"
	"sync/atomic"
	"time"
)

// Pool says how busy the connections of a database are. Waits and Waited grow from the moment it was opened.
type Pool struct {
	Most   int           // connections that there may be
	Open   int           // connections that there are
	InUse  int           // of these, at work
	Waits  int64         // how often somebody had to wait for one
	Waited time.Duration // how long, in all
}

// Pool tells of the connections: on SQLite of the readers and the one writer together.
func (db *DB) Pool() Pool {
	s := db.reader.Stats()
	p := Pool{Most: s.MaxOpenConnections, Open: s.OpenConnections, InUse: s.InUse, Waits: s.WaitCount, Waited: s.WaitDuration}
	if db.gate != nil {
		w := db.writer.Stats()
		p.Most += w.MaxOpenConnections
		p.Open += w.OpenConnections
		p.InUse += w.InUse
		p.Waits += db.queued.waits.Load()
		p.Waited += time.Duration(db.queued.nanos.Load())
	}
	return p
}

// queued counts who waited for the writer of SQLite.
type queued struct{ waits, nanos atomic.Int64 }

// enter waits for the writer of SQLite, first in first out. The caller releases the gate.
func (db *DB) enter(ctx context.Context) error {
	if db.gate.TryAcquire(1) {
		return nil
	}
	start := time.Now()
	err := db.gate.Acquire(ctx, 1)
	db.queued.waits.Add(1)
	db.queued.nanos.Add(int64(time.Since(start)))
	return err
}
