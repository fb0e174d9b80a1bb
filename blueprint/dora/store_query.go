package dora

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/auth"
	"github.com/slipway-platform/slipway/entity"
	"github.com/slipway-platform/slipway/store"
)

// filter says which services are asked for; "" for any. Names are keys.
type filter struct{ project, team, label string }

type arguments []any

func (a *arguments) add(v any) string {
	*a = append(*a, v)
	return fmt.Sprintf("$%d", len(*a))
}

// visible is the condition that the caller may see a service s: those that are bound to an entity that they may read, and of which they hold the permission. all: they may see those that
// are bound to none as well.
func visible(caller *slipway.Caller, permission string, args *arguments) (condition string, all bool) {
	if entity.All(caller, entity.ReadPermission) && entity.All(caller, permission) {
		return "TRUE", true
	}
	condition = `EXISTS (SELECT 1 FROM dora_binding b JOIN entity e ON e.id = b.entity_id WHERE b.service_id = s.id`
	for _, p := range []string{entity.ReadPermission, permission} {
		holding, more := entity.Holding(caller, p, "e", len(*args)+1)
		condition += " AND " + holding
		*args = append(*args, more...)
	}
	return condition + ")", false
}

// refOf is the canonical ref that a name stands for; the name itself where it can be none.
func refOf(name, kind string) string {
	ref, err := slipway.ParseEntityRef(name, slipway.EntityRef{Kind: kind})
	if err != nil {
		return name
	}
	return ref.String()
}

// ofProject is the condition that a service s belongs to a project: it is called so, its project is, or it is bound to an entity that is, or that is part of such a system.
func ofProject(project string, args *arguments) string {
	name, ref, system := args.add(project), args.add(refOf(project, slipway.DefaultKind)), args.add(refOf(project, "system"))
	return `(s.name = ` + name + ` OR s.project = ` + name + ` OR s.id IN (SELECT b.service_id FROM dora_binding b JOIN entity e ON e.id = b.entity_id
		WHERE e.ref IN (` + ref + `, ` + system + `) OR e.system = ` + system + `))`
}

// ofTeam is the condition that a service s belongs to a team: it is bound to an entity that the group or one below it owns, or whose label names the team.
func ofTeam(team, label string, args *arguments) string {
	ref, key, name := args.add(refOf(team, "group")), args.add("metadata.labels."+strings.ToLower(label)), args.add(team)
	below := `r.type = 'parentOf' AND r.target >= 'group:' AND r.target < 'group;'`
	return `s.id IN (
		SELECT b.service_id FROM dora_binding b JOIN entity e ON e.id = b.entity_id WHERE e.owner = ` + ref + ` OR e.owner IN (
			WITH RECURSIVE team (ref) AS (
				SELECT r.target FROM relation r WHERE r.source = ` + ref + ` AND ` + below + `
				UNION
				SELECT r.target FROM relation r JOIN team ON r.source = team.ref WHERE ` + below + `)
			SELECT ref FROM team)
		UNION
		SELECT b.service_id FROM dora_binding b JOIN entity_term et ON et.entity_id = b.entity_id JOIN term t ON t.id = et.term_id WHERE t.key = ` + key + ` AND t.value = ` + name + `)`
}

// findServices lists the services that fit and that the caller may see, by name. all: the caller may see any service.
func findServices(ctx context.Context, q store.Querier, caller *slipway.Caller, permission string, f filter) (list []serviceRow, all bool, err error) {
	var args arguments
	where, all := visible(caller, permission, &args)
	if f.project != "" {
		where += " AND " + ofProject(f.project, &args)
	}
	if f.team != "" {
		where += " AND " + ofTeam(f.team, f.label, &args)
	}
	list, err = scanServices(q.QueryContext(ctx, `SELECT s.id, s.name, s.title, s.project FROM dora_service s WHERE `+where+` ORDER BY s.name`, args...))
	return list, all, err
}

