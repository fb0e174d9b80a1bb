package dora

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/go-sql-driver/mysql"
	"golang.org/x/sync/errgroup"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/store"
)

// lake is DevLake's database. Its times are UTC without saying so, and are read as seconds. Sources: DevLake's domain models (backend/core/models/domainlayer) and its dashboards.
type lake struct {
	db           *sql.DB
	patience     time.Duration // how long a question may take
	environments environments
	shape        atomic.Bool // it was found to be what is read here

	asking   chan struct{} // holds one while somebody asks for the projects
	projects []string      // as they were read last
	asked    time.Time
}

// lakePatience is how long a question to the database may take, unless its address says otherwise (timeout).
const lakePatience = 30 * time.Second

// openLake makes ready to read; it does not connect. Environments are shown by their normalised names.
func openLake(address string, environments environments) (*lake, error) {
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "mysql" {
		return nil, slipway.Errorf(slipway.Invalid, "write mysql://<user>:<password>@<host>:<port>/<database>")
	}
	c := mysql.NewConfig()
	c.User = u.User.Username()
	c.Passwd, _ = u.User.Password()
	c.Net, c.Addr, c.DBName = "tcp", u.Host, strings.Trim(u.Path, "/")
	if u.Port() == "" {
		c.Addr += ":3306"
	}
	if socket := u.Query().Get("socket"); socket != "" {
		c.Net, c.Addr = "unix", socket
	}
	c.TLSConfig = u.Query().Get("tls") // true, skip-verify, preferred
	patience := lakePatience
	if text := u.Query().Get("timeout"); text != "" {
		if patience, err = time.ParseDuration(text); err != nil || patience <= 0 || patience > time.Minute {
			return nil, slipway.Errorf(slipway.Invalid, "timeout=%s: write a length of time up to a minute, such as 10s", text)
		}
	}
	c.Timeout, c.ReadTimeout, c.WriteTimeout = min(5*time.Second, patience), patience, min(10*time.Second, patience)
	c.Loc, c.InterpolateParams = time.UTC, true // one round trip for each query
	c.Logger = &mysql.NopLogger{}               // what goes wrong comes back as an error
	connector, err := mysql.NewConnector(c)
	if err != nil {
		return nil, slipway.Errorf(slipway.Invalid, "the address does not fit; write mysql://<user>:<password>@<host>:<port>/<database>").WithCause(err)
	}
	db := sql.OpenDB(connector)
	db.SetMaxOpenConns(8)
	db.SetMaxIdleConns(4)
	db.SetConnMaxLifetime(5 * time.Minute)
	return &lake{db: db, patience: patience, environments: environments, asking: make(chan struct{}, 1)}, nil
}

// Numbers of MySQL's errors.
const (
	noSuchTable  = 1146
	noSuchColumn = 1054
)

// lakeErr gives errors of the database a code: what is not there is a matter of its shape, all else that it does not answer.
func lakeErr(err error) error {
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[*mysql.MySQLError](err); ok && (e.Number == noSuchTable || e.Number == noSuchColumn) {
		return errShape("a table or column").WithCause(err)
	}
	if errors.Is(err, context.Canceled) {
		return err
	}
	if _, ok := errors.AsType[*slipway.Error](err); ok {
		return err
	}
	return slipway.Errorf(slipway.Unavailable, "the DevLake database does not answer, or not in time; try again later").After(10 * time.Second).WithCause(err)
}

// lakeColumns are the tables and columns that are read.
var lakeColumns = map[string]string{
	"projects":                "name",
	"project_mapping":         "project_name table row_id",
	"cicd_deployments":        "id cicd_scope_id display_title url result status environment original_environment created_date started_date finished_date",
	"cicd_deployment_commits": "id cicd_scope_id cicd_deployment_id result environment finished_date commit_sha commit_msg ref_name repo_url",
	"pull_requests":           "id base_repo_id title created_date merged_date merge_commit_sha",
	"project_pr_metrics":      "id project_name deployment_commit_id pr_cycle_time first_commit_authored_date pr_deployed_date",
	"incidents":               "id title url severity table scope_id created_date resolution_date lead_time_minutes",
	"project_incident_deployment_relationships": "id project_name deployment_id",
	"commits": "sha author_name author_email authored_date",
}

