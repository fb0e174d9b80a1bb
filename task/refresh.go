package task

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/job"
	"github.com/slipway-platform/slipway/provider"
	"github.com/slipway-platform/slipway/store"
)

// refreshArgs is the job that reads one source.
type refreshArgs struct {
	kind   string
	Source int64 `json:"source"`
}

func (a refreshArgs) Kind() string { return a.kind }

// dueArgs is the job that asks for all sources whose time has come.
type dueArgs struct{ kind string }

func (a dueArgs) Kind() string { return a.kind }

// How much is read. A look at the newest items goes on until it meets what is known; what it cannot reach in one run, and the history of a new source, is
// filled in by further runs, within bounds: those of the provider's History for what was before, maxMissed for what came since.
const (
	dueEvery        = 10 * time.Second
	refreshTimeout  = 2 * time.Minute
	pageLimit       = 100              // items asked for at once
	maxPages        = 10               // pages in one run
	maxMissed       = 10_000           // items that came since a source was last read and are still caught up with
	maxUnfinished   = 20               // unfinished items beyond the list that are asked for one by one
	refreshParallel = 8                // sources read at once by one replica
	parallelDetails = 4                // items of one source that are asked for at once
	callTimeout     = 30 * time.Second // of one request to the vendor
	maxBackOff      = 10 * time.Minute // between looks at a source that fails
	toldFor         = 24 * time.Hour   // how old history may be that is told of
)

