package resource

import (
	"bytes"
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/auth"
	"github.com/slipway-platform/slipway/store"
)

// Verb is what a change does.
type Verb string

// The verbs.
const (
	Create Verb = "create" // it must not be there yet
	Put    Verb = "put"    // created or replaced
	Patch  Verb = "patch"  // merged into what is there, RFC 7396
	Delete Verb = "delete"
)

// Change is one thing to do.
type Change struct {
	Input
	ID      string // "": as the document says, else made
	Verb    Verb
	IfMatch string // an ETag, several with commas, or *: else Precondition
}

// Options of a call of Apply.
type Options struct {
	DryRun    bool
	Prune     string // "key=value": documents with this label that are not in the call are deleted; "": none
	RequestID string // for the record
}

// Action is what came of a change.
type Action string

// The actions.
const (
	Created   Action = "created"
	Updated   Action = "updated"
	Unchanged Action = "unchanged"
	Deleted   Action = "deleted"
)

// Result is what came of one change: the document after it, or, for a deleted one, before.
type Result struct {
	Document
	Action Action
	Before json.RawMessage // nil when there was none
}

const (
	maxChanges = 50_000 // documents that one call may bring
	atOnce     = 100    // documents that are staged and put in place by the same transaction
)

var errRaced = errors.New("a document was changed meanwhile")

// Apply makes all changes or none: they are read and checked against what is stored, staged in chunks, and put in place by one transaction, which finds
// out whether anything was changed meanwhile; then they are checked anew. All faults of all documents are reported together, with JSON pointers. A document
// that would not change is left alone. The caller is the context's.
//
// Errors: Invalid with details, Forbidden, NotFound, Conflict (it exists, it is in use, it is set elsewhere), Precondition.
func (s *Store) Apply(ctx context.Context, changes []Change, o Options) ([]Result, error) {
	for range 5 {
		p, err := s.plan(ctx, changes, o)
		if err != nil {
			return nil, err
		}
		if o.DryRun || len(p.staged) == 0 {
			return p.results, nil
		}
		if err = s.commit(ctx, p, o); err == nil {
			for i := range p.results {
				if r := &p.results[i]; r.Action == Created || r.Action == Updated {
					r.Version = p.version(r.Version)
				}
			}
			return p.results, nil
		}
		if !errors.Is(err, errRaced) {
			return nil, err
		}
	}
	return nil, slipway.Errorf(slipway.Conflict, "others keep changing these documents; try again").After(time.Second)
}

// plan is what a call will do.
type plan struct {
	results []Result
	staged  []staged
	uses    map[Ref][]Ref
	now     store.Time
}

// version is that of a document that had the version before: the time in microseconds, so that one that was deleted and made again never has an
// earlier version's tag.
func (p *plan) version(before int64) int64 { return max(before+1, p.now.UnixMicro()) }

type staged struct {
	kind, id string
	base     int64
	gone     bool
	w        *written
	sealed   string
	before   json.RawMessage
}

// target is a change with what is known of its document.
type target struct {
	Change
	k   *Kind
	old *row
}

func (s *Store) plan(ctx context.Context, changes []Change, o Options) (*plan, error) {
	targets, err := s.targets(ctx, changes, o)
	if err != nil {
		return nil, err
	}
	p := &plan{uses: map[Ref][]Ref{}, now: store.At(s.now())}
	var faults []slipway.Detail
	for _, t := range targets {
		details, err := s.planOne(ctx, p, t, o.DryRun)
		if err != nil {
			return nil, err
		}
		for _, d := range details {
			d.Field = t.Place + d.Field
			faults = append(faults, d)
		}
	}
	missing, err := s.checkUses(ctx, p, targets)
	if err != nil {
		return nil, err
	}
	return p, unfit(append(faults, missing...))
}

