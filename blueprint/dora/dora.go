// Package dora is the blueprint of DORA metrics and deployment history: how often and how fast software reaches users, how often that fails, and how long it
// takes to restore. It stores deployments, changes and incidents that others report, ties them together, and answers as the DevLake plugin of Fawkes does. What
// the metrics mean stands in definitions.go; what belongs to what in attribute.go; both are pure.
package dora

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/auth"
	"github.com/slipway-platform/slipway/blueprint"
	"github.com/slipway-platform/slipway/entity"
	"github.com/slipway-platform/slipway/event"
	"github.com/slipway-platform/slipway/job"
	"github.com/slipway-platform/slipway/secret"
	"github.com/slipway-platform/slipway/store"
)

// The permissions. Each can be narrowed to an entity.
const (
	metricsPermission = "dora.metrics.read"
	historyPermission = "dora.history.read"
	reportPermission  = "dora.event.report"
)

const (
	maxName  = 200  // bytes of a service, a project, an environment, a version
	maxID    = 300  // bytes of an external id
	maxText  = 2000 // bytes of a message
	maxBatch = 1000 // things in one request
)

// Config is the section `dora:` of the configuration.
type Config struct {
	Database     string                     `yaml:"database" doc:"Name, under databases, of an existing DevLake database (mysql://…) that answers in place of what is reported here; it is only read"`
	Definitions  string                     `yaml:"definitions" doc:"What the metrics mean: slipway, or devlake for DevLake's own numbers with their artefacts"`
	Benchmark    string                     `yaml:"benchmark" doc:"The table of performance classes: 2023, 2021, or one of benchmarks"`
	Benchmarks   map[string]BenchmarkConfig `yaml:"benchmarks" doc:"Tables of your own, by name"`
	Environments []EnvironmentRule          `yaml:"environments" doc:"What names of environments mean, in order; empty: staging, prod and dev by their usual names"`
	Incidents    IncidentConfig             `yaml:"incidents" doc:"How incidents are taken to belong to deployments"`
	CountFailed  bool                       `yaml:"countFailed" doc:"Whether a deployment that failed counts as a change failure, and the next that succeeds as its recovery"`
	Builds       []BuildRule                `yaml:"builds" doc:"Which builds are deployments; none unless named"`
	Connections  []Connection               `yaml:"connections" doc:"Connections of DevLake's webhook paths, for senders that do not say of which service they report"`
	PushSecret   secret.Text                `yaml:"pushSecret" doc:"Secret of GitHub's push webhooks to /api/plugins/webhook/{id}/commits; empty: a token is asked for"`
	TeamLabel    string                     `yaml:"teamLabel" doc:"Label of entities that names their team, beside their owner"`
}

// IncidentConfig says which incidents a deployment is taken to have caused.
type IncidentConfig struct {
	Window slipway.Duration `yaml:"window" doc:"An incident that begins later after the last deployment was not caused by it; 0: no bound, as in DevLake"`
	All    bool             `yaml:"all" doc:"Whether the time to restore is of all incidents (as DORA had it until 2021), not only of those that deployments caused"`
}

// Connection maps an id in DevLake's webhook paths to a service.
type Connection struct {
	ID      string `yaml:"id" doc:"The id in the path: /api/plugins/webhook/{id}/deployments"`
	Service string `yaml:"service" doc:"The service of what comes there, unless the body names one"`
}

// BenchmarkConfig is a table of thresholds: of elite, high and medium, in this order.
type BenchmarkConfig struct {
	DeploysPerWeek []float64 `yaml:"deploysPerWeek" doc:"Deployments per week, at least"`
	LeadTimeHours  []float64 `yaml:"leadTimeHours" doc:"Lead time in hours, less than"`
	FailurePercent []float64 `yaml:"failurePercent" doc:"Change failure rate in percent, at most"`
	RestoreHours   []float64 `yaml:"restoreHours" doc:"Time to restore in hours, less than"`
}

func defaultConfig() *Config {
	return &Config{
		Definitions: "slipway", Benchmark: "2023", TeamLabel: "app.fawkes.idp/team",
		Incidents: IncidentConfig{Window: slipway.Duration(7 * 24 * time.Hour)},
	}
}

// Validate is called before anything starts.
func (c *Config) Validate() error {
	var faults []error
	if c.Definitions != "slipway" && c.Definitions != "devlake" {
		faults = append(faults, fmt.Errorf("definitions: %q is not slipway or devlake", c.Definitions))
	}
	if _, err := c.benchmark(); err != nil {
		faults = append(faults, err)
	}
	if _, err := c.environments(); err != nil {
		faults = append(faults, err)
	}
	if _, err := compileBuilds(c.Builds); err != nil {
		faults = append(faults, err)
	}
	for i, con := range c.Connections {
		if con.ID == "" || con.Service == "" || len(con.Service) > maxName {
			faults = append(faults, fmt.Errorf("connections[%d]: id and service are required", i))
		}
	}
	return errors.Join(faults...)
}

func (c *Config) environments() (environments, error) {
	if len(c.Environments) == 0 {
		return compileEnvironments(defaultEnvironments())
	}
	return compileEnvironments(c.Environments)
}

