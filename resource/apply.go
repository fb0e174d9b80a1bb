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
	"unicode/utf8"

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
	Action   Action
	Before   json.RawMessage // nil when there was none
	Told     string          // a secret that was made with it, is told this once, and is kept nowhere; "": none
	Warnings []string        // what its writer should know
}

const (
	maxChanges   = 50_000 // documents that one call may bring
	maxElsewhere = 100    // those of them that are kept elsewhere
	atOnce       = 100    // documents that are staged, or put in place, by the same transaction
)

// ErrRaced says that a document is not as it was read any more. A Source's Write gives it, and the call is planned anew.
var ErrRaced = errors.New("a document was changed meanwhile")

var errMoved = errors.New("something was changed meanwhile")

// Apply makes all changes or none: they are read and checked against what is stored, staged in chunks, and become valid by one short transaction, which finds
// out whether anything was changed meanwhile; then they are checked anew. All faults of all documents are reported together, with JSON pointers. A document
// that would not change is left alone. The caller is the context's.
//
// Errors: Invalid with details, Forbidden, NotFound, Conflict (it exists, it is in use, it is set elsewhere, others keep changing what is stored), Precondition,
// TooLarge.
func (s *Store) Apply(ctx context.Context, changes []Change, o Options) ([]Result, error) {
	if len(changes) > maxChanges {
		return nil, tooMany()
	}
	for range 5 {
		if err := s.settle(ctx); err != nil {
			return nil, err
		}
		p, err := s.plan(ctx, changes, o)
		if err != nil {
			return nil, err
		}
		if o.DryRun || len(p.staged) == 0 {
			return p.results, nil
		}
		if err = s.commit(ctx, p, o); err == nil {
			for i := range p.results {
				r := &p.results[i]
				if told, elsewhere := p.told[r.Ref()]; elsewhere {
					r.Told = told
					if d, err := s.Get(ctx, r.Kind, r.ID); err == nil && r.Action != Deleted { // else as it was written
						r.Document = d
					}
				} else if r.Action == Created || r.Action == Updated {
					r.Version = p.version(r.Version)
				}
			}
			return p.results, nil
		}
		if !errors.Is(err, ErrRaced) && !errors.Is(err, errMoved) {
			return nil, err
		}
	}
	return nil, slipway.Errorf(slipway.Conflict, "others keep changing these documents; try again").After(time.Second)
}

// Answer is the document for whoever made the change: as readers see it, and with the secret that is told this once.
func (r Result) Answer() json.RawMessage {
	o, err := parse(r.JSON)
	if r.Told == "" || err != nil {
		return r.JSON
	}
	o.text("secret", r.Told)
	return o.bytes()
}

// plan is what a call will do.
type plan struct {
	results []Result
	staged  []staged
	uses    map[Ref][]Ref
	told    map[Ref]string // of what is kept elsewhere
	now     store.Time
}

// version is that of a document that had the version before: the time in microseconds, so that one that was deleted and made again never has an
// earlier version's tag.
func (p *plan) version(before int64) int64 { return max(before+1, p.now.UnixMicro()) }

type staged struct {
	kind, id string
	base     int64 // version that was read; 0: none; -1: kept elsewhere
	gone     bool
	w        *written
	sealed   string
	before   json.RawMessage
	source   *Source // of what is kept elsewhere
}

func (st *staged) change() SourceChange {
	c := SourceChange{ID: st.id, Before: st.before}
	if !st.gone {
		c.Type, c.After = st.w.t.Symbol, st.w.whole
	}
	return c
}

// target is a change with what is known of its document.
type target struct {
	Change
	n   int // which change it is; that many as there are: none of them, it is pruned
	k   *Kind
	old *row
}

// document is what is there, with what is shown of it.
func (t *target) document(shown json.RawMessage) Document {
	d := t.old.document(shown)
	if typ, ok := t.k.symbol(t.old.typ); ok {
		d.only = typ.readOnly
	}
	return d
}

