package tool

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/provider"
)

// The kinds of components.
const (
	continuous = "continuous"
	scheduled  = "scheduled"
)

const (
	maxComponents = 1000
	maxFaults     = 100
)

// config is what a configuration means. What stands in it beside that is kept in the document.
type config struct {
	sourceURL  string
	components []component // in the order of the document
	warnings   []string
}

type component struct {
	name string
	kind string
	build
	run map[string]document // the fields that are set, by name with underscores
}

type build struct {
	repository, ref    string
	latest, deprecated bool
	reuseFrom          string // another component; the rest is empty then
}

func (c *config) component(name string) *component {
	for i := range c.components {
		if c.components[i].name == name {
			return &c.components[i]
		}
	}
	return nil
}

// field is one that a part of a configuration may have.
type field struct {
	name     string
	required bool
	kind     kind
	check    func(document) string // what is wrong with a value of the kind, or ""
}

func oneOf(words ...string) func(document) string {
	return func(d document) string {
		if slices.Contains(words, d.text()) {
			return ""
		}
		return "Input should be '" + strings.Join(words[:len(words)-1], "', '") + "' or '" + words[len(words)-1] + "'"
	}
}

func between(low, high int64) func(document) string {
	return func(d document) string {
		n, ok := d.integer()
		switch {
		case !ok:
			return "Input should be a valid integer"
		case n < low:
			return fmt.Sprintf("Input should be greater than or equal to %d", low)
		case n > high:
			return fmt.Sprintf("Input should be less than or equal to %d", high)
		}
		return ""
	}
}

func filled(d document) string {
	if d.text() == "" {
		return "String should have at least 1 character"
	}
	return ""
}

const most = 1 << 31

// The fields of a component's run, for all kinds and for each.
var (
	runFields = []field{
		{name: "command", required: true, kind: text, check: filled},
		{name: "cpu", kind: text},
		{name: "memory", kind: text},
		{name: "emails", kind: text, check: oneOf("none", "all", "onfinish", "onfailure")},
		{name: "mount", kind: text, check: oneOf("all", "none")},
		{name: "filelog", kind: truth},
		{name: "filelog_stdout", kind: text},
		{name: "filelog_stderr", kind: text},
	}
	continuousFields = append(slices.Clip(runFields),
		field{name: "port", kind: number, check: between(1, 65535)},
		field{name: "port_protocol", kind: text, check: oneOf("tcp", "udp")},
		field{name: "replicas", kind: number, check: between(1, most)},
		field{name: "publish", kind: text, check: func(d document) string {
			if d.text() != "/" {
				return "Input should be '/'"
			}
			return ""
		}},
		field{name: "health_check_http", kind: text},
		field{name: "health_check_script", kind: text},
	)
	scheduledFields = append(slices.Clip(runFields),
		field{name: "schedule", required: true, kind: text, check: filled},
		field{name: "retry", kind: number, check: between(0, 5)},
		field{name: "timeout", kind: number, check: between(0, most)},
	)
	sourceFields = []field{
		{name: "repository", required: true, kind: text},
		{name: "ref", required: true, kind: text, check: func(d document) string {
			if s := d.text(); strings.HasPrefix(s, "-") || len(s) > 500 || strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
				return "Input should be a branch, a tag or a commit"
			}
			return ""
		}},
		{name: "use_latest_versions", kind: truth},
		{name: "use_deprecated_versions", kind: truth},
	}
	reuseFields     = []field{{name: "reuse_from", required: true, kind: text}}
	componentFields = []field{
		{name: "component_type", kind: text, check: oneOf(continuous, scheduled)},
		{name: "build", required: true, kind: object},
		{name: "run", required: true, kind: object},
	}
	configFields = []field{
		{name: "config_version", kind: text, check: func(d document) string {
			if !versionPattern.MatchString(d.text()) {
				return "Input should be 'v1beta1'"
			}
			return ""
		}},
		{name: "source_url", kind: text, check: func(d document) string {
			u, err := url.Parse(d.text())
			if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || len(d.text()) > 2000 {
				return "Input should be a valid URL: http or https, without user and password"
			}
			return ""
		}},
		{name: "components", required: true, kind: object},
	}
	versionPattern = regexp.MustCompile(`^v[0-9]+(\.[0-9]+)*((alpha|beta)[0-9]+)?$`)
)

// checker reads a document and collects what is wrong with it.
type checker struct {
	faults   []slipway.Detail
	warnings []string
	// file says what is wrong with a file:// repository; nil: none is taken.
	file func(address string) error
}