// read runs queries in one transaction that only reads, once the database was seen to have the shape that they need.
func (l *lake) read(ctx context.Context, f func(q store.Querier) error) error {
	ctx, cancel := context.WithTimeout(ctx, l.patience)
	defer cancel()
	tx, err := l.db.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	if err != nil {
		return lakeErr(err)
	}
	defer func() { _ = tx.Rollback() }()
	if !l.shape.Load() {
		if err := checkShape(ctx, tx); err != nil {
			return lakeErr(err)
		}
		l.shape.Store(true)
	}
	return lakeErr(f(tx))
}

func checkShape(ctx context.Context, q store.Querier) error {
	rows, err := q.QueryContext(ctx, "SELECT LOWER(table_name), LOWER(column_name) FROM information_schema.columns WHERE table_schema = DATABASE()")
	if err != nil {
		return err
	}
	have := map[string]bool{}
	err = store.Each(rows, func(rows *sql.Rows) error {
		var table, column string
		err := rows.Scan(&table, &column)
		have[table], have[table+"."+column] = true, true
		return err
	})
	if err != nil {
		return err
	}
	var missing []string
	for table, columns := range lakeColumns {
		if !have[table] {
			missing = append(missing, "the table "+table)
			continue
		}
		for _, c := range strings.Fields(columns) {
			if !have[table+"."+c] {
				missing = append(missing, "the column "+table+"."+c)
			}
		}
	}
	if len(missing) > 0 {
		slices.Sort(missing)
		return errShape(strings.Join(missing[:min(len(missing), 3)], ", "))
	}
	return nil
}

func (l *lake) projectNames(ctx context.Context) (names []string, err error) {
	const most = 10_000
	err = l.read(ctx, func(q store.Querier) error {
		rows, err := q.QueryContext(ctx, fmt.Sprintf("SELECT name FROM projects ORDER BY name LIMIT %d", most))
		if err != nil {
			return err
		}
		return store.Each(rows, func(rows *sql.Rows) error {
			var name string
			err := rows.Scan(&name)
			names = append(names, name)
			return err
		})
	})
	return names, err
}

// marks are placeholders for texts.
func marks(args *[]any, list []string) string {
	for _, v := range list {
		*args = append(*args, v)
	}
	return "(" + strings.TrimSuffix(strings.Repeat("?, ", len(list)), ", ") + ")"
}

// seconds is a time as Unix seconds.
func seconds(column string) string { return "TIMESTAMPDIFF(SECOND, '1970-01-01', " + column + ")" }

// stamp is a time as DevLake stores it.
func stamp(at int64) string { return time.Unix(at, 0).UTC().Format("2006-01-02 15:04:05") }

// fewScopes is how many scopes or repositories are looked for by DevLake's indexes on them. For more, one look through all rows is quicker; no index is on time.
const fewScopes = 20

// among is the condition that a column holds one of some ids. Those that are many are taken from the column in a way that no index helps.
func among(args *[]any, column string, ids map[string][]string) string {
	if len(ids) > fewScopes {
		column = "CONCAT(" + column + ")"
	}
	return column + " IN " + marks(args, append(slices.Collect(maps.Keys(ids)), ""))
}

// lakeScopes gives the projects of each scope and of each repository.
func lakeScopes(ctx context.Context, q store.Querier, projects []string) (scopes, repos map[string][]string, err error) {
	var args []any
	rows, err := q.QueryContext(ctx, "SELECT project_name, `table`, row_id FROM project_mapping WHERE `table` IN ('cicd_scopes', 'repos') AND project_name IN "+marks(&args, projects), args...)
	if err != nil {
		return nil, nil, err
	}
	scopes, repos = map[string][]string{}, map[string][]string{}
	return scopes, repos, store.Each(rows, func(rows *sql.Rows) error {
		var project, table, id string
		err := rows.Scan(&project, &table, &id)
		if table == "repos" {
			repos[id] = append(repos[id], project)
		} else {
			scopes[id] = append(scopes[id], project)
		}
		return err
	})
}

