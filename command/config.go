package command

import (
	"bytes"
	"context"
	"encoding"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v4"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/blueprint"
	"github.com/slipway-platform/slipway/cluster"
	"github.com/slipway-platform/slipway/fetch"
	"github.com/slipway-platform/slipway/provider"
	"github.com/slipway-platform/slipway/secret"
	"github.com/slipway-platform/slipway/server"
)

const (
	defaultFile   = "slipway.yaml"
	maxConfigFile = 4 << 20 // bytes
)

// settings is what decides the configuration, the later before the earlier: defaults, a file, the environment, flags.
type settings struct {
	file    string // --config; "" is slipway.yaml where there is one
	listen  string
	dataDir string
	role    string
}

// flags adds the flags that every command with a configuration has.
func (s *settings) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&s.file, "config", "", `configuration file (default "slipway.yaml" where there is one)`)
	cmd.Flags().StringVar(&s.dataDir, "data-dir", "", `folder for the embedded database, keys and files (default "slipway-data")`)
	_ = cmd.MarkFlagFilename("config", "yaml", "yml") // the flag was added above
	_ = cmd.MarkFlagDirname("data-dir")
}

// loaded is a configuration and how it came about.
type loaded struct {
	config  *server.Config
	redact  *secret.Redactor
	levels  *server.Levels // of the logger, once there is one
	file    string         // the file that was read, or ""
	env     func(string) (string, bool)
	lines   map[string]int    // line of each path that the file holds
	written map[string]string // values that held ${…}, as they were written
	ignored []string          // SLIPWAY_… variables that name no key
}

// look is a check of a configuration that not every command needs.
type look func(*loaded, *filler)

// load makes the configuration. All faults are reported together, and those that the looks find.
func (a *app) load(s settings, environ []string, looks ...look) (*loaded, error) {
	env := lookup(environ)
	f := newFiller(env)
	cfg := server.DefaultConfig()
	cfg.Sections = server.Sections(a.blueprints)
	keys := configFields(cfg)
	l := &loaded{config: cfg, redact: &secret.Redactor{}, env: env}

	raw, err := l.read(s.file)
	if err != nil {
		return nil, err
	}
	var doc yaml.Node
	documents := yaml.NewDecoder(bytes.NewReader(raw))
	if err := documents.Decode(&doc); err != nil && !errors.Is(err, io.EOF) {
		return nil, slipway.Errorf(slipway.Invalid, "%s is not valid YAML: %s", l.file, yamlFault(raw, err)).WithCause(err)
	}
	if err := documents.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return nil, slipway.Errorf(slipway.Invalid, "%s holds more than one YAML document; write all keys into one", l.file)
	}
	if len(doc.Content) == 1 && doc.Content[0].ShortTag() != "!!null" {
		f.fields(doc.Content[0], "", keys, reflect.Value{}, 0)
	}
	l.ignored = slices.DeleteFunc(f.environment(environ, keys), foreign)
	port(cfg, env)
	if s.listen != "" {
		cfg.Server.Listen = s.listen
	}
	if s.dataDir != "" {
		cfg.DataDir = s.dataDir
	}
	if s.role != "" {
		cfg.Role = s.role
	}
	l.written, l.lines = f.written, f.lines
	for path := range f.written {
		if v, ok := at(keys, path); ok {
			l.redact.Add(v)
		}
	}
	// Sections of blueprints that are not enabled may stand in the file, but are not checked.
	if enabled, err := server.Enabled(a.blueprints, cfg.Blueprints); err != nil {
		f.faultf("blueprints", "%s", strings.TrimPrefix(err.Error(), "blueprints: "))
		f.resolved(cfg.Resolve())
	} else {
		kept := server.Sections(enabled)
		for key := range kept {
			kept[key] = cfg.Sections[key]
		}
		cfg.Sections = kept
		f.resolved(cfg.ResolveFor(append([]blueprint.Blueprint{server.Base}, enabled...)))
	}
	for _, look := range looks {
		look(l, f)
	}
	return l, l.report(f.sorted())
}