func (c *checker) fault(path []string, message string, value *document) {
	if len(c.faults) >= maxFaults {
		return
	}
	s := "Validation error at " + strings.Join(path, " -> ") + ": " + message
	if len(path) == 0 {
		s = "Validation error: " + message
	}
	if value != nil {
		s += ". Received value: '" + value.show() + "'"
	}
	field := "" // the first one says that the body is at fault; all texts name their place themselves
	if len(c.faults) == 0 {
		field = "/" + strings.Join(path, "/")
	}
	c.faults = append(c.faults, slipway.Detail{Field: field, Code: slipway.Invalid, Message: s})
}

// readConfig says what a document means, and what is wrong with it: Invalid, with a detail for each fault.
func readConfig(doc document, file func(address string) error) (*config, error) {
	c := &checker{file: file}
	cfg := &config{}
	if doc.kind != object {
		c.fault(nil, "Input should be a valid dictionary with the key components", nil)
		return nil, c.err()
	}
	top := c.object(nil, doc, configFields)
	if v, ok := top["source_url"]; ok {
		cfg.sourceURL = v.text()
	}
	components, ok := top["components"]
	switch {
	case ok && len(components.members) == 0:
		c.fault([]string{"components"}, "Dictionary should have at least 1 item after validation, not 0", nil)
	case len(components.members) > maxComponents:
		c.fault([]string{"components"}, fmt.Sprintf("Dictionary should have at most %d items", maxComponents), nil)
	default:
		for _, m := range components.members {
			cfg.components = append(cfg.components, c.component(m))
		}
		c.reuse(cfg)
	}
	cfg.warnings = c.warnings
	return cfg, c.err()
}

func (c *checker) err() error {
	if len(c.faults) == 0 {
		return nil
	}
	return slipway.Errorf(slipway.Invalid, "%s", c.faults[0].Message).WithDetails(c.faults...)
}

// object checks the fields of an object and gives those that are known, by name with underscores. What is not known is kept, and warned of.
func (c *checker) object(path []string, d document, fields []field) map[string]document {
	known := map[string]document{}
	for _, m := range d.members {
		name := strings.ReplaceAll(m.key, "-", "_")
		at := append(slices.Clip(path), m.key)
		i := slices.IndexFunc(fields, func(f field) bool { return f.name == name })
		if i < 0 {
			c.warnings = append(c.warnings, "Unknown field "+strings.Join(at, ".")+", skipped")
			continue
		}
		if _, twice := known[name]; twice {
			c.fault(at, "it stands twice, with dashes and with underscores", nil)
			continue
		}
		f := fields[i]
		if m.value.kind == null && name == "config_version" {
			continue
		}
		if message := f.wrong(m.value); message != "" {
			c.fault(at, message, &m.value)
			continue
		}
		known[name] = m.value
	}
	for _, f := range fields {
		if _, ok := known[f.name]; !ok && f.required && !slices.ContainsFunc(d.members, func(m member) bool { return strings.ReplaceAll(m.key, "-", "_") == f.name }) {
			c.fault(append(slices.Clip(path), f.name), "Field required", nil)
		}
	}
	return known
}

func (f field) wrong(d document) string {
	ok := d.kind == f.kind
	switch f.kind {
	case truth:
		_, ok = d.truth()
	case number:
		_, ok = d.integer()
	}
	if !ok {
		return map[kind]string{
			text: "Input should be a valid string", number: "Input should be a valid integer", truth: "Input should be a valid boolean", object: "Input should be a valid dictionary",
		}[f.kind]
	}
	if f.check == nil {
		return ""
	}
	return f.check(d)
}

// truth reads what people write for true and false.
func (d document) truth() (value, ok bool) {
	switch strings.ToLower(d.show()) {
	case "true", "yes", "on", "y", "t", "1":
		return true, d.kind == truth || d.kind == text || d.kind == number
	case "false", "no", "off", "n", "f", "0":
		return false, d.kind == truth || d.kind == text || d.kind == number
	}
	return false, false
}

// integer reads a whole number, also one that was written as a text.
func (d document) integer() (int64, bool) {
	if d.kind != number && d.kind != text {
		return 0, false
	}
	n, err := strconv.ParseInt(d.show(), 10, 64)
	if err != nil && d.kind == number {
		if f, ferr := strconv.ParseFloat(d.show(), 64); ferr == nil && f == float64(int64(f)) {
			return int64(f), true
		}
	}
	return n, err == nil
}

func (c *checker) component(m member) component {
	out := component{name: m.key, kind: continuous}
	path := []string{"components", m.key}
	if !provider.ComponentName(m.key) {
		c.fault(path, "Component names consist of lower-case letters, digits and dashes, with dots between, and have at most 52 characters", nil)
	}
	if m.value.kind != object {
		c.fault(path, "Input should be a valid dictionary", &m.value)
		return out
	}
	parts := c.object(path, m.value, componentFields)
	if v, ok := parts["build"]; ok {
		out.build = c.build(append(slices.Clip(path), "build"), v)
	}
	run, hasRun := parts["run"]
	if v, ok := parts["component_type"]; ok {
		out.kind = v.text()
	} else if slices.ContainsFunc(run.members, func(m member) bool { return m.key == "schedule" }) {
		out.kind = scheduled
	}
	if hasRun {
		out.run = c.run(append(slices.Clip(path), "run"), run, out.kind)
	}
	return out
}

