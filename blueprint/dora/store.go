package dora

import (
	"cmp"
	"context"
	"database/sql"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/slipway-platform/slipway/store"
)

// statementRows is how many rows one statement writes: with more, SQLite's driver takes longer to find each argument by its name.
const statementRows = 32

// tuples is "($3, $4), ($5, $6)": rows of columns, from an argument on.
func tuples(start, rows, columns int) string {
	var b strings.Builder
	for i := range rows {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteByte('(')
		for j := range columns {
			if j > 0 {
				b.WriteString(", ")
			}
			b.WriteByte('$')
			b.WriteString(strconv.Itoa(start + i*columns + j))
		}
		b.WriteByte(')')
	}
	return b.String()
}

// ranges is a table of whole numbers for a FROM clause: its columns are column1, column2 and so on, in both engines.
func ranges(rows [][]int64) string {
	var b strings.Builder
	b.WriteString("(VALUES ")
	for i, r := range rows {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteByte('(')
		for j, v := range r {
			if j > 0 {
				b.WriteString(", ")
			}
			fmt.Fprintf(&b, "CAST(%d AS BIGINT)", v)
		}
		b.WriteByte(')')
	}
	b.WriteString(") r")
	return b.String()
}

// serviceRow is a stored service.
type serviceRow struct {
	id          int64
	name, title string
	project     string
}

// ensureServices gives the services of records by name, and makes those that are new. A project that is named later is noted.
func (s *service) ensureServices(ctx context.Context, tx *store.Tx, records []record) (map[string]int64, error) {
	want := map[string]record{}
	for _, r := range records {
		if w, ok := want[r.service]; !ok || w.project == "" {
			want[r.service] = r
		}
	}
	names := slices.Sorted(maps.Keys(want))
	ids := map[string]int64{}
	read := func() error {
		for chunk := range slices.Chunk(names, statementRows) {
			rows, err := tx.QueryContext(ctx, `SELECT id, name, project FROM dora_service WHERE name IN `+tuples(1, 1, len(chunk)), anys(chunk)...)
			if err != nil {
				return store.Err(err)
			}
			err = store.Each(rows, func(rows *sql.Rows) error {
				var id int64
				var name, project string
				if err := rows.Scan(&id, &name, &project); err != nil {
					return err
				}
				ids[name] = id
				if w := want[name]; project == w.project || w.project == "" {
					delete(want, name)
				}
				return nil
			})
			if err != nil {
				return err
			}
		}
		return nil
	}
	if err := read(); err != nil {
		return nil, err
	}
	if len(want) == 0 {
		return ids, nil
	}
	var made []serviceRow
	for _, name := range slices.Sorted(maps.Keys(want)) {
		r := want[name]
		row := serviceRow{name: name, project: r.project}
		err := tx.QueryRowContext(ctx, `INSERT INTO dora_service (name, title, project, version) VALUES ($1, $2, $3, 0)
			ON CONFLICT (name) DO UPDATE SET project = CASE WHEN excluded.project = '' THEN dora_service.project ELSE excluded.project END RETURNING id`, name, r.title, r.project).Scan(&row.id)
		if err != nil {
			return nil, store.Err(err)
		}
		ids[name] = row.id
		made = append(made, row)
	}
	return ids, bindServices(ctx, tx, made)
}

// projectAnnotation is where an entity says which project or service is its own, if it is not the one of its name.
const projectAnnotation = "devlake.apache.org/project-name"

// bindServices ties services to the entities that are theirs: those that name the service or its project in the annotation, else the one of the service's name.
func bindServices(ctx context.Context, tx *store.Tx, list []serviceRow) error {
	for _, s := range list {
		if _, err := tx.Exec(ctx, `DELETE FROM dora_binding WHERE service_id = $1`, s.id); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `INSERT INTO dora_binding (service_id, entity_id)
			SELECT CAST($1 AS BIGINT), e.id FROM entity e WHERE e.id IN (
				SELECT et.entity_id FROM term t JOIN entity_term et ON et.term_id = t.id
				WHERE t.key = 'metadata.annotations.`+projectAnnotation+`' AND t.kind NOT IN ('user', 'group', 'location', 'template') AND (t.value = $2 OR t.value = $3 AND $3 <> '') LIMIT 100)
			UNION
			SELECT CAST($1 AS BIGINT), e.id FROM entity e WHERE e.name = $2 AND e.namespace = 'default' AND e.kind IN ('component', 'system', 'api', 'resource')
				AND NOT EXISTS (SELECT 1 FROM entity_term et JOIN term t ON t.id = et.term_id WHERE et.entity_id = e.id AND t.key = 'metadata.annotations.`+projectAnnotation+`')
			ON CONFLICT DO NOTHING`, s.id, s.name, s.project)
		if err != nil {
			return err
		}
	}
	return nil
}

