package task

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/entity"
	"github.com/slipway-platform/slipway/event"
	"github.com/slipway-platform/slipway/provider"
	"github.com/slipway-platform/slipway/store"
)

// bindArgs is the job that binds all entities anew.
type bindArgs struct{ kind string }

func (a bindArgs) Kind() string { return a.kind }

// bindAtOnce is how many entities are looked at together.
const bindAtOnce = 200

// bindAll goes through the catalog, chunk by chunk. Where nothing has changed nothing is written.
func (x *Index[T]) bindAll(ctx context.Context, _ bindArgs) error {
	for after := int64(0); ; {
		entities, err := x.readBound(ctx, x.engine.DB, `id > $1 ORDER BY id LIMIT $2`, after, bindAtOnce)
		if err != nil {
			return err
		}
		if len(entities) == 0 {
			return x.unbindMissing(ctx)
		}
		after = entities[len(entities)-1].id
		if err := x.bindChanged(ctx, entities); err != nil {
			return err
		}
	}
}

// bindChanged compares without a transaction first, and writes only what differs, in small transactions.
func (x *Index[T]) bindChanged(ctx context.Context, entities []bound) error {
	differing, err := x.differing(ctx, entities)
	if err != nil {
		return err
	}
	var chunk []int64
	rows := 0
	for i, en := range entities {
		if weight := differing[en.id]; weight > 0 {
			chunk = append(chunk, en.id)
			rows += weight
		}
		if last := i == len(entities)-1; len(chunk) > 0 && (last || rows > 100) {
			if err := x.bindChunk(ctx, chunk); err != nil {
				return err
			}
			chunk, rows = nil, 0
		}
	}
	return nil
}

// Bind binds one entity as it is annotated now, for a caller who acts on what it wrote a moment ago and cannot wait for the event that tells of it. It says whether that changed anything.
func (x *Index[T]) Bind(ctx context.Context, o Object) (changed bool, err error) {
	entities, err := x.readBound(ctx, x.engine.DB, `id = $1`, o.ID)
	if err != nil {
		return false, err
	}
	differing, err := x.differing(ctx, entities)
	if err != nil || len(differing) == 0 {
		return false, err
	}
	return true, x.bindChunk(ctx, []int64{o.ID})
}

// differing gives those entities, by id, whose bindings or accounts are not what they say now, each with about how many rows it changes.
func (x *Index[T]) differing(ctx context.Context, entities []bound) (map[int64]int, error) {
	ids := make([]int64, len(entities))
	var users []string
	for i, en := range entities {
		if ids[i] = en.id; en.isUser() {
			users = append(users, en.ref)
		}
	}
	have, err := x.bindings(ctx, x.engine.DB, ids)
	if err != nil {
		return nil, err
	}
	accounts, err := accountsOf(ctx, x.engine.DB, users)
	if err != nil {
		return nil, err
	}
	differing := map[int64]int{}
	for _, en := range entities {
		if want := x.wanted(en, have[en.id]); !maps.Equal(have[en.id], want) {
			differing[en.id] = 1 + 2*len(want) // of a source that is known, an event
		}
		if en.isUser() {
			if drop, add := x.accounts(en, accounts[en.ref]); len(drop)+len(add) > 0 {
				differing[en.id] += 1 + len(add)
			}
		}
	}
	return differing, nil
}

// ahead binds the entities of many events together. Most of them name no project, and nothing is written for them.
func (x *Index[T]) ahead(ctx context.Context, events []event.Event) ([]bool, error) {
	ids := make([]int64, len(events))
	subjects := make([]string, len(events))
	for i, ev := range events {
		ids[i], subjects[i] = ev.EntityID, ev.Subject
	}
	entities, err := x.readBound(ctx, x.engine.DB, `id IN (`+numbers(1, len(ids))+`)`, anys(ids)...)
	if err == nil {
		err = x.bindChanged(ctx, entities)
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	} else if err != nil { // each on its own, so that one does not stop the others
		x.engine.Log.WarnContext(ctx, "entities were not bound together; they are bound one by one", "task", x.task.Name, "error", err)
		return make([]bool, len(events)), nil
	}
	have, err := x.bindings(ctx, x.engine.DB, ids)
	if err != nil {
		return nil, err
	}
	accounts, err := accountsOf(ctx, x.engine.DB, subjects)
	if err != nil {
		return nil, err
	}
	done := make([]bool, len(events))
	for i, ev := range events {
		done[i] = ev.Type != entity.EventRemoved || len(have[ev.EntityID])+len(accounts[ev.Subject]) == 0
	}
	return done, nil
}