// targets finds out what each change is about, and whether the caller may.
func (s *Store) targets(ctx context.Context, changes []Change, o Options) ([]target, error) {
	var targets []target
	var faults []slipway.Detail
	byID := map[string][]string{}
	places := map[Ref]string{}
	for _, c := range changes {
		fault := func(field, format string, args ...any) {
			faults = append(faults, slipway.Detail{Field: c.Place + field, Code: slipway.Invalid, Message: fmt.Sprintf(format, args...)})
		}
		if c.Kind == "" {
			if tree, err := parse(c.Document); err == nil {
				c.Kind, _ = tree.string("kind")
			}
		}
		if c.Kind == "" {
			fault("/kind", "is missing; there are %s", strings.Join(s.names(), ", "))
			continue
		}
		k, err := s.kind(c.Kind)
		if err != nil {
			if c.Place == "" {
				return nil, err
			}
			fault("/kind", "there is no kind %q; there are %s", clip(c.Kind), strings.Join(s.names(), ", "))
			continue
		}
		if c.ID == "" && c.Verb != Delete {
			if tree, err := parse(c.Document); err == nil && tree.values["id"] != nil {
				if c.ID, _ = tree.string("id"); c.ID == "" {
					fault("/id", "must be text")
					continue
				}
			}
			if c.ID == "" {
				c.ID = strings.ToLower(rand.Text()[:16])
			}
		}
		if c.Verb != Delete && !idPattern.MatchString(c.ID) {
			fault("/id", "%q is no id: letters, digits, dash, underscore and dot, at most 63, beginning with a letter or digit", clip(c.ID))
			continue
		}
		ref := Ref{Kind: k.Name, ID: c.ID}
		if first, twice := places[ref]; twice {
			fault("/id", "%s is in here twice, also at %q", ref, first)
			continue
		}
		places[ref] = c.Place
		byID[k.Name] = append(byID[k.Name], c.ID)
		targets = append(targets, target{Change: c, k: k})
	}
	if len(targets) > maxChanges {
		return nil, slipway.Errorf(slipway.TooLarge, "at most %d documents at once", maxChanges)
	}
	stored, err := s.stored(ctx, byID)
	if err != nil {
		return nil, err
	}
	for i := range targets {
		t := &targets[i]
		t.old = stored[Ref{Kind: t.k.Name, ID: t.ID}]
		if err := t.allowed(ctx); err != nil {
			return nil, err
		}
	}
	if o.Prune != "" {
		pruned, err := s.pruned(ctx, o.Prune, places)
		if err != nil {
			return nil, err
		}
		targets = append(targets, pruned...)
	}
	return targets, unfit(faults)
}

// allowed says whether the caller may make the change, and whether the document is there as it must be.
func (t *target) allowed(ctx context.Context) error {
	ref := t.k.Name + "/" + clip(t.ID)
	permission := t.k.Permissions.Update
	switch {
	case t.Verb == Delete:
		permission = t.k.Permissions.Delete
	case t.Verb == Create || t.Verb == Put && t.old == nil:
		permission = t.k.Permissions.Create
	}
	if permission == "" || t.k.Source != nil {
		return slipway.Errorf(slipway.MethodNotAllowed, "%s cannot be changed through documents", t.k.Name)
	}
	if err := auth.Require(ctx, permission, auth.Object{}); err != nil {
		return err
	}
	if _, fixed := t.k.fixed(t.ID); fixed {
		return slipway.Errorf(slipway.Conflict, "%s is set in the configuration file; change it there", ref)
	}
	if t.IfMatch != "" && !tagged(t.IfMatch, t.old) {
		return slipway.Errorf(slipway.Precondition, "%s is not as If-Match says; read it again and look at what changed", ref)
	}
	switch {
	case t.old == nil && (t.Verb == Patch || t.Verb == Delete):
		return slipway.Errorf(slipway.NotFound, "there is no %s; GET /data/%s lists them", ref, t.k.Name)
	case t.old != nil && t.Verb == Create:
		return slipway.Errorf(slipway.Conflict, "there is %s already; PUT replaces it, PATCH changes it", ref)
	}
	return nil
}

