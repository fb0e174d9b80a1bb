package resource

import (
	"cmp"
	"context"
	"crypto/sha256"
	"database/sql"
	"embed"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/auth"
	"github.com/slipway-platform/slipway/event"
	"github.com/slipway-platform/slipway/secret"
	"github.com/slipway-platform/slipway/store"
)

//go:embed migrations
var files embed.FS

// Migrations is the schema of a Store. It needs that of store.Revisions.
var Migrations = store.Migrations{Owner: "resource", FS: func() fs.FS {
	sub, err := fs.Sub(files, "migrations")
	if err != nil {
		panic(err)
	}
	return sub
}()}

// Store keeps documents. Safe for concurrent use.
type Store struct {
	// Events is told of every change, in its transaction; it must know Events, as /slipway/data. Set it before use; nil: nobody is.
	Events *event.Bus

	db    *store.DB
	rev   *store.Revisions
	keys  *secret.Keyring
	now   func() time.Time
	kinds []Kind
}

// Open makes a Store of some kinds; what does not fit together is refused, all of it. A database whose secrets none of the keys opens is
// refused too: whoever lost the key file must know before anything is written with another one.
func Open(ctx context.Context, db *store.DB, rev *store.Revisions, keys *secret.Keyring, now func() time.Time, kinds ...Kind) (*Store, error) {
	joined, err := Join(kinds...)
	if err != nil {
		return nil, err
	}
	s := &Store{db: db, rev: rev, keys: keys, now: now, kinds: joined}
	if err := s.settle(ctx); err != nil {
		return nil, err
	}
	return s, s.checkKeys(ctx)
}

// Revision is the name in store.Revisions that is bumped whenever a document of the kind changes.
func Revision(kind string) string { return "resource." + kind }

// allRevision is bumped first in every change: its row is the lock behind which changes follow one another.
const allRevision = "resource"

// Kinds lists the kinds, by name.
func (s *Store) Kinds() []Kind { return slices.Clone(s.kinds) }

// Kind finds a kind. NotFound names those that there are.
func (s *Store) Kind(name string) (Kind, error) {
	k, err := s.kind(name)
	if err != nil {
		return Kind{}, err
	}
	return *k, nil
}

func (s *Store) kind(name string) (*Kind, error) {
	if i := slices.IndexFunc(s.kinds, func(k Kind) bool { return k.Name == name }); i >= 0 {
		return &s.kinds[i], nil
	}
	return nil, slipway.Errorf(slipway.NotFound, "there is no kind %q; there are %s", clip(name), strings.Join(s.names(), ", "))
}

func (s *Store) names() (names []string) {
	for _, k := range s.kinds {
		names = append(names, k.Name)
	}
	return names
}

// row is a stored document.
type row struct {
	kind, id, typ string
	typeVersion   int
	doc, labels   []byte
	sealed        string
	version       int64
}

func (r *row) document(shown json.RawMessage) Document {
	return Document{Kind: r.kind, ID: r.id, Type: r.typ, JSON: shown, Version: r.version, key: r.id}
}

const rowColumns = `kind, id, type, type_version, doc, labels, sealed, version`

func scanRow(scan func(...any) error) (*row, error) {
	var r row
	var doc, labels string
	err := scan(&r.kind, &r.id, &r.typ, &r.typeVersion, &doc, &labels, &r.sealed, &r.version)
	r.doc, r.labels = []byte(doc), []byte(labels)
	return &r, err
}

func queryRows(ctx context.Context, q store.Querier, where string, args ...any) (all []*row, err error) {
	rows, err := q.QueryContext(ctx, `SELECT `+rowColumns+` FROM resource_now WHERE `+where, args...)
	if err != nil {
		return nil, store.Err(err)
	}
	return all, store.Each(rows, func(rows *sql.Rows) error {
		r, err := scanRow(rows.Scan)
		all = append(all, r)
		return err
	})
}