// read gives the bytes of the configuration file; none when it is the default one and missing.
func (l *loaded) read(file string) ([]byte, error) {
	l.file = file
	if file == "" {
		l.file = defaultFile
	}
	info, err := os.Stat(l.file)
	if file == "" && errors.Is(err, fs.ErrNotExist) {
		l.file = ""
		return nil, nil
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil, slipway.Errorf(slipway.Invalid, "there is no configuration file %s; name another with --config", l.file).WithCause(err)
	} else if err != nil {
		return nil, slipway.Errorf(slipway.Invalid, "the configuration cannot be read: %w", err)
	}
	if info.IsDir() {
		return nil, slipway.Errorf(slipway.Invalid, "%s is a folder; --config names a file", l.file)
	}
	if info.Size() > maxConfigFile {
		return nil, slipway.Errorf(slipway.TooLarge, "the configuration %s has more than %d MiB", l.file, maxConfigFile>>20)
	}
	raw, err := os.ReadFile(l.file)
	if err != nil {
		return nil, slipway.Errorf(slipway.Invalid, "the configuration cannot be read: %w", err)
	}
	return raw, nil
}

// yamlFault is what the parser found, with what helps against the commonest cause.
func yamlFault(raw []byte, err error) string {
	text := strings.TrimPrefix(oneLine(err.Error()), "yaml: ")
	if bytes.Contains(raw, []byte("\n\t")) {
		text += "; YAML is indented with spaces, and this file has lines that begin with a tab"
	}
	return text
}

// report makes one error of all faults.
func (l *loaded) report(faults []fault) error {
	if len(faults) == 0 {
		return nil
	}
	where := "the configuration"
	if l.file != "" {
		where = l.file
	}
	text := fmt.Sprintf("%s has %d faults:", where, len(faults))
	if len(faults) == 1 {
		text = where + " has a fault:"
	}
	for _, f := range faults {
		text += "\n  " + f.String()
	}
	return slipway.Errorf(slipway.Invalid, "%s", text)
}

// resolved takes over what Config.Resolve found, with the place where each value was set. What was faulty already is not
// told twice.
func (f *filler) resolved(err error) {
	known := f.paths()
	for _, text := range sentences(err) {
		path := ""
		for {
			key, rest, found := strings.Cut(text, ": ")
			at := join(path, key)
			if !found || strings.ContainsAny(key, " \"") || path != "" && f.lines[at] == 0 && f.origins[at] == "" {
				break
			}
			path, text = at, rest
		}
		if path == "" || !known[path] {
			f.faultf(path, "%s", text)
		}
	}
}

// paths is what is faulty already.
func (f *filler) paths() map[string]bool {
	known := map[string]bool{}
	for _, e := range f.faults {
		known[e.path] = true
	}
	return known
}

// sentences takes joined errors apart; what one of several was wrapped in stands before each of them.
func sentences(err error) (out []string) {
	if err == nil {
		return nil
	}
	if _, ok := err.(*slipway.Error); ok { //nolint:errorlint // the outermost is meant: what it wraps is taken apart below
		return []string{sentence(err)}
	}
	if several, ok := err.(interface{ Unwrap() []error }); ok {
		for _, e := range several.Unwrap() {
			out = append(out, sentences(e)...)
		}
		return out
	}
	if inner := errors.Unwrap(err); inner != nil {
		if before, ok := strings.CutSuffix(err.Error(), inner.Error()); ok {
			for _, s := range sentences(inner) {
				out = append(out, before+s)
			}
			return out
		}
	}
	return []string{sentence(err)}
}

// configFields is every top-level key: the server's own and one for each blueprint's section.
func configFields(cfg *server.Config) []field {
	fields, _ := fieldsOf(reflect.ValueOf(cfg).Elem())
	for _, key := range slices.Sorted(maps.Keys(cfg.Sections)) {
		fields = append(fields, field{key: key, value: reflect.ValueOf(cfg.Sections[key]).Elem()})
	}
	return fields
}