func tagged(header string, old *row) bool {
	if old == nil {
		return false
	}
	for part := range strings.SplitSeq(header, ",") {
		if part = strings.TrimSpace(part); part == "*" || strings.TrimPrefix(part, "W/") == Tag(old.version) {
			return true
		}
	}
	return false
}

// stored reads rows by their ids.
func (s *Store) stored(ctx context.Context, byID map[string][]string) (map[Ref]*row, error) {
	found := map[Ref]*row{}
	for _, kind := range slices.Sorted(maps.Keys(byID)) {
		for ids := range slices.Chunk(byID[kind], chunk) {
			args := []any{kind}
			for _, id := range ids {
				args = append(args, id)
			}
			rows, err := queryRows(ctx, s.db, `kind = $1 AND id IN (`+numbers(2, len(ids))+`)`, args...)
			if err != nil {
				return nil, err
			}
			for _, r := range rows {
				found[Ref{Kind: r.kind, ID: r.id}] = r
			}
		}
	}
	return found, nil
}

// pruned finds what has the label and is not among the changes.
func (s *Store) pruned(ctx context.Context, label string, keep map[Ref]string) ([]target, error) {
	key, value, ok := strings.Cut(label, "=")
	if !ok || key == "" {
		return nil, slipway.Errorf(slipway.Invalid, "prune needs a label, key=value; only documents that carry it are deleted").
			WithDetails(slipway.Detail{Field: "label", Code: slipway.Invalid, Message: "must be key=value"})
	}
	var targets []target
	for i := range s.kinds {
		k := &s.kinds[i]
		rows, err := queryRows(ctx, s.db, `kind = $1 AND labels <> '{}' ORDER BY id`, k.Name)
		if err != nil {
			return nil, err
		}
		for _, r := range rows {
			var labels map[string]string
			_, kept := keep[Ref{Kind: k.Name, ID: r.id}]
			if kept || json.Unmarshal(r.labels, &labels) != nil || labels[key] != value {
				continue
			}
			if _, there := labels[key]; !there {
				continue
			}
			t := target{Change: Change{Input: Input{Kind: k.Name}, ID: r.id, Verb: Delete}, k: k, old: r}
			if err := t.allowed(ctx); err != nil {
				return nil, err
			}
			targets = append(targets, t)
		}
	}
	return targets, nil
}

// planOne reads one document and notes what is to be done.
func (s *Store) planOne(ctx context.Context, p *plan, t target, dryRun bool) ([]slipway.Detail, error) {
	var before json.RawMessage
	var base int64
	var secrets map[string]string
	ref := Ref{Kind: t.k.Name, ID: t.ID}
	if t.old != nil {
		base = t.old.version
		shown, err := t.k.show(t.old)
		switch {
		case err == nil:
			before = shown
		case t.Verb == Delete: // also what this build does not know can be deleted
			before = t.old.doc
		default:
			return nil, err
		}
		if t.Verb != Delete {
			if secrets, err = s.open(t.old); err != nil {
				return nil, err
			}
			if secrets, err = t.k.secretsOf(t.old, secrets); err != nil {
				return nil, err
			}
		}
	}
	if t.Verb == Delete {
		p.results = append(p.results, Result{t.old.document(before), Deleted, before})
		p.staged = append(p.staged, staged{kind: t.k.Name, id: t.ID, base: base, gone: true, before: before})
		return nil, nil
	}
	raw, cleared := t.Document, [][]string(nil)
	if t.Verb == Patch {
		var err error
		if raw, cleared, err = t.patched(before); err != nil {
			return []slipway.Detail{{Code: slipway.Invalid, Message: err.Error()}}, nil
		}
	}
	w, faults := t.k.read(raw, t.ID, t.old, secrets, cleared)
	if len(faults) > 0 {
		return faults, nil
	}
	if t.k.Check != nil {
		if faults := t.k.Check(ctx, w.whole); len(faults) > 0 {
			return faults, nil
		}
	}
	if t.k.Uses != nil {
		for _, used := range t.k.Uses(w.whole) {
			used.Field = t.Place + used.Field
			p.uses[ref] = append(p.uses[ref], used)
		}
	}
	r := Result{Document{Kind: t.k.Name, ID: t.ID, Type: w.t.Symbol, JSON: w.shown, Version: base}, Updated, before}
	switch {
	case t.old == nil:
		r.Action = Created
	case bytes.Equal(before, w.shown) && maps.Equal(secrets, w.secrets) && t.old.typeVersion == w.t.Version:
		r.Action = Unchanged
		p.results = append(p.results, r)
		return nil, nil
	}
	for _, used := range p.uses[ref] {
		if k, err := s.kind(used.Kind); err == nil && k.Permissions.Use != "" {
			if err := auth.Require(ctx, k.Permissions.Use, auth.Object{}); err != nil {
				return nil, err
			}
		}
	}
	st := staged{kind: t.k.Name, id: t.ID, base: base, w: w, before: before}
	if !dryRun {
		var err error
		if st.sealed, _, err = s.seal(t.k.Name, t.ID, w.secrets); err != nil {
			return nil, err
		}
	}
	p.results, p.staged = append(p.results, r), append(p.staged, st)
	return nil, nil
}