// Document is a document as readers see it.
type Document struct {
	Kind, ID, Type string
	JSON           json.RawMessage
	Version        int64 // grows with every change; 0 for one that is kept elsewhere, whose tag is made of what it says

	key  string   // where it stands in the list
	only []string // keys that are only shown
}

// elsewhere makes a document of one that is kept elsewhere.
func (k *Kind) elsewhere(f Fixed) Document {
	d := Document{Kind: k.Name, ID: f.ID, Type: f.Type, JSON: f.Document, key: cmp.Or(f.Key, f.ID)}
	if t, ok := k.symbol(f.Type); ok {
		d.only = t.readOnly
	}
	return d
}

// Ref names the document.
func (d Document) Ref() Ref { return Ref{Kind: d.Kind, ID: d.ID} }

// Tag is the ETag of the document. Where something is only shown, such as how a location stands, it has two parts, "written.shown": the second changes with what is
// shown, so that a reader who asks for news gets it; the first only when the document does, and it is what If-Match is about.
func (d Document) Tag() string {
	if d.Version != 0 {
		return strconv.Quote(strconv.FormatInt(d.Version, 36))
	}
	whole := sumOf(d.JSON)
	tree, err := parse(d.JSON)
	if err != nil || len(d.only) == 0 {
		return strconv.Quote(whole)
	}
	for _, key := range d.only {
		tree.delete(key)
	}
	return strconv.Quote(sumOf(tree.bytes()) + "." + whole)
}

func sumOf(raw []byte) string {
	sum := sha256.Sum256(raw)
	return base64.RawURLEncoding.EncodeToString(sum[:9])
}

// tagged says whether an If-Match header, an ETag or several with commas or *, means the document as it is.
func (d Document) tagged(header string) bool {
	for part := range strings.SplitSeq(header, ",") {
		if part = strings.TrimSpace(part); part == "*" || writtenTag(part) == writtenTag(d.Tag()) {
			return true
		}
	}
	return false
}

func writtenTag(tag string) string {
	written, _, _ := strings.Cut(strings.Trim(strings.TrimPrefix(tag, "W/"), `"`), ".")
	return written
}

// Get reads a document. Errors: Forbidden, NotFound.
func (s *Store) Get(ctx context.Context, kind, id string) (Document, error) {
	k, err := s.readable(ctx, kind)
	if err == nil && (!utf8.ValidString(id) || strings.ContainsRune(id, 0)) { // PostgreSQL would refuse to look for it
		err = slipway.Errorf(slipway.NotFound, "there is no %s of that id: none could have it", kind)
	}
	if err != nil {
		return Document{}, err
	}
	if k.Source != nil {
		f, err := k.Source.Get(ctx, id)
		return k.elsewhere(f), err
	}
	// Almost always nothing is being moved, and the row in its place is what is valid.
	r, err := scanRow(s.db.QueryRowContext(ctx, `SELECT `+rowColumns+` FROM resource WHERE kind = $1 AND id = $2 AND NOT EXISTS (SELECT 1 FROM resource_batch)`, kind, id).Scan)
	if errors.Is(err, sql.ErrNoRows) {
		r, err = scanRow(s.db.QueryRowContext(ctx, `SELECT `+rowColumns+` FROM resource_now WHERE kind = $1 AND id = $2`, kind, id).Scan)
	}
	if err = store.Err(err); err != nil {
		if f, ok := k.fixed(id); ok {
			return k.elsewhere(f), nil
		}
		if slipway.CodeOf(err) == slipway.NotFound {
			err = slipway.Errorf(slipway.NotFound, "there is no %s/%s; GET /data/%s lists them", kind, clip(id), kind)
		}
		return Document{}, err
	}
	shown, err := k.show(r)
	return r.document(shown), err
}