// facts reads what happened to projects in a window, for one environment; each: also of each project. Changes are read beside the rest, on a connection of their own.
func (l *lake) facts(ctx context.Context, projects []string, environment string, w Window, r Rules, each bool) (*lakeFacts, error) {
	var scopes, repos map[string][]string
	err := l.read(ctx, func(q store.Querier) (err error) {
		scopes, repos, err = lakeScopes(ctx, q, projects)
		return err
	})
	if err != nil {
		return nil, err
	}
	var happened lakeHistory
	work, ctx := errgroup.WithContext(ctx)
	work.Go(func() error {
		return l.read(ctx, func(q store.Querier) (err error) {
			if happened.deployments, happened.commits, err = readLakeDeployments(ctx, q, scopes, environment, w); err != nil || environment != production {
				return err
			}
			if happened.incidents, err = readLakeCaused(ctx, q, happened.deployments, w); err != nil || !r.AllIncidents {
				return err
			}
			return readLakeResolved(ctx, q, happened.incidents, projects, w)
		})
	})
	if environment == production {
		work.Go(func() error {
			return l.read(ctx, func(q store.Querier) (err error) {
				happened.changes, err = readLakeChanges(ctx, q, repos, w)
				return err
			})
		})
	}
	if err := work.Wait(); err != nil {
		return nil, err
	}
	return happened.facts(w, r, each), nil
}

// number is a whole number that a query gave, as text; none, where it gave NULL.
func number(raw sql.RawBytes) int64 {
	if raw == nil {
		return none
	}
	n, err := strconv.ParseInt(string(raw), 10, 64)
	if err != nil {
		return none
	}
	return n
}

// readLakeDeployments reads deployments that ended after the window began, by id, and when each commit of them did, by its own id.
func readLakeDeployments(ctx context.Context, q store.Querier, scopes map[string][]string, environment string, w Window) (map[string]*lakeDeployment, map[string]int64, error) {
	args := []any{stamp(w.From)}
	query := "SELECT d.id, d.cicd_scope_id, d.cicd_deployment_id, d.result = 'SUCCESS', " + seconds("d.finished_date") + " FROM cicd_deployment_commits d WHERE d.finished_date >= ? AND d.environment IN " +
		marks(&args, devLakeEnvironments(environment)) + " AND d.result IN ('SUCCESS', 'FAILURE') AND " + among(&args, "d.cicd_scope_id", scopes)
	rows, err := q.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, nil, err
	}
	deployments, commits := map[string]*lakeDeployment{}, map[string]int64{}
	var commit, scope, id, succeeded, finished sql.RawBytes
	return deployments, commits, store.Each(rows, func(rows *sql.Rows) error {
		if err := rows.Scan(&commit, &scope, &id, &succeeded, &finished); err != nil {
			return err
		}
		d := deployments[string(id)]
		if d == nil {
			d = &lakeDeployment{ended: [2]int64{none, none}, incident: none}
			deployments[string(id)] = d
		}
		at, result := number(finished), Failed
		if number(succeeded) == 1 {
			result = Succeeded
		}
		d.ended[result], d.projects = max(d.ended[result], at), union(d.projects, scopes[string(scope)])
		commits[string(commit)] = at
		return nil
	})
}

// lakeTimes are the columns of an incident i that are read.
var lakeTimes = seconds("i.created_date") + ", " + seconds("i.resolution_date") + ", i.lead_time_minutes"

// readLakeCaused reads the incidents since the window began that deployments are taken to have caused, by id.
func readLakeCaused(ctx context.Context, q store.Querier, deployments map[string]*lakeDeployment, w Window) (map[string]*lakeIncident, error) {
	rows, err := q.QueryContext(ctx, "SELECT i.id, p.deployment_id, "+lakeTimes+" FROM project_incident_deployment_relationships p JOIN incidents i ON i.id = p.id WHERE i.created_date >= ?", stamp(w.From))
	if err != nil {
		return nil, err
	}
	incidents := map[string]*lakeIncident{}
	var id, deployment, created, resolved, minutes sql.RawBytes
	return incidents, store.Each(rows, func(rows *sql.Rows) error {
		if err := rows.Scan(&id, &deployment, &created, &resolved, &minutes); err != nil || deployments[string(deployment)] == nil {
			return err
		}
		in := incidents[string(id)]
		if in == nil {
			in = &lakeIncident{created: number(created), resolved: number(resolved), minutes: number(minutes)}
			incidents[string(id)] = in
		}
		in.deployment = string(deployment)
		return nil
	})
}