// patched merges the patch into the document as it is shown, and gives the secret fields that the patch clears: in a merge, null takes a field away, and a
// secret that is absent would be kept.
func (t *target) patched(before json.RawMessage) (raw json.RawMessage, cleared [][]string, err error) {
	patch, err := parse(t.Document)
	if err != nil {
		return nil, nil, err
	}
	if typ, ok := t.k.symbol(t.old.typ); ok {
		for _, path := range typ.secrets {
			for n := 1; n <= len(path); n++ {
				if string(patch.at(path[:n])) == "null" {
					cleared = append(cleared, path)
					break
				}
			}
		}
	}
	raw, err = merge(before, t.Document)
	return raw, cleared, err
}

// checkUses finds documents that are named and not there, and refuses to delete what is named.
func (s *Store) checkUses(ctx context.Context, p *plan, targets []target) (faults []slipway.Detail, err error) {
	after := map[Ref]bool{} // what will be there, of what the call touches
	deleted := map[string][]string{}
	for _, t := range targets {
		after[Ref{Kind: t.k.Name, ID: t.ID}] = t.Verb != Delete
		if t.Verb == Delete {
			deleted[t.k.Name] = append(deleted[t.k.Name], t.ID)
		}
	}
	wanted := map[string][]string{}
	for _, refs := range p.uses {
		for _, r := range refs {
			if there, touched := after[Ref{Kind: r.Kind, ID: r.ID}]; !touched {
				wanted[r.Kind] = append(wanted[r.Kind], r.ID)
			} else if !there {
				faults = append(faults, slipway.Detail{Field: r.Field, Code: slipway.Invalid, Message: r.String() + " is being deleted"})
			}
		}
	}
	stored, err := s.stored(ctx, wanted)
	if err != nil {
		return nil, err
	}
	for _, refs := range p.uses {
		for _, r := range refs {
			bare := Ref{Kind: r.Kind, ID: r.ID}
			if _, touched := after[bare]; !touched && stored[bare] == nil {
				faults = append(faults, slipway.Detail{Field: r.Field, Code: slipway.Invalid, Message: fmt.Sprintf("there is no %s/%s", r.Kind, clip(r.ID))})
			}
		}
	}
	slices.SortFunc(faults, func(a, b slipway.Detail) int { return strings.Compare(a.Field, b.Field) })
	for _, kind := range slices.Sorted(maps.Keys(deleted)) {
		for ids := range slices.Chunk(deleted[kind], chunk) {
			users, err := s.users(ctx, kind, ids)
			if err != nil {
				return nil, err
			}
			var who []string
			what := ""
			for _, u := range users {
				// A user that goes too, or stops using it, does not count.
				user := Ref{Kind: u.user.Kind, ID: u.user.ID}
				if stays, touched := after[user]; touched && (!stays || !slices.ContainsFunc(p.uses[user], func(r Ref) bool { return r.Kind == kind && r.ID == u.used })) {
					continue
				}
				who, what = append(who, user.String()), kind+"/"+u.used
			}
			if len(who) > 0 {
				return nil, slipway.Errorf(slipway.Conflict, "%s is used by %s; change or delete that first", what, strings.Join(who[:min(len(who), 10)], ", "))
			}
		}
	}
	return faults, nil
}