func (k *Kind) fixed(id string) (Fixed, bool) {
	if k.Fixed == nil {
		return Fixed{}, false
	}
	list := k.Fixed()
	i := slices.IndexFunc(list, func(f Fixed) bool { return f.ID == id })
	if i < 0 {
		return Fixed{}, false
	}
	return list[i], true
}

func (s *Store) readable(ctx context.Context, kind string) (*Kind, error) {
	k, err := s.kind(kind)
	if err != nil {
		return nil, err
	}
	if k.Source != nil { // it narrows what it gives
		return k, auth.RequireAny(ctx, k.Permissions.Read)
	}
	return k, auth.Require(ctx, k.Permissions.Read, auth.Object{})
}

// Revealed is a document with its secrets. Nothing of it may be shown.
type Revealed struct {
	Document
	Secrets []string // the values alone, to be kept out of logs
	Err     error    // why this one cannot be read
}

// Reveal gives a document with its secrets, for those parts of Slipway that use them. It asks for no permission.
func (s *Store) Reveal(ctx context.Context, kind, id string) (Revealed, error) {
	all, err := s.RevealAll(ctx, kind, id)
	if err == nil && len(all) == 0 {
		err = slipway.Errorf(slipway.NotFound, "there is no %s/%s", kind, clip(id))
	}
	if err != nil {
		return Revealed{}, err
	}
	return all[0], all[0].Err
}

// RevealAll is Reveal for all documents of a kind, or only that with the id, in the order of ids. One that cannot be read says so and hinders no other.
func (s *Store) RevealAll(ctx context.Context, kind, id string) ([]Revealed, error) {
	k, err := s.kind(kind)
	if err != nil {
		return nil, err
	}
	rows, err := queryRows(ctx, s.db, `kind = $1 AND ($2 = '' OR id = $2) ORDER BY id`, kind, id)
	if err != nil {
		return nil, err
	}
	var all []Revealed
	for _, r := range rows {
		one := Revealed{Document: r.document(nil)}
		one.JSON, one.Secrets, one.Err = s.reveal(k, r)
		all = append(all, one)
	}
	return all, nil
}

func (s *Store) reveal(k *Kind, r *row) (json.RawMessage, []string, error) {
	secrets, err := s.open(r)
	if err != nil {
		return nil, nil, err
	}
	whole, err := k.restore(r, secrets)
	return whole, slices.Sorted(maps.Values(secrets)), err
}

// place is what a document's secrets are bound to: copied to another row, they do not open.
func place(kind, id string) []string { return []string{"resource", "sealed", kind, id} }

func (s *Store) open(r *row) (map[string]string, error) {
	if r == nil || r.sealed == "" {
		return nil, nil
	}
	raw, err := s.keys.Open(r.sealed, place(r.kind, r.id)...)
	if err != nil {
		return nil, fmt.Errorf("the secrets of %s/%s: %w", r.kind, r.id, err)
	}
	var secrets map[string]string
	return secrets, json.Unmarshal(raw, &secrets)
}

func (s *Store) seal(kind, id string, secrets map[string]string) (sealed, key string, err error) {
	if len(secrets) == 0 {
		return "", "", nil
	}
	raw, err := json.Marshal(secrets)
	if err != nil {
		return "", "", err
	}
	sealed, err = s.keys.Seal(raw, place(kind, id)...)
	return sealed, keyOf(sealed), err
}

// keyOf is the id of the key that sealed a value.
func keyOf(sealed string) string {
	parts := strings.SplitN(sealed, ".", 3)
	if len(parts) < 3 {
		return ""
	}
	return parts[1]
}