// readLakeResolved adds the incidents of the projects' boards and repositories that were resolved in the window, whatever caused them.
func readLakeResolved(ctx context.Context, q store.Querier, incidents map[string]*lakeIncident, projects []string, w Window) error {
	var args []any
	query := "SELECT pm.project_name, i.id, " + lakeTimes + " FROM incidents i JOIN project_mapping pm ON i.scope_id = pm.row_id AND pm.`table` = i.`table` WHERE pm.project_name IN " + marks(&args, projects) +
		" AND i.created_date IS NOT NULL AND i.resolution_date >= ? AND i.resolution_date < ?"
	rows, err := q.QueryContext(ctx, query, append(args, stamp(w.From), stamp(w.Until))...)
	if err != nil {
		return err
	}
	var project, id, created, resolved, minutes sql.RawBytes
	return store.Each(rows, func(rows *sql.Rows) error {
		if err := rows.Scan(&project, &id, &created, &resolved, &minutes); err != nil {
			return err
		}
		in := incidents[string(id)]
		if in == nil {
			in = &lakeIncident{created: number(created), resolved: number(resolved), minutes: number(minutes)}
			incidents[string(id)] = in
		}
		in.projects = union(in.projects, []string{string(project)})
		return nil
	})
}

// lakeMerged are the tables m and pr of merged pull requests of some repositories, with the condition that a deployment brought them in a window or about then: DevLake notes with a pull request when it was deployed.
// That leaves most of them out early, and what counts is told by the deployment. The order of the tables is given: MariaDB would begin with the longer rows.
func lakeMerged(args *[]any, repos map[string][]string, w Window) (tables, condition string) {
	tables = "project_pr_metrics m STRAIGHT_JOIN pull_requests pr ON pr.id = m.id"
	if len(repos) <= fewScopes {
		tables = "pull_requests pr STRAIGHT_JOIN project_pr_metrics m ON m.id = pr.id"
	}
	*args = append(*args, stamp(w.From-day), stamp(w.Until+day))
	return tables, "(m.pr_deployed_date >= ? AND m.pr_deployed_date < ? OR m.pr_deployed_date IS NULL) AND m.deployment_commit_id <> '' AND pr.merged_date IS NOT NULL AND " + among(args, "pr.base_repo_id", repos)
}

// readLakeChanges reads merged pull requests with the commit of a deployment that brought each in a window, or about then.
func readLakeChanges(ctx context.Context, q store.Querier, repos map[string][]string, w Window) (list []lakeChange, err error) {
	var args []any
	tables, condition := lakeMerged(&args, repos, w)
	rows, err := q.QueryContext(ctx, "SELECT pr.id, pr.base_repo_id, m.pr_cycle_time, m.deployment_commit_id, "+seconds("COALESCE(m.first_commit_authored_date, pr.created_date)")+" FROM "+tables+" WHERE "+condition, args...)
	if err != nil {
		return nil, err
	}
	var id, repo, cycle, commit, first sql.RawBytes
	return list, store.Each(rows, func(rows *sql.Rows) error {
		err := rows.Scan(&id, &repo, &cycle, &commit, &first)
		list = append(list, lakeChange{id: string(id), projects: repos[string(repo)], commit: string(commit), cycle: number(cycle), first: number(first)})
		return err
	})
}

func (l *lake) anyIncident(ctx context.Context) (some bool, err error) {
	return some, l.read(ctx, func(q store.Querier) error {
		return q.QueryRowContext(ctx, "SELECT EXISTS (SELECT 1 FROM incidents)").Scan(&some)
	})
}

// environmentsOf are those that DevLake knows.
func (l *lake) environmentsOf(context.Context, scope) ([]string, error) {
	return []string{"dev", production, "staging"}, nil
}

func (l *lake) count(ctx context.Context, sc scope, environment string, w Window, r Rules, all *answer, groups map[string]*answer) error {
	found, err := l.facts(ctx, sc.titles(), environment, w, r, groups != nil)
	if err != nil {
		return err
	}
	all.add(&found.all)
	for title, g := range groups {
		if f := found.per[title]; f != nil {
			g.add(f)
		}
	}
	return nil
}