func (c *Config) benchmark() (Benchmark, error) {
	own, ok := c.Benchmarks[c.Benchmark]
	if !ok {
		b, known := benchmarks[c.Benchmark]
		if !known {
			return b, fmt.Errorf("benchmark: %q is neither 2023, 2021 nor one of benchmarks", c.Benchmark)
		}
		return b, nil
	}
	b := Benchmark{Name: c.Benchmark}
	for _, t := range []struct {
		name   string
		values []float64
		rising bool
		put    func(i int, v float64)
	}{
		{"deploysPerWeek", own.DeploysPerWeek, false, func(i int, v float64) { b.Frequency[i].PerWeek = v }},
		{"leadTimeHours", own.LeadTimeHours, true, func(i int, v float64) { b.LeadTime[i] = v }},
		{"failurePercent", own.FailurePercent, true, func(i int, v float64) { b.Failures[i] = v }},
		{"restoreHours", own.RestoreHours, true, func(i int, v float64) { b.Restore[i] = v }},
	} {
		if len(t.values) != len(levels) {
			return b, fmt.Errorf("benchmarks.%s.%s: three numbers are required, of elite, high and medium", c.Benchmark, t.name)
		}
		for i, v := range t.values {
			if v < 0 || i > 0 && (v < t.values[i-1]) == t.rising {
				return b, fmt.Errorf("benchmarks.%s.%s: the numbers of elite, high and medium must follow one another", c.Benchmark, t.name)
			}
			t.put(i, v)
		}
	}
	return b, nil
}

// service stores what is reported, and answers.
type service struct {
	config       *Config
	environments environments
	builds       buildRules
	rules        Rules
	retention    time.Duration
	now          func() time.Time
	log          *slog.Logger
	db           *store.DB
	auth         *auth.Service
	keys         *secret.Keyring
	entities     *entity.Store
	jobs         *job.Queue
	events       *event.Bus
	infos        func() []blueprint.TaskInfo

	settler settler
	reader  reader
	lake    *lake // the reader, where it is an existing DevLake database; nil: our own tables
}

func open(_ context.Context, h *blueprint.Host) (any, error) {
	s := &service{
		config: h.Config.(*Config), now: h.Now, log: h.Log, db: h.DB("main"), auth: h.Auth, keys: h.Keys, entities: h.Entities, jobs: h.Jobs, events: h.Events, infos: h.Infos,
		retention: h.Retention.Deployments.Std(),
	}
	s.reader = own{s.db}
	var err error
	if s.environments, err = s.config.environments(); err != nil {
		return nil, err
	}
	if s.builds, err = compileBuilds(s.config.Builds); err != nil {
		return nil, err
	}
	if s.rules.Benchmark, err = s.config.benchmark(); err != nil {
		return nil, err
	}
	if name := s.config.Database; name != "" {
		address := h.Source(name)
		if engine, err := store.EngineOf(address); err != nil || engine != store.MySQL {
			return nil, slipway.Errorf(slipway.Invalid, "dora.database: databases.%s must be the address of a DevLake database, such as mysql://<user>:<password>@<host>:<port>/<database>", name)
		}
		h.Redact.Add(address)
		if s.lake, err = openLake(address, s.environments); err != nil {
			return nil, err
		}
		s.reader = s.lake
	}
	s.rules.DevLake = s.config.Definitions == "devlake"
	s.rules.IncidentWindow = s.config.Incidents.Window.Std()
	s.rules.FailedCount = s.config.CountFailed
	s.rules.AllIncidents = s.config.Incidents.All || s.config.Benchmark == "2021"
	return s, nil
}

// Close lets go of the DevLake database. The server calls it.
func (s *service) Close() error {
	if s.lake != nil {
		_ = s.lake.db.Close() // it was only read; a connection that broke says so here
	}
	return nil
}

var systemCaller = auth.System()

// The statuses of deployments, as the history shows them.
const (
	statusSuccess    = "SUCCESS"
	statusFailure    = "FAILURE"
	statusInProgress = "IN_PROGRESS"
	statusCancelled  = "CANCELLED"
)

var results = map[string]Result{statusSuccess: Succeeded, statusFailure: Failed, statusCancelled: Canceled}

// Commit is a version of the source that was deployed.
type Commit struct {
	SHA     string     `json:"sha" maxLength:"100" doc:"Commit id" example:"def456…"`
	Message string     `json:"message" maxLength:"2000" doc:"Message"`
	Author  string     `json:"author" maxLength:"300" doc:"Who wrote it" example:"developer@example.com"`
	Time    *time.Time `json:"time,omitempty" doc:"When it was made; the first of a deployment's commits begins its lead time"`
	Repo    string     `json:"repository,omitempty" maxLength:"500" doc:"Where it is"`
}

