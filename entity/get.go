package entity

import (
	"context"
	"database/sql"
	"encoding/json"
	"slices"
	"strings"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/store"
)

// rowColumns read a Row from entity e for a caller; their arguments start at $argStart. The relations come in the same query, as lines of type
// and target: they are those of a moment, whoever said them, and no document has to be written again when a neighbour changes.
func rowColumns(caller *slipway.Caller, argStart int) (columns string, args []any) {
	visible, args := visibleTarget(caller, "n.target", argStart)
	return beforeRelations + visible + afterRelations, args
}

const beforeRelations = `e.id, e.kind, e.namespace, e.name, e.uid, e.etag, COALESCE(e.owner, ''), COALESCE(e.system, ''), e.doc, e.source, e.updated_at,
	` + relationsColumn
const relationsColumn = `(SELECT STRING_AGG(l.line, '|') FROM (SELECT n.type || ' ' || n.target AS line FROM relation n WHERE n.source = e.ref`
const afterRelations = ` GROUP BY n.type, n.target) l), e.status, e.orphaned_at IS NOT NULL`

// documentColumns are those of rowColumns that make the document: of many rows, reading more takes longer than finding them.
func documentColumns(caller *slipway.Caller, argStart int) (columns string, args []any) {
	visible, args := visibleTarget(caller, "n.target", argStart)
	return `e.id, e.ref, e.doc, ` + relationsColumn + visible + ` GROUP BY n.type, n.target) l), e.status`, args
}

// documentRow is a row of documentColumns and what follows them, of which each row takes the place of the one before.
type documentRow struct {
	id                int64
	ref, doc          string
	relations, status sql.NullString
	dest              []any
}

// newDocumentRow is one that is followed by more columns, which go where they are told.
func newDocumentRow(more ...any) *documentRow {
	d := new(documentRow)
	d.dest = append([]any{&d.id, &d.ref, &d.doc, &d.relations, &d.status}, more...)
	return d
}

func (d *documentRow) scan(rows *sql.Rows) (Row, error) {
	if err := rows.Scan(d.dest...); err != nil {
		return Row{}, store.Err(err)
	}
	kind, rest, _ := strings.Cut(d.ref, ":")
	namespace, name, _ := strings.Cut(rest, "/")
	return Row{ID: d.id, Ref: slipway.EntityRef{Kind: kind, Namespace: namespace, Name: name}, JSON: derived(d.doc, d.relations.String, d.status.String)}, nil
}

// visibleTarget is the condition, beginning with AND, that leaves out relations with entities that are there and that the caller may not read: an entity
// that nobody shows them could say in its own file that it depends on this one. Targets that do not exist stay, for only this entity can have named them.
// The ref of the target stands in a column.
func visibleTarget(caller *slipway.Caller, column string, argStart int) (condition string, args []any) {
	if All(caller, ReadPermission) {
		return "", nil
	}
	readable, args := Readable(caller, "t", argStart)
	return ` AND NOT EXISTS (SELECT 1 FROM entity t WHERE t.ref = ` + column + ` AND NOT COALESCE(` + readable + `, FALSE))`, args
}

func scanRow(scan func(...any) error, more ...any) (Row, error) {
	var r Row
	var doc string
	var relations, status sql.NullString
	var updated store.Time
	dest := []any{&r.ID, &r.Ref.Kind, &r.Ref.Namespace, &r.Ref.Name, &r.UID, &r.ETag, &r.Owner, &r.System, &doc, &r.Source, &updated, &relations, &status, &r.Orphan}
	if err := scan(append(dest, more...)...); err != nil {
		return Row{}, store.Err(err)
	}
	r.UpdatedAt = updated.Time
	r.JSON = derived(doc, relations.String, status.String)
	return r, nil
}

// derived puts the relations and the status at the end of a stored document. A ref and the name of a relation hold nothing that JSON
// would escape.
func derived(doc, lines, status string) json.RawMessage {
	const open, middle, end = `{"type":"`, `","targetRef":"`, `"}`
	lines = inOrder(lines)
	b := make([]byte, 0, len(doc)+len(lines)+(1+strings.Count(lines, "|"))*len(open+middle+end+",")+len(status)+len(`,"relations":[],"status":`))
	b = append(b, doc[:len(doc)-1]...)
	b = append(b, `,"relations":[`...)
	for more := lines != ""; more; {
		var line string
		line, lines, more = strings.Cut(lines, "|")
		kind, target, _ := strings.Cut(line, " ")
		b = append(append(append(append(append(b, open...), kind...), middle...), target...), end...)
		if more {
			b = append(b, ',')
		}
	}
	b = append(b, ']')
	if status != "" {
		b = append(append(b, `,"status":`...), status...)
	}
	return append(b, '}')
}

// inOrder sorts lines, which mostly are: the engines read them by a key, but promise nothing.
func inOrder(lines string) string {
	before := ""
	for rest, more := lines, true; more; {
		var line string
		if line, rest, more = strings.Cut(rest, "|"); line < before {
			sorted := strings.Split(lines, "|")
			slices.Sort(sorted)
			return strings.Join(sorted, "|")
		}
		before = line
	}
	return lines
}