// commit stages what was planned and puts it in place.
func (s *Store) commit(ctx context.Context, p *plan, o Options) error {
	batch := rand.Text()
	if len(p.staged) <= atOnce {
		return s.db.Write(ctx, func(tx *store.Tx) error {
			if err := stage(ctx, tx, batch, p.staged, p.now); err != nil {
				return err
			}
			return s.swap(ctx, tx, batch, p, o)
		})
	}
	for part := range slices.Chunk(p.staged, chunk) {
		if err := s.db.Write(ctx, func(tx *store.Tx) error { return stage(ctx, tx, batch, part, p.now) }); err != nil {
			return err
		}
	}
	err := s.db.Write(ctx, func(tx *store.Tx) error { return s.swap(ctx, tx, batch, p, o) })
	if err != nil { // what stays staged after a crash is Prune's
		_ = s.db.Write(context.WithoutCancel(ctx), func(tx *store.Tx) error {
			_, err := tx.Exec(ctx, `DELETE FROM resource_stage WHERE batch = $1`, batch)
			return err
		})
	}
	return err
}

// numbers writes "$2, $3, $4" for (2, 3).
func numbers(first, n int) string {
	var b strings.Builder
	for i := range n {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString("$" + strconv.Itoa(first+i))
	}
	return b.String()
}

// insert writes rows of equal length with as few statements as may be.
func insert(ctx context.Context, tx *store.Tx, into string, rows [][]any) error {
	for part := range slices.Chunk(rows, 50) {
		var values []string
		var args []any
		for _, r := range part {
			values = append(values, "("+numbers(len(args)+1, len(r))+")")
			args = append(args, r...)
		}
		if _, err := tx.Exec(ctx, into+` VALUES `+strings.Join(values, ", "), args...); err != nil {
			return err
		}
	}
	return nil
}

func stage(ctx context.Context, tx *store.Tx, batch string, part []staged, now store.Time) error {
	var rows [][]any
	for _, st := range part {
		w := st.w
		if w == nil {
			w = &written{t: &Type{}}
		}
		labels := "{}"
		if len(w.labels) > 0 {
			labels = string(encode(w.labels))
		}
		rows = append(rows, []any{
			batch, st.kind, st.id, st.base, st.gone, w.t.Symbol, w.t.Version, string(w.stored), labels, st.sealed, keyOf(st.sealed), string(st.before), string(w.shown), now,
		})
	}
	return insert(ctx, tx, `INSERT INTO resource_stage
		(batch, kind, id, base, gone, type, type_version, doc, labels, sealed, key_id, shown_before, shown, staged_at)`, rows)
}