func (s *Store) plan(ctx context.Context, changes []Change, o Options) (*plan, error) {
	found := make([][]slipway.Detail, len(changes)+1) // by change, so that they are told in the order of the documents
	targets, err := s.targets(ctx, changes, found, o)
	if err != nil {
		return nil, err
	}
	p := &plan{uses: map[Ref][]Ref{}, told: map[Ref]string{}, now: store.At(s.now())}
	for _, t := range targets {
		details, err := s.planOne(ctx, p, t, o.DryRun)
		if err != nil {
			return nil, err
		}
		for _, d := range details {
			d.Field = t.Place + d.Field
			found[t.n] = append(found[t.n], d)
		}
	}
	faults := slices.Concat(found...)
	missing, err := s.checkUses(ctx, p, targets)
	if err != nil && len(faults) == 0 {
		return nil, err
	}
	return p, unfit(append(faults, missing...))
}

// targets finds out what each change is about, and whether the caller may. What cannot be read, or found, is a fault of that change.
func (s *Store) targets(ctx context.Context, changes []Change, found [][]slipway.Detail, o Options) ([]target, error) {
	var targets []target
	byID := map[string][]string{}
	places := map[Ref]string{}
	for n, c := range changes {
		if found[n] = append(found[n], c.faults...); c.Document == nil && c.Verb != Delete {
			continue
		}
		fault := func(field, format string, args ...any) {
			found[n] = append(found[n], slipway.Detail{Field: c.Place + field, Code: slipway.Invalid, Message: fmt.Sprintf(format, args...)})
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
		if c.Verb == Delete && (!utf8.ValidString(c.ID) || strings.ContainsRune(c.ID, 0)) {
			return nil, slipway.Errorf(slipway.NotFound, "there is no %s of that id: none could have it", k.Name)
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
		targets = append(targets, target{Change: c, n: n, k: k})
	}
	stored, err := s.stored(ctx, byID)
	if err != nil {
		return nil, err
	}
	elsewhere := 0
	for i := range targets {
		t := &targets[i]
		t.old = stored[Ref{Kind: t.k.Name, ID: t.ID}]
		if t.k.Source != nil && t.k.Source.Write != nil {
			if elsewhere++; elsewhere > maxElsewhere {
				return nil, slipway.Errorf(slipway.TooLarge, "at most %d documents of %s at once", maxElsewhere, t.k.Name)
			}
			if t.old, err = t.k.rowElsewhere(ctx, t.ID); err != nil {
				return nil, err
			}
		}
		if err := t.allowed(ctx); err != nil {
			return nil, err
		}
	}
	if o.Prune != "" {
		pruned, err := s.pruned(ctx, o.Prune, places, len(changes))
		if err != nil {
			return nil, err
		}
		targets = append(targets, pruned...)
	}
	return targets, nil
}

// rowElsewhere reads a document that is kept elsewhere as if it were a row; nil when there is none.
func (k *Kind) rowElsewhere(ctx context.Context, id string) (*row, error) {
	f, err := k.Source.Get(ctx, id)
	if slipway.CodeOf(err) == slipway.NotFound {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	r := &row{kind: k.Name, id: id, typ: f.Type, doc: f.Document, labels: []byte("{}")}
	if t, ok := k.symbol(f.Type); ok {
		r.typeVersion = t.Version
	}
	return r, nil
}

// writtenPart is the part of a document kept elsewhere that can be written, as it would be shown after a write.
func (k *Kind) writtenPart(r *row) []byte {
	w, faults := k.read(r.doc, r.id, nil, nil, nil)
	if len(faults) > 0 {
		return r.doc
	}
	return w.shown
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
	if permission == "" || t.k.Source != nil && t.k.Source.Write == nil {
		return slipway.Errorf(slipway.MethodNotAllowed, "%s cannot be changed through documents", t.k.Name)
	}
	if err := auth.Require(ctx, permission, auth.Object{}); err != nil {
		return err
	}
	if _, fixed := t.k.fixed(t.ID); fixed {
		return slipway.Errorf(slipway.Conflict, "%s is set in the configuration file; change it there", ref)
	}
	if t.IfMatch != "" && !(t.old != nil && t.document(t.old.doc).tagged(t.IfMatch)) {
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

// among is the condition that a column is one of n sorted values, which stand in arguments from a number on. Planners that do not know a table yet read all of it
// for such a list; the first and the last value keep that short.
func among(column string, first, n int) string {
	return fmt.Sprintf("%s BETWEEN $%d AND $%d AND %s IN (%s)", column, first, first+n-1, column, numbers(first, n))
}

// stored reads rows by their ids.
func (s *Store) stored(ctx context.Context, byID map[string][]string) (map[Ref]*row, error) {
	found := map[Ref]*row{}
	for _, kind := range slices.Sorted(maps.Keys(byID)) {
		for ids := range slices.Chunk(slices.Sorted(slices.Values(byID[kind])), chunk) {
			args := []any{kind}
			for _, id := range ids {
				args = append(args, id)
			}
			rows, err := queryRows(ctx, s.db, `kind = $1 AND `+among("id", 2, len(ids)), args...)
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
func (s *Store) pruned(ctx context.Context, label string, keep map[Ref]string, n int) ([]target, error) {
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
			t := target{Change: Change{Input: Input{Kind: k.Name}, ID: r.id, Verb: Delete}, n: n, k: k, old: r}
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
		if base = t.old.version; t.k.Source != nil {
			base = -1
		}
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
		p.results = append(p.results, Result{Document: t.document(before), Action: Deleted, Before: before})
		p.staged = append(p.staged, staged{kind: t.k.Name, id: t.ID, base: base, gone: true, before: before, source: t.k.Source})
		return nil, nil
	}
	raw, cleared := t.Document, [][]string(nil)
	if t.Verb == Patch {
		var err error
		if raw, cleared, err = t.patched(before); err != nil {
			return []slipway.Detail{{Code: slipway.Invalid, Message: err.Error()}}, nil
		}
	}
	raw, err := t.k.authored(ctx, raw, before, false)
	if err != nil {
		return nil, err
	}
	w, faults := t.k.read(raw, t.ID, t.old, secrets, cleared)
	if len(faults) > 0 {
		return faults, nil
	}
	if t.k.Author != nil && t.old != nil && !(bytes.Equal(before, w.shown) && maps.Equal(secrets, w.secrets)) {
		if raw, err = t.k.authored(ctx, raw, before, true); err != nil {
			return nil, err
		}
		if w, faults = t.k.read(raw, t.ID, t.old, secrets, cleared); len(faults) > 0 {
			return faults, nil
		}
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
	r := Result{Document: Document{Kind: t.k.Name, ID: t.ID, Type: w.t.Symbol, JSON: w.shown, Version: max(base, 0)}, Action: Updated, Before: before, Warnings: w.warnings}
	same := before
	if t.k.Source != nil && t.old != nil {
		same = t.k.writtenPart(t.old)
	}
	switch {
	case t.old == nil:
		r.Action = Created
	case bytes.Equal(same, w.shown) && maps.Equal(secrets, w.secrets) && t.old.typeVersion == w.t.Version:
		r.Action, r.JSON = Unchanged, before
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
	st := staged{kind: t.k.Name, id: t.ID, base: base, w: w, before: before, source: t.k.Source}
	if t.k.Source != nil {
		st.base = -1
	}
	if !dryRun && t.k.Source == nil {
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
		for ids := range slices.Chunk(slices.Sorted(slices.Values(deleted[kind])), chunk) {
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

// commit makes what was planned valid. What fits into one short transaction is written by one. More is staged in chunks and becomes valid by one row, in a
// transaction that is as short for ten thousand documents as for two hundred; after that it is moved to where it belongs, in chunks again, while readers see it
// already (the view resource_now). Whoever dies on the way leaves either nothing or all of it: what is valid is moved by whoever comes next.
func (s *Store) commit(ctx context.Context, p *plan, o Options) error {
	batch := rand.Text()
	if len(p.staged) <= atOnce {
		return s.db.Write(ctx, func(tx *store.Tx) error {
			if err := stage(ctx, tx, batch, p.staged, p); err != nil {
				return err
			}
			if err := s.begin(ctx, tx, batch, p, o); err != nil {
				return err
			}
			if err := fits(ctx, tx, batch); err != nil {
				return err
			}
			_, err := move(ctx, tx, batch, atOnce+1) // so that it sees the end
			return err
		})
	}
	for part := range slices.Chunk(p.staged, atOnce) {
		if err := s.db.Write(ctx, func(tx *store.Tx) error { return stage(ctx, tx, batch, part, p) }); err != nil {
			return err
		}
	}
	if err := s.swap(ctx, batch, p, o); err != nil { // what stays staged after a crash is Prune's
		_ = s.drop(context.WithoutCancel(ctx), batch)
		return err
	}
	// It is valid, whatever happens now; whoever comes next moves what this leaves.
	_ = s.settle(context.WithoutCancel(ctx))
	return nil
}

// swap makes a staged batch valid. Whether it fits what is stored takes long to find out for a large one, so that this is done before the transaction, which
// then only has to see that nothing was changed since. When others change something all the time, it is done inside after all. errMoved: not even that helped.
func (s *Store) swap(ctx context.Context, batch string, p *plan, o Options) error {
	const last = 5
	for try := 0; ; try++ {
		seen, err := s.revision(ctx, s.db)
		if err != nil {
			return err
		}
		if err := s.settle(ctx); err != nil {
			return err
		}
		if try < last {
			if err := fits(ctx, s.db, batch); err != nil {
				return err
			}
		}
		err = s.db.Write(ctx, func(tx *store.Tx) error {
			if err := s.begin(ctx, tx, batch, p, o); err != nil {
				return err
			}
			if try == last {
				return fits(ctx, tx, batch)
			}
			now, err := s.revision(ctx, tx)
			if err == nil && now != seen+1 {
				err = errMoved
			}
			return err
		})
		if !errors.Is(err, errMoved) || try == last {
			return err
		}
	}
}

// revision is the number of changes so far.
func (s *Store) revision(ctx context.Context, q store.Querier) (n int64, err error) {
	err = q.QueryRowContext(ctx, `SELECT n FROM revision WHERE name = $1`, allRevision).Scan(&n)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, nil
	}
	return n, store.Err(err)
}

// begin takes the lock behind which changes follow one another, tells all replicas of the change, makes the changes of what is kept elsewhere, and notes
// whose change it is. Another batch that is still being moved comes first.
func (s *Store) begin(ctx context.Context, tx *store.Tx, batch string, p *plan, o Options) error {
	if err := s.rev.Bump(ctx, tx, allRevision); err != nil {
		return err
	}
	var others int
	if err := tx.QueryRowContext(ctx, `SELECT count(*) FROM resource_batch`).Scan(&others); err != nil {
		return store.Err(err)
	}
	if others > 0 {
		return errMoved
	}
	caller := auth.CallerFrom(ctx)
	if _, err := tx.Exec(ctx, `INSERT INTO resource_batch (batch, at, subject, token_id, request_id) VALUES ($1, $2, $3, $4, $5)`,
		batch, p.now, caller.Subject, caller.TokenID, o.RequestID); err != nil {
		return err
	}
	kinds := map[string]bool{}
	for i := range p.staged {
		st := &p.staged[i]
		kinds[st.kind] = true
		if st.source != nil {
			told, err := st.source.Write(ctx, tx, st.change())
			if err != nil {
				return err
			}
			p.told[Ref{Kind: st.kind, ID: st.id}] = told
		}
	}
	for _, kind := range slices.Sorted(maps.Keys(kinds)) {
		if err := s.rev.Bump(ctx, tx, Revision(kind)); err != nil {
			return err
		}
	}
	return s.tell(ctx, tx, p)
}

// settle moves what became valid and has not been moved yet, if there is anything.
func (s *Store) settle(ctx context.Context) error {
	for {
		var batch string
		err := s.db.QueryRowContext(ctx, `SELECT batch FROM resource_batch LIMIT 1`).Scan(&batch)
		if errors.Is(err, sql.ErrNoRows) {
			return nil
		} else if err != nil {
			return store.Err(err)
		}
		for left := true; left; {
			err := s.db.Write(ctx, func(tx *store.Tx) (err error) {
				left, err = move(ctx, tx, batch, atOnce)
				return err
			})
			if err != nil {
				return err
			}
		}
	}
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

func stage(ctx context.Context, tx *store.Tx, batch string, part []staged, p *plan) error {
	var rows, uses [][]any
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
			batch, st.kind, st.id, st.base, st.gone, w.t.Symbol, w.t.Version, string(w.stored), labels, st.sealed, keyOf(st.sealed), string(st.before), string(w.shown), p.now,
			p.version(st.base),
		})
		seen := map[Ref]bool{}
		for _, r := range p.uses[Ref{Kind: st.kind, ID: st.id}] {
			if bare := (Ref{Kind: r.Kind, ID: r.ID}); !seen[bare] {
				seen[bare] = true
				uses = append(uses, []any{batch, st.kind, st.id, r.Kind, r.ID})
			}
		}
	}
	if err := insert(ctx, tx, `INSERT INTO resource_stage
		(batch, kind, id, base, gone, type, type_version, doc, labels, sealed, key_id, shown_before, shown, staged_at, version)`, rows); err != nil {
		return err
	}
	return insert(ctx, tx, `INSERT INTO resource_stage_use (batch, kind, id, used_kind, used_id)`, uses)
}

// fits finds out whether a staged batch still goes with what is stored: nothing of it was changed meanwhile, what it names will be there, and what it takes away is
// named by nobody who stays. What is kept elsewhere (base is negative) looks after itself.
func fits(ctx context.Context, q store.Querier, batch string) error {
	var faults int
	err := q.QueryRowContext(ctx, `SELECT
		(SELECT count(*) FROM resource_stage AS s LEFT JOIN resource AS r ON r.kind = s.kind AND r.id = s.id
			WHERE s.batch = $1 AND s.base >= 0 AND COALESCE(r.version, 0) <> s.base)
		+ (SELECT count(*) FROM resource_stage_use AS u
			LEFT JOIN resource AS r ON r.kind = u.used_kind AND r.id = u.used_id
			LEFT JOIN resource_stage AS s ON s.batch = u.batch AND s.kind = u.used_kind AND s.id = u.used_id
			WHERE u.batch = $1 AND COALESCE(s.gone, r.id IS NULL))
		+ (SELECT count(*) FROM resource_stage AS s JOIN resource_use AS u ON u.used_kind = s.kind AND u.used_id = s.id
			LEFT JOIN resource_stage AS t ON t.batch = s.batch AND t.kind = u.kind AND t.id = u.id
			WHERE s.batch = $1 AND s.gone AND t.id IS NULL)`, batch).Scan(&faults)
	if err == nil && faults > 0 {
		return ErrRaced
	}
	return store.Err(err)
}

// move puts up to a number of documents of a valid batch where they belong, and records their changes. It says whether there may be more. The batch's row is
// the lock of those who do it at the same time.
func move(ctx context.Context, tx *store.Tx, batch string, n int) (left bool, err error) {
	if locked, err := tx.Exec(ctx, `UPDATE resource_batch SET batch = batch WHERE batch = $1`, batch); err != nil || locked == 0 {
		return false, err // another one was faster
	}
	const part = `(SELECT kind, id FROM resource_stage WHERE batch = $1 ORDER BY kind, id LIMIT $2)`
	moved := int64(0)
	for _, step := range []string{
		`INSERT INTO resource_audit (at, subject, token_id, request_id, action, kind, object, shown_before, shown)
			SELECT b.at, b.subject, b.token_id, b.request_id, CASE WHEN s.gone THEN 'delete' WHEN s.shown_before = '' THEN 'create' ELSE 'update' END,
				s.kind, s.id, s.shown_before, s.shown
			FROM resource_batch AS b JOIN resource_stage AS s ON s.batch = b.batch WHERE b.batch = $1 AND (s.kind, s.id) IN ` + part + ` ORDER BY s.kind, s.id`,
		`DELETE FROM resource_use WHERE (kind, id) IN ` + part,
		`DELETE FROM resource WHERE (kind, id) IN (SELECT kind, id FROM resource_stage WHERE batch = $1 AND gone AND (kind, id) IN ` + part + `)`,
		`INSERT INTO resource (kind, id, type, type_version, doc, labels, sealed, key_id, version, updated_at)
			SELECT kind, id, type, type_version, doc, labels, sealed, key_id, version, staged_at
			FROM resource_stage WHERE batch = $1 AND NOT gone AND base >= 0 AND (kind, id) IN ` + part + `
			ON CONFLICT (kind, id) DO UPDATE SET type = excluded.type, type_version = excluded.type_version, doc = excluded.doc, labels = excluded.labels,
				sealed = excluded.sealed, key_id = excluded.key_id, version = excluded.version, updated_at = excluded.updated_at`,
		`INSERT INTO resource_use (kind, id, used_kind, used_id)
			SELECT kind, id, used_kind, used_id FROM resource_stage_use WHERE batch = $1 AND (kind, id) IN ` + part,
		`DELETE FROM resource_stage_use WHERE batch = $1 AND (kind, id) IN ` + part,
		`DELETE FROM resource_stage WHERE batch = $1 AND (kind, id) IN ` + part,
	} {
		if moved, err = tx.Exec(ctx, step, batch, n); err != nil {
			return false, err
		}
	}
	if moved == int64(n) {
		return true, nil
	}
	_, err = tx.Exec(ctx, `DELETE FROM resource_batch WHERE batch = $1`, batch)
	return false, err
}

// drop forgets a batch that did not become valid.
func (s *Store) drop(ctx context.Context, batch string) error {
	for _, query := range []string{
		`DELETE FROM resource_stage_use WHERE batch = $1 AND (kind, id, used_kind, used_id) IN (SELECT kind, id, used_kind, used_id FROM resource_stage_use WHERE batch = $1 LIMIT 500)`,
		`DELETE FROM resource_stage WHERE batch = $1 AND (kind, id) IN (SELECT kind, id FROM resource_stage WHERE batch = $1 LIMIT 500)`,
	} {
		if err := s.deleteAll(ctx, query, batch); err != nil {
			return err
		}
	}
	return nil
}

// deleteAll runs a statement that deletes up to 500 rows, each time in a transaction of its own, until nothing is left to delete.
func (s *Store) deleteAll(ctx context.Context, query string, arg any) error {
	for n := int64(500); n == 500; {
		err := s.db.Write(ctx, func(tx *store.Tx) (err error) {
			n, err = tx.Exec(ctx, query, arg)
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// use is a document that is named by another.
type use struct {
	used string
	user Ref
}

// users lists who names some documents, whose ids are sorted.
func (s *Store) users(ctx context.Context, kind string, ids []string) (all []use, err error) {
	args := []any{kind}
	for _, id := range ids {
		args = append(args, id)
	}
	rows, err := s.db.QueryContext(ctx, `SELECT used_id, kind, id FROM resource_use WHERE used_kind = $1 AND `+among("used_id", 2, len(ids))+` ORDER BY kind, id`, args...)
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