// at finds the text at a path such as databases.main.
func at(fields []field, path string) (string, bool) {
	key, rest, more := strings.Cut(path, ".")
	for _, k := range fields {
		if k.key != key {
			continue
		}
		switch {
		case !more:
			return fmt.Sprint(k.value.Interface()), true
		case k.value.Kind() == reflect.Struct:
			inner, _ := fieldsOf(k.value)
			return at(inner, rest)
		case k.value.Kind() == reflect.Map:
			if v := k.value.MapIndex(reflect.ValueOf(rest)); v.IsValid() {
				return fmt.Sprint(v.Interface()), true
			}
		}
	}
	return "", false
}

// port honours PORT, by which platforms say where a process has to listen.
func port(cfg *server.Config, env func(string) (string, bool)) {
	p, ok := env("PORT")
	if host, _, err := net.SplitHostPort(cfg.Server.Listen); ok && p != "" && err == nil {
		cfg.Server.Listen = net.JoinHostPort(host, p)
	}
}

// foreign says that a SLIPWAY_… variable is not meant as configuration: the client's own ones, and those that a
// cluster sets for a service that happens to be called slipway.
func foreign(name string) bool {
	switch name {
	case "SLIPWAY_URL", "SLIPWAY_TOKEN", "SLIPWAY_CA_FILE", "SLIPWAY_PROVIDER_TOKEN":
		return true
	}
	return strings.HasPrefix(name, "SLIPWAY_SERVICE_") || strings.HasPrefix(name, "SLIPWAY_PORT") || strings.HasPrefix(name, "SLIPWAY_TEST_") || name == "SLIPWAY_BENCH"
}

func lookup(environ []string) func(string) (string, bool) {
	m := map[string]string{}
	for _, pair := range environ {
		k, v, _ := strings.Cut(pair, "=")
		m[k] = v
	}
	return func(k string) (string, bool) { v, ok := m[k]; return v, ok }
}

func (a *app) config() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "config",
		Short: "Check and show the configuration",
		Long: `Check and show the configuration without starting anything. It comes from defaults, a YAML file (--config, or slipway.yaml in
the current folder), SLIPWAY_… environment variables and flags; a later source overrides an earlier one.`,
		Example: "  slipway config check --config slipway.yaml",
	}
	cmd.AddCommand(a.configCheck(), a.configShow(), a.configEnv(), a.configDocs())
	return cmd
}

func (a *app) configCheck() *cobra.Command {
	var s settings
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Report all faults of the configuration",
		Long: `Read the configuration as the server would and report all faults together: unknown keys, values that do not fit, impossible database addresses, grants of unknown permissions, a missing key file, and faulty providers. It opens no database and does not use the network. Exit status 1 when there is a fault.

The server refuses to start with any of these faults but those of providers: it marks a faulty provider as failed, with the reason in
its log and in every search, and serves everything else.`,
		Example: `  slipway config check
  slipway config check --config production.yaml`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			l, err := a.load(s, os.Environ(), keyFile, a.providers)
			if l != nil {
				for _, name := range l.ignored {
					say(cmd, "Warning: %s names no key and is ignored; see slipway config env.", name)
				}
			}
			if err != nil {
				return err
			}
			from := "the defaults and the environment"
			if l.file != "" {
				from = l.file
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "No faults in %s.\n", from)
			return err
		},
	}
	s.flags(cmd)
	return cmd
}

// keyFile is the look of whoever serves.
func keyFile(l *loaded, f *filler) { f.resolved(l.config.CheckKeyFile()) }

// providers looks at the entries of providers as the server will: decoded as their types want them, and opened where no service is needed for it.
func (a *app) providers(l *loaded, f *filler) {
	client := &http.Client{}
	if guarded, err := fetch.New(l.config.Fetch); err == nil { // else a fault of its own
		client = guarded.Client(0)
		defer guarded.Close()
	}
	for i, p := range l.config.Providers {
		if p.Type != "" { // else a fault already
			a.provider(l, f, client, fmt.Sprintf("providers[%d]", i), p)
		}
	}
}