func (l *lake) history(ctx context.Context, sc scope, environment, status string, after *historyKey, limit int) (page historyPage, err error) {
	if len(sc.services) == 0 {
		return page, nil
	}
	err = l.read(ctx, func(q store.Querier) error {
		scopes, _, err := lakeScopes(ctx, q, sc.titles())
		if err != nil {
			return err
		}
		var args []any
		where := " FROM cicd_deployments d WHERE d.cicd_scope_id IN " + marks(&args, append(slices.Collect(maps.Keys(scopes)), ""))
		if environment != "" {
			where += " AND (d.environment IN " + marks(&args, devLakeEnvironments(environment)) + ")"
		}
		switch status {
		case statusSuccess, statusFailure:
			where += " AND d.result = '" + status + "'"
		case statusInProgress:
			where += " AND d.result NOT IN ('SUCCESS', 'FAILURE') AND (d.finished_date IS NULL OR d.status = 'IN_PROGRESS')"
		case statusCancelled:
			where += " AND d.result NOT IN ('SUCCESS', 'FAILURE') AND d.finished_date IS NOT NULL AND d.status <> 'IN_PROGRESS'"
		}
		if err := q.QueryRowContext(ctx, "SELECT COUNT(*)"+where, args...).Scan(&page.total); err != nil {
			return err
		}
		if after != nil {
			where += " AND (" + lakeBegan + ", d.id) < (?, ?)"
			args = append(args, after.Started, after.Name)
		}
		list, keys, err := l.deployments(ctx, q, scopes, where+fmt.Sprintf(" ORDER BY %s DESC, d.id DESC LIMIT %d", lakeBegan, limit+1), args)
		if err != nil {
			return err
		}
		if len(list) > limit {
			list, page.next = list[:limit], &keys[limit-1]
		}
		for i := range list {
			page.items = append(page.items, json.RawMessage(document(list[i])))
		}
		return nil
	})
	return page, err
}

// lakeBegan is when a deployment began, as far as DevLake knows, in whole seconds: the order of the history.
var lakeBegan = "COALESCE(" + seconds("COALESCE(d.started_date, d.created_date)") + ", 0)"

// deployments reads deployments of some scopes with their commits, and their places in the history.
func (l *lake) deployments(ctx context.Context, q store.Querier, scopes map[string][]string, where string, args []any) (list []Deployment, keys []historyKey, err error) {
	rows, err := q.QueryContext(ctx, "SELECT d.id, d.cicd_scope_id, COALESCE(d.display_title, ''), COALESCE(d.url, ''), COALESCE(d.result, ''), COALESCE(d.status, ''), COALESCE(d.environment, ''), COALESCE(d.original_environment, ''), "+
		lakeBegan+", "+seconds("d.finished_date")+where, args...)
	if err != nil {
		return nil, nil, err
	}
	at := map[string]int{}
	theirs := map[string][]string{}
	err = store.Each(rows, func(rows *sql.Rows) error {
		d := Deployment{Source: "devlake"}
		var k historyKey
		var scope, result, state, env string
		var finished sql.NullInt64
		if err := rows.Scan(&d.ID, &scope, &d.Detail, &d.URL, &result, &state, &env, &d.OriginalEnvironment, &k.Started, &finished); err != nil {
			return err
		}
		k.Name, d.Service, theirs[scope] = d.ID, lakeService(scopes, scope), scopes[scope]
		d.StartTime, d.Environment = time.Unix(k.Started, 0).UTC(), l.environments.normalise(env)
		if d.OriginalEnvironment == "" {
			d.OriginalEnvironment = env
		}
		if d.Status = lakeStatus(result, state, finished.Valid); finished.Valid && d.Status != statusInProgress {
			end, took := time.Unix(finished.Int64, 0).UTC(), finished.Int64-k.Started
			d.EndTime, d.Duration = &end, &took
		}
		at[d.ID] = len(list)
		list, keys = append(list, d), append(keys, k)
		return nil
	})
	if err != nil || len(list) == 0 {
		return nil, nil, err
	}
	return list, keys, lakeCommits(ctx, q, list, at, theirs)
}

