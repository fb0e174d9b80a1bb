package command

import (
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/auth"
	"github.com/slipway-platform/slipway/blueprint"
	"github.com/slipway-platform/slipway/event"
	"github.com/slipway-platform/slipway/provider"
	"github.com/slipway-platform/slipway/server"
)

// description is a blueprint's declaration as data.
type description struct {
	Name          string                   `json:"name"`
	Version       string                   `json:"version"`
	Summary       string                   `json:"summary"`
	Stability     blueprint.Stability      `json:"stability"`
	Config        []configDescription      `json:"config"`
	Mounts        []mountDescription       `json:"mounts"`
	Operations    []operationDescription   `json:"operations"`
	Permissions   []auth.Permission        `json:"permissions"`
	Databases     []databaseDescription    `json:"databases"`
	Jobs          []jobDescription         `json:"jobs"`
	Schedules     []scheduleDescription    `json:"schedules"`
	Events        []event.Type             `json:"events"`
	Subscriptions []subscription           `json:"subscriptions"`
	Tasks         []blueprint.TaskInfo     `json:"tasks"`
	Providers     []kindDescription        `json:"providers"`
	Commands      []string                 `json:"commands"`
	Health        []textDescription        `json:"health"`
	Proxies       []blueprint.Proxy        `json:"proxies"`
	Pages         []pageDescription        `json:"pages"`
	Kinds         []blueprint.ResourceKind `json:"kinds"`
}

type configDescription struct {
	Key     string `json:"key"`
	Text    string `json:"text"`
	Default string `json:"default"`
}

type mountDescription struct {
	Prefix  string            `json:"prefix"`
	Dialect blueprint.Dialect `json:"dialect"`
	Lenient bool              `json:"lenient,omitempty"`
}

type operationDescription struct {
	ID         string              `json:"id"`
	Method     string              `json:"method"`
	Path       string              `json:"path"`
	Summary    string              `json:"summary"`
	Permission string              `json:"permission"`
	OnObject   bool                `json:"onObject,omitempty"`
	Errors     []slipway.Code      `json:"errors,omitempty"`
	Idempotent bool                `json:"idempotent,omitempty"`
	Stability  blueprint.Stability `json:"stability"`
}

type databaseDescription struct {
	Name   string   `json:"name"`
	Tables []string `json:"tables"`
}

type jobDescription struct {
	Kind        string           `json:"kind"`
	Text        string           `json:"text"`
	Timeout     slipway.Duration `json:"timeout,omitempty"`
	MaxAttempts int              `json:"maxAttempts,omitempty"`
}

type scheduleDescription struct {
	Name  string           `json:"name"`
	Text  string           `json:"text"`
	Every slipway.Duration `json:"every,omitempty"`
	Cron  string           `json:"cron,omitempty"`
	Job   string           `json:"job"`
}

type subscription struct {
	Name  string   `json:"name"`
	Types []string `json:"types"`
}

type kindDescription struct {
	Name        string                `json:"name"`
	Text        string                `json:"text"`
	Annotations []provider.Annotation `json:"annotations"`
}

type textDescription struct {
	Name string `json:"name"`
	Text string `json:"text"`
}

type pageDescription struct {
	Slug  string `json:"slug"`
	Title string `json:"title"`
}

func (a *app) describe() *cobra.Command {
	return &cobra.Command{
		Use:   "describe [BLUEPRINT]",
		Short: "Print what the blueprints of this build declare",
		Long: `Print the declarations of all blueprints, or of one, as JSON (-o yaml for YAML, -o table for a summary): operations with their permissions,
configuration, tables, jobs, schedules, events, commands. Nothing is opened or started: what is not declared does not exist.`,
		Example: `  slipway describe
  slipway describe catalog -o yaml`,
		Args: cobra.MaximumNArgs(1),
		ValidArgsFunction: func(*cobra.Command, []string, string) (names []string, _ cobra.ShellCompDirective) {
			for _, b := range a.blueprints {
				names = append(names, b.Name)
			}
			return names, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			doc := struct {
				Version    string            `json:"version"`
				Blueprints []description     `json:"blueprints"`
				Providers  []kindDescription `json:"providers"`
			}{version(), []description{}, describeKinds(a.kinds)}
			t := blueprint.Table{Header: []string{"Blueprint", "Version", "Stability", "Operations", "Jobs", "Summary"}}
			for _, b := range append([]blueprint.Blueprint{server.Base}, a.blueprints...) {
				if len(args) == 1 && b.Name != args[0] {
					continue
				}
				d := a.describeOne(b)
				doc.Blueprints = append(doc.Blueprints, d)
				t.Rows = append(t.Rows, []string{b.Name, b.Version, string(b.Stability), count(d.Operations), count(d.Jobs), b.Summary})
			}
			if len(args) == 1 && len(doc.Blueprints) == 0 {
				return slipway.Errorf(slipway.NotFound, "there is no blueprint %q in this build; slipway version lists them", args[0])
			}
			if !cmd.Flags().Changed("output") {
				a.format = "json"
			}
			return a.print(cmd, doc, t)
		},
	}
}

