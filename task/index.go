package task

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/entity"
	"github.com/slipway-platform/slipway/event"
	"github.com/slipway-platform/slipway/job"
	"github.com/slipway-platform/slipway/provider"
	"github.com/slipway-platform/slipway/store"
)

// Index is one task's items: written by looks at vendors, by webhooks and by Observe, read by Search, SearchAll and Get. Safe for concurrent use.
type Index[T any] struct {
	engine *Engine
	task   Task[T]
	table  string
	fields []string // their names
}

// New makes the index of a task, which from then on takes part in what the engine does. A task that is declared wrongly, or twice, is a
// fault of the program: New panics.
func New[T any](e *Engine, t Task[T]) *Index[T] {
	if t.Name == "" || t.Row == nil || t.Adorn == nil || t.List == nil {
		panic(fmt.Sprintf("task %q: Name, Row, Adorn and List are required", t.Name))
	}
	x := &Index[T]{engine: e, task: t, table: t.Name + "_item"}
	for _, f := range t.Fields {
		x.fields = append(x.fields, f.Name)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if _, twice := e.tasks[t.Name]; twice {
		panic(fmt.Sprintf("task %q is there already", t.Name))
	}
	e.tasks[t.Name] = x
	x.join()
	return x
}

// Observe writes items that are known from elsewhere than a look at the vendor, in the caller's transaction: a provider that is part of Slipway shows its own
// items so, at once. Items of a project that no entity is bound to are not kept, nor is anything when no task with items of type T is enabled. At most 100 items.
func Observe[T any](ctx context.Context, e *Engine, tx *store.Tx, providerName, project string, items ...T) error {
	for _, t := range e.registered() {
		if x, ok := t.(*Index[T]); ok {
			o, ok := e.opened(providerName)
			if !ok {
				continue
			}
			if _, err := x.observe(ctx, tx, o, project, items); err != nil {
				return err
			}
		}
	}
	return nil
}

// Permission is what a caller must hold on an entity to see its items.
func (x *Index[T]) Permission() string { return x.task.Permission }

func (x *Index[T]) info() Info                       { return x.task.Info() }
func (x *Index[T]) serves(p *provider.Provider) bool { return x.task.List(p) != nil }

func (x *Index[T]) can(p *provider.Provider) []string {
	actions := []string{}
	if x.task.Can != nil {
		actions = append(actions, x.task.Can(p)...)
	}
	return actions
}

// join adds the task's jobs, its schedule and its subscription to what the engine works with.
func (x *Index[T]) join() {
	name := x.task.Name
	refresh := job.Work(x.refresh)
	refresh.Kind, refresh.Text, refresh.Timeout = name+".refresh", "Reads what is new in one project at one provider.", refreshTimeout
	refresh.Parallel = refreshParallel
	due := job.Work(x.refreshDue)
	due.Kind, due.Text = name+".refresh_due", "Asks for the projects whose time to be read has come."
	bind := job.Work(x.bindAll)
	bind.Kind, bind.Text, bind.Timeout = name+".bind", "Finds out anew which projects belong to which entities.", 10*time.Minute
	x.engine.Jobs.Add(refresh, due, bind)
	x.engine.Jobs.AddSchedule(job.Schedule{
		Name: name + ".refresh", Text: "Keeps the index of the task " + name + " fresh.", Every: dueEvery, Args: dueArgs{kind: due.Kind},
	})
	x.engine.Events.Subscribe(event.Subscription{
		Name: name + ".bind", Types: entity.Events, Handle: x.follow, Ahead: x.ahead,
		Backlog: true, // what changed between the first binding of all and the first look at events must not be missed
	})
}

func (x *Index[T]) deliver(ctx context.Context, o Provider, deliveries []provider.Delivery) (int, error) {
	items := map[string][]T{}
	again := map[string][]string{} // projects to be read again, with what is asked for in them
	for _, d := range deliveries {
		var item *T
		if x.task.Of != nil && d.Task == "" {
			item = x.task.Of(d)
		}
		switch {
		case item != nil:
			items[d.Project] = append(items[d.Project], *item)
		case d.Task == x.task.Name, d.Task == "" && x.task.Of != nil:
			again[d.Project] = append(again[d.Project], d.BuildID)
		}
	}
	n := 0
	for project, all := range items {
		for chunk := range slices.Chunk(all, max(4/max(x.task.MaxEvents, 1), 1)) { // each may be told to maxTold entities
			var written int
			err := x.engine.DB.Write(ctx, func(tx *store.Tx) (err error) {
				written, err = x.observe(ctx, tx, o, project, chunk)
				return err
			})
			if err != nil {
				return n, err
			}
			n += written
		}
	}
	for project, ids := range again {
		err := x.engine.DB.Write(ctx, func(tx *store.Tx) error {
			s, err := x.stirSource(ctx, tx, o, project)
			if err != nil || s.id == 0 {
				return err
			}
			if err := x.askLater(ctx, tx, s.id, ids); err != nil {
				return err
			}
			_, err = x.engine.insertRefresh(ctx, tx, x.task.Name, s.id, 1)
			return err
		})
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// askLater has items asked for by the next look at a source, at most observeChunk at once.
func (x *Index[T]) askLater(ctx context.Context, tx *store.Tx, source int64, ids []string) error {
	for _, id := range ids[:min(len(ids), observeChunk)] {
		if !storable(id) || x.task.Get == nil {
			continue
		}
		if _, err := tx.Exec(ctx, `INSERT INTO task_asked (source_id, id, n) VALUES ($1, $2, 1) ON CONFLICT (source_id, id) DO UPDATE SET n = task_asked.n + 1`, source, id); err != nil {
			return err
		}
	}
	return nil
}

// Observe is the function Observe for an index at hand. It returns how many items were new or changed.
func (x *Index[T]) Observe(ctx context.Context, tx *store.Tx, providerName, project string, items ...T) (int, error) {
	o, ok := x.engine.opened(providerName)
	if !ok {
		return 0, nil
	}
	return x.observe(ctx, tx, o, project, items)
}

func (x *Index[T]) observe(ctx context.Context, tx *store.Tx, o Provider, project string, items []T) (int, error) {
	s, err := x.stirSource(ctx, tx, o, project)
	if err != nil || s.id == 0 {
		return 0, err
	}
	return x.write(ctx, tx, s, o, items, true)
}

// lockedSource is a source whose items nobody else can write until the transaction ends.
type lockedSource struct {
	id      int64
	project string
	known   bool // it was read before
}

// lockSource finds a source, and by an update keeps other writers of its items waiting on PostgreSQL, so that what is compared is what is
// replaced. The id is 0 when there is no such source or no entity is bound to it.
func (x *Index[T]) lockSource(ctx context.Context, tx *store.Tx, o Provider, project string) (lockedSource, error) {
	return x.lock(ctx, tx, o, project, 0, math.MaxInt64)
}

// stirSource is lockSource where something happens of which others told. It is looked at within the interval, should the next webhook be lost; a source that
// fails waits as long as it must.
func (x *Index[T]) stirSource(ctx context.Context, tx *store.Tx, o Provider, project string) (lockedSource, error) {
	now := x.engine.Now()
	return x.lock(ctx, tx, o, project, now.UnixMicro(), now.Add(o.interval()).UnixMicro())
}

func (x *Index[T]) lock(ctx context.Context, tx *store.Tx, o Provider, project string, changed, next int64) (s lockedSource, err error) {
	err = store.Err(tx.QueryRowContext(ctx, `UPDATE task_source SET writes = writes + 1, changed = CASE WHEN changed < $4 THEN $4 ELSE changed END,
		next_refresh = CASE WHEN failures = 0 AND next_refresh > $5 THEN $5 ELSE next_refresh END WHERE task = $1 AND provider = $2 AND project = $3
		AND EXISTS (SELECT 1 FROM task_binding b WHERE b.source_id = task_source.id) RETURNING id, as_of IS NOT NULL`,
		x.task.Name, o.Name, project, changed, next).Scan(&s.id, &s.known))
	if slipway.CodeOf(err) == slipway.NotFound {
		err = nil
	}
	s.project = project
	return s, err
}

const (
	observeChunk = 100 // items in one transaction
	maxID        = 512 // bytes of a vendor's id or project; what has a longer one is left out
	maxAliases   = 8   // ways to write one value
	maxTold      = 100 // entities that are told of one item
	maxEarlier   = 20  // items that Task.Earlier gives
)

// stored is an item as the index has it.
type stored struct {
	created  int64
	version  int64
	finished bool
	doc      []byte
}

// written is an item on its way into the index.
type written[T any] struct {
	Row
	item   T
	doc    []byte
	terms  []*int64
	before *stored
}

// write puts items into the index where they are new or newer than what is there, and sends the events. The source is locked.
// tell: each change sends events; else there is one of all.
func (x *Index[T]) write(ctx context.Context, tx *store.Tx, s lockedSource, o Provider, items []T, tell bool) (int, error) {
	if len(items) > observeChunk {
		return 0, fmt.Errorf("task %s: %d items in one transaction, at most %d", x.task.Name, len(items), observeChunk)
	}
	latest := map[string]*written[T]{}
	var order []*written[T]
	for _, item := range items {
		w := &written[T]{Row: x.task.Row(&item), item: item}
		if !storable(w.ID) || w.Created.IsZero() {
			x.engine.Log.WarnContext(ctx, "an item without a proper id or creation was left out", "task", x.task.Name, "provider", o.Name, "id", clip(w.ID))
			continue
		}
		if other := latest[w.ID]; other != nil {
			if w.Version >= other.Version {
				*other = *w
			}
			continue
		}
		latest[w.ID] = w
		order = append(order, w)
	}
	if len(order) == 0 {
		return 0, nil
	}
	before, err := x.storedItems(ctx, tx, s.id, order)
	if err != nil {
		return 0, err
	}
	person, err := x.people(ctx, tx, o.Name, order)
	if err != nil {
		return 0, err
	}
	var changed []*written[T]
	for _, w := range order {
		w.before = before[w.ID]
		if w.before != nil && w.Version < w.before.version {
			continue
		}
		adorned := w.item
		x.task.Adorn(&adorned, o.ref(), person)
		if w.doc, err = document(adorned); err != nil {
			return 0, err
		}
		if w.before != nil && w.Version == w.before.version && bytes.Equal(w.doc, w.before.doc) {
			continue
		}
		w.item = adorned
		changed = append(changed, w)
	}
	if len(changed) == 0 {
		return 0, nil
	}
	if err := x.intern(ctx, tx, s.id, changed); err != nil {
		return 0, err
	}
	if err := x.put(ctx, tx, s.id, changed); err != nil {
		return 0, err
	}
	if tell {
		return len(changed), x.tell(ctx, tx, s.id, changed)
	}
	oldest, newest := int64(math.MaxInt64), int64(math.MinInt64)
	for _, w := range changed {
		at := store.At(w.Created).UnixMicro()
		if w.before != nil {
			at = w.before.created
		}
		oldest, newest = min(oldest, at), max(newest, at)
	}
	from, until := time.UnixMicro(oldest).UTC(), time.UnixMicro(newest).UTC()
	return len(changed), x.tellHistory(ctx, tx, s.id, Stretch{Provider: o.Name, Project: s.project, From: &from, Until: &until})
}

func (x *Index[T]) storedItems(ctx context.Context, q store.Querier, source int64, items []*written[T]) (map[string]*stored, error) {
	args := []any{source}
	for _, w := range items {
		args = append(args, w.ID)
	}
	rows, err := q.QueryContext(ctx, `SELECT id, created, version, finished, doc FROM `+x.table+x.by("id")+`
		WHERE source_id = $1 AND id IN (`+numbers(2, len(items))+`)`, args...)
	if err != nil {
		return nil, store.Err(err)
	}
	found := map[string]*stored{}
	return found, store.Each(rows, func(rows *sql.Rows) error {
		var id string
		var s stored
		if err := rows.Scan(&id, &s.created, &s.version, &s.finished, &s.doc); err != nil {
			return err
		}
		found[id] = &s
		return nil
	})
}

// people gives the function that fills in which user of the catalog a person is, and the user's name where the vendor gives none. The address stays the vendor's: to
// see items is not to see what the catalog knows of people.
func (x *Index[T]) people(ctx context.Context, q store.Querier, providerName string, items []*written[T]) (func(*slipway.Person), error) {
	var names []string
	for _, w := range items {
		for _, f := range x.task.Fields {
			if f.Person {
				names = append(names, f.ways(&w.item)...)
			}
		}
	}
	slices.Sort(names)
	names = slices.Compact(names)
	refs := map[string]string{}
	for chunk := range slices.Chunk(names, 200) {
		args := []any{providerName}
		for _, n := range chunk {
			args = append(args, n)
		}
		rows, err := q.QueryContext(ctx, `SELECT account, entity_ref FROM task_account
			WHERE account IN (`+numbers(2, len(chunk))+`) AND provider IN ('', $1) ORDER BY provider, entity_ref`, args...)
		if err != nil {
			return nil, store.Err(err)
		}
		err = store.Each(rows, func(rows *sql.Rows) error {
			var account, ref string
			if err := rows.Scan(&account, &ref); err != nil {
				return err
			}
			refs[account] = ref // a login at this provider comes after, and beats, an address
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	displayed, err := displayNames(ctx, q, refs)
	return func(p *slipway.Person) {
		if p == nil {
			return
		}
		for _, name := range []string{p.ID, p.Email} {
			if p.EntityRef == "" && name != "" {
				p.EntityRef = refs[strings.ToLower(name)]
			}
		}
		if p.Name == "" {
			p.Name = displayed[p.EntityRef]
		}
	}, err
}

// displayNames are the names of users, by ref.
func displayNames(ctx context.Context, q store.Querier, users map[string]string) (map[string]string, error) {
	names := map[string]string{}
	for chunk := range slices.Chunk(slices.Compact(slices.Sorted(maps.Values(users))), 200) {
		found, err := readEntities(ctx, q, `ref IN (`+numbers(1, len(chunk))+`)`, anys(chunk)...)
		if err != nil {
			return nil, err
		}
		for _, user := range found {
			if profile, ok := user.Spec["profile"].(map[string]any); ok {
				names[user.ref], _ = profile["displayName"].(string)
			}
		}
	}
	return names, nil
}

// document is an item as it is stored: its JSON without the entity, which differs by who asks.
func document(item any) ([]byte, error) {
	raw, err := json.Marshal(item)
	if err != nil {
		return nil, err
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	if _, err := d.Token(); err != nil {
		return nil, err
	}
	out := []byte{'{'}
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return nil, err
		}
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return nil, err
		}
		if key == entityField {
			continue
		}
		if len(out) > 1 {
			out = append(out, ',')
		}
		out = strconv.AppendQuote(out, key.(string))
		out = append(append(out, ':'), value...)
	}
	return append(out, '}'), nil
}

const entityField = "entityRef"

// arena holds the items of a page in few pieces of memory.
type arena []byte

// splice adds a document with its entity's ref, and gives what it added.
func (a *arena) splice(doc []byte, ref string) []byte {
	if need := len(doc) + len(ref) + 20; cap(*a)-len(*a) < need {
		*a = make([]byte, 0, max(16<<10, need))
	}
	start := len(*a)
	*a = splice(*a, doc, ref)
	return (*a)[start:len(*a):len(*a)]
}

// splice adds a stored document to out with the entity in front of its other fields, as bytes.
func splice(out, doc []byte, ref string) []byte {
	out = append(out, `{"`+entityField+`":"`...)
	out = append(append(out, ref...), '"') // a canonical ref needs no escapes
	if len(doc) > 2 {
		out = append(out, ',')
	}
	return append(out, doc[1:]...)
}

// term is a value of a field.
type term struct{ field, value string }

// ways are the spellings of a field's value in an item, the stored one first. What a table of either engine cannot hold is not in them: a vendor's odd text must not keep
// its other items from being stored.
func (f Field[T]) ways(item *T) []string {
	var list []string
	for _, v := range f.Of(item) {
		if v = strings.ReplaceAll(strings.ToValidUTF8(v, ""), "\x00", ""); f.Person {
			v = strings.ToLower(v)
		}
		if v != "" && len(v) <= maxID && len(list) < maxAliases && !slices.Contains(list, v) {
			list = append(list, v)
		}
	}
	return list
}

// intern turns the values of items into numbers, and makes numbers for new ones.
func (x *Index[T]) intern(ctx context.Context, tx *store.Tx, source int64, items []*written[T]) error {
	if len(x.task.Fields) == 0 {
		return nil
	}
	all := make([]*T, len(items))
	for i, w := range items {
		all[i] = &w.item
	}
	ids, aliases, known, err := x.spelled(ctx, tx, source, all)
	if err != nil {
		return err
	}
	for t := range ids {
		if ids[t] != 0 {
			continue
		}
		var id int64
		err := tx.QueryRowContext(ctx, `INSERT INTO task_term (source_id, field, value) VALUES ($1, $2, $3) RETURNING id`, source, t.field, t.value).Scan(&id)
		if err != nil {
			return store.Err(err)
		}
		ids[t] = id
	}
	for t, all := range aliases {
		for a := range all {
			if known[a][ids[t]] {
				continue
			}
			if _, err := tx.Exec(ctx, `INSERT INTO task_alias (source_id, value, field, term_id) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING`, source, a.value, a.field, ids[t]); err != nil {
				return err
			}
		}
	}
	for _, w := range items {
		w.terms = make([]*int64, len(x.task.Fields))
		for i, f := range x.task.Fields {
			if ways := f.ways(&w.item); len(ways) > 0 {
				id := ids[term{f.Name, ways[0]}]
				w.terms[i] = &id
			}
		}
	}
	return nil
}

// spelled gives the terms of items with their numbers, 0 for new ones; how each is written; and of which terms the index knows that they are written so.
func (x *Index[T]) spelled(ctx context.Context, q store.Querier, source int64, items []*T) (ids map[term]int64, aliases map[term]map[term]bool, known map[term]map[int64]bool, err error) {
	ids, aliases, known = map[term]int64{}, map[term]map[term]bool{}, map[term]map[int64]bool{}
	var values []string
	for _, item := range items {
		for _, f := range x.task.Fields {
			ways := f.ways(item)
			if len(ways) == 0 {
				continue
			}
			t := term{f.Name, ways[0]}
			if aliases[t] == nil {
				aliases[t] = map[term]bool{}
				ids[t] = 0
			}
			for _, way := range ways {
				aliases[t][term{f.Name, way}] = true
				values = append(values, way)
			}
		}
	}
	slices.Sort(values)
	for chunk := range slices.Chunk(slices.Compact(values), 200) {
		if err := x.lookUp(ctx, q, source, chunk, ids, known); err != nil {
			return nil, nil, nil, err
		}
	}
	return ids, aliases, known, nil
}

func (x *Index[T]) lookUp(ctx context.Context, q store.Querier, source int64, values []string, ids map[term]int64, known map[term]map[int64]bool) error {
	args := []any{source}
	for _, v := range values {
		args = append(args, v)
	}
	in := numbers(2, len(values))
	rows, err := q.QueryContext(ctx, `SELECT 1, field, value, id FROM task_term WHERE source_id = $1 AND value IN (`+in+`)
		UNION ALL SELECT 2, field, value, term_id FROM task_alias WHERE source_id = $1 AND value IN (`+in+`)`, args...)
	if err != nil {
		return store.Err(err)
	}
	return store.Each(rows, func(rows *sql.Rows) error {
		var from int
		var t term
		var id int64
		if err := rows.Scan(&from, &t.field, &t.value, &id); err != nil {
			return err
		}
		if from == 2 {
			if known[t] == nil {
				known[t] = map[int64]bool{}
			}
			known[t][id] = true
		} else if _, wanted := ids[t]; wanted {
			ids[t] = id
		}
		return nil
	})
}

// put writes the rows. created keeps the value of the first sight, so that an item never changes its place between two pages.
func (x *Index[T]) put(ctx context.Context, tx *store.Tx, source int64, items []*written[T]) error {
	columns := []string{"version", "status", "finished"}
	for _, f := range x.task.Fields {
		columns = append(columns, f.column())
	}
	columns = append(columns, "doc")
	var fresh []*written[T]
	for _, w := range items {
		if w.before == nil {
			fresh = append(fresh, w)
			continue
		}
		var set strings.Builder
		args := []any{source, w.before.created, w.ID}
		for i, c := range columns {
			if i > 0 {
				set.WriteString(", ")
			}
			fmt.Fprintf(&set, "%s = $%d", c, i+4)
		}
		_, err := tx.Exec(ctx, `UPDATE `+x.table+` SET `+set.String()+` WHERE source_id = $1 AND created = $2 AND id = $3 AND version <= $4`,
			append(args, w.values()...)...)
		if err != nil {
			return err
		}
	}
	width := 3 + len(columns)
	for chunk := range slices.Chunk(fresh, 50) {
		var sql strings.Builder
		var args []any
		for i, w := range chunk {
			if i > 0 {
				sql.WriteString(", ")
			}
			sql.WriteString("(" + numbers(i*width+1, width) + ")")
			args = append(append(args, source, store.At(w.Created), w.ID), w.values()...)
		}
		_, err := tx.Exec(ctx, `INSERT INTO `+x.table+` (source_id, created, id, `+strings.Join(columns, ", ")+`) VALUES `+sql.String(), args...)
		if err != nil {
			return err
		}
	}
	return nil
}

func (w *written[T]) values() []any {
	values := []any{w.Version, w.Status, w.Finished}
	for _, id := range w.terms {
		values = append(values, id)
	}
	return append(values, string(w.doc))
}

// tellHistory sends the event about items that have none of their own.
func (x *Index[T]) tellHistory(ctx context.Context, tx *store.Tx, source int64, h Stretch) error {
	if x.task.Events == nil {
		return nil
	}
	subject := event.CDSubject[Stretch]{ID: h.Project, Source: event.SourceOfProvider(h.Provider), Content: h}
	e := event.NewCDEvent(HistoryEvent(x.task.Name), event.SourceOf(x.task.Name), x.engine.Now(), subject, struct{}{}).Event()
	e.Origin = source
	return x.engine.Events.Publish(ctx, tx, e)
}

// earlier reads what Task.Earlier asks for.
func (x *Index[T]) earlier(ctx context.Context, tx *store.Tx, source int64, w *written[T]) (items []T, err error) {
	created := store.At(w.Created).UnixMicro()
	if w.before != nil {
		created = w.before.created
	}
	args := []any{source, created, x.task.Earlier.Status}
	condition := ""
	for i, f := range x.task.Fields {
		if f.Name != x.task.Earlier.Field {
			continue
		}
		if condition = f.column() + ` IS NULL`; w.terms[i] != nil {
			condition = f.column() + ` = $4`
			args = append(args, *w.terms[i])
		}
	}
	rows, err := tx.QueryContext(ctx, `SELECT doc FROM `+x.table+` WHERE source_id = $1 AND created < $2 AND status = $3 AND `+condition+
		fmt.Sprintf(` ORDER BY created DESC, id DESC LIMIT %d`, maxEarlier), args...)
	if err != nil {
		return nil, store.Err(err)
	}
	return items, store.Each(rows, func(rows *sql.Rows) error {
		var doc []byte
		var item T
		if err := rows.Scan(&doc); err != nil {
			return err
		}
		err := json.Unmarshal(doc, &item)
		items = append(items, item)
		return err
	})
}

// tell sends the events about each change to each entity that the source serves, so that whoever may read the entity may read the event.
func (x *Index[T]) tell(ctx context.Context, tx *store.Tx, source int64, items []*written[T]) error {
	if x.task.Events == nil {
		return nil
	}
	type reader struct {
		id  int64
		ref string
	}
	var entities []reader
	var events []event.Event
	for _, w := range items {
		var before *T
		if w.before != nil {
			before = new(T)
			if err := json.Unmarshal(w.before.doc, before); err != nil {
				return err
			}
		}
		if entities == nil {
			rows, err := tx.QueryContext(ctx, `SELECT e.id, e.ref FROM task_binding b JOIN entity e ON e.id = b.entity_id
				WHERE b.source_id = $1 ORDER BY e.id LIMIT $2`, source, maxTold)
			if err != nil {
				return store.Err(err)
			}
			err = store.Each(rows, func(rows *sql.Rows) error {
				var en reader
				if err := rows.Scan(&en.id, &en.ref); err != nil {
					return err
				}
				entities = append(entities, en)
				return nil
			})
			if err != nil {
				return err
			}
		}
		var earlier []T
		if ask := x.task.Earlier; ask != nil && len(entities) > 0 && ask.Wanted(before, &w.item) {
			var err error
			if earlier, err = x.earlier(ctx, tx, source, w); err != nil {
				return err
			}
		}
		for _, en := range entities {
			items := x.engine.URL() + "/api/" + x.task.Name + "/by-entity/" + en.ref + "/" + x.task.Name + "s/"
			for _, e := range x.task.Events(Change[T]{Before: before, Now: &w.item, EntityRef: en.ref, Items: items, Earlier: earlier}) {
				e.EntityID, e.Origin = en.id, source
				events = append(events, e)
			}
		}
	}
	return x.engine.Events.PublishAll(ctx, tx, events)
}

// prune deletes finished items that were created before a time, and then the values of fields that no item of their sources has any more.
func (x *Index[T]) prune(ctx context.Context, before time.Time) (total int64, err error) {
	sources := map[int64]bool{}
	for n := 1; n > 0; {
		err := x.engine.DB.Write(ctx, func(tx *store.Tx) error {
			rows, err := tx.QueryContext(ctx, `DELETE FROM `+x.table+` WHERE (source_id, created, id) IN (
				SELECT source_id, created, id FROM `+x.table+` WHERE created < $1 AND finished ORDER BY created LIMIT 400) RETURNING source_id`, store.At(before))
			if err != nil {
				return store.Err(err)
			}
			n = 0
			return store.Each(rows, func(rows *sql.Rows) error {
				var source int64
				err := rows.Scan(&source)
				sources[source] = true
				n++
				return err
			})
		})
		if err != nil {
			return total, err
		}
		total += int64(n)
	}
	for _, source := range slices.Sorted(maps.Keys(sources)) {
		for _, f := range x.task.Fields {
			if err := x.pruneTerms(ctx, source, f); err != nil {
				return total, err
			}
		}
	}
	return total, nil
}

const prunedTerms = 50 // in one transaction, with up to maxAliases ways to write each

// pruneTerms deletes the terms of a field that no item of a source has. Writers of items lock the source before they look terms up, and so does this.
func (x *Index[T]) pruneTerms(ctx context.Context, source int64, f Field[T]) error {
	unused := `SELECT t.id, t.value FROM task_term t WHERE t.source_id = $1 AND t.field = $2
		AND NOT EXISTS (SELECT 1 FROM ` + x.table + x.by(f.column()) + ` WHERE source_id = $1 AND ` + f.column() + ` = t.id)`
	for after := ""; ; {
		found, last, err := termsOf(x.engine.DB.QueryContext(ctx, unused+` AND t.value > $3 ORDER BY t.value LIMIT $4`, source, f.Name, after, prunedTerms))
		if err != nil || len(found) == 0 {
			return err
		}
		after = last
		err = x.engine.DB.Write(ctx, func(tx *store.Tx) error {
			if _, err := tx.Exec(ctx, `UPDATE task_source SET writes = writes + 1 WHERE id = $1`, source); err != nil {
				return err
			}
			// What was found before the lock may be used by now.
			ids, _, err := termsOf(tx.QueryContext(ctx, unused+` AND t.id IN (`+numbers(3, len(found))+`)`, append([]any{source, f.Name}, found...)...))
			if err != nil || len(ids) == 0 {
				return err
			}
			in, args := numbers(2, len(ids)), append([]any{source}, ids...)
			if _, err := tx.Exec(ctx, `DELETE FROM task_alias WHERE source_id = $1 AND term_id IN (`+in+`)`, args...); err != nil {
				return err
			}
			_, err = tx.Exec(ctx, `DELETE FROM task_term WHERE source_id = $1 AND id IN (`+in+`)`, args...)
			return err
		})
		if err != nil {
			return err
		}
	}
}

// termsOf reads the numbers of terms, as arguments, and the value of the last one.
func termsOf(rows *sql.Rows, err error) (ids []any, last string, _ error) {
	if err != nil {
		return nil, "", store.Err(err)
	}
	err = store.Each(rows, func(rows *sql.Rows) error {
		var id int64
		err := rows.Scan(&id, &last)
		ids = append(ids, id)
		return err
	})
	return ids, last, err
}

// numbers writes "$2, $3, $4": n placeholders from the first.
func numbers(first, n int) string {
	var b strings.Builder
	for i := range n {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteByte('$')
		b.WriteString(strconv.Itoa(first + i))
	}
	return b.String()
}