// swap puts a staged batch in place. Its first statement takes the lock behind which changes follow one another.
func (s *Store) swap(ctx context.Context, tx *store.Tx, batch string, p *plan, o Options) error {
	if err := s.rev.Bump(ctx, tx, allRevision); err != nil {
		return err
	}
	var raced int
	if err := tx.QueryRowContext(ctx, `SELECT count(*) FROM resource_stage AS s LEFT JOIN resource AS r ON r.kind = s.kind AND r.id = s.id
		WHERE s.batch = $1 AND COALESCE(r.version, 0) <> s.base`, batch).Scan(&raced); err != nil {
		return store.Err(err)
	}
	if raced > 0 {
		return errRaced
	}
	caller := auth.CallerFrom(ctx)
	if _, err := tx.Exec(ctx, `INSERT INTO resource_audit (at, subject, token_id, request_id, action, kind, object, shown_before, shown)
		SELECT CAST($2 AS BIGINT), CAST($3 AS TEXT), CAST($4 AS TEXT), CAST($5 AS TEXT),
			CASE WHEN gone THEN 'delete' WHEN base = 0 THEN 'create' ELSE 'update' END, kind, id, shown_before, shown
		FROM resource_stage WHERE batch = $1 ORDER BY kind, id`, batch, p.now, caller.Subject, caller.TokenID, o.RequestID); err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, `DELETE FROM resource_use WHERE (kind, id) IN (SELECT kind, id FROM resource_stage WHERE batch = $1)`, batch); err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, `DELETE FROM resource WHERE (kind, id) IN (SELECT kind, id FROM resource_stage WHERE batch = $1 AND gone)`, batch); err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, `INSERT INTO resource (kind, id, type, type_version, doc, labels, sealed, key_id, version, updated_at)
		SELECT kind, id, type, type_version, doc, labels, sealed, key_id,
			CASE WHEN base >= CAST($2 AS BIGINT) THEN base + 1 ELSE CAST($2 AS BIGINT) END, CAST($2 AS BIGINT)
		FROM resource_stage WHERE batch = $1 AND NOT gone
		ON CONFLICT (kind, id) DO UPDATE SET type = excluded.type, type_version = excluded.type_version, doc = excluded.doc, labels = excluded.labels,
			sealed = excluded.sealed, key_id = excluded.key_id, version = excluded.version, updated_at = excluded.updated_at`, batch, p.now); err != nil {
		return err
	}
	if err := insertUses(ctx, tx, p); err != nil {
		return err
	}
	kinds := map[string]bool{}
	for _, st := range p.staged {
		kinds[st.kind] = true
	}
	for _, kind := range slices.Sorted(maps.Keys(kinds)) {
		if err := s.rev.Bump(ctx, tx, Revision(kind)); err != nil {
			return err
		}
	}
	_, err := tx.Exec(ctx, `DELETE FROM resource_stage WHERE batch = $1`, batch)
	return err
}

// insertUses writes which document names which, and finds a document that was deleted since it was looked for.
func insertUses(ctx context.Context, tx *store.Tx, p *plan) error {
	var rows [][]any
	for _, st := range p.staged {
		seen := map[Ref]bool{}
		for _, r := range p.uses[Ref{Kind: st.kind, ID: st.id}] {
			if bare := (Ref{Kind: r.Kind, ID: r.ID}); !seen[bare] {
				seen[bare] = true
				rows = append(rows, []any{st.kind, st.id, r.Kind, r.ID})
			}
		}
	}
	if err := insert(ctx, tx, `INSERT INTO resource_use (kind, id, used_kind, used_id)`, rows); err != nil {
		return err
	}
	var dangling int
	err := tx.QueryRowContext(ctx, `SELECT count(*) FROM resource_use AS u LEFT JOIN resource AS r ON r.kind = u.used_kind AND r.id = u.used_id
		WHERE r.id IS NULL`).Scan(&dangling)
	if err == nil && dangling > 0 {
		return errRaced
	}
	return store.Err(err)
}

// use is a document that is named by another.
type use struct {
	used string
	user Ref
}

func (s *Store) users(ctx context.Context, kind string, ids []string) (all []use, err error) {
	args := []any{kind}
	for _, id := range ids {
		args = append(args, id)
	}
	rows, err := s.db.QueryContext(ctx, `SELECT used_id, kind, id FROM resource_use WHERE used_kind = $1 AND used_id IN (`+numbers(2, len(ids))+`) ORDER BY kind, id`, args...)
	if err != nil {
		return nil, store.Err(err)
	}
	return all, store.Each(rows, func(rows *sql.Rows) error {
		var u use
		err := rows.Scan(&u.used, &u.user.Kind, &u.user.ID)
		all = append(all, u)
		return err
	})
}
