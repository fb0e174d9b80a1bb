package server

import (
	"encoding"
	"fmt"
	"net/http"
	"reflect"
	"strings"

	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/auth"
	"github.com/slipway-platform/slipway/blueprint"
	"github.com/slipway-platform/slipway/event"
	"github.com/slipway-platform/slipway/provider"
	"github.com/slipway-platform/slipway/resource"
)

// Declaration is what one blueprint declares, for people and programs: the output of `slipway describe`.
type Declaration struct {
	Name          string                   `json:"name"`
	Version       string                   `json:"version"`
	Summary       string                   `json:"summary"`
	Stability     blueprint.Stability      `json:"stability"`
	Mounts        []DeclaredMount          `json:"mounts"`
	Config        *DeclaredConfig          `json:"config,omitempty"`
	Operations    []DeclaredOperation      `json:"operations"`
	Permissions   []auth.Permission        `json:"permissions"`
	Databases     []DeclaredDatabase       `json:"databases"`
	Jobs          []DeclaredJob            `json:"jobs"`
	Schedules     []DeclaredSchedule       `json:"schedules"`
	Events        []event.Type             `json:"events"`
	Subscriptions []DeclaredSubscription   `json:"subscriptions"`
	Tasks         []blueprint.TaskInfo     `json:"tasks"`
	Providers     []DeclaredProvider       `json:"providers"`
	Commands      []DeclaredCommand        `json:"commands"`
	Health        []DeclaredText           `json:"health"`
	Proxies       []blueprint.Proxy        `json:"proxies"`
	Pages         []DeclaredPage           `json:"pages"`
	Kinds         []blueprint.ResourceKind `json:"kinds"`
}

// The parts of a Declaration.
type (
	DeclaredMount struct {
		Prefix  string            `json:"prefix"`
		Dialect blueprint.Dialect `json:"dialect"`
		Lenient bool              `json:"lenient,omitempty"`
	}
	DeclaredConfig struct {
		Key  string `json:"key"`
		Keys []Key  `json:"keys"`
	}
	DeclaredOperation struct {
		ID         string              `json:"id"`
		Method     string              `json:"method"`
		Path       string              `json:"path"`
		Summary    string              `json:"summary"`
		Permission string              `json:"permission"`
		OnObject   bool                `json:"onObject,omitempty"`
		Stability  blueprint.Stability `json:"stability"`
		Errors     []slipway.Code      `json:"errors,omitempty"`
	}
	DeclaredDatabase struct {
		Name   string   `json:"name"`
		Tables []string `json:"tables"`
	}
	DeclaredJob struct {
		Kind string `json:"kind"`
		Text string `json:"text"`
	}
	DeclaredSchedule struct {
		Name  string `json:"name"`
		Text  string `json:"text"`
		Every string `json:"every,omitempty"`
		Cron  string `json:"cron,omitempty"`
		Job   string `json:"job"`
	}
	DeclaredSubscription struct {
		Name  string   `json:"name"`
		Types []string `json:"types"`
	}
	DeclaredProvider struct {
		Type        string                `json:"type"`
		Text        string                `json:"text"`
		Config      []Key                 `json:"config"`
		Annotations []provider.Annotation `json:"annotations"`
	}
	DeclaredCommand struct {
		Use   string `json:"use"`
		Short string `json:"short"`
	}
	DeclaredText struct {
		Name string `json:"name"`
		Text string `json:"text"`
	}
	DeclaredPage struct {
		Slug  string `json:"slug"`
		Title string `json:"title"`
	}
)