// names says whether the caller may know of a project or team of this name, and lists others that they may know of, 5,000 at most.
func names(ctx context.Context, q store.Querier, caller *slipway.Caller, permission, what, name, label string) (list []string, found bool, err error) {
	var args arguments
	where, _ := visible(caller, permission, &args)
	readable, more := entity.Readable(caller, "e", len(args)+1)
	args = append(args, more...)
	query := `SELECT s.name FROM dora_service s WHERE ` + where + ` UNION SELECT s.project FROM dora_service s WHERE s.project <> '' AND ` + where + `
		UNION SELECT e.name FROM entity e WHERE e.kind NOT IN ('user', 'group', 'location', 'template') AND ` + readable
	if what == "team" {
		args = nil
		readable, more = entity.Readable(caller, "e", 1)
		args = append(args, more...)
		query = `SELECT e.name FROM entity e WHERE e.kind = 'group' AND ` + readable + `
			UNION SELECT REPLACE(e.owner, 'group:default/', '') FROM entity e WHERE e.owner IS NOT NULL AND ` + readable + `
			UNION SELECT t.value FROM term t JOIN entity_term et ON et.term_id = t.id JOIN entity e ON e.id = et.entity_id WHERE t.key = ` + args.add("metadata.labels."+strings.ToLower(label)) + ` AND ` + readable
	}
	plain := name
	if ref, err := slipway.ParseEntityRef(name, slipway.EntityRef{}); err == nil {
		plain = strings.ToLower(ref.Name)
	}
	rows, err := q.QueryContext(ctx, `SELECT name, CASE WHEN name IN (`+args.add(name)+`, `+args.add(plain)+`) THEN 0 ELSE 1 END FROM (`+query+`) n ORDER BY 2, 1 LIMIT 5000`, args...)
	if err != nil {
		return nil, false, store.Err(err)
	}
	err = store.Each(rows, func(rows *sql.Rows) error {
		var n string
		var other int
		err := rows.Scan(&n, &other)
		found = found || err == nil && other == 0
		list = append(list, n)
		return err
	})
	return list, found, err
}

// own reads answers from our own tables.
type own struct{ db *store.DB }