// lakeService is the project that something of a scope or repository is shown as of: the first by name.
func lakeService(projects map[string][]string, id string) string {
	if len(projects[id]) == 0 {
		return ""
	}
	return slices.Min(projects[id])
}

// lakeCommits adds their commits to deployments: of several, the one that was deployed last is shown as the commit. The scopes are named because of the index on them.
func lakeCommits(ctx context.Context, q store.Querier, list []Deployment, at map[string]int, scopes map[string][]string) error {
	var args []any
	rows, err := q.QueryContext(ctx, "SELECT d.cicd_deployment_id, d.commit_sha, COALESCE(d.commit_msg, c.message, ''), COALESCE(d.ref_name, ''), COALESCE(d.repo_url, ''), COALESCE(c.author_email, c.author_name, ''), "+seconds("c.authored_date")+
		" FROM cicd_deployment_commits d LEFT JOIN commits c ON c.sha = d.commit_sha WHERE d.cicd_scope_id IN "+marks(&args, slices.Collect(maps.Keys(scopes)))+" AND d.cicd_deployment_id IN "+marks(&args, slices.Collect(maps.Keys(at)))+" ORDER BY d.finished_date, d.id", args...)
	if err != nil {
		return err
	}
	return store.Each(rows, func(rows *sql.Rows) error {
		var id, ref string
		var c Commit
		var authored sql.NullInt64
		if err := rows.Scan(&id, &c.SHA, &c.Message, &ref, &c.Repo, &c.Author, &authored); err != nil {
			return err
		}
		if authored.Valid {
			t := time.Unix(authored.Int64, 0).UTC()
			c.Time = &t
		}
		d := &list[at[id]]
		d.Commit, d.Commits = &c, append(d.Commits, c)
		version := strings.TrimPrefix(strings.TrimPrefix(ref, "refs/tags/"), "refs/heads/")
		if version == "" {
			version = c.SHA[:min(7, len(c.SHA))]
		}
		d.Version = &version
		return nil
	})
}

func (l *lake) explain(ctx context.Context, sc scope, metric, environment string, w Window, r Rules, after *explainedKey, limit int) (list []explained, err error) {
	if len(sc.services) == 0 || environment != production && (metric == "leadTimeForChanges" || metric == "timeToRestoreService") {
		return nil, nil
	}
	projects := sc.titles()
	err = l.read(ctx, func(q store.Querier) error {
		scopes, repos, err := lakeScopes(ctx, q, projects)
		if err != nil {
			return err
		}
		switch metric {
		case "leadTimeForChanges":
			list, err = lakeChanges(ctx, q, repos, w, after, limit)
		case "timeToRestoreService":
			list, err = lakeIncidents(ctx, q, projects, scopes, w, r, after, limit)
		default:
			list, err = l.ended(ctx, q, scopes, environment, w, after, limit)
		}
		return err
	})
	return list, err
}

// beyond is the condition that a row comes after a place in the order of what is behind a number.
func beyond(args *[]any, after *explainedKey, at, id string) string {
	if after == nil {
		return "TRUE"
	}
	*args = append(*args, after.At, after.Name)
	return "(" + at + ", " + id + ") < (?, ?)"
}