func (c *checker) build(path []string, d document) build {
	reuses := slices.ContainsFunc(d.members, func(m member) bool { return strings.ReplaceAll(m.key, "-", "_") == "reuse_from" })
	sources := slices.ContainsFunc(d.members, func(m member) bool { return m.key == "repository" })
	if reuses && sources {
		c.fault(path, "Cannot specify both repository and reuse_from", nil)
		return build{}
	}
	if reuses {
		return build{reuseFrom: c.object(path, d, reuseFields)["reuse_from"].text()}
	}
	fields := c.object(path, d, sourceFields)
	b := build{repository: fields["repository"].text(), ref: fields["ref"].text()}
	b.latest, _ = fields["use_latest_versions"].truth()
	b.deprecated, _ = fields["use_deprecated_versions"].truth()
	v, ok := fields["repository"]
	at := append(slices.Clip(path), "repository")
	switch {
	case !ok:
	case !provider.RepositoryURL(b.repository):
		c.fault(at, "Input should be a valid URL: http, https or git, without user, password and query", &v)
	case strings.HasPrefix(b.repository, "file:"):
		if c.file == nil {
			c.fault(at, "URL scheme should be 'http', 'https' or 'git'", &v)
		} else if err := c.file(b.repository); err != nil {
			c.fault(at, sentence(err), &v)
		}
	}
	return b
}

func (c *checker) run(path []string, d document, componentKind string) map[string]document {
	fields := continuousFields
	if componentKind == scheduled {
		fields = scheduledFields
	}
	run := c.object(path, d, fields)
	_, http := run["health_check_http"]
	_, script := run["health_check_script"]
	_, port := run["port"]
	_, publish := run["publish"]
	protocol, said := run["port_protocol"]
	tcp := !said || protocol.text() == "tcp"
	for _, rule := range []struct {
		broken  bool
		message string
	}{
		{http && script, "Cannot specify both health_check_script and health_check_http"},
		{http && !(port && tcp), "A tcp port must be set for health_check_http"},
		{publish && !port, "publish requires port to be set"},
		{publish && port && !tcp, "publish requires port_protocol set to tcp"},
	} {
		if rule.broken {
			c.fault(path, rule.message, nil)
		}
	}
	return run
}

// reuse checks that builds are reused from components that have one of their own.
func (c *checker) reuse(cfg *config) {
	byName := map[string]component{}
	for _, k := range cfg.components {
		byName[k.name] = k
	}
	var missing, chained []string
	for _, k := range cfg.components {
		if k.reuseFrom == "" {
			continue
		}
		switch other, ok := byName[k.reuseFrom]; {
		case !ok:
			missing = append(missing, k.reuseFrom)
		case other.reuseFrom != "":
			chained = append(chained, k.name)
		}
	}
	short := func(names []string) string {
		slices.Sort(names)
		names = slices.Compact(names)
		if len(names) > 20 {
			names = append(names[:20], "…")
		}
		s := strings.Join(names, ", ")
		if len(s) > 1500 {
			s = strings.ToValidUTF8(s[:1500], "") + "…"
		}
		return s
	}
	if len(missing) > 0 {
		c.fault([]string{"components"}, "Missing components referenced from reuse_from: "+short(missing), nil)
	}
	if len(chained) > 0 {
		c.fault([]string{"components"}, "The following components reuse builds from components that also use reuse_from. They should point to the original components instead: "+short(chained), nil)
	}
}

// parseConfig reads a stored or sent configuration.
func parseConfig(data []byte, file func(address string) error) (document, *config, error) {
	doc, err := parseDocument(data)
	if err != nil {
		if e, ok := errors.AsType[*slipway.Error](err); ok && e.Code == slipway.Invalid {
			err = e.WithDetails(slipway.Detail{Field: "/", Code: slipway.Invalid, Message: e.Message})
		}
		return doc, nil, err
	}
	cfg, err := readConfig(doc, file)
	return doc, cfg, err
}

// readStored reads a configuration that was checked when it was stored. Rules that came later do not make it unreadable.
func readStored(raw json.RawMessage) (*config, error) {
	doc, err := parseDocument(raw)
	if err != nil {
		return nil, err
	}
	cfg, err := readConfig(doc, func(string) error { return nil })
	if cfg == nil {
		return nil, err
	}
	return cfg, nil
}

// sentence is what of an error a caller may read.
func sentence(err error) string {
	if e, ok := errors.AsType[*slipway.Error](err); ok && e.Code != slipway.Internal {
		return e.Message
	}
	return "something went wrong on our side"
}