func (o own) anyIncident(ctx context.Context) (some bool, err error) {
	err = o.db.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM dora_incident)`).Scan(&some)
	return some, store.Err(err)
}

// maxListed is how many services a query names one by one; with more, it reads all of the months and leaves out what is not asked for.
const maxListed = 200

// count goes through the blocks of services in one environment for the months of a window, one at a time.
func (o own) count(ctx context.Context, sc scope, environment string, w Window, _ Rules, all *answer, groups map[string]*answer) error {
	wanted := make(map[int64]*answer, len(sc.services))
	for _, sv := range sc.services {
		wanted[sv.id] = groups[sv.title]
	}
	query := `SELECT b.month, b.service_id, b.facts FROM dora_block b WHERE b.environment = $1 AND b.month >= $2 AND b.month <= $3`
	if ids := sc.ids(); len(ids) <= maxListed {
		var list [][]int64
		for _, id := range ids {
			list = append(list, []int64{id})
		}
		// The text that is added to the environment keeps SQLite from looking through the months of all services.
		query = `SELECT b.month, b.service_id, b.facts FROM ` + ranges(list) + ` CROSS JOIN dora_block b WHERE b.service_id = r.column1 AND b.environment || '' = $1 AND b.month >= $2 AND b.month <= $3`
	}
	rows, err := o.db.QueryContext(ctx, query, environment, monthOf(w.From), monthOf(w.Until))
	if err != nil {
		return store.Err(err)
	}
	starts := map[int64]int64{}
	var f Facts
	var month, service int64
	var raw sql.RawBytes
	return store.Each(rows, func(rows *sql.Rows) error {
		if err := rows.Scan(&month, &service, &raw); err != nil {
			return err
		}
		group, ok := wanted[service]
		if !ok {
			return nil
		}
		start, ok := starts[month]
		if !ok {
			start = monthStart(month)
			starts[month] = start
		}
		f.reset()
		if err := f.unpack(raw, start); err != nil {
			return err
		}
		all.add(&f)
		if group != nil {
			group.add(&f)
		}
		return nil
	})
}

func (o own) environmentsOf(ctx context.Context, sc scope) (list []string, err error) {
	rows, err := o.db.QueryContext(ctx, `SELECT DISTINCT environment FROM dora_tally WHERE n > 0`+sc.condition("service_id")+` ORDER BY environment LIMIT 1000`)
	if err != nil {
		return nil, store.Err(err)
	}
	return list, store.Each(rows, func(rows *sql.Rows) error {
		var e string
		err := rows.Scan(&e)
		list = append(list, e)
		return err
	})
}

// maxArms is how many stretches of an index are merged into a page of the history. With more services, or environments, all are gone through by time.
const maxArms = 200

// history is one query, so that the page and how many there are in all are of one moment.
func (o own) history(ctx context.Context, sc scope, environment, status string, after *historyKey, limit int) (page historyPage, err error) {
	if len(sc.services) == 0 {
		return page, nil
	}
	var args arguments
	condition, total := "TRUE", `SELECT CAST(COALESCE(SUM(n), 0) AS BIGINT) AS n FROM dora_tally WHERE TRUE`+sc.condition("service_id")
	env := ""
	if environment != "" {
		env = " AND environment = " + args.add(environment)
		total += env
	}
	if status != "" {
		is := " AND status = " + args.add(status)
		condition += is
		total += is
	}
	if after != nil {
		condition += " AND (started, id) < (" + args.add(after.Started) + ", " + args.add(after.ID) + ")"
	}
	order := fmt.Sprintf(" ORDER BY started DESC, id DESC LIMIT %d", limit+1)
	// The page is looked for in indexes: in that of a few services, of those that did not succeed, which are few, or of each environment.
	var arms []string
	arm := func(where string) {
		arms = append(arms, fmt.Sprintf(`SELECT * FROM (SELECT started, id FROM dora_deployment WHERE %s%s%s) a%d`, condition, where, order, len(arms)))
	}
	ids := sc.ids()
	switch all := sc.condition("service_id"); {
	case len(ids) <= maxArms:
		for _, id := range ids {
			arm(fmt.Sprintf(" AND service_id = %d", id) + env)
		}
	case status != "" && status != statusSuccess:
		arm(" AND status <> '" + statusSuccess + "'" + env + all)
	case environment != "":
		arm(env + all)
	default:
		envs, err := o.environmentsOf(ctx, sc)
		if err != nil {
			return page, err
		}
		for _, e := range envs {
			arm(" AND environment = " + args.add(e) + all)
		}
		if len(arms) == 0 || len(arms) > maxArms {
			arms = nil
			arm(all)
		}
	}
	rows, err := o.db.QueryContext(ctx, `SELECT t.n, k.started, k.id, d.doc FROM (`+total+`) t LEFT JOIN (SELECT started, id FROM (`+strings.Join(arms, " UNION ALL ")+`) u`+order+`) k ON TRUE
		LEFT JOIN dora_deployment d ON d.id = k.id ORDER BY k.started DESC, k.id DESC`, args...)
	if err != nil {
		return page, store.Err(err)
	}
	var k historyKey
	return page, store.Each(rows, func(rows *sql.Rows) error {
		var started, id sql.NullInt64
		var doc sql.NullString
		if err := rows.Scan(&page.total, &started, &id, &doc); err != nil || !id.Valid {
			return err
		}
		if len(page.items) == limit {
			page.next = &historyKey{Started: k.Started, ID: k.ID}
			return nil
		}
		k = historyKey{Started: started.Int64, ID: id.Int64}
		page.items = append(page.items, json.RawMessage(doc.String))
		return nil
	})
}

func joined(ids []int64) string {
	list := make([]string, len(ids))
	for i, id := range ids {
		list[i] = strconv.FormatInt(id, 10)
	}
	return strings.Join(list, ", ")
}

// condition is that a column is one of the services; nothing where it may be any.
func (sc scope) condition(column string) string {
	if sc.all {
		return ""
	}
	return " AND " + column + " IN (" + joined(sc.ids()) + ")"
}

// explained is a thing behind a number.
type explained struct {
	key   explainedKey
	doc   string
	title string         // of the service
	owner sql.NullString // external id of the deployment that a change or incident belongs to
	ended store.Time     // when that ended, or a deployment itself
	fate
	first      bool  // of a change: it came with the first deployment of its service
	recovered  int64 // of a deployment that failed: seconds until the next one that succeeded; none
	cycle      int64 // DevLake's minutes: the cycle time of a change, the length of an incident; none
	unmeasured bool  // of a change: DevLake has no cycle time
}

// explainedKey orders what is behind a number: newest first.
type explainedKey struct {
	At   int64  `json:"a"`
	Kind string `json:"t"`
	ID   int64  `json:"i,omitempty"`
	Name string `json:"n,omitempty"` // in DevLake's database, whose ids are texts
}

// explain also lists, with our own definitions, deployments without changes, whose commits count for the lead time, and where failures count, those that failed and were recovered in the window.
func (o own) explain(ctx context.Context, sc scope, metric, environment string, w Window, r Rules, after *explainedKey, limit int) (list []explained, err error) {
	if len(sc.services) == 0 {
		return nil, nil
	}
	var args arguments
	from, until := args.add(w.From*1e6), args.add(w.Until*1e6)
	in := func() string { return " AND d.environment = " + args.add(environment) }
	order, beyond := fmt.Sprintf(" ORDER BY 1 DESC, 2 DESC, 3 DESC LIMIT %d", limit), ""
	if after != nil {
		beyond = " AND (x.at, x.kind, x.id) < (" + args.add(after.At) + ", " + args.add(after.Kind) + ", " + args.add(after.ID) + ")"
	}
	var parts []string
	part := func(query string) {
		n := len(parts)
		parts = append(parts, fmt.Sprintf(`SELECT * FROM (SELECT x.at, x.kind, x.id, x.owner, x.ended, x.first, x.recovered FROM (%s) x WHERE x.at >= %s AND x.at < %s%s%s) p%d`, query, from, until, beyond, order, n))
	}
	mine := sc.condition("d.service_id")
	const deployments = `SELECT d.finished AS at, 'deployment' AS kind, d.id AS id, NULL AS owner, d.finished AS ended, 0 AS first, CAST(-1 AS BIGINT) AS recovered FROM dora_deployment d WHERE d.finished IS NOT NULL`
	switch metric {
	case "leadTimeForChanges":
		if environment == production {
			part(`SELECT d.finished AS at, 'change' AS kind, c.id AS id, d.external_id AS owner, d.finished AS ended, CASE WHEN EXISTS (SELECT 1 FROM dora_deployment p WHERE p.service_id = d.service_id AND
				p.environment = 'prod' AND p.status = 'SUCCESS' AND p.finished < d.finished) THEN 0 ELSE 1 END AS first, CAST(-1 AS BIGINT) AS recovered FROM dora_deployment d JOIN dora_change c ON c.deployment_id = d.id WHERE TRUE` + mine)
		}
		if !r.DevLake {
			part(deployments + in() + ` AND d.status = 'SUCCESS' AND d.first_commit <= d.finished AND NOT EXISTS (SELECT 1 FROM dora_change c WHERE c.deployment_id = d.id AND c.deployment_id <> 0)` + mine)
		}
	case "timeToRestoreService":
		if environment == production {
			part(`SELECT i.resolved AS at, 'incident' AS kind, i.id AS id, d.external_id AS owner, d.finished AS ended, 0 AS first, CAST(-1 AS BIGINT) AS recovered
				FROM dora_incident i LEFT JOIN dora_deployment d ON d.id = i.deployment_id WHERE i.resolved IS NOT NULL` + sc.condition("i.service_id"))
		}
		if r.FailedCount && !r.DevLake {
			part(fmt.Sprintf(`SELECT y.finished + y.recovered AS at, 'deployment' AS kind, y.id AS id, NULL AS owner, y.finished AS ended, 0 AS first, y.recovered AS recovered FROM (SELECT d.id, d.finished,
				(SELECT MIN(n.finished) FROM dora_deployment n WHERE n.service_id = d.service_id AND n.environment = d.environment AND n.status = 'SUCCESS' AND n.finished >= d.finished AND n.finished <= d.finished + %d) - d.finished AS recovered
				FROM dora_deployment d WHERE d.finished >= %s - %d AND d.finished < %s%s AND d.status = 'FAILURE'%s) y WHERE y.recovered IS NOT NULL`, maxBack*1_000_000, from, maxBack*1_000_000, until, in(), mine))
		}
	default:
		part(deployments + in() + mine)
	}
	if len(parts) == 0 {
		return nil, nil
	}
	rows, err := o.db.QueryContext(ctx, `SELECT k.at, k.kind, k.id, COALESCE(d.doc, c.doc, i.doc), s.title, k.owner, k.ended, COALESCE(d.failed_after, -1), COALESCE(d.rolled_back, FALSE), COALESCE(d.put_back, FALSE), k.first, k.recovered
		FROM (`+strings.Join(parts, " UNION ALL ")+order+`) k LEFT JOIN dora_deployment d ON k.kind = 'deployment' AND d.id = k.id LEFT JOIN dora_change c ON k.kind = 'change' AND c.id = k.id
		LEFT JOIN dora_incident i ON k.kind = 'incident' AND i.id = k.id JOIN dora_service s ON s.id = COALESCE(d.service_id, c.service_id, i.service_id)`+order, args...)
	if err != nil {
		return nil, store.Err(err)
	}
	return list, store.Each(rows, func(rows *sql.Rows) error {
		e := explained{cycle: none}
		err := rows.Scan(&e.key.At, &e.key.Kind, &e.key.ID, &e.doc, &e.title, &e.owner, &e.ended, &e.IncidentAfter, &e.RolledBack, &e.PutBack, &e.first, &e.recovered)
		if e.recovered != none {
			e.recovered /= 1e6
		}
		list = append(list, e)
		return err
	})
}

// objectsOf lists the entities that a service is bound to, or those of its name where it is not there yet.
func objectsOf(ctx context.Context, q store.Querier, name string) (list []auth.Object, err error) {
	rows, err := q.QueryContext(ctx, `SELECT e.ref, COALESCE(e.owner, '') FROM dora_service s JOIN dora_binding b ON b.service_id = s.id JOIN entity e ON e.id = b.entity_id WHERE s.name = $1
		UNION SELECT e.ref, COALESCE(e.owner, '') FROM entity e WHERE e.name = $1 AND e.namespace = 'default' AND e.kind IN ('component', 'system', 'api', 'resource') AND NOT EXISTS (SELECT 1 FROM dora_service WHERE name = $1)
		ORDER BY 1 LIMIT 100`, name)
	if err != nil {
		return nil, store.Err(err)
	}
	return list, store.Each(rows, func(rows *sql.Rows) error {
		var o auth.Object
		err := rows.Scan(&o.Ref, &o.Owner)
		list = append(list, o)
		return err
	})
}