// ended reads deployments that ended in a window, with the first incident that each is taken to have caused. One of several commits succeeded when one of them did.
func (l *lake) ended(ctx context.Context, q store.Querier, scopes map[string][]string, environment string, w Window, after *explainedKey, limit int) (list []explained, err error) {
	args := []any{stamp(w.From)}
	ended := seconds("d.finished_date")
	query := "SELECT d.cicd_deployment_id, MAX(d.result = 'SUCCESS'), COALESCE(MAX(IF(d.result = 'SUCCESS', " + ended + ", NULL)), MAX(" + ended + ")) AS ended, MIN(d.cicd_scope_id) FROM cicd_deployment_commits d " +
		"WHERE d.finished_date >= ? AND d.environment IN " + marks(&args, devLakeEnvironments(environment)) + " AND d.result IN ('SUCCESS', 'FAILURE') AND " + among(&args, "d.cicd_scope_id", scopes) + " GROUP BY 1 HAVING ended < ?"
	args = append(args, w.Until)
	query += " AND " + beyond(&args, after, "ended", "d.cicd_deployment_id") + fmt.Sprintf(" ORDER BY ended DESC, 1 DESC LIMIT %d", limit)
	rows, err := q.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	docs := map[string]*Deployment{}
	var ids []string
	err = store.Each(rows, func(rows *sql.Rows) error {
		e := explained{fate: noFate, cycle: none, recovered: none}
		var succeeded bool
		var scope string
		if err := rows.Scan(&e.key.Name, &succeeded, &e.key.At, &scope); err != nil {
			return err
		}
		e.key.Kind, e.ended, e.title = "deployment", store.At(time.Unix(e.key.At, 0)), lakeService(scopes, scope)
		d := Deployment{ID: e.key.Name, Service: e.title, Source: "devlake", Environment: environment, Status: statusFailure, StartTime: e.ended.Time, EndTime: e.ended.Ptr()}
		if succeeded {
			d.Status = statusSuccess
		}
		docs[d.ID] = &d
		ids, list = append(ids, d.ID), append(list, e)
		return nil
	})
	if err != nil || len(list) == 0 {
		return nil, err
	}
	args = nil
	details, _, err := l.deployments(ctx, q, scopes, " FROM cicd_deployments d WHERE d.id IN "+marks(&args, ids), args)
	if err != nil {
		return nil, err
	}
	for _, d := range details { // what its commits say of how it went is what DevLake counts
		d.Status, d.EndTime = docs[d.ID].Status, docs[d.ID].EndTime
		docs[d.ID] = &d
	}
	args = nil
	rows, err = q.QueryContext(ctx, "SELECT p.deployment_id, MIN("+seconds("i.created_date")+") FROM project_incident_deployment_relationships p JOIN incidents i ON i.id = p.id WHERE p.deployment_id IN "+marks(&args, ids)+" GROUP BY 1", args...)
	if err != nil {
		return nil, err
	}
	first := map[string]int64{}
	err = store.Each(rows, func(rows *sql.Rows) error {
		var id string
		var at sql.NullInt64
		err := rows.Scan(&id, &at)
		if at.Valid {
			first[id] = at.Int64
		}
		return err
	})
	for i := range list {
		e := &list[i]
		if at, ok := first[e.key.Name]; ok && docs[e.key.Name].Status == statusSuccess {
			e.IncidentAfter = max(0, at-e.key.At)
		}
		e.doc = document(docs[e.key.Name])
	}
	return list, err
}

// lakeChanges reads merged pull requests whose deployment ended in a window.
func lakeChanges(ctx context.Context, q store.Querier, repos map[string][]string, w Window, after *explainedKey, limit int) (list []explained, err error) {
	var args []any
	tables, condition := lakeMerged(&args, repos, w)
	query := "SELECT " + seconds("d.finished_date") + " AS ended, pr.id AS id, MIN(pr.base_repo_id), MAX(d.cicd_deployment_id), MAX(m.pr_cycle_time), MIN(COALESCE(pr.title, '')), MIN(COALESCE(pr.merge_commit_sha, '')), MIN(" +
		seconds("pr.created_date") + "), MIN(" + seconds("pr.merged_date") + "), MIN(" + seconds("m.first_commit_authored_date") + ") FROM " + tables + " STRAIGHT_JOIN cicd_deployment_commits d ON d.id = m.deployment_commit_id WHERE " +
		condition + " AND d.finished_date >= ? AND d.finished_date < ? GROUP BY 1, 2 HAVING "
	args = append(args, stamp(w.From), stamp(w.Until))
	rows, err := q.QueryContext(ctx, query+beyond(&args, after, "ended", "id")+fmt.Sprintf(" ORDER BY 1 DESC, 2 DESC LIMIT %d", limit), args...)
	if err != nil {
		return nil, err
	}
	return list, store.Each(rows, func(rows *sql.Rows) error {
		e := explained{fate: noFate, cycle: none, recovered: none}
		c := Change{Source: "devlake"}
		var cycle, opened, merged, first sql.NullInt64
		var repo string
		if err := rows.Scan(&e.key.At, &e.key.Name, &repo, &e.owner, &cycle, &c.Title, &c.MergeCommit, &opened, &merged, &first); err != nil {
			return err
		}
		e.title = lakeService(repos, repo)
		c.ID, c.Service, c.OpenedAt, c.MergedAt, c.FirstCommitAt = e.key.Name, e.title, time.Unix(opened.Int64, 0).UTC(), clock(merged), clock(first)
		if cycle.Valid {
			e.cycle = cycle.Int64
		}
		e.key.Kind, e.ended, e.unmeasured, e.doc = "change", store.At(time.Unix(e.key.At, 0)), !cycle.Valid, document(c)
		list = append(list, e)
		return nil
	})
}