func (a *app) describeOne(b blueprint.Blueprint) description {
	d := description{
		Name: b.Name, Version: b.Version, Summary: b.Summary, Stability: b.Stability,
		Permissions: some(b.Permissions), Events: some(b.EventTypes()), Tasks: some(b.Tasks), Proxies: some(b.Proxies), Kinds: some(b.Kinds),
		Config: []configDescription{}, Mounts: []mountDescription{}, Operations: []operationDescription{}, Databases: []databaseDescription{}, Jobs: []jobDescription{},
		Schedules: []scheduleDescription{}, Subscriptions: []subscription{}, Commands: []string{}, Health: []textDescription{}, Pages: []pageDescription{},
	}
	key := b.ConfigKey
	if key == "" {
		key = b.Name
	}
	if b.Config != nil {
		only := app{blueprints: []blueprint.Blueprint{b}}
		only.defaults(func(_, path string, k field, value string) {
			if path == key || strings.HasPrefix(path, key+".") {
				d.Config = append(d.Config, configDescription{path, k.doc, value})
			}
		})
	}
	for _, m := range b.Mounts {
		d.Mounts = append(d.Mounts, mountDescription{m.Prefix, m.Dialect, m.Lenient})
	}
	for _, op := range b.Operations {
		stability := op.Stability
		if stability == "" {
			stability = b.Stability
		}
		d.Operations = append(d.Operations, operationDescription{
			op.ID, op.Method, op.Path, op.Summary, op.Permission, op.OnObject, op.Errors, op.Idempotent, stability,
		})
	}
	for _, x := range b.Databases {
		d.Databases = append(d.Databases, databaseDescription{x.Name, some(x.Tables)})
	}
	for _, j := range b.Jobs {
		d.Jobs = append(d.Jobs, jobDescription{j.Kind, j.Text, slipway.Duration(j.Worker.Timeout), j.Worker.MaxAttempts})
	}
	for _, s := range b.Schedules {
		kind := ""
		if s.Args != nil {
			kind = s.Args.Kind()
		}
		d.Schedules = append(d.Schedules, scheduleDescription{s.Name, s.Text, slipway.Duration(s.Every), s.Cron, kind})
	}
	for _, s := range b.Subscriptions {
		d.Subscriptions = append(d.Subscriptions, subscription{s.Name, some(s.Types)})
	}
	var kinds []provider.Kind
	for _, p := range b.Providers {
		kinds = append(kinds, p.Kind)
	}
	d.Providers = describeKinds(kinds)
	for _, c := range b.Commands {
		d.Commands = append(d.Commands, c(a.face()).Name())
	}
	for _, h := range b.Health {
		d.Health = append(d.Health, textDescription{h.Name, h.Text})
	}
	for _, p := range b.Pages {
		d.Pages = append(d.Pages, pageDescription{p.Slug, p.Title})
	}
	return d
}

func describeKinds(kinds []provider.Kind) []kindDescription {
	out := []kindDescription{}
	for _, k := range kinds {
		out = append(out, kindDescription{k.Name, k.Text, some(k.Annotations)})
	}
	slices.SortFunc(out, func(x, y kindDescription) int { return strings.Compare(x.Name, y.Name) })
	return out
}

// some is a list that JSON shows as [] when it is empty.
func some[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}

func count[T any](list []T) string { return strconv.Itoa(len(list)) }