// checkKeys opens one value of each key that the database names.
func (s *Store) checkKeys(ctx context.Context) error {
	rows, err := s.db.QueryContext(ctx, `SELECT DISTINCT key_id FROM resource WHERE key_id <> ''`)
	if err != nil {
		return store.Err(err)
	}
	var ids []string
	if err := store.Each(rows, func(rows *sql.Rows) error {
		var id string
		err := rows.Scan(&id)
		ids = append(ids, id)
		return err
	}); err != nil {
		return err
	}
	for _, id := range ids {
		one, err := queryRows(ctx, s.db, `key_id = $1 ORDER BY kind, id LIMIT 1`, id)
		if err != nil {
			return err
		}
		if len(one) == 0 { // it has been written anew since
			continue
		}
		if _, err := s.open(one[0]); err != nil {
			return fmt.Errorf("stored secrets cannot be read any more; put the key file back that sealed them, nothing was changed: %w", err)
		}
	}
	return nil
}

// Query says which documents to list.
type Query struct {
	Kind   string
	Parent string   // what the documents belong to, for kinds that lie below another
	Filter []string // key=value, all of which must hold; keys are fields, such as type or labels.team, values are compared as text
	Fields []string // only these fields, beside id and type; none: all
	Cursor string
	Limit  int
}

// Page is a page of documents, in the order of ids. With a filter it may hold fewer than asked for, even none, and still have more behind it.
type Page struct {
	Documents []Document
	Next      string // cursor of the next page, "" at the end
}

const (
	chunk     = 200    // documents read at a time where a filter looks at each
	maxLooked = 10_000 // documents that a filter looks at for one page
)

// List reads a page. Errors: Forbidden, NotFound for the kind, Invalid for filter or cursor.
func (s *Store) List(ctx context.Context, q Query) (Page, error) {
	k, err := s.readable(ctx, q.Kind)
	if err != nil {
		return Page{}, err
	}
	keep, err := filter(q.Filter)
	if err != nil {
		return Page{}, err
	}
	cursors := s.cursors(q)
	from, err := cursors.Read(q.Cursor)
	if err != nil {
		return Page{}, err
	}
	after := ""
	if from != nil {
		after = *from
	}
	page := Page{Documents: []Document{}}
	for looked := 0; ; looked += chunk {
		n := q.Limit + 1
		if keep != nil {
			n = chunk
		}
		if looked == maxLooked {
			page.Next = cursors.Write(after)
			return page, nil
		}
		found, err := s.after(ctx, k, q.Parent, after, n)
		if err != nil {
			return Page{}, err
		}
		for _, d := range found {
			if keep != nil && !keep(d.JSON) {
				continue
			}
			if len(page.Documents) == q.Limit {
				page.Next = cursors.Write(page.Documents[q.Limit-1].key)
				return page, nil
			}
			if d.JSON, err = project(d.JSON, q.Fields); err != nil {
				return Page{}, err
			}
			page.Documents = append(page.Documents, d)
		}
		if len(found) < n {
			return page, nil
		}
		after = found[len(found)-1].key
	}
}

// after gives up to n documents after a sort key.
func (s *Store) after(ctx context.Context, k *Kind, parent, after string, n int) ([]Document, error) {
	var docs []Document
	if k.Source != nil {
		others, err := k.Source.List(ctx, SourceQuery{parent, after, n})
		for _, f := range others {
			docs = append(docs, k.elsewhere(f))
		}
		return docs, err
	}
	rows, err := queryRows(ctx, s.db, `kind = $1 AND id > $2 ORDER BY id LIMIT $3`, k.Name, after, n)
	if err != nil {
		return nil, err
	}
	for _, r := range rows {
		shown, err := k.show(r)
		if err != nil { // one that this build does not know must not hide the rest
			shown = encode(map[string]string{"id": r.id, "type": r.typ})
		}
		docs = append(docs, r.document(shown))
	}
	if k.Fixed != nil {
		for _, f := range k.Fixed() {
			if f.ID > after {
				docs = append(docs, k.elsewhere(f))
			}
		}
	}
	slices.SortFunc(docs, func(a, b Document) int { return strings.Compare(a.ID, b.ID) })
	return docs[:min(n, len(docs))], nil
}