func (a *app) provider(l *loaded, f *filler, client *http.Client, path string, p server.ProviderConfig) {
	kinds := a.allKinds()
	i := slices.IndexFunc(kinds, func(k provider.Kind) bool { return k.Name == p.Type })
	if i < 0 {
		var known []string
		for _, k := range kinds {
			known = append(known, k.Name)
		}
		f.faultf(path+".type", "there is no type %q; there are %s", p.Type, strings.Join(known, ", "))
		return
	}
	before := len(f.faults)
	var config any
	if kinds[i].Config != nil {
		v := reflect.New(reflect.Indirect(reflect.ValueOf(kinds[i].Config)).Type())
		config = v.Interface()
		fields, rest := fieldsOf(v.Elem())
		for _, key := range slices.Sorted(maps.Keys(p.Rest)) {
			f.checkReplacements(join(path, key), p.Rest[key])
			if !rest.IsValid() && !slices.ContainsFunc(fields, func(k field) bool { return k.key == key }) {
				f.unknown(join(path, key), key, fields)
			}
		}
	}
	raw, err := p.Raw(l.env, l.redact)
	if err != nil {
		if len(f.faults) == before {
			f.faultf(path, "%s", sentence(err))
		}
		return
	}
	if config != nil {
		err = provider.Decode(raw, config)
	}
	if err == nil && kinds[i].Open != nil {
		var opened *provider.Provider
		opened, err = kinds[i].Open(context.Background(), raw, provider.Env{Name: p.Name, HTTP: client, Cluster: cluster.New(l.config.Clusters).Get, Now: time.Now, Log: slog.New(slog.DiscardHandler)})
		if err == nil && opened.Close != nil {
			err = opened.Close()
		}
	}
	f.refused(l, path, err)
}

// refused takes over what a type of provider has against a config. What was faulty already is not told twice, and values that came from
// elsewhere are not shown.
func (f *filler) refused(l *loaded, path string, err error) {
	if err == nil {
		return
	}
	details := []slipway.Detail{{Message: sentence(err)}}
	if e, ok := errors.AsType[*slipway.Error](err); ok && len(e.Details) > 0 {
		details = e.Details
	}
	known := f.paths()
	for _, d := range details {
		at := path
		if d.Field != "" {
			at = join(path, d.Field)
		}
		if known[at] {
			continue
		}
		if f.lines[at] == 0 && f.origins[at] == "" { // a key that is missing is missing in its entry
			f.lines[at], f.origins[at] = f.lines[path], f.origins[path]
		}
		f.faultf(at, "%s", l.redact.Redact(d.Message))
	}
}

// checkReplacements looks whether every ${…} in a value can be replaced.
func (f *filler) checkReplacements(path string, v any) {
	switch v := v.(type) {
	case string:
		if _, err := secret.Expand(v, f.env); err != nil {
			f.faultf(path, "%s", sentence(err))
		}
	case []any:
		for i, e := range v {
			f.checkReplacements(fmt.Sprintf("%s[%d]", path, i), e)
		}
	case map[string]any:
		for _, key := range slices.Sorted(maps.Keys(v)) {
			f.checkReplacements(join(path, key), v[key])
		}
	}
}

// allKinds is the types of providers: of the build and of its blueprints.
func (a *app) allKinds() []provider.Kind {
	kinds := slices.Clone(a.kinds)
	for _, b := range a.blueprints {
		for _, p := range b.Providers {
			kinds = append(kinds, p.Kind)
		}
	}
	slices.SortFunc(kinds, func(x, y provider.Kind) int { return strings.Compare(x.Name, y.Name) })
	return kinds
}