// Describe lists what the base and the blueprints declare, and the kinds of providers that come without a blueprint, under the base. It opens nothing.
func Describe(blueprints []blueprint.Blueprint, kinds []provider.Kind) []Declaration {
	var out []Declaration
	for _, b := range append([]blueprint.Blueprint{Base}, blueprints...) {
		d := Declaration{
			Name: b.Name, Version: b.Version, Summary: b.Summary, Stability: b.Stability, Permissions: orNone(b.Permissions), Events: orNone(b.Events),
			Tasks: orNone(b.Tasks), Proxies: orNone(b.Proxies), Kinds: orNone(b.Kinds),
			Mounts: each(b.Mounts, func(m blueprint.Mount) DeclaredMount { return DeclaredMount(m) }),
			Operations: each(b.Operations, func(o blueprint.Operation) DeclaredOperation {
				stability := o.Stability
				if stability == "" {
					stability = b.Stability
				}
				return DeclaredOperation{o.ID, o.Method, o.Path, o.Summary, o.Permission, o.OnObject, stability, o.Errors}
			}),
			Databases: each(b.Databases, func(x blueprint.Database) DeclaredDatabase { return DeclaredDatabase{x.Name, orNone(x.Tables)} }),
			Jobs:      each(b.Jobs, func(j blueprint.Job) DeclaredJob { return DeclaredJob{j.Kind, j.Text} }),
			Subscriptions: each(b.Subscriptions, func(s blueprint.Subscription) DeclaredSubscription {
				return DeclaredSubscription{s.Name, orNone(s.Types)}
			}),
			Providers: each(b.Providers, func(p blueprint.Provider) DeclaredProvider { return declareKind(p.Kind) }),
			Health:    each(b.Health, func(h blueprint.Health) DeclaredText { return DeclaredText{h.Name, h.Text} }),
			Pages:     each(b.Pages, func(p blueprint.Page) DeclaredPage { return DeclaredPage{p.Slug, p.Title} }),
			Schedules: []DeclaredSchedule{}, Commands: []DeclaredCommand{},
		}
		for _, s := range b.Schedules {
			ds := DeclaredSchedule{Name: s.Name, Text: s.Text, Cron: s.Cron, Job: s.Args.Kind()}
			if s.Every > 0 {
				ds.Every = slipway.Duration(s.Every).String()
			}
			d.Schedules = append(d.Schedules, ds)
		}
		for _, make := range b.Commands {
			cmd := make(&blueprint.Client{})
			d.Commands = append(d.Commands, DeclaredCommand{cmd.Use, cmd.Short})
		}
		if b.Config != nil {
			d.Config = &DeclaredConfig{Key: sectionKey(b), Keys: Keys(b.Config())}
		}
		if b.Name == base {
			d.Config = &DeclaredConfig{Keys: Keys(DefaultConfig())}
			d.Providers = each(kinds, declareKind)
		}
		out = append(out, d)
	}
	return out
}

func declareKind(k provider.Kind) DeclaredProvider {
	d := DeclaredProvider{Type: k.Name, Text: k.Text, Config: []Key{}, Annotations: orNone(k.Annotations)}
	if k.Config != nil {
		d.Config = Keys(k.Config)
	}
	return d
}

func orNone[T any](s []T) []T {
	if s == nil {
		return []T{}
	}
	return s
}

func each[A, B any](in []A, f func(A) B) []B {
	out := make([]B, 0, len(in))
	for _, a := range in {
		out = append(out, f(a))
	}
	return out
}

// Key is one configuration key with its documentation, read from a struct's tags.
type Key struct {
	Path    string `json:"path"` // "server.listen"; list entries are "providers[].name"
	Type    string `json:"type"`
	Default string `json:"default,omitempty"`
	Doc     string `json:"doc"`
}

// Keys lists the keys of a config struct (or a pointer to one) in the order of its fields; its values are the defaults. Keys are named by yaml tags, or json
// tags for providers, and documented by doc tags; a default tag speaks where the value is not set by the time Keys is called.
func Keys(config any) []Key {
	v := reflect.ValueOf(config)
	for v.Kind() == reflect.Pointer {
		if v.IsNil() {
			v = reflect.New(v.Type().Elem())
		}
		v = v.Elem()
	}
	out := []Key{}
	appendKeys(&out, "", v)
	return out
}

var textMarshaler = reflect.TypeFor[encoding.TextMarshaler]()