// lakeIncidents reads incidents that were resolved in a window and that a deployment is taken to have caused; where all count, all of the projects' boards and repositories.
func lakeIncidents(ctx context.Context, q store.Querier, projects []string, scopes map[string][]string, w Window, r Rules, after *explainedKey, limit int) (list []explained, err error) {
	var args []any
	of := "SELECT p.id, p.project_name, p.deployment_id FROM project_incident_deployment_relationships p WHERE p.project_name IN " + marks(&args, projects)
	if r.AllIncidents {
		of += " UNION ALL SELECT x.id, pm.project_name, NULL FROM incidents x JOIN project_mapping pm ON x.scope_id = pm.row_id AND pm.`table` = x.`table` WHERE pm.project_name IN " + marks(&args, projects)
	}
	query := "SELECT " + seconds("i.resolution_date") + " AS resolved, i.id AS id, MIN(cause.project_name), COALESCE(MAX(cause.deployment_id), ''), MIN(COALESCE(i.title, '')), MIN(COALESCE(i.severity, '')), MIN(COALESCE(i.url, '')), MIN(" + seconds("i.created_date") + "), MIN(i.lead_time_minutes) " +
		"FROM incidents i JOIN (" + of + ") cause ON cause.id = i.id WHERE i.resolution_date >= ? AND i.resolution_date < ? GROUP BY 1, 2 HAVING "
	args = append(args, stamp(w.From), stamp(w.Until))
	rows, err := q.QueryContext(ctx, query+beyond(&args, after, "resolved", "id")+fmt.Sprintf(" ORDER BY 1 DESC, 2 DESC LIMIT %d", limit), args...)
	if err != nil {
		return nil, err
	}
	var ids []string
	err = store.Each(rows, func(rows *sql.Rows) error {
		e := explained{fate: noFate, cycle: none, recovered: none}
		in := Incident{Source: "devlake"}
		var created, minutes sql.NullInt64
		if err := rows.Scan(&e.key.At, &e.key.Name, &e.title, &e.owner, &in.Title, &in.Severity, &in.URL, &created, &minutes); err != nil {
			return err
		}
		in.ID, in.Service, in.StartedAt, in.ResolvedAt = e.key.Name, e.title, time.Unix(created.Int64, 0).UTC(), clock(sql.NullInt64{Int64: e.key.At, Valid: true})
		if minutes.Valid {
			e.cycle = minutes.Int64
		}
		e.key.Kind, e.doc = "incident", document(in)
		ids, list = append(ids, e.owner.String), append(list, e)
		return nil
	})
	if err != nil || len(list) == 0 {
		return nil, err
	}
	// When their deployments ended: through the scopes, because of the index on them.
	args = nil
	rows, err = q.QueryContext(ctx, "SELECT d.cicd_deployment_id, MAX("+seconds("d.finished_date")+") FROM cicd_deployment_commits d WHERE "+
		among(&args, "d.cicd_scope_id", scopes)+" AND d.cicd_deployment_id IN "+marks(&args, ids)+" AND d.result = 'SUCCESS' AND d.environment = 'PRODUCTION' GROUP BY 1", args...)
	if err != nil {
		return nil, err
	}
	ended := map[string]int64{}
	err = store.Each(rows, func(rows *sql.Rows) error {
		var id string
		var at int64
		err := rows.Scan(&id, &at)
		ended[id] = at
		return err
	})
	for i := range list {
		if at, ok := ended[list[i].owner.String]; ok {
			list[i].ended = store.At(time.Unix(at, 0))
		}
	}
	return list, err
}

// clock is a time that may be absent.
func clock(at sql.NullInt64) *time.Time {
	if !at.Valid {
		return nil
	}
	t := time.Unix(at.Int64, 0).UTC()
	return &t
}