// Get reads one entity. It is NotFound when there is none or the caller may not read it.
func (s *Store) Get(ctx context.Context, q store.Querier, caller *slipway.Caller, ref slipway.EntityRef) (Row, error) {
	return one(ctx, q, caller, "ref", ref.String())
}

// ByUID is Get by uid.
func (s *Store) ByUID(ctx context.Context, q store.Querier, caller *slipway.Caller, uid string) (Row, error) {
	return one(ctx, q, caller, "uid", uid)
}

func one(ctx context.Context, q store.Querier, caller *slipway.Caller, column, value string) (Row, error) {
	condition, args := Readable(caller, "e", 2)
	columns, more := rowColumns(caller, 2+len(args))
	row := q.QueryRowContext(ctx, `SELECT `+columns+` FROM entity e WHERE e.`+column+` = $1 AND `+condition, slices.Concat([]any{value}, args, more)...)
	r, err := scanRow(row.Scan)
	if slipway.CodeOf(err) == slipway.NotFound {
		return Row{}, slipway.Errorf(slipway.NotFound, "there is no entity %s that you may read; slipway catalog list (GET /api/catalog/entities) shows those", value).WithCause(err)
	}
	return r, err
}

// ByRefs reads entities, at most 1,000, by canonical ref. What does not exist or may not be read is not in the map.
func (s *Store) ByRefs(ctx context.Context, q store.Querier, caller *slipway.Caller, refs []slipway.EntityRef) (map[string]Row, error) {
	if len(refs) > 1000 {
		return nil, slipway.Errorf(slipway.Invalid, "at most 1,000 entities at once")
	}
	found := make(map[string]Row, len(refs))
	if len(refs) == 0 {
		return found, nil
	}
	var args []any
	for _, r := range refs {
		args = append(args, r.String())
	}
	names := list(1, len(args))
	condition, more := Readable(caller, "e", len(args)+1)
	args = append(args, more...)
	columns, more := rowColumns(caller, len(args)+1)
	rows, err := q.QueryContext(ctx, `SELECT `+columns+` FROM entity e WHERE e.ref IN `+names+` AND `+condition, append(args, more...)...)
	if err != nil {
		return nil, store.Err(err)
	}
	return found, collect(rows, found)
}

// maxAtOnce is how many bytes of documents are given for a list of refs: unlike a page, it cannot end early.
const maxAtOnce = 4 * maxPage

func collect(rows *sql.Rows, found map[string]Row) error {
	size := 0
	return store.Each(rows, func(rows *sql.Rows) error {
		r, err := scanRow(rows.Scan)
		if err != nil {
			return err
		}
		if size += len(r.JSON); size > maxAtOnce {
			return slipway.Errorf(slipway.Invalid, "these entities are more than %d MiB together; ask for fewer at once", maxAtOnce>>20)
		}
		found[r.Ref.String()] = r
		return nil
	})
}

// BySource lists the entities that a source brings, but for those to be left out, in order of their refs.
func (s *Store) BySource(ctx context.Context, source string, leaveOut func(ref string) bool) ([]slipway.EntityRef, error) {
	rows, err := s.read.QueryContext(ctx, `SELECT ref, kind, namespace, name FROM entity WHERE source = $1`, source)
	if err != nil {
		return nil, store.Err(err)
	}
	var refs []slipway.EntityRef
	err = store.Each(rows, func(rows *sql.Rows) error {
		var ref string
		var r slipway.EntityRef
		err := rows.Scan(&ref, &r.Kind, &r.Namespace, &r.Name)
		if !leaveOut(ref) {
			refs = append(refs, r)
		}
		return err
	})
	slices.SortFunc(refs, func(a, b slipway.EntityRef) int { return strings.Compare(a.String(), b.String()) })
	return refs, err
}

// Ownership gives the refs that stand for a user when ownership is asked: the user, the groups that it is a member of, and
// the groups above those, and nothing else: what says that it has a user as a member and is no group, gives nothing. The user's entity need
// not exist: a group may name it. Rights hang on it, so let only those put users and groups who may give the rights of any group.
func (s *Store) Ownership(ctx context.Context, userRef string) ([]string, error) {
	ref, err := slipway.ParseEntityRef(userRef, slipway.EntityRef{Kind: "user"})
	if err != nil {
		return nil, err
	}
	// UNION, not UNION ALL: groups may stand above one another in a circle.
	rows, err := s.read.QueryContext(ctx, `WITH RECURSIVE owner (ref) AS (
			SELECT target FROM relation WHERE source = $1 AND type = 'memberOf' AND target >= 'group:' AND target < 'group;'
			UNION
			SELECT r.target FROM relation r JOIN owner ON r.source = owner.ref WHERE r.type = 'childOf' AND r.target >= 'group:' AND r.target < 'group;')
		SELECT ref FROM owner ORDER BY ref`, ref.String())
	if err != nil {
		return nil, store.Err(err)
	}
	owners := []string{ref.String()}
	err = store.Each(rows, func(rows *sql.Rows) error {
		var o string
		err := rows.Scan(&o)
		owners = append(owners, o)
		return err
	})
	return owners, err
}