func (a *app) configShow() *cobra.Command {
	var s settings
	cmd := &cobra.Command{
		Use:   "show",
		Short: "Print the effective configuration",
		Long: `Print the configuration that the server would run with, as YAML (-o json for JSON). Secrets are not shown: a value that came from
${env:NAME} or ${file:/path} is printed as it was written, passwords in addresses and keys named like secrets as <redacted>.`,
		Example: `  slipway config show
  SLIPWAY_LOG_LEVEL=debug slipway config show -o json`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			l, err := a.load(s, os.Environ())
			if err != nil {
				return err
			}
			doc := document(configFields(l.config), l.written)
			if a.format == "json" {
				var v any
				if err := doc.Decode(&v); err != nil {
					return err
				}
				return printJSON(cmd.OutOrStdout(), v)
			}
			b, err := yaml.Dump(doc, yaml.WithIndent(2))
			if err != nil {
				return err
			}
			_, err = cmd.OutOrStdout().Write(b)
			return err
		},
	}
	s.flags(cmd)
	return cmd
}

// document is a configuration as YAML, in the order of its declaration, without secrets.
func document(fields []field, written map[string]string) *yaml.Node {
	return mapping(fields, reflect.Value{}, "", written)
}

func mapping(fields []field, rest reflect.Value, path string, written map[string]string) *yaml.Node {
	n := &yaml.Node{Kind: yaml.MappingNode}
	for _, k := range fields {
		n.Content = append(n.Content, textNode(k.key), shown(k.value, join(path, k.key), written))
	}
	if rest.IsValid() {
		n.Content = append(n.Content, shown(rest, path, written).Content...)
	}
	return n
}

func shown(v reflect.Value, path string, written map[string]string) *yaml.Node {
	if w, ok := written[path]; ok {
		return textNode(w)
	}
	if v.Kind() == reflect.Interface || v.Kind() == reflect.Pointer {
		if v.IsNil() {
			return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!null", Value: "null"}
		}
		return shown(v.Elem(), path, written)
	}
	if t, ok := v.Interface().(encoding.TextMarshaler); ok {
		if b, err := t.MarshalText(); err == nil {
			return textNode(hide(path, string(b)))
		}
	}
	n := &yaml.Node{}
	switch v.Kind() {
	case reflect.Struct:
		fields, rest := fieldsOf(v)
		return mapping(fields, rest, path, written)
	case reflect.Map:
		n.Kind = yaml.MappingNode
		keys := v.MapKeys()
		slices.SortFunc(keys, func(a, b reflect.Value) int { return strings.Compare(a.String(), b.String()) })
		for _, k := range keys {
			n.Content = append(n.Content, textNode(k.String()), shown(v.MapIndex(k), join(path, k.String()), written))
		}
		return n
	case reflect.Slice:
		n.Kind = yaml.SequenceNode
		for i := range v.Len() {
			n.Content = append(n.Content, shown(v.Index(i), fmt.Sprintf("%s[%d]", path, i), written))
		}
		if v.Len() == 0 {
			n.Style = yaml.FlowStyle
		}
		return n
	case reflect.String:
		return textNode(hide(path, v.String()))
	}
	if err := n.Encode(v.Interface()); err != nil {
		return textNode(fmt.Sprint(v.Interface()))
	}
	return n
}

// textNode is a text that stays a text, whatever it looks like.
func textNode(s string) *yaml.Node {
	n := &yaml.Node{}
	n.SetString(s)
	return n
}

const redacted = "<redacted>"

var secretKey = regexp.MustCompile(`(?i)(secret|password|passphrase|token|privateKey|credential)$`)