func (x *Index[T]) bindChunk(ctx context.Context, ids []int64) error {
	return x.engine.DB.Write(ctx, func(tx *store.Tx) error {
		// What was read before the transaction may be old by now.
		now, err := x.readBound(ctx, tx, `id IN (`+numbers(1, len(ids))+`)`, anys(ids)...)
		if err != nil {
			return err
		}
		for _, en := range now {
			if err := x.bind(ctx, tx, en); err != nil {
				return err
			}
		}
		return nil
	})
}

// unbindMissing drops bindings of entities that are gone, should an event about one never have come.
func (x *Index[T]) unbindMissing(ctx context.Context) error {
	rows, err := x.engine.DB.QueryContext(ctx, `SELECT DISTINCT b.entity_id FROM task_binding b LEFT JOIN entity e ON e.id = b.entity_id WHERE e.id IS NULL`)
	if err != nil {
		return store.Err(err)
	}
	var gone []int64
	err = store.Each(rows, func(rows *sql.Rows) error {
		var id int64
		err := rows.Scan(&id)
		gone = append(gone, id)
		return err
	})
	if err != nil {
		return err
	}
	for _, id := range gone {
		err := x.engine.DB.Write(ctx, func(tx *store.Tx) error {
			_, err := tx.Exec(ctx, `DELETE FROM task_binding WHERE entity_id = $1`, id)
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// follow binds one entity when the catalog says that it has changed.
func (x *Index[T]) follow(ctx context.Context, tx *store.Tx, ev event.Event) error {
	if ev.Type == entity.EventRemoved {
		if _, err := tx.Exec(ctx, `DELETE FROM task_binding WHERE entity_id = $1`, ev.EntityID); err != nil {
			return err
		}
		// An entity of that name may have come since.
		_, err := tx.Exec(ctx, `DELETE FROM task_account WHERE entity_ref = $1 AND NOT EXISTS (SELECT 1 FROM entity WHERE ref = $1)`, ev.Subject)
		return err
	}
	entities, err := x.readBound(ctx, tx, `id = $1`, ev.EntityID)
	if err != nil || len(entities) == 0 {
		return err // gone again: its removal follows
	}
	return x.bind(ctx, tx, entities[0])
}

// bound is an entity to be bound. Of one that cannot name a project, and is no user, nothing but the kind was read.
type bound struct {
	id  int64
	ref string
	slipway.Entity
}

func (b bound) isUser() bool { return strings.EqualFold(b.Kind, "user") }

// readEntities reads entities whole.
func readEntities(ctx context.Context, q store.Querier, where string, args ...any) ([]bound, error) {
	return readSome(ctx, q, func([]byte) bool { return true }, where, args...)
}

// readBound reads entities to be bound. To take a document apart costs more than all else, so that is done only where one of the annotations
// stands in it that a provider reads.
func (x *Index[T]) readBound(ctx context.Context, q store.Querier, where string, args ...any) ([]bound, error) {
	keys, all := x.engine.annotations()
	return readSome(ctx, q, func(doc []byte) bool {
		return all || slices.ContainsFunc(keys, func(key []byte) bool { return bytes.Contains(doc, key) })
	}, where, args...)
}

// readSome reads entities, of which it takes apart the users and those documents that are wanted.
func readSome(ctx context.Context, q store.Querier, wanted func(doc []byte) bool, where string, args ...any) ([]bound, error) {
	rows, err := q.QueryContext(ctx, `SELECT id, ref, doc FROM entity WHERE `+where, args...)
	if err != nil {
		return nil, store.Err(err)
	}
	var list []bound
	err = store.Each(rows, func(rows *sql.Rows) error {
		var en bound
		var doc sql.RawBytes
		if err := rows.Scan(&en.id, &en.ref, &doc); err != nil {
			return err
		}
		en.Kind, _, _ = strings.Cut(en.ref, ":")
		if en.isUser() || wanted(doc) {
			if err := json.Unmarshal(doc, &en.Entity); err != nil {
				return err
			}
		}
		list = append(list, en)
		return nil
	})
	return list, err
}

// annotations gives the annotations in which the providers look for projects, as they stand in a document; all: one does not say which.
func (e *Engine) annotations() (keys [][]byte, all bool) {
	for _, o := range e.Providers() {
		if len(o.Annotations) == 0 {
			return nil, true
		}
		named := o.Annotations
		if o.Provider != nil && o.Provider.Builder != nil { // it shows what it built for tools, whatever else it reads
			named = append(slices.Clip(named), provider.Annotation{Key: provider.ToolAnnotation})
		}
		for _, a := range named {
			key, err := json.Marshal(a.Key)
			if err != nil {
				return nil, true
			}
			keys = append(keys, key)
		}
	}
	return keys, false
}

// place is one project at one provider.
type place struct{ provider, project string }

// binding is how an entity is bound to a place.
type binding struct {
	kind     string // type of the provider
	detached bool   // the provider does not take the project any more
}

// bindings reads which places of this task the entities are bound to.
func (x *Index[T]) bindings(ctx context.Context, q store.Querier, entities []int64) (map[int64]map[place]binding, error) {
	have := make(map[int64]map[place]binding, len(entities))
	if len(entities) == 0 {
		return have, nil
	}
	args := []any{x.task.Name}
	for _, id := range entities {
		have[id] = map[place]binding{}
		args = append(args, id)
	}
	// CROSS, so that SQLite goes from the few bindings to their sources, and not through all sources of the task.
	rows, err := q.QueryContext(ctx, `SELECT b.entity_id, s.provider, s.project, s.type, b.detached FROM task_binding b CROSS JOIN task_source s
		WHERE s.id = b.source_id AND s.task = $1 AND b.entity_id IN (`+numbers(2, len(entities))+`)`, args...)
	if err != nil {
		return nil, store.Err(err)
	}
	return have, store.Each(rows, func(rows *sql.Rows) error {
		var id int64
		var p place
		var b binding
		if err := rows.Scan(&id, &p.provider, &p.project, &b.kind, &b.detached); err != nil {
			return err
		}
		have[id][p] = b
		return nil
	})
}

// maxProjects is how many projects an entity has at one provider at most; what is beyond is left out.
const maxProjects = 50

// wanted says which places belong to an entity by its annotations. What a provider cannot say now, because it is gone or did not open, stays as it is. What the
// entity names as before, but the provider does not take any more, stays detached, and so does all of a provider that was replaced by one of another type.
func (x *Index[T]) wanted(en bound, have map[place]binding) map[place]binding {
	want := map[place]binding{}
	for p, b := range have {
		o, ok := x.engine.opened(p.provider)
		switch {
		case !ok || o.Provider == nil:
			want[p] = b
		case o.Type != b.kind || o.namedBy(&en.Entity, p.project):
			want[p] = binding{b.kind, true}
		}
	}
	for _, o := range x.engine.Providers() {
		if o.Provider == nil || !x.serves(o.Provider) || o.Provider.Projects == nil {
			continue
		}
		for i, project := range o.Provider.Projects(&en.Entity) {
			if storable(project) && i < maxProjects {
				want[place{o.Name, project}] = binding{kind: o.Type}
			}
		}
	}
	return want
}

// namedBy says whether an annotation names a project, be it one that the provider does not take: by itself, or as the end of an address.
func (o Provider) namedBy(e *slipway.Entity, project string) bool {
	bare := func(s string) string { return strings.ToLower(strings.TrimSuffix(strings.TrimRight(s, "/"), ".git")) }
	project = bare(project)
	naming := o.naming()
	for key, value := range e.Metadata.Annotations {
		i := slices.IndexFunc(naming, func(a provider.Annotation) bool { return a.Key == key })
		if i < 0 && len(naming) > 0 {
			continue
		}
		spaces := i < 0 || naming[i].Spaces // else a name may have spaces in it
		for word := range strings.FieldsFuncSeq(value, func(r rune) bool { return r == ',' || spaces && unicode.IsSpace(r) }) {
			word = bare(strings.TrimSpace(word))
			if word == project || strings.HasSuffix(word, "/"+project) || strings.HasSuffix(word, ":"+project) {
				return true
			}
		}
	}
	return false
}

// bind makes an entity's bindings, and a user's accounts, what the entity says.
func (x *Index[T]) bind(ctx context.Context, tx *store.Tx, en bound) error {
	if en.isUser() {
		if err := x.bindAccounts(ctx, tx, en); err != nil {
			return err
		}
	}
	all, err := x.bindings(ctx, tx, []int64{en.id})
	if err != nil {
		return err
	}
	have := all[en.id]
	want := x.wanted(en, have)
	for p := range have {
		if _, ok := want[p]; ok {
			continue
		}
		_, err := tx.Exec(ctx, `DELETE FROM task_binding WHERE entity_id = $1 AND source_id =
			(SELECT id FROM task_source WHERE task = $2 AND provider = $3 AND project = $4)`, en.id, x.task.Name, p.provider, p.project)
		if err != nil {
			return err
		}
	}
	for _, p := range slices.SortedFunc(maps.Keys(want), func(a, b place) int { return strings.Compare(a.provider+"\x00"+a.project, b.provider+"\x00"+b.project) }) {
		if b, ok := have[p]; ok && b == want[p] {
			continue
		}
		if want[p].detached {
			_, err := tx.Exec(ctx, `UPDATE task_binding SET detached = TRUE WHERE entity_id = $1 AND source_id =
				(SELECT id FROM task_source WHERE task = $2 AND provider = $3 AND project = $4)`, en.id, x.task.Name, p.provider, p.project)
			if err != nil {
				return err
			}
			continue
		}
		o, _ := x.engine.opened(p.provider)
		source, existed, err := x.ensureSource(ctx, tx, o, p.project)
		if err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `INSERT INTO task_binding (entity_id, source_id) VALUES ($1, $2)
			ON CONFLICT (entity_id, source_id) DO UPDATE SET detached = FALSE`, en.id, source); err != nil {
			return err
		}
		if _, bound := have[p]; existed && !bound {
			if err := x.tellHistory(ctx, tx, source, Stretch{Provider: p.provider, Project: p.project}); err != nil {
				return err
			}
		}
	}
	return nil
}

// ensureSource gives the id of a source, and whether there was one. A new one is asked for at once.
func (x *Index[T]) ensureSource(ctx context.Context, tx *store.Tx, o Provider, project string) (id int64, existed bool, err error) {
	now := x.engine.Now()
	err = store.Err(tx.QueryRowContext(ctx, `INSERT INTO task_source (task, provider, type, project, next_refresh, restricted) VALUES ($1, $2, $3, $4, $5, $6)
		ON CONFLICT (task, provider, project) DO NOTHING RETURNING id`, x.task.Name, o.Name, o.Type, project, store.At(now.Add(o.interval())), o.Visibility == visibleAtSource).Scan(&id))
	if err == nil {
		_, err = x.engine.insertRefresh(ctx, tx, x.task.Name, id, 1)
		return id, false, err
	}
	if !errors.Is(err, slipway.NotFound) {
		return 0, false, err
	}
	// What another type of provider has said of the project means nothing to this one.
	err = store.Err(tx.QueryRowContext(ctx, `UPDATE task_source SET validator = CASE WHEN type = $4 THEN validator ELSE '' END,
		fill_cursor = CASE WHEN type = $4 THEN fill_cursor END, type = $4 WHERE task = $1 AND provider = $2 AND project = $3 RETURNING id`,
		x.task.Name, o.Name, project, o.Type).Scan(&id))
	return id, true, err
}

// storable says that a name from an entity can stand in the tables of either engine, and is one: what cannot is left out, so that one
// document does not stop the binding of the others.
func storable(name string) bool {
	return name != "" && len(name) <= maxID && utf8.ValidString(name) && !strings.ContainsFunc(name, unicode.IsControl)
}

// account is a login at a provider; one of no provider is an e-mail address.
type account struct{ provider, name string }

// accountsOf reads which accounts are noted of users, by ref.
func accountsOf(ctx context.Context, q store.Querier, users []string) (map[string][]account, error) {
	have := map[string][]account{}
	if len(users) == 0 {
		return have, nil
	}
	rows, err := q.QueryContext(ctx, `SELECT entity_ref, provider, account FROM task_account WHERE entity_ref IN (`+numbers(1, len(users))+`)`, anys(users)...)
	if err != nil {
		return nil, store.Err(err)
	}
	return have, store.Each(rows, func(rows *sql.Rows) error {
		var ref string
		var a account
		err := rows.Scan(&ref, &a.provider, &a.name)
		have[ref] = append(have[ref], a)
		return err
	})
}

// accounts says what is to change in the accounts noted of a user: they stand in an annotation for each provider, and the e-mail address is one for all.
func (x *Index[T]) accounts(user bound, have []account) (drop, add []account) {
	want := map[account]bool{}
	if profile, ok := user.Spec["profile"].(map[string]any); ok {
		if email, ok := profile["email"].(string); ok && storable(email) {
			want[account{"", strings.ToLower(email)}] = true
		}
	}
	for _, o := range x.engine.Providers() {
		if o.Provider != nil && o.Provider.Accounts != nil {
			for _, name := range o.Provider.Accounts(&user.Entity) {
				if storable(name) {
					want[account{o.Name, strings.ToLower(name)}] = true
				}
			}
		}
	}
	for _, a := range have {
		o, ok := x.engine.opened(a.provider)
		if !want[a] && (a.provider == "" || ok && o.Provider != nil) {
			drop = append(drop, a)
		}
		delete(want, a)
	}
	return drop, slices.Collect(maps.Keys(want))
}

// bindAccounts notes which accounts are a user's.
func (x *Index[T]) bindAccounts(ctx context.Context, tx *store.Tx, user bound) error {
	have, err := accountsOf(ctx, tx, []string{user.ref})
	if err != nil {
		return err
	}
	drop, add := x.accounts(user, have[user.ref])
	for _, a := range drop {
		if _, err := tx.Exec(ctx, `DELETE FROM task_account WHERE entity_ref = $1 AND provider = $2 AND account = $3`, user.ref, a.provider, a.name); err != nil {
			return err
		}
	}
	for _, a := range add {
		if _, err := tx.Exec(ctx, `INSERT INTO task_account (entity_ref, provider, account) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING`, user.ref, a.provider, a.name); err != nil {
			return err
		}
	}
	return nil
}