// refreshDue claims sources whose time has come and inserts their jobs, in small transactions. Sources of providers that are not at work stay as they are.
func (x *Index[T]) refreshDue(ctx context.Context, _ dueArgs) error {
	for {
		n := 0
		err := x.engine.DB.Write(ctx, func(tx *store.Tx) error {
			due, err := x.due(ctx, tx)
			if err != nil {
				return err
			}
			n = len(due)
			slices.SortFunc(due, func(a, b dueSource) int { return cmp.Compare(a.id, b.id) }) // so that two replicas do not wait for each other
			for _, s := range due {
				o, _ := x.engine.opened(s.provider)
				moved, err := tx.Exec(ctx, `UPDATE task_source SET next_refresh = $1 WHERE id = $2 AND next_refresh <= $3`,
					store.At(x.engine.Now().Add(o.interval())), s.id, store.At(x.engine.Now()))
				if err != nil {
					return err
				}
				if moved == 0 {
					continue
				}
				if _, err := x.engine.insertRefresh(ctx, tx, x.task.Name, s.id, 0); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil || n < dueChunk {
			return err
		}
	}
}

const dueChunk = 100

type dueSource struct {
	id       int64
	provider string
}

func (x *Index[T]) due(ctx context.Context, q store.Querier) ([]dueSource, error) {
	args := []any{x.task.Name, store.At(x.engine.Now())}
	for _, o := range x.engine.Providers() {
		if o.Provider != nil && x.serves(o.Provider) {
			args = append(args, o.Name)
		}
	}
	if len(args) == 2 {
		return nil, nil
	}
	rows, err := q.QueryContext(ctx, `SELECT s.id, s.provider FROM task_source s WHERE s.task = $1 AND s.next_refresh <= $2
		AND s.provider IN (`+numbers(3, len(args)-2)+`) AND EXISTS (SELECT 1 FROM task_binding b WHERE b.source_id = s.id AND NOT b.detached)
		ORDER BY s.next_refresh LIMIT `+strconv.Itoa(dueChunk), args...)
	if err != nil {
		return nil, store.Err(err)
	}
	var list []dueSource
	return list, store.Each(rows, func(rows *sql.Rows) error {
		var s dueSource
		if err := rows.Scan(&s.id, &s.provider); err != nil {
			return err
		}
		list = append(list, s)
		return nil
	})
}

// look is one reading of a source: what it needs, and what it found out.
type look struct {
	lockedSource
	opened  Provider
	project string
	start   time.Time

	validator string
	fill      sql.NullString // the vendor's cursor where history is still to be read
	fillLeft  int64
	changed   int64            // when something was last new, in µs
	open      map[string]int64 // unfinished items that have not been seen yet, with their creation
	asked     map[string]bool  // items that a webhook named, which have not been seen yet
	answered  map[string]int64 // those of them when the look began, with how often they were named
	pages     int
	news      int  // items that were new or changed
	held      bool // the vendor was not asked, because of how it has answered others
}

// refresh reads one source. What goes wrong at the vendor is noted at the source and is no failure of the job: the next look comes later and later.
func (x *Index[T]) refresh(ctx context.Context, a refreshArgs) error {
	defer x.engine.tellRefreshed()
	l := look{start: x.engine.Now(), open: map[string]int64{}, asked: map[string]bool{}, answered: map[string]int64{}}
	var providerName, kind string
	err := store.Err(x.engine.DB.QueryRowContext(ctx, `SELECT id, provider, type, project, as_of IS NOT NULL, validator, fill_cursor, fill_left, changed FROM task_source WHERE id = $1`, a.Source).
		Scan(&l.id, &providerName, &kind, &l.project, &l.known, &l.validator, &l.fill, &l.fillLeft, &l.changed))
	if err != nil {
		return err
	}
	var ok bool
	if l.opened, ok = x.engine.opened(providerName); !ok || l.opened.Provider == nil || l.opened.Type != kind || !x.serves(l.opened.Provider) {
		return nil // the answer says so by itself, and what brings the provider back has the source read again
	}
	if err = x.engine.health.check(providerName, l.start); err != nil {
		l.held = true
	} else {
		err = x.look(ctx, &l)
		if errors.Is(ctx.Err(), context.Canceled) {
			return ctx.Err() // the replica stops; the vendor is not to blame
		}
		x.engine.health.report(providerName, x.engine.Now(), err)
	}
	return x.note(context.WithoutCancel(ctx), &l, err)
}

func (x *Index[T]) look(ctx context.Context, l *look) error {
	if err := x.unfinished(ctx, l); err != nil {
		return err
	}
	if err := x.named(ctx, l); err != nil {
		return err
	}
	if err := x.readNewest(ctx, l); err != nil {
		return err
	}
	if err := x.askFor(ctx, l); err != nil {
		return err
	}
	if l.news > 0 && l.known {
		l.changed = x.engine.Now().UnixMicro()
	}
	return x.readHistory(ctx, l)
}

// call asks the vendor something, for callTimeout at most.
func call[R any](ctx context.Context, ask func(context.Context) (R, error)) (R, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return ask(ctx)
}

func (x *Index[T]) unfinished(ctx context.Context, l *look) error {
	rows, err := x.engine.DB.QueryContext(ctx, `SELECT id, created FROM `+x.table+x.by("unfinished")+` WHERE source_id = $1 AND NOT finished ORDER BY created DESC LIMIT 200`, l.id)
	if err != nil {
		return store.Err(err)
	}
	return store.Each(rows, func(rows *sql.Rows) error {
		var id string
		var created int64
		err := rows.Scan(&id, &created)
		l.open[id] = created
		return err
	})
}

// named reads which items webhooks have named.
func (x *Index[T]) named(ctx context.Context, l *look) error {
	rows, err := x.engine.DB.QueryContext(ctx, `SELECT id, n FROM task_asked WHERE source_id = $1 ORDER BY id LIMIT $2`, l.id, maxUnfinished)
	if err != nil {
		return store.Err(err)
	}
	return store.Each(rows, func(rows *sql.Rows) error {
		var id string
		var n int64
		err := rows.Scan(&id, &n)
		l.asked[id], l.answered[id] = true, n
		return err
	})
}

// answer forgets what webhooks have named and the look has seen, unless it was named again. It says whether more was named than was asked for.
func (x *Index[T]) answer(ctx context.Context, tx *store.Tx, l *look) (more bool, err error) {
	for id, n := range l.answered {
		if l.asked[id] {
			continue
		}
		if _, err := tx.Exec(ctx, `DELETE FROM task_asked WHERE source_id = $1 AND id = $2 AND n = $3`, l.id, id, n); err != nil {
			return false, err
		}
	}
	if len(l.answered) < maxUnfinished {
		return false, nil
	}
	err = tx.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM task_asked WHERE source_id = $1)`, l.id).Scan(&more)
	return more, store.Err(err)
}

// keepOlder forgets unfinished items that stand on the first page, which has not changed. What stands behind it may have.
func (x *Index[T]) keepOlder(ctx context.Context, l *look) error {
	if len(l.open) == 0 {
		return nil
	}
	var edge int64
	err := store.Err(x.engine.DB.QueryRowContext(ctx, `SELECT created FROM `+x.table+` WHERE source_id = $1 ORDER BY created DESC, id DESC LIMIT 1 OFFSET $2`, l.id, pageLimit-1).Scan(&edge))
	if errors.Is(err, slipway.NotFound) {
		clear(l.open)
		return nil
	}
	maps.DeleteFunc(l.open, func(_ string, created int64) bool { return created >= edge })
	return err
}

// readNewest reads from the newest item back to what is known: to an item that was finished already. Where it does not get so far, the rest is left to
// readHistory of later runs.
func (x *Index[T]) readNewest(ctx context.Context, l *look) error {
	list := x.task.List(l.opened.Provider)
	o := provider.ListOptions{Limit: pageLimit, Validator: l.validator}
	seen := int64(0)
	for {
		page, err := call(ctx, func(ctx context.Context) (provider.Page[T], error) { return list(ctx, l.project, o) })
		if err != nil {
			if seen > 0 {
				l.leave(o.Cursor, seen)
			}
			return err
		}
		l.pages++
		if page.NotModified {
			return x.keepOlder(ctx, l)
		}
		if o.Cursor == "" {
			l.validator = page.Validator
		}
		known, err := x.store(ctx, l, page, l.known)
		if err != nil {
			if !known.some && l.known {
				l.leave(o.Cursor, seen)
			}
			return err
		}
		seen += int64(len(page.Items))
		if known.some && l.known || page.Next == "" || page.Next == o.Cursor {
			return nil // what a webhook told of a source that was never read says nothing of what is older
		}
		o = provider.ListOptions{Limit: pageLimit, Cursor: page.Next}
		if l.pages >= maxPages || !l.known && seen > 0 {
			l.leave(page.Next, seen) // a new source shows its first page at once; all that is older is history
			return nil
		}
	}
}

// leave leaves what stands at a cursor and behind it, after so many items that were seen, to readHistory: the next look will meet what was stored before them, and
// stop there.
func (l *look) leave(cursor string, seen int64) {
	left, _ := l.opened.History.bounds()
	if left -= seen; l.known {
		left = maxMissed // readHistory meets what is known
	}
	l.fill, l.fillLeft = sql.NullString{String: cursor, Valid: true}, left
}

// readHistory goes on where the reading of older items stopped. While one page is written the vendor is asked for the next. Of a source that was read before it stops
// at a page that holds nothing unknown.
func (x *Index[T]) readHistory(ctx context.Context, l *look) error {
	type answer struct {
		page provider.Page[T]
		err  error
	}
	ctx, cancel := context.WithCancel(ctx)
	var coming chan answer
	defer func() {
		if cancel(); coming != nil {
			<-coming
		}
	}()
	list := x.task.List(l.opened.Provider)
	ask := func(cursor string, left int64) {
		coming = make(chan answer, 1)
		go func(to chan<- answer) {
			o := provider.ListOptions{Limit: int(min(pageLimit, left)), Cursor: cursor}
			page, err := call(ctx, func(ctx context.Context) (provider.Page[T], error) { return list(ctx, l.project, o) })
			to <- answer{page, err}
		}(coming)
	}
	_, age := l.opened.History.bounds()
	for l.fill.Valid && l.pages < maxPages {
		if l.fillLeft <= 0 {
			l.fill = sql.NullString{}
			return nil
		}
		if coming == nil {
			ask(l.fill.String, l.fillLeft)
		}
		got := <-coming
		coming = nil
		if errors.Is(got.err, slipway.Invalid) {
			l.fill = sql.NullString{} // the vendor's cursor has expired; what is missing is old
			return nil
		}
		if got.err != nil {
			return got.err
		}
		l.pages++
		left := l.fillLeft - int64(max(len(got.page.Items), 1))
		next := sql.NullString{String: got.page.Next, Valid: got.page.Next != "" && got.page.Next != l.fill.String}
		if n := len(got.page.Items); n > 0 && x.task.Row(&got.page.Items[n-1]).Created.Before(l.start.Add(-age)) {
			next = sql.NullString{}
		}
		if next.Valid && left > 0 && l.pages < maxPages {
			ask(next.String, left)
		}
		known, err := x.store(ctx, l, got.page, l.known && x.recent(got.page, l.start))
		if err != nil {
			return err
		}
		if l.known && known.all && l.fill.String != "" { // the first page has just been written by readNewest
			next = sql.NullString{}
		}
		l.fill, l.fillLeft = next, left
	}
	return nil
}

// recent says whether a page of history holds what others should still be told of: what a look that failed has missed, rather than what was before the project was known.
func (x *Index[T]) recent(page provider.Page[T], now time.Time) bool {
	return len(page.Items) > 0 && x.task.Row(&page.Items[0]).Created.After(now.Add(-toldFor))
}

// askFor asks one by one for items that webhooks have named, and for unfinished ones, as far as the list did not show them.
func (x *Index[T]) askFor(ctx context.Context, l *look) error {
	if x.task.Get == nil {
		return nil
	}
	get := x.task.Get(l.opened.Provider)
	if get == nil {
		return nil
	}
	maps.DeleteFunc(l.open, func(id string, _ int64) bool { return l.asked[id] })
	ids := slices.AppendSeq(slices.Sorted(maps.Keys(l.asked)), maps.Keys(l.open))
	for _, id := range ids[:min(len(ids), maxUnfinished)] {
		item, err := call(ctx, func(ctx context.Context) (T, error) { return get(ctx, l.project, id) })
		switch code := slipway.CodeOf(err); {
		case err == nil:
			_, err = x.store(ctx, l, provider.Page[T]{Items: []T{item}}, l.known)
		case errors.Is(err, provider.Replaced):
			err = x.drop(ctx, l, id)
		case code == slipway.NotFound:
			err = x.forget(ctx, l, id)
		case l.asked[id] && (code == slipway.Invalid || code == slipway.Forbidden || code == slipway.Unsupported):
			x.engine.Log.WarnContext(ctx, "what a webhook named cannot be read", "task", x.task.Name, "provider", l.opened.Name, "project", l.project, "id", clip(id), "error", err)
			err = nil
		}
		if err != nil {
			return err
		}
		delete(l.asked, id)
	}
	return nil
}

// forget keeps an item that the vendor no longer has as what Gone makes of it, so that nobody asks for it for ever.
func (x *Index[T]) forget(ctx context.Context, l *look, id string) error {
	if x.task.Gone == nil {
		return nil
	}
	return x.engine.DB.Write(ctx, func(tx *store.Tx) error {
		s, err := x.lockSource(ctx, tx, l.opened, l.project)
		if err != nil || s.id == 0 {
			return err
		}
		var doc []byte
		err = store.Err(tx.QueryRowContext(ctx, `SELECT doc FROM `+x.table+` WHERE source_id = $1 AND id = $2 AND NOT finished`, l.id, id).Scan(&doc))
		if errors.Is(err, slipway.NotFound) {
			return nil // how it ended is known, or nothing at all
		}
		if err != nil {
			return err
		}
		var item T
		if err := json.Unmarshal(doc, &item); err != nil {
			return err
		}
		x.task.Gone(&item)
		if doc, err = document(item); err != nil {
			return err
		}
		row := x.task.Row(&item)
		_, err = tx.Exec(ctx, `UPDATE `+x.table+` SET status = $3, finished = TRUE, doc = $4 WHERE source_id = $1 AND id = $2`, l.id, id, row.Status, string(doc))
		return err
	})
}

// drop deletes an item in whose place there are others now.
func (x *Index[T]) drop(ctx context.Context, l *look, id string) error {
	return x.engine.DB.Write(ctx, func(tx *store.Tx) error {
		_, err := tx.Exec(ctx, `DELETE FROM `+x.table+` WHERE source_id = $1 AND id = $2 AND NOT finished`, l.id, id)
		return err
	})
}

// known says what of a page the index had before the page was read.
type known struct {
	some bool // one of its items, and that it was finished
	all  bool // all of its items, one at least
}

// store writes items of one page in small transactions, and tells of them.
func (x *Index[T]) store(ctx context.Context, l *look, page provider.Page[T], tell bool) (k known, err error) {
	page.Items = slices.DeleteFunc(slices.Clone(page.Items), func(item T) bool {
		id := x.task.Row(&item).ID
		if !storable(id) {
			x.engine.Log.WarnContext(ctx, "an item without a proper id was left out", "task", x.task.Name, "provider", l.opened.Name, "id", clip(id))
		}
		return !storable(id)
	})
	if len(page.Items) == 0 {
		return k, nil
	}
	k.all = true
	for chunk := range slices.Chunk(page.Items, observeChunk) {
		var rows []*written[T]
		for i := range chunk {
			w := &written[T]{Row: x.task.Row(&chunk[i])}
			rows = append(rows, w)
			delete(l.open, w.ID)
			delete(l.asked, w.ID)
		}
		// Most looks find nothing new: that is seen without a write transaction.
		before, err := x.storedItems(ctx, x.engine.DB, l.id, rows)
		if err != nil {
			return k, err
		}
		news := chunk[:0:0]
		for i, w := range rows {
			b := before[w.ID]
			k.all = k.all && b != nil
			if b != nil && b.finished {
				k.some = true
				if b.version >= w.Version && w.Finished {
					continue
				}
			}
			if b != nil && page.Complete != nil && b.version >= w.Version {
				continue
			}
			news = append(news, chunk[i])
		}
		news, incomplete := x.complete(ctx, page.Complete, news)
		if len(news) == 0 {
			if incomplete != nil {
				return k, incomplete
			}
			continue
		}
		size, err := x.perTransaction(ctx, l, tell, news)
		if err != nil {
			return k, err
		}
		for part := range slices.Chunk(news, size) {
			n := 0
			err := x.engine.DB.Write(ctx, func(tx *store.Tx) error {
				s, err := x.lockSource(ctx, tx, l.opened, l.project)
				if err != nil || s.id == 0 {
					return err // unbound while it was read
				}
				n, err = x.write(ctx, tx, s, l.opened, part, tell)
				return err
			})
			l.news += n
			if err != nil {
				return k, err
			}
		}
		if incomplete != nil {
			return k, incomplete
		}
	}
	return k, nil
}

// complete asks for what a list did not show of items, a few at once, and leaves out what is gone. What was completed before an error is given with it: it need not be
// asked for again.
func (x *Index[T]) complete(ctx context.Context, ask func(context.Context, T) (T, error), items []T) ([]T, error) {
	if ask == nil || len(items) == 0 {
		return items, nil
	}
	done := make([]bool, len(items))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(parallelDetails)
	for i := range items {
		g.Go(func() error {
			item, err := call(ctx, func(ctx context.Context) (T, error) { return ask(ctx, items[i]) })
			if errors.Is(err, slipway.NotFound) {
				return nil
			}
			items[i], done[i] = item, err == nil
			return err
		})
	}
	err := g.Wait()
	var whole []T
	for i, item := range items {
		if done[i] {
			whole = append(whole, item)
		}
	}
	return whole, err
}

// perTransaction is how many items keep a transaction below 500 rows: each has its own row, new terms and aliases, and events where they are told. Most items of a project have
// nothing that others had not before; where that is so, they are all written together.
func (x *Index[T]) perTransaction(ctx context.Context, l *look, tell bool, items []T) (int, error) {
	own := 1
	if tell && x.task.Events != nil {
		var entities int
		err := x.engine.DB.QueryRowContext(ctx, `SELECT COUNT(*) FROM (SELECT 1 FROM task_binding WHERE source_id = $1 LIMIT $2) AS b`, l.id, maxTold).Scan(&entities)
		if err != nil {
			return 0, store.Err(err)
		}
		own += entities * max(x.task.MaxEvents, 1)
	}
	fresh, err := x.freshTerms(ctx, l.id, items)
	if err != nil {
		return 0, err
	}
	if len(items)*own+fresh <= transactionRows {
		return observeChunk, nil
	}
	return min(max(transactionRows/(own+4*len(x.task.Fields)), 1), observeChunk), nil
}

const transactionRows = 400 // the source's own, and what is not foreseen, have room below 500

// freshTerms is how many terms and aliases items bring with them. Who a person is in the catalog is known only later: that may be one more alias for each.
func (x *Index[T]) freshTerms(ctx context.Context, source int64, items []T) (fresh int, err error) {
	all := make([]*T, len(items))
	for i := range items {
		all[i] = &items[i]
	}
	ids, aliases, known, err := x.spelled(ctx, x.engine.DB, source, all)
	for t, id := range ids {
		if id == 0 {
			fresh++
		}
		for a := range aliases[t] {
			if id == 0 || !known[a][id] {
				fresh++
			}
		}
		if slices.ContainsFunc(x.task.Fields, func(f Field[T]) bool { return f.Name == t.field && f.Person }) {
			fresh++
		}
	}
	return fresh, err
}

// note writes down how a look ended and when the next one comes.
func (x *Index[T]) note(ctx context.Context, l *look, cause error) error {
	now := x.engine.Now()
	interval := l.opened.interval()
	busy, err := x.busy(ctx, l.id, now)
	if err != nil {
		return err
	}
	return x.engine.DB.Write(ctx, func(tx *store.Tx) error {
		if cause == nil {
			every := l.opened.every(busy, now.Sub(time.UnixMicro(l.changed)), now)
			next := now.Add(jitter(every))
			more, err := x.answer(ctx, tx, l)
			if err != nil {
				return err
			}
			if l.fill.Valid || more { // more history waits: the job runs again, behind what others have in front of it
				if _, err := x.engine.insertRefresh(ctx, tx, x.task.Name, l.id, 0); err != nil {
					return err
				}
			}
			_, err = tx.Exec(ctx, `UPDATE task_source SET as_of = $2, validator = $3, fill_cursor = $4, fill_left = $5, next_refresh = $6, every = $7,
				changed = CASE WHEN changed < $8 THEN $8 ELSE changed END,
				failures = 0, error = '', looks = looks + 1 WHERE id = $1`,
				l.id, store.At(l.start), l.validator, l.fill, l.fillLeft, store.At(next), every.Microseconds(), l.changed)
			return err
		}
		var failures int64
		if err := tx.QueryRowContext(ctx, `SELECT failures FROM task_source WHERE id = $1`, l.id).Scan(&failures); err != nil {
			return store.Err(err)
		}
		failures++
		wait := min(interval<<min(failures, 10), max(maxBackOff, interval))
		wait = jitter(wait)
		if e, ok := errors.AsType[*slipway.Error](cause); ok && e.RetryAfter > 0 && !l.held {
			wait = max(e.RetryAfter+rand.N(e.RetryAfter/10+1), min(wait, interval)) // never before, and not all at once
		}
		x.engine.Log.WarnContext(ctx, "a source was not read", "task", x.task.Name, "provider", l.opened.Name, "project", l.project, "failures", failures, "error", cause)
		_, err := tx.Exec(ctx, `UPDATE task_source SET failures = $2, error = $3, next_refresh = $4, fill_cursor = $5, fill_left = $6, looks = looks + 1 WHERE id = $1`,
			l.id, failures, sentence(cause), store.At(now.Add(wait)), l.fill, l.fillLeft)
		return err
	})
}

// How often a source is read follows from what happens in it: four times as often as its provider's interval says while something runs in it or somebody looks at it,
// and up to four times as seldom once nothing has been new for a while, or when the vendor's limit is nearly used up.
const (
	paceFactor = 4
	leastPace  = 10 * time.Second
	quietShare = 10             // a source that was quiet for an hour is read every sixth minute, within the bounds
	busyFor    = 24 * time.Hour // what runs longer waits for somebody, and is looked at as all else
	scarce     = 5              // the fifth of a limit that is left for people
)

func (o Provider) often() time.Duration {
	interval := o.interval()
	return min(interval, max(interval/paceFactor, leastPace))
}

func (o Provider) every(busy bool, quiet time.Duration, now time.Time) time.Duration {
	interval := o.interval()
	switch {
	case o.nearLimit(now):
		return paceFactor * interval
	case busy:
		return o.often()
	}
	return min(max(quiet/quietShare, interval), paceFactor*interval)
}

// nearLimit says whether the vendor takes little more from the provider before its limit is reset.
func (o Provider) nearLimit(now time.Time) bool {
	if o.Provider == nil || o.Provider.Limits == nil {
		return false
	}
	return slices.ContainsFunc(o.Provider.Limits(), func(l provider.Limit) bool {
		return l.Total > 0 && l.Remaining < l.Total/scarce && l.Reset.After(now)
	})
}

// busy says whether something runs in a source.
func (x *Index[T]) busy(ctx context.Context, source int64, now time.Time) (busy bool, err error) {
	err = x.engine.DB.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM `+x.table+x.by("unfinished")+` WHERE source_id = $1 AND NOT finished AND created > $2)`,
		source, store.At(now.Add(-busyFor))).Scan(&busy)
	return busy, store.Err(err)
}

// jitter keeps many sources from being read at the same moment.
func jitter(d time.Duration) time.Duration { return d - d/10 + rand.N(d/5+1) }

// sentence is what people are told of a failure: never a cause, which may hold what is secret.
func sentence(err error) string {
	if e, ok := errors.AsType[*slipway.Error](err); ok {
		return clip(e.Message)
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return "the provider did not answer in time"
	}
	return "the provider failed; the log says how"
}

var _, _, _ job.Args = refreshArgs{}, dueArgs{}, bindArgs{}