// filter makes a condition of "key=value" texts; nil without any.
func filter(conditions []string) (func(json.RawMessage) bool, error) {
	if len(conditions) == 0 {
		return nil, nil
	}
	type condition struct {
		path  []string
		value string
	}
	var all []condition
	for _, c := range conditions {
		key, value, ok := strings.Cut(c, "=")
		if !ok || key == "" {
			return nil, slipway.Errorf(slipway.Invalid, "a filter is key=value, such as type=secretText or labels.team=web").
				WithDetails(slipway.Detail{Field: "filter", Code: slipway.Invalid, Message: "must be key=value"})
		}
		path := strings.Split(key, ".")
		if path[0] == "labels" && len(path) > 1 {
			path = []string{"labels", strings.TrimPrefix(key, "labels.")}
		}
		all = append(all, condition{path, value})
	}
	return func(raw json.RawMessage) bool {
		o, err := parse(raw)
		return err == nil && !slices.ContainsFunc(all, func(c condition) bool {
			found := o.at(c.path)
			var text string
			if json.Unmarshal(found, &text) != nil {
				text = string(found)
			}
			return found == nil || text != c.value
		})
	}, nil
}

// project keeps some fields of a document.
func project(raw json.RawMessage, fields []string) (json.RawMessage, error) {
	if len(fields) == 0 {
		return raw, nil
	}
	o, err := parse(raw)
	if err != nil {
		return nil, err
	}
	for _, key := range slices.Clone(o.keys) {
		if key != "id" && key != "type" && !slices.Contains(fields, key) {
			o.delete(key)
		}
	}
	return o.bytes(), nil
}

// cursors are those of the query's pages.
func (s *Store) cursors(q Query) secret.Cursors[string] {
	return secret.CursorsOf[string](s.keys, "documents", q.Kind, q.Parent, q.Filter, q.Fields)
}

// Record is one recorded change.
type Record struct {
	ID        int64           `json:"id" doc:"Number of the record; later ones have higher numbers"`
	At        time.Time       `json:"at" doc:"When it was made"`
	Caller    string          `json:"caller" doc:"Who made it" example:"user:default/jane"`
	TokenID   string          `json:"tokenId,omitempty" doc:"Id of the token that was shown"`
	RequestID string          `json:"requestId,omitempty" doc:"Id of the request, as in the server's log"`
	Action    string          `json:"action" enum:"create,update,delete" doc:"What was done"`
	Kind      string          `json:"kind" doc:"Kind of the document"`
	Object    string          `json:"object" doc:"Id of the document"`
	Before    json.RawMessage `json:"before,omitempty" doc:"The document before, without secrets"`
	After     json.RawMessage `json:"after,omitempty" doc:"The document after, without secrets"`
}

// HistoryQuery says which recorded changes to list.
type HistoryQuery struct {
	Kind, ID string // of one kind, and of one document of it; "": of all
	Cursor   string
	Limit    int
}

// History lists recorded changes, newest first, with the cursor of the next page, "" at the end. Errors: Invalid for the cursor.
func (s *Store) History(ctx context.Context, q HistoryQuery) (page []Record, next string, err error) {
	if err := s.settle(ctx); err != nil { // a batch is recorded as it is moved
		return nil, "", err
	}
	cursors := secret.CursorsOf[int64](s.keys, "changes of documents", q.Kind, q.ID)
	before, err := cursors.Read(q.Cursor)
	if err != nil {
		return nil, "", err
	}
	where, args := []string{`TRUE`}, []any{}
	only := func(condition string, value any) {
		args = append(args, value)
		where = append(where, condition+` $`+strconv.Itoa(len(args)))
	}
	if q.Kind != "" {
		only(`kind =`, q.Kind)
	}
	if q.ID != "" {
		only(`object =`, q.ID)
	}
	if before != nil {
		only(`id <`, *before)
	}
	page, err = s.records(ctx, strings.Join(where, ` AND `)+` ORDER BY id DESC LIMIT `+strconv.Itoa(q.Limit+1), args)
	if len(page) > q.Limit {
		page = page[:q.Limit]
		next = cursors.Write(page[q.Limit-1].ID)
	}
	return page, next, err
}