// Deployment is a deployment as the history shows it. The first fields are those of Fawkes.
type Deployment struct {
	ID          string     `json:"id" doc:"The reporter's own id" example:"deploy-789"`
	Version     *string    `json:"version" nullable:"true" doc:"What was deployed; null where nobody says" example:"v1.2.3"`
	Environment string     `json:"environment" doc:"Where to: prod, staging, dev, or what the reporter calls it" example:"prod"`
	Status      string     `json:"status" enum:"SUCCESS,FAILURE,IN_PROGRESS,CANCELLED" doc:"How it went"`
	StartTime   time.Time  `json:"startTime" doc:"When it began; the order of the history"`
	EndTime     *time.Time `json:"endTime" nullable:"true" doc:"When it ended; null until then"`
	Duration    *int64     `json:"duration" nullable:"true" doc:"Whole seconds from start to end; null until then" example:"300"`
	TriggeredBy *string    `json:"triggeredBy" nullable:"true" doc:"Who or what caused it; null where nobody says" example:"GitHub Push"`
	Commit      *Commit    `json:"commit" doc:"What was deployed, the newest of several; null where nobody says"`

	Service             string     `json:"service" doc:"Service" example:"my-service"`
	Source              string     `json:"source" doc:"Who reported it" example:"api"`
	OriginalEnvironment string     `json:"originalEnvironment" doc:"The environment as the reporter writes it" example:"production"`
	URL                 string     `json:"url,omitempty" doc:"Page to look at"`
	Detail              string     `json:"detail,omitempty" doc:"The reporter's own words for the status"`
	Commits             []Commit   `json:"commits,omitempty" doc:"All commits, where several are known"`
	Rework              bool       `json:"rework,omitempty" doc:"It was not planned, but made because of an incident"`
	Rollback            bool       `json:"rollback,omitempty" doc:"It put an older version back"`
	UpdatedAt           *time.Time `json:"updatedAt,omitempty" doc:"When the reporter last changed it"`

	project string
}

// Change is a change of code on its way to users: a pull request, or a push.
type Change struct {
	ID            string     `json:"id" doc:"The reporter's own id" example:"42"`
	Service       string     `json:"service" doc:"Service" example:"my-service"`
	Source        string     `json:"source" doc:"Who reported it" example:"api"`
	Title         string     `json:"title,omitempty" doc:"Title"`
	Author        string     `json:"author,omitempty" doc:"Who wrote it"`
	URL           string     `json:"url,omitempty" doc:"Page to look at"`
	FirstCommitAt *time.Time `json:"firstCommitAt,omitempty" doc:"When its first commit was made: the lead time begins here; else when it was opened"`
	OpenedAt      time.Time  `json:"openedAt" doc:"When it was proposed"`
	MergedAt      *time.Time `json:"mergedAt,omitempty" doc:"When it was merged; until then it is in no deployment"`
	MergeCommit   string     `json:"mergeCommit,omitempty" doc:"Commit that merged it"`
	DeploymentID  string     `json:"deploymentId,omitempty" doc:"Id of the deployment that brought it to users; absent: the first to production after the merge"`
	UpdatedAt     *time.Time `json:"updatedAt,omitempty" doc:"When the reporter last changed it"`

	project string
}

// Incident is a time in which users were not served as they should be.
type Incident struct {
	ID           string     `json:"id" doc:"The reporter's own id" example:"INC-7"`
	Service      string     `json:"service" doc:"Service" example:"my-service"`
	Source       string     `json:"source" doc:"Who reported it" example:"api"`
	Title        string     `json:"title,omitempty" doc:"Title"`
	Severity     string     `json:"severity,omitempty" doc:"Severity, in the reporter's words"`
	URL          string     `json:"url,omitempty" doc:"Page to look at"`
	StartedAt    time.Time  `json:"startedAt" doc:"When it began"`
	ResolvedAt   *time.Time `json:"resolvedAt,omitempty" doc:"When it was over; absent until then"`
	DeploymentID string     `json:"deploymentId,omitempty" doc:"Id of the deployment that caused it; absent: the last to production before it began"`
	UpdatedAt    *time.Time `json:"updatedAt,omitempty" doc:"When the reporter last changed it"`

	project string
}

// key is the name of a service or project as it is compared.
func key(name string) string { return strings.ToLower(strings.TrimSpace(name)) }

// newest is the commit that was made last, or the last in the list.
func newest(commits []Commit) *Commit {
	if len(commits) == 0 {
		return nil
	}
	c := slices.MaxFunc(commits, func(a, b Commit) int { return moment(a.Time).Compare(moment(b.Time)) })
	if c.Time == nil {
		c = commits[len(commits)-1]
	}
	return &c
}

func moment(t *time.Time) time.Time { return *cmp.Or(t, &time.Time{}) }

// firstCommit is when the first commit of a deployment was made; zero where it is not known.
func (d *Deployment) firstCommit() (first time.Time) {
	all := d.Commits
	if d.Commit != nil {
		all = append([]Commit{*d.Commit}, all...)
	}
	for _, c := range all {
		if c.Time != nil && (first.IsZero() || c.Time.Before(first)) {
			first = *c.Time
		}
	}
	return first
}

// deployed is what tells whether a version was put back: the version, else the commit.
func (d *Deployment) deployed() string {
	if d.Version != nil && *d.Version != "" {
		return *d.Version
	}
	if d.Commit != nil {
		return d.Commit.SHA
	}
	return ""
}