// hide keeps what looks like a secret from being shown. A reference such as ${env:NAME} or the name of a credential
// tells nothing, but a name cannot be told from a secret.
func hide(path, s string) string {
	if s == "" || strings.HasPrefix(s, "${") && strings.HasSuffix(s, "}") {
		return s
	}
	key := path[strings.LastIndexAny(path, ".")+1:]
	if secretKey.MatchString(key) {
		return redacted
	}
	scheme, rest, address := strings.Cut(s, "://")
	if !address {
		return s
	}
	if _, err := url.Parse(s); err != nil {
		return redacted // an address that does not parse may hold anything
	}
	// It is taken apart as it was written, in which a password may look otherwise than package url writes it.
	rest, query, asks := strings.Cut(rest, "?")
	host, path, deeper := strings.Cut(rest, "/")
	if at := strings.LastIndexByte(host, '@'); at >= 0 {
		if name, _, ok := strings.Cut(host[:at], ":"); ok {
			host = name + ":" + redacted + host[at:]
		}
	}
	out := scheme + "://" + host
	if deeper {
		out += "/" + path
	}
	if asks {
		parts := strings.Split(query, "&")
		for i, part := range parts {
			if name, _, ok := strings.Cut(part, "="); ok && secretKey.MatchString(name) {
				parts[i] = name + "=" + redacted
			}
		}
		out += "?" + strings.Join(parts, "&")
	}
	return out
}

func (a *app) configEnv() *cobra.Command {
	return &cobra.Command{
		Use:   "env",
		Short: "List the environment variable of every key",
		Long: `List every key of the configuration with its environment variable and its default. Lists are written a,b or as YAML, whole sections such as
SLIPWAY_PROVIDERS as YAML. PORT replaces the port of server.listen.`,
		Example: "  slipway config env",
		RunE: func(cmd *cobra.Command, _ []string) error {
			t := blueprint.Table{Header: []string{"Variable", "Key", "Default"}}
			list := []map[string]string{}
			a.defaults(func(name, path string, k field, value string) {
				t.Rows = append(t.Rows, []string{name, path, value})
				list = append(list, map[string]string{"variable": name, "key": path, "default": value, "text": k.doc})
			})
			return a.print(cmd, list, t)
		},
	}
}

// defaults visits every key with its variable and its default.
func (a *app) defaults(visit func(name, path string, k field, value string)) {
	cfg := server.DefaultConfig()
	cfg.Sections = server.Sections(a.blueprints)
	variables(configFields(cfg), "", func(name, path string, k field) {
		visit(name, path, k, flow(shown(k.value, path, nil)))
	})
}

// flow writes a value on one line.
func flow(n *yaml.Node) string {
	n.Style = yaml.FlowStyle
	b, err := yaml.Dump(n, yaml.WithLineWidth(-1))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(string(b)), "..."))
}

func (a *app) configDocs() *cobra.Command {
	return &cobra.Command{
		Use:     "docs",
		Hidden:  true,
		Short:   "Print the reference of the configuration as Markdown",
		Long:    "Print the reference of the configuration as Markdown, made from the declarations of this build.",
		Example: "  slipway config docs >docs/config.md",
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprint(cmd.OutOrStdout(), a.reference())
			return err
		},
	}
}