func scanServices(rows *sql.Rows, err error) (list []serviceRow, _ error) {
	if err != nil {
		return nil, store.Err(err)
	}
	return list, store.Each(rows, func(rows *sql.Rows) error {
		var s serviceRow
		err := rows.Scan(&s.id, &s.name, &s.title, &s.project)
		list = append(list, s)
		return err
	})
}

func servicesAfter(ctx context.Context, q store.Querier, after int64, limit int) ([]serviceRow, error) {
	return scanServices(q.QueryContext(ctx, `SELECT id, name, title, project FROM dora_service WHERE id > $1 ORDER BY id LIMIT $2`, after, limit))
}

// servicesOf lists the services that an entity is, or may now be, bound to: those that it was bound to, and those that have its name or that its annotation names.
func servicesOf(ctx context.Context, q store.Querier, entityID int64, name, annotation string) ([]serviceRow, error) {
	return scanServices(q.QueryContext(ctx, `SELECT id, name, title, project FROM dora_service s
		WHERE s.id IN (SELECT service_id FROM dora_binding WHERE entity_id = $1) OR s.name IN ($2, $3) OR s.project = $3 AND s.project <> '' ORDER BY id LIMIT 100`, entityID, name, annotation))
}

func anys[E any](list []E) []any {
	out := make([]any, len(list))
	for i, v := range list {
		out[i] = v
	}
	return out
}