func appendKeys(out *[]Key, path string, v reflect.Value) {
	t := v.Type()
	for i := range t.NumField() {
		f := t.Field(i)
		tag := f.Tag.Get("yaml")
		if tag == "" {
			tag = f.Tag.Get("json")
		}
		name, opts, _ := strings.Cut(tag, ",")
		if !f.IsExported() || name == "-" {
			continue
		}
		if strings.Contains(opts, "inline") || f.Anonymous && name == "" {
			if f.Type.Kind() == reflect.Struct {
				appendKeys(out, path, v.Field(i))
			}
			continue
		}
		if name == "" {
			continue
		}
		full := strings.TrimPrefix(path+"."+name, ".")
		ft, fv := f.Type, v.Field(i)
		isText := ft.Implements(textMarshaler) || reflect.PointerTo(ft).Implements(textMarshaler)
		switch {
		case ft.Kind() == reflect.Struct && !isText:
			*out = append(*out, Key{Path: full, Type: "section", Doc: f.Tag.Get("doc")})
			appendKeys(out, full, fv)
			continue
		case ft.Kind() == reflect.Slice && ft.Elem().Kind() == reflect.Struct && !ft.Elem().Implements(textMarshaler):
			*out = append(*out, Key{Path: full, Type: "list", Doc: f.Tag.Get("doc")})
			appendKeys(out, full+"[]", reflect.New(ft.Elem()).Elem())
			continue
		}
		k := Key{Path: full, Type: typeName(ft), Doc: f.Tag.Get("doc"), Default: f.Tag.Get("default")}
		if k.Default == "" && !fv.IsZero() {
			k.Default = show(fv)
		}
		*out = append(*out, k)
	}
}

func typeName(t reflect.Type) string {
	switch t {
	case reflect.TypeFor[slipway.Duration]():
		return "duration"
	case reflect.TypeFor[slipway.Size]():
		return "size"
	case reflect.TypeFor[auth.Rate]():
		return "rate"
	}
	switch t.Kind() {
	case reflect.Pointer:
		return typeName(t.Elem())
	case reflect.Slice:
		return "list of " + typeName(t.Elem())
	case reflect.Map:
		return "map of " + typeName(t.Elem())
	case reflect.Bool:
		return "true or false"
	case reflect.Int, reflect.Int64, reflect.Int32, reflect.Uint, reflect.Uint64:
		return "number"
	case reflect.Interface:
		return "anything"
	}
	return "text"
}

func show(v reflect.Value) string {
	if m, ok := v.Interface().(encoding.TextMarshaler); ok {
		b, _ := m.MarshalText()
		return string(b)
	}
	switch v.Kind() {
	case reflect.Slice:
		var parts []string
		for i := range v.Len() {
			parts = append(parts, show(v.Index(i)))
		}
		return "[" + strings.Join(parts, ", ") + "]"
	case reflect.Map:
		var parts []string
		for _, k := range v.MapKeys() {
			parts = append(parts, fmt.Sprintf("%v: %s", k, show(v.MapIndex(k))))
		}
		return "{" + strings.Join(parts, ", ") + "}"
	}
	return fmt.Sprint(v.Interface())
}

// DescribeAPI is the OpenAPI description of a set of blueprints, without opening anything.
func DescribeAPI(blueprints []blueprint.Blueprint, version string) ([]byte, error) {
	s := &Server{blueprints: append([]blueprint.Blueprint{Base}, blueprints...), version: version, mux: http.NewServeMux()}
	for _, b := range s.blueprints {
		for _, m := range b.Mounts {
			s.mounts = append(s.mounts, mount{m, b.Name})
		}
	}
	s.mounts = s.mounts.sorted()
	s.api = newAPI(humago.NewAdapter(s.mux, ""), s.version)
	for _, b := range s.blueprints {
		for _, op := range b.Operations {
			s.register(s.api, b, op, func() any { return nil })
		}
	}
	var kinds []resource.Kind
	for _, b := range blueprints {
		for _, k := range b.Kinds {
			kinds = append(kinds, k.Kind)
		}
	}
	if err := describeDocuments(s.api.OpenAPI(), kinds); err != nil {
		return nil, err
	}
	return s.OpenAPI()
}