// reference is the documentation of all keys, from the declarations of this build.
func (a *app) reference() string {
	var b strings.Builder
	b.WriteString(`# Configuration

<!-- Made by "slipway config docs" from the declarations. Do not edit. -->

Every key is optional. Settings come from, in this order: the defaults, a YAML file (` + "`--config FILE`, or `slipway.yaml`" + ` in the current
folder), environment variables, flags; a later source overrides an earlier one. Unknown keys are refused, and all faults are reported
together. ` + "`slipway config check`" + ` checks a configuration, and ` + "`slipway config show`" + ` prints what results, without secrets.

| | written like |
|---|---|
| length of time | ` + "`90s`, `5m`, `1h30m`, `400d`, `5y`" + ` |
| size | ` + "`512`, `64KiB`, `10MiB`, `2GiB`" + ` |
| value of an environment variable | ` + "`${env:NAME}`" + ` |
| content of a file | ` + "`${file:/path}`" + ` |
| a plain ` + "`${` | `$${`" + ` |
| list in the environment | ` + "`a,b`" + `, or YAML |
| section in the environment | YAML |

` + "`PORT`" + ` in the environment replaces the port of ` + "`server.listen`" + `. [Running Slipway](operations.md#a-complete-example) has a complete example.
`)
	head := func(title, text string) {
		fmt.Fprintf(&b, "\n## %s\n\n%s.\n\n| key | default | meaning | environment |\n|---|---|---|---|\n", title, strings.TrimSuffix(text, "."))
	}
	line := func(name, path string, k field, value string) {
		fmt.Fprintf(&b, "| `%s` | %s | %s | `%s` |\n", path, code(value), escape(k.doc), name)
	}
	head("General", "Keys that belong to no section")
	a.defaults(func(name, path string, k field, value string) {
		if !strings.Contains(path, ".") && !entries(k.value) {
			line(name, path, k, value)
		}
	})
	section, texts := "", a.sectionTexts()
	a.defaults(func(name, path string, k field, value string) {
		top, _, deeper := strings.Cut(path, ".")
		if !deeper && !entries(k.value) {
			return
		}
		if top != section {
			section = top
			head(top, texts[top])
		}
		line(name, path, k, value)
		if entries(k.value) {
			each := path + "[]"
			if k.value.Kind() == reflect.Map {
				each = path + ".<name>"
			}
			writeEntry(&b, each, reflect.New(k.value.Type().Elem()).Elem())
		}
	})
	b.WriteString(`
## Types of providers

An entry of ` + "`providers` has a `name`, a `type`" + `, and what the type takes. A faulty one stops nothing else: ` + "`slipway config check`" + ` reports it as a fault, but
the server starts, logs an error that says what is wrong, and shows the provider's sources as failed with the reason. All other
faults of the configuration keep the server from starting.
`)
	for _, kind := range a.allKinds() {
		fmt.Fprintf(&b, "\n### %s\n\n%s\n", kind.Name, kind.Text)
		for i, n := range kind.Annotations {
			if i == 0 {
				b.WriteString("\n| annotation | meaning | example |\n|---|---|---|\n")
			}
			fmt.Fprintf(&b, "| `%s` | %s | %s |\n", n.Key, escape(n.Text), code(n.Example))
		}
		if kind.Config == nil {
			continue
		}
		v := reflect.New(reflect.Indirect(reflect.ValueOf(kind.Config)).Type()).Elem()
		v.Set(reflect.Indirect(reflect.ValueOf(kind.Config)))
		fields, _ := fieldsOf(v)
		for i, k := range fields {
			if i == 0 {
				b.WriteString("\n| key | default | meaning |\n|---|---|---|\n")
			}
			fmt.Fprintf(&b, "| `%s` | %s | %s |\n", k.key, code(k.standard), escape(k.doc))
		}
	}
	return b.String()
}

// writeEntry writes the keys that each of several things has.
func writeEntry(b *strings.Builder, path string, v reflect.Value) {
	inner, _ := fieldsOf(v)
	for _, e := range inner {
		if e.value.Kind() == reflect.Struct {
			writeEntry(b, path+"."+e.key, e.value)
			continue
		}
		fmt.Fprintf(b, "| `%s.%s` | | %s | |\n", path, e.key, escape(e.doc))
	}
}

// entries says that a value is several things, in a list or by name, with keys of their own.
func entries(v reflect.Value) bool {
	return (v.Kind() == reflect.Slice || v.Kind() == reflect.Map) && v.Type().Elem().Kind() == reflect.Struct
}

// sectionTexts says what each top-level key is about.
func (a *app) sectionTexts() map[string]string {
	out := map[string]string{}
	for _, k := range configFields(server.DefaultConfig()) {
		out[k.key] = k.doc
	}
	for _, b := range a.blueprints {
		key := b.ConfigKey
		if key == "" {
			key = b.Name
		}
		out[key] = b.Summary
	}
	return out
}

func code(s string) string {
	if s == "" || s == "''" {
		return ""
	}
	return "`" + strings.ReplaceAll(s, "|", "\\|") + "`"
}

// escape keeps a text from being read as Markdown's tables and tags.
func escape(s string) string { return strings.NewReplacer("|", "\\|", "<", "&lt;").Replace(s) }