func (s *Store) records(ctx context.Context, where string, args []any) ([]Record, error) {
	rows, err := s.db.QueryContext(ctx, `SELECT id, at, subject, token_id, request_id, action, kind, object, shown_before, shown FROM resource_audit WHERE `+where, args...)
	if err != nil {
		return nil, store.Err(err)
	}
	all := []Record{}
	return all, store.Each(rows, func(rows *sql.Rows) error {
		var r Record
		var at store.Time
		var was, is string
		if err := rows.Scan(&r.ID, &at, &r.Caller, &r.TokenID, &r.RequestID, &r.Action, &r.Kind, &r.Object, &was, &is); err != nil {
			return err
		}
		r.At = at.Time
		if was != "" {
			r.Before = json.RawMessage(was)
		}
		if is != "" {
			r.After = json.RawMessage(is)
		}
		all = append(all, r)
		return nil
	})
}

// Prune deletes records of changes older than a time, and what calls that died left staged, in small transactions.
func (s *Store) Prune(ctx context.Context, before time.Time) error {
	if err := s.settle(ctx); err != nil {
		return err
	}
	for _, d := range []struct {
		query string
		below time.Time
	}{
		{`DELETE FROM resource_audit WHERE id IN (SELECT id FROM resource_audit WHERE at < $1 ORDER BY at LIMIT 500)`, before},
		{`DELETE FROM resource_stage_use WHERE (batch, kind, id, used_kind, used_id) IN (SELECT u.batch, u.kind, u.id, u.used_kind, u.used_id
			FROM resource_stage AS s JOIN resource_stage_use AS u ON u.batch = s.batch AND u.kind = s.kind AND u.id = s.id WHERE s.staged_at < $1 LIMIT 500)`, s.now().Add(-time.Hour)},
		{`DELETE FROM resource_stage WHERE (batch, kind, id) IN (SELECT batch, kind, id FROM resource_stage WHERE staged_at < $1 LIMIT 500)`, s.now().Add(-time.Hour)},
	} {
		if err := s.deleteAll(ctx, d.query, store.At(d.below)); err != nil {
			return err
		}
	}
	return nil
}

// Rekey seals anew, with the newest key, what older keys sealed: up to limit documents, each in the place where it is, while reads and writes go on. It gives
// how many it did; 0 means that none is left. Killed half-way it goes on where it was.
func (s *Store) Rekey(ctx context.Context, limit int) (int, error) {
	if err := s.settle(ctx); err != nil {
		return 0, err
	}
	newest := s.keys.KeyIDs()[0]
	rows, err := queryRows(ctx, s.db, `key_id <> '' AND key_id <> $1 ORDER BY key_id, kind, id LIMIT $2`, newest, limit)
	if err != nil || len(rows) == 0 {
		return 0, err
	}
	type resealed struct{ kind, id, old, sealed string }
	var list []resealed
	for _, r := range rows {
		secrets, err := s.open(r)
		if err != nil {
			return 0, err
		}
		sealed, _, err := s.seal(r.kind, r.id, secrets)
		if err != nil {
			return 0, err
		}
		list = append(list, resealed{r.kind, r.id, r.sealed, sealed})
	}
	n := 0
	for part := range slices.Chunk(list, chunk) {
		err := s.db.Write(ctx, func(tx *store.Tx) error {
			for _, r := range part {
				// What was written meanwhile has another sealed value, and the newest key already.
				if _, err := tx.Exec(ctx, `UPDATE resource SET sealed = $1, key_id = $2 WHERE kind = $3 AND id = $4 AND sealed = $5`,
					r.sealed, keyOf(r.sealed), r.kind, r.id, r.old); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return n, err
		}
		n += len(part)
	}
	return n, nil
}