// annotated adds what the annotations of entities name to what may be theirs.
func annotated(ctx context.Context, q store.Querier, ids []int64, names map[int64][]string) error {
	var some bool // most catalogs have none
	err := q.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM term WHERE key = 'metadata.annotations.`+projectAnnotation+`')`).Scan(&some)
	if err != nil || !some {
		return store.Err(err)
	}
	// The annotation first, else PostgreSQL may look through all terms.
	rows, err := q.QueryContext(ctx, `WITH named AS MATERIALIZED (SELECT id, value FROM term WHERE key = 'metadata.annotations.`+projectAnnotation+`')
		SELECT et.entity_id, n.value FROM named n JOIN entity_term et ON et.term_id = n.id WHERE et.entity_id IN `+tuples(1, 1, len(ids)), anys(ids)...)
	if err != nil {
		return store.Err(err)
	}
	return store.Each(rows, func(rows *sql.Rows) error {
		var id int64
		var name string
		err := rows.Scan(&id, &name)
		names[id] = append(names[id], key(name))
		return err
	})
}

// withServices gives those entities that are bound to a service, or that one may know by their names.
func withServices(ctx context.Context, q store.Querier, ids []int64, names map[int64][]string) (map[int64]bool, error) {
	theirs := map[int64]bool{}
	byName := map[string][]int64{}
	for id, list := range names {
		for _, name := range list {
			byName[name] = append(byName[name], id)
		}
	}
	rows, err := q.QueryContext(ctx, `SELECT DISTINCT entity_id FROM dora_binding WHERE entity_id IN `+tuples(1, 1, len(ids)), anys(ids)...)
	if err != nil {
		return nil, store.Err(err)
	}
	err = store.Each(rows, func(rows *sql.Rows) error {
		var id int64
		err := rows.Scan(&id)
		theirs[id] = true
		return err
	})
	if err != nil {
		return nil, err
	}
	for chunk := range slices.Chunk(slices.Sorted(maps.Keys(byName)), 200) {
		in := tuples(1, 1, len(chunk))
		rows, err := q.QueryContext(ctx, `SELECT name FROM dora_service WHERE name IN `+in+` UNION SELECT project FROM dora_service WHERE project IN `+in, anys(chunk)...)
		if err != nil {
			return nil, store.Err(err)
		}
		err = store.Each(rows, func(rows *sql.Rows) error {
			var name string
			err := rows.Scan(&name)
			for _, id := range byName[name] {
				theirs[id] = true
			}
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return theirs, nil
}

// unbind drops what bound an entity that is gone.
func unbind(ctx context.Context, tx *store.Tx, entityID int64) error {
	_, err := tx.Exec(ctx, `DELETE FROM dora_binding WHERE entity_id = $1`, entityID)
	return err
}

// mark notes what has changed of services, in the order of their ids, so that no two transactions wait for each other.
func mark(ctx context.Context, tx *store.Tx, marks map[int64]span) error {
	for _, id := range sortedIDs(marks) {
		m := marks[id]
		query, args := `UPDATE dora_service SET version = version + 1 WHERE id = $1`, []any{id}
		if m.some {
			query = `UPDATE dora_service SET version = version + 1,
				dirty_from = CASE WHEN dirty_from IS NULL OR dirty_from > $2 THEN $2 ELSE dirty_from END,
				dirty_to = CASE WHEN dirty_to IS NULL OR dirty_to < $3 THEN $3 ELSE dirty_to END WHERE id = $1`
			args = append(args, m.from, m.to)
		}
		if _, err := tx.Exec(ctx, query, args...); err != nil {
			return err
		}
	}
	return nil
}

// storedRecords reads those of some records that are in their table.
func storedRecords(ctx context.Context, q store.Querier, k *kind, records []record) (map[sourceID]stored, error) {
	found := map[sourceID]stored{}
	rank, env := "CASE WHEN t.merged IS NULL THEN 0 ELSE 1 END", "'', ''"
	switch k {
	case deploymentKind:
		rank, env = "CASE WHEN t.finished IS NULL THEN 0 ELSE 1 END", "t.environment, t.status"
	case incidentKind:
		rank = "CASE WHEN t.resolved IS NULL THEN 0 ELSE 1 END"
	}
	for chunk := range slices.Chunk(records, statementRows) {
		args := make([]any, 0, 2*len(chunk))
		for _, r := range chunk {
			args = append(args, r.id, r.source)
		}
		rows, err := q.QueryContext(ctx, `SELECT t.external_id, t.source, t.id, t.service_id, t.revision, `+rank+`, t.doc, `+env+`, `+k.touched+` FROM `+k.table+` t
			WHERE (t.external_id, t.source) IN (VALUES `+tuples(1, len(chunk), 2)+`)`, args...)
		if err != nil {
			return nil, store.Err(err)
		}
		err = store.Each(rows, func(rows *sql.Rows) error {
			var id sourceID
			var s stored
			var from, to sql.NullInt64
			if err := rows.Scan(&id.id, &id.source, &s.rowID, &s.service, &s.revision, &s.rank, &s.doc, &s.env, &s.status, &from, &to); err != nil {
				return err
			}
			s.touched, s.from, s.to = from.Valid, from.Int64, to.Int64
			found[id] = s
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return found, nil
}

// told widens the spans of services by what is tied to records by name: a change or incident that names its deployment touches the month in which that ended, and a
// deployment that is named touches the time of what names it.
func told(ctx context.Context, tx *store.Tx, k *kind, records []record, services map[string]int64, spans map[int64]span) error {
	queries := []string{`SELECT service_id, MIN(finished), MAX(finished) FROM dora_deployment WHERE finished IS NOT NULL AND external_id IN `}
	if k == deploymentKind {
		queries = []string{
			`SELECT service_id, MIN(merged), MAX(merged) FROM dora_change WHERE told <> '' AND merged IS NOT NULL AND told IN `,
			`SELECT service_id, MIN(started), MAX(COALESCE(resolved, started)) FROM dora_incident WHERE told <> '' AND told IN `,
		}
	}
	var names []any
	for _, r := range records {
		switch {
		case k == deploymentKind:
			names = append(names, r.id)
		case r.told != "":
			names = append(names, r.told)
		}
	}
	mine := slices.Sorted(maps.Values(services))
	for chunk := range slices.Chunk(names, statementRows) {
		for _, query := range queries {
			query += tuples(1, 1, len(chunk))
			if k == deploymentKind {
				query += ` AND service_id IN (` + joined(mine) + `)`
			}
			rows, err := tx.QueryContext(ctx, query+` GROUP BY service_id`, chunk...)
			if err != nil {
				return store.Err(err)
			}
			err = store.Each(rows, func(rows *sql.Rows) error {
				var service, from, to int64
				if err := rows.Scan(&service, &from, &to); err != nil {
					return err
				}
				if _, ok := slices.BinarySearch(mine, service); ok {
					m := spans[service]
					m.add(from, to)
					spans[service] = m
				}
				return nil
			})
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// putRecords writes records: new ones by few statements, changed ones one by one. What is derived stays as it is.
func putRecords(ctx context.Context, tx *store.Tx, k *kind, records []record, before map[sourceID]stored, services map[string]int64) error {
	columns := append([]string{"external_id", "source", "service_id", "revision", "doc"}, k.columns...)
	var args []any
	insert := func() error {
		if len(args) == 0 {
			return nil
		}
		_, err := tx.Exec(ctx, `INSERT INTO `+k.table+` (`+strings.Join(columns, ", ")+`) VALUES `+tuples(1, len(args)/len(columns), len(columns)), args...)
		args = nil
		return err
	}
	for _, r := range records {
		row := append([]any{r.id, r.source, services[r.service], r.revision, r.doc}, r.columns...)
		old, there := before[r.sourceID()]
		if !there {
			if args = append(args, row...); len(args) == statementRows*len(columns) {
				if err := insert(); err != nil {
					return err
				}
			}
			continue
		}
		var set []string
		var change []any
		for i, c := range columns {
			if i >= 2 && c != "deployment_id" {
				change = append(change, row[i])
				set = append(set, fmt.Sprintf("%s = $%d", c, len(change)))
			}
		}
		change = append(change, old.rowID)
		if _, err := tx.Exec(ctx, `UPDATE `+k.table+` SET `+strings.Join(set, ", ")+fmt.Sprintf(` WHERE id = $%d`, len(change)), change...); err != nil {
			return err
		}
	}
	return insert()
}

type tallyKey struct {
	service     int64
	env, status string
}

// count moves the tallies.
func count(ctx context.Context, tx *store.Tx, by map[tallyKey]int64) error {
	keys := slices.SortedFunc(maps.Keys(by), func(a, b tallyKey) int {
		return cmp.Or(cmp.Compare(a.service, b.service), strings.Compare(a.env, b.env), strings.Compare(a.status, b.status))
	})
	keys = slices.DeleteFunc(keys, func(k tallyKey) bool { return by[k] == 0 })
	for chunk := range slices.Chunk(keys, statementRows) {
		var args []any
		for _, k := range chunk {
			args = append(args, k.service, k.env, k.status, by[k])
		}
		_, err := tx.Exec(ctx, `INSERT INTO dora_tally (service_id, environment, status, n) VALUES `+tuples(1, len(chunk), 4)+`
			ON CONFLICT (service_id, environment, status) DO UPDATE SET n = dora_tally.n + excluded.n`, args...)
		if err != nil {
			return err
		}
	}
	return nil
}

// dirtyServices reads those of some services that have to be settled.
func dirtyServices(ctx context.Context, q store.Querier, ids []int64) ([]*dirty, error) {
	return scanDirty(q.QueryContext(ctx, `SELECT id, version, dirty_from, dirty_to FROM dora_service WHERE dirty_from IS NOT NULL AND id IN (`+joined(ids)+`) ORDER BY id`))
}

// nextDirty reads services that have to be settled, by id, from after one on.
func nextDirty(ctx context.Context, q store.Querier, after int64, limit int) ([]*dirty, error) {
	return scanDirty(q.QueryContext(ctx, `SELECT id, version, dirty_from, dirty_to FROM dora_service WHERE dirty_from IS NOT NULL AND id > $1 ORDER BY id LIMIT $2`, after, limit))
}

func scanDirty(rows *sql.Rows, err error) (list []*dirty, _ error) {
	if err != nil {
		return nil, store.Err(err)
	}
	return list, store.Each(rows, func(rows *sql.Rows) error {
		d := &dirty{links: map[bool]map[int64]int64{true: {}, false: {}}, fates: map[int64]fate{}, have: map[blockKey]bool{}}
		err := rows.Scan(&d.id, &d.version, &d.from, &d.to)
		list = append(list, d)
		return err
	})
}

// neighbours reads, for a stretch of time of each service, when the last deployment to production before it and the first after it ended that succeeded; the ends of time where
// there is none.
func neighbours(ctx context.Context, q store.Querier, stretches [][]int64) (map[int64][2]int64, error) {
	rows, err := q.QueryContext(ctx, `SELECT r.column1,
		(SELECT MAX(d.finished) FROM dora_deployment d WHERE d.service_id = r.column1 AND d.environment = 'prod' AND d.status = 'SUCCESS' AND d.finished < r.column2),
		(SELECT MIN(d.finished) FROM dora_deployment d WHERE d.service_id = r.column1 AND d.environment = 'prod' AND d.status = 'SUCCESS' AND d.finished > r.column3)
		FROM `+ranges(stretches))
	if err != nil {
		return nil, store.Err(err)
	}
	found := map[int64][2]int64{}
	return found, store.Each(rows, func(rows *sql.Rows) error {
		var id int64
		var before, after sql.NullInt64
		if err := rows.Scan(&id, &before, &after); err != nil {
			return err
		}
		n := [2]int64{beginOfTime, endOfTime}
		if before.Valid {
			n[0] = before.Int64
		}
		if after.Valid {
			n[1] = after.Int64
		}
		found[id] = n
		return nil
	})
}

// The ends of time, in microseconds: years 0 and 9999, so that months between them can be told.
const (
	beginOfTime = -62167219200 * 1e6
	endOfTime   = 253402300799 * 1e6
)

// surroundings reads, for a stretch of time of each service, how far back and how far on lie deployments that it may change, in any environment: those since the last that succeeded, and
// those in which a version may be put back. Where there are none, it is the stretch itself.
func surroundings(ctx context.Context, q store.Querier, stretches [][]int64) (map[int64][2]int64, error) {
	const back = maxBack * 1_000_000
	rows, err := q.QueryContext(ctx, fmt.Sprintf(`SELECT r.column1,
		COALESCE((SELECT MIN(e.since) FROM (SELECT COALESCE(MAX(CASE WHEN d.status = 'SUCCESS' THEN d.finished END), MIN(d.finished)) AS since FROM dora_deployment d
			WHERE d.service_id = r.column1 AND d.finished >= r.column2 - %d AND d.finished < r.column2 GROUP BY d.environment) e), r.column2),
		COALESCE((SELECT MAX(d.finished) FROM dora_deployment d WHERE d.service_id = r.column1 AND d.finished > r.column3 AND d.finished <= r.column3 + %d), r.column3)
		FROM `, int64(back), int64(back))+ranges(stretches))
	if err != nil {
		return nil, store.Err(err)
	}
	found := map[int64][2]int64{}
	return found, store.Each(rows, func(rows *sql.Rows) error {
		var id int64
		var n [2]int64
		err := rows.Scan(&id, &n[0], &n[1])
		found[id] = n
		return err
	})
}

// widen finds the months that have to be written anew: those of what has changed, of the deployments to production before and after it, whose changes and incidents may move, and of those around it
// that it may roll back, or that may roll back others because of it.
func widen(ctx context.Context, q store.Querier, list []*dirty) error {
	var stretches [][]int64
	for _, d := range list {
		stretches = append(stretches, []int64{d.id, d.from, d.to})
	}
	near, err := neighbours(ctx, q, stretches)
	if err != nil {
		return err
	}
	around, err := surroundings(ctx, q, stretches)
	if err != nil {
		return err
	}
	stretches = nil
	for _, d := range list {
		from, to := around[d.id][0], around[d.id][1]
		if n := near[d.id]; n[0] != beginOfTime {
			from = min(from, n[0])
		}
		if n := near[d.id]; n[1] != endOfTime {
			to = max(to, n[1])
		}
		d.lo, d.hi = monthStart(monthOf(floorDiv(from, 1e6)))*1e6, monthStart(monthOf(floorDiv(to, 1e6))+1)*1e6
		stretches = append(stretches, []int64{d.id, d.lo, d.hi - 1})
	}
	if near, err = neighbours(ctx, q, stretches); err != nil {
		return err
	}
	for _, d := range list {
		d.past, d.next = near[d.id][0], near[d.id][1]
		d.history.Begins = d.past == beginOfTime
	}
	return nil
}

// loadHistories reads what is needed to work the months of services out.
func loadHistories(ctx context.Context, q store.Querier, list []*dirty) error {
	byID := map[int64]*dirty{}
	var deployments, between, blocks [][]int64
	for _, d := range list {
		byID[d.id] = d
		// What is near the months on either side has to do with what is in them.
		from, to := d.lo-maxBack*1e6, d.hi+maxBack*1e6
		if d.past != beginOfTime {
			from = min(from, d.past)
		}
		if d.next != endOfTime {
			to = max(to, d.next)
		}
		deployments = append(deployments, []int64{d.id, from, to})
		between = append(between, []int64{d.id, d.past, d.next, d.lo, d.hi})
		blocks = append(blocks, []int64{d.id, monthOf(d.lo / 1e6), monthOf(d.hi / 1e6)})
	}
	each := func(query string, scan func(rows *sql.Rows) error) error {
		rows, err := q.QueryContext(ctx, query)
		if err != nil {
			return store.Err(err)
		}
		return store.Each(rows, scan)
	}
	err := each(`SELECT d.service_id, d.id, d.external_id, d.environment, d.status, d.finished, d.deployed, d.first_commit, d.rework, d.rollback, COALESCE(d.failed_after, -1), d.rolled_back, d.put_back
		FROM `+ranges(deployments)+` CROSS JOIN dora_deployment d WHERE d.service_id = r.column1 AND d.finished >= r.column2 AND d.finished <= r.column3`, func(rows *sql.Rows) error {
		var service int64
		var x deployed
		var status string
		var first sql.NullInt64
		var is fate
		if err := rows.Scan(&service, &x.ID, &x.ExternalID, &x.Environment, &status, &x.Finished, &x.Version, &first, &x.Rework, &x.Rollback, &is.IncidentAfter, &is.RolledBack, &is.PutBack); err != nil {
			return err
		}
		x.Finished, x.Result = floorDiv(x.Finished, 1e6), results[status]
		if first.Valid {
			x.FirstCommit = floorDiv(first.Int64, 1e6)
		}
		d := byID[service]
		d.history.Deployments = append(d.history.Deployments, x)
		d.fates[x.ID] = is
		return nil
	})
	if err != nil {
		return err
	}
	// What names another deployment than one of these belongs there, whatever its own time. The sum keeps SQLite from looking through all deployments of the service.
	const elsewhere = `x.told <> '' AND EXISTS (SELECT 1 FROM dora_deployment t WHERE t.external_id = x.told AND t.service_id + 0 = r.column1 AND t.environment = 'prod' AND t.status = 'SUCCESS'
		AND t.finished IS NOT NULL AND (t.finished < r.column2 OR t.finished > r.column3))`
	named := func(table, columns string) string {
		return ` UNION SELECT ` + columns + ` FROM ` + ranges(between) + ` CROSS JOIN dora_deployment t CROSS JOIN ` + table + ` x
			WHERE EXISTS (SELECT 1 FROM ` + table + ` y WHERE y.service_id = r.column1 AND y.told <> '') AND
			t.service_id = r.column1 AND t.environment = 'prod' AND t.status = 'SUCCESS' AND t.finished >= r.column2 AND t.finished <= r.column3 AND x.told = t.external_id AND x.told <> '' AND x.service_id = r.column1`
	}
	columns := `x.service_id, x.id, x.first_commit, x.opened, x.merged, x.told, x.deployment_id`
	err = each(`SELECT `+columns+` FROM `+ranges(between)+` CROSS JOIN dora_change x WHERE x.service_id = r.column1 AND x.merged > r.column2 AND x.merged <= r.column3 AND NOT (`+elsewhere+`)`+
		named("dora_change", columns), func(rows *sql.Rows) error {
		var service, link int64
		var x changed
		var first, merged sql.NullInt64
		if err := rows.Scan(&service, &x.ID, &first, &x.Opened, &merged, &x.Deployment, &link); err != nil || !merged.Valid {
			return err
		}
		x.Opened, x.Merged = floorDiv(x.Opened, 1e6), floorDiv(merged.Int64, 1e6)
		if first.Valid {
			x.FirstCommit = floorDiv(first.Int64, 1e6)
		}
		d := byID[service]
		d.history.Changes = append(d.history.Changes, x)
		d.links[true][x.ID] = link
		return nil
	})
	if err != nil {
		return err
	}
	// Incidents that ended in these months and began before what is looked at belong to deployments before it, which are looked for one by one.
	columns = `x.service_id, x.id, x.started, x.resolved, x.told, x.deployment_id, CAST(0 AS BIGINT)`
	earlier, of := map[int64]RecoveryFact{}, map[int64]*dirty{}
	old := `x.service_id, x.id, x.started, x.resolved, CASE WHEN ` + elsewhere + ` THEN x.told ELSE '' END, x.deployment_id, COALESCE(CASE WHEN ` + elsewhere + ` THEN
			(SELECT MAX(t.finished) FROM dora_deployment t WHERE t.external_id = x.told AND t.service_id + 0 = r.column1 AND t.environment = 'prod' AND t.status = 'SUCCESS')
		ELSE (SELECT MAX(t.finished) FROM dora_deployment t WHERE t.service_id = r.column1 AND t.environment = 'prod' AND t.status = 'SUCCESS' AND t.finished < x.started) END, 0)`
	err = each(`SELECT `+columns+` FROM `+ranges(between)+` CROSS JOIN dora_incident x WHERE x.service_id = r.column1 AND x.started >= r.column2 AND x.started <= r.column3 AND NOT (`+elsewhere+`)`+
		named("dora_incident", columns)+
		` UNION SELECT `+old+` FROM `+ranges(between)+` CROSS JOIN dora_incident x WHERE x.service_id = r.column1 AND x.resolved >= r.column4 AND x.resolved < r.column5 AND (x.started < r.column2 OR `+elsewhere+`)`,
		func(rows *sql.Rows) error {
			var service, link, before int64
			var x broken
			var resolved sql.NullInt64
			if err := rows.Scan(&service, &x.ID, &x.Started, &resolved, &x.Deployment, &link, &before); err != nil {
				return err
			}
			d := byID[service]
			if _, twice := d.links[false][x.ID]; twice {
				return nil
			}
			x.Started = floorDiv(x.Started, 1e6)
			if resolved.Valid {
				x.Resolved = floorDiv(resolved.Int64, 1e6)
			}
			if before != 0 {
				earlier[x.ID] = RecoveryFact{At: x.Resolved, Took: x.Resolved - x.Started, After: max(0, x.Started-floorDiv(before, 1e6)), Told: x.Deployment != ""}
				of[x.ID] = d
				return nil
			}
			d.history.Incidents = append(d.history.Incidents, x)
			d.links[false][x.ID] = link
			return nil
		})
	if err != nil {
		return err
	}
	for id, r := range earlier {
		if d := of[id]; r.Took >= 0 {
			if _, twice := d.links[false][id]; !twice {
				d.earlier = append(d.earlier, r)
			}
		}
	}
	return each(`SELECT b.service_id, b.environment, b.month FROM `+ranges(blocks)+` CROSS JOIN dora_block b WHERE b.service_id = r.column1 AND b.month >= r.column2 AND b.month < r.column3`, func(rows *sql.Rows) error {
		var service int64
		var k blockKey
		if err := rows.Scan(&service, &k.env, &k.month); err != nil {
			return err
		}
		byID[service].have[k] = true
		return nil
	})
}

// writeDerived writes rows that follow from what was reported, of services that nobody has written to since.
func writeDerived(ctx context.Context, tx *store.Tx, batch []settling) error {
	var blocks []any
	put := func() error {
		if len(blocks) == 0 {
			return nil
		}
		_, err := tx.Exec(ctx, `INSERT INTO dora_block (environment, month, service_id, facts) VALUES `+tuples(1, len(blocks)/4, 4)+`
			ON CONFLICT (environment, month, service_id) DO UPDATE SET facts = excluded.facts`, blocks...)
		blocks = nil
		return err
	}
	for _, s := range batch {
		guard := `UPDATE dora_service SET version = version WHERE id = $1 AND version = $2`
		if s.last {
			guard = `UPDATE dora_service SET dirty_from = NULL, dirty_to = NULL WHERE id = $1 AND version = $2`
		}
		n, err := tx.Exec(ctx, guard, s.id, s.version)
		if err != nil {
			return err
		}
		if n == 0 {
			s.overtaken = true
			continue
		}
		for _, r := range s.rows {
			switch {
			case r.table != "":
				_, err = tx.Exec(ctx, `UPDATE `+r.table+` SET deployment_id = $1 WHERE id = $2`, r.link, r.row)
			case r.fate != nil:
				after := sql.NullInt64{Int64: r.fate.IncidentAfter, Valid: r.fate.IncidentAfter != none}
				_, err = tx.Exec(ctx, `UPDATE dora_deployment SET failed_after = $1, rolled_back = $2, put_back = $3 WHERE id = $4`, after, r.fate.RolledBack, r.fate.PutBack, r.row)
			case r.facts == nil:
				_, err = tx.Exec(ctx, `DELETE FROM dora_block WHERE environment = $1 AND month = $2 AND service_id = $3`, r.block.env, r.block.month, s.id)
			default:
				if blocks = append(blocks, r.block.env, r.block.month, s.id, r.facts); len(blocks) == 4*statementRows {
					err = put()
				}
			}
			if err != nil {
				return err
			}
		}
	}
	return put()
}

// deleteBefore deletes what ended before a time, in small transactions. The blocks of whole months before it go with it.
func (s *service) deleteBefore(ctx context.Context, before time.Time) error {
	type row struct {
		after, id int64 // where to go on, and which it is
		tallyKey
	}
	for _, t := range []struct {
		list  string // what is old, from a place on: $1 the time, $2 the place
		limit int64
		one   string // $1 the id; of what is listed, nothing may have changed
	}{
		{`SELECT id, id, service_id, '', '' FROM dora_change WHERE COALESCE(merged, opened) < $1 AND id > $2 ORDER BY id LIMIT 300`, micro(before), `DELETE FROM dora_change WHERE id = $1 AND service_id = $2 AND $3 = $4`},
		{`SELECT id, id, service_id, '', '' FROM dora_incident WHERE COALESCE(resolved, started) < $1 AND id > $2 ORDER BY id LIMIT 300`, micro(before), `DELETE FROM dora_incident WHERE id = $1 AND service_id = $2 AND $3 = $4`},
		{`SELECT s.id, d.id, d.service_id, d.environment, d.status FROM dora_service s CROSS JOIN dora_deployment d WHERE d.service_id = s.id AND d.started < $1 AND s.id >= $2 ORDER BY s.id LIMIT 300`,
			micro(before), `DELETE FROM dora_deployment WHERE id = $1 AND service_id = $2 AND environment = $3 AND status = $4`},
		{`SELECT 0, month, service_id, environment, '' FROM dora_block WHERE month < $1 AND $2 >= 0 LIMIT 300`, monthOf(before.Unix()), `DELETE FROM dora_block WHERE month = $1 AND service_id = $2 AND environment = $3 AND $4 = ''`},
	} {
		for place := int64(0); ; {
			rows, err := s.db.QueryContext(ctx, t.list, t.limit, place)
			if err != nil {
				return store.Err(err)
			}
			var list []row
			err = store.Each(rows, func(rows *sql.Rows) error {
				var r row
				err := rows.Scan(&r.after, &r.id, &r.service, &r.env, &r.status)
				list = append(list, r)
				return err
			})
			if err != nil {
				return err
			}
			if len(list) == 0 {
				break
			}
			place = list[len(list)-1].after
			err = s.db.Write(ctx, func(tx *store.Tx) error {
				tally := map[tallyKey]int64{}
				for _, r := range list {
					n, err := tx.Exec(ctx, t.one, r.id, r.service, r.env, r.status)
					if err != nil {
						return err
					}
					if strings.Contains(t.one, "dora_deployment") {
						tally[r.tallyKey] -= n
					}
				}
				return count(ctx, tx, tally)
			})
			if err != nil {
				return err
			}
		}
	}
	return nil
}
