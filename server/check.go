package server

import (
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"github.com/slipway-platform/slipway/blueprint"
	"github.com/slipway-platform/slipway/event"
	"github.com/slipway-platform/slipway/provider"
)

var (
	providerName   = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)
	blueprintName  = regexp.MustCompile(`^[a-z][a-z0-9]{0,30}$`)
	permissionName = regexp.MustCompile(`^[a-z][a-z0-9]*\.[a-z][a-zA-Z0-9]*\.[a-z][a-zA-Z0-9]*$`)
	pathParameter  = regexp.MustCompile(`\{([A-Za-z]+)\}`)
)

// claims notes who owns what, and finds what is claimed twice.
type claims struct {
	owners map[string]string
	faults []error
}

// claim notes that owner owns the name of this sort, and reports both owners when somebody else does already.
func (c *claims) claim(sort, name, owner string) {
	key := sort + " " + name
	if other, taken := c.owners[key]; taken {
		c.faultf(owner, "%s %q is also declared by %s", sort, name, describeOwner(other))
		return
	}
	c.owners[key] = owner
}

func (c *claims) faultf(owner, format string, args ...any) {
	c.faults = append(c.faults, fmt.Errorf("%s: %s", describeOwner(owner), fmt.Sprintf(format, args...)))
}

func describeOwner(owner string) string {
	if owner == base {
		return "the base"
	}
	return "blueprint " + owner
}

// base owns what no blueprint does: the operations pages and the base configuration.
const base = "slipway"

// Check finds every fault and conflict in a set of declarations, without opening anything. The error lists all of them, each
// with both owners.
func Check(blueprints []blueprint.Blueprint, kinds []provider.Kind) error {
	c := &claims{owners: map[string]string{}}
	for _, key := range configKeys(reflect.TypeFor[Config]()) {
		c.claim("config key", key, base)
	}
	for _, name := range []string{"serve", "quickstart", "describe", "db", "token", "login", "logout", "whoami", "auth", "completion", "version", "config", "help"} {
		c.claim("command", name, base)
	}
	scratch := http.NewServeMux()
	for _, p := range basePatterns {
		c.pattern(scratch, p, base)
	}
	for _, k := range kinds {
		c.claim("provider type", k.Name, base)
	}
	c.claim("name", "proxy", base) // permissions of proxies begin with it
	for _, name := range []string{"api", "commands", "config", "events", "operations", "permissions", "schedules", "search"} {
		c.claim("name", name, base) // pages of the reference
	}
	permissions := map[string]string{} // name to object
	for _, b := range blueprints {
		for _, p := range b.Permissions {
			permissions[p.Name] = p.Object
		}
	}
	for _, b := range blueprints {
		c.blueprint(b, permissions, scratch)
	}
	return errors.Join(c.faults...)
}

func (c *claims) blueprint(b blueprint.Blueprint, permissions map[string]string, scratch *http.ServeMux) {
	if !blueprintName.MatchString(b.Name) {
		c.faultf(b.Name, "the name %q must be one lower-case word", b.Name)
	}
	c.claim("name", b.Name, b.Name)
	if b.Version == "" || b.Summary == "" || b.Stability == "" {
		c.faultf(b.Name, "version, summary and stability are required")
	}
	if b.Open == nil {
		c.faultf(b.Name, "Open is missing")
	}
	if b.Config != nil {
		key := b.ConfigKey
		if key == "" {
			key = b.Name
		}
		c.claim("config key", key, b.Name)
	}
	for _, m := range b.Mounts {
		if err := requirePrefix(m.Prefix); err != nil {
			c.faultf(b.Name, "%v", err)
		}
		if _, ok := dialects[m.Dialect]; !ok {
			c.faultf(b.Name, "mount %s: there is no dialect %q", m.Prefix, m.Dialect)
		}
		// The base keeps some prefixes only so that errors below them speak their dialect, whoever runs; a blueprint may have them.
		if b.Name != base || slices.ContainsFunc(b.Operations, func(op blueprint.Operation) bool { return strings.HasPrefix(op.Path, m.Prefix) }) {
			c.claim("prefix", m.Prefix, b.Name)
		}
	}
	for _, p := range b.Permissions {
		c.claim("permission", p.Name, b.Name)
		if !permissionName.MatchString(p.Name) || p.Text == "" {
			c.faultf(b.Name, "permission %q: the name must be <blueprint>.<noun>.<verb>, and a text is required", p.Name)
		}
		if !strings.HasPrefix(p.Name, b.Name+".") && b.Name != "platform" {
			c.faultf(b.Name, "permission %q must start with %q", p.Name, b.Name+".")
		}
	}
	for _, d := range b.Databases {
		for _, t := range d.Tables {
			c.claim("table "+d.Name, t, b.Name)
			if t != b.Name && !strings.HasPrefix(t, b.Name+"_") {
				c.faultf(b.Name, "table %q must start with %q", t, b.Name+"_")
			}
		}
	}
	for _, op := range b.Operations {
		c.operation(b, op, permissions, scratch)
	}
	for _, j := range b.Jobs {
		c.claim("job kind", j.Kind, b.Name)
		if !strings.HasPrefix(j.Kind, b.Name+".") || j.Text == "" {
			c.faultf(b.Name, "job kind %q must start with %q and have a text", j.Kind, b.Name+".")
		}
	}
	for _, s := range b.Schedules {
		c.claim("schedule", s.Name, b.Name)
		if !slices.ContainsFunc(b.Jobs, func(j blueprint.Job) bool { return j.Kind == s.Args.Kind() }) {
			c.faultf(b.Name, "schedule %q starts the job kind %q, which this blueprint does not work", s.Name, s.Args.Kind())
		}
	}
	for _, e := range b.Events {
		if event.Shared(e.Name) {
			c.claim("event type of "+b.Name, e.Name, b.Name) // several may send it, each its own
		} else {
			c.claim("event type", e.Name, b.Name)
		}
		if err := event.CheckName(e.Name); err != nil {
			c.faultf(b.Name, "%v", err)
		}
		if _, declared := permissions[e.Permission]; e.Permission != "" && e.Permission != event.ReadPermission && !declared {
			c.faultf(b.Name, "event type %q asks for the permission %q, which no enabled blueprint declares", e.Name, e.Permission)
		}
	}
	for _, s := range b.Subscriptions {
		c.claim("subscription", s.Name, b.Name)
	}
	for _, t := range b.Tasks {
		c.claim("task", t.Name, b.Name)
	}
	for _, p := range b.Providers {
		c.claim("provider type", p.Kind.Name, b.Name)
	}
	for _, make := range b.Commands {
		cmd := make(&blueprint.Client{})
		for _, name := range append([]string{cmd.Name()}, cmd.Aliases...) {
			c.claim("command", name, b.Name)
		}
	}
	for _, h := range b.Health {
		c.claim("health check", h.Name, b.Name)
	}
	for _, p := range b.Proxies {
		c.claim("proxy", p.Name, b.Name)
		if p.Text == "" {
			c.faultf(b.Name, "proxy %q needs a text", p.Name)
		}
	}
	for _, p := range b.Pages {
		c.claim("page "+b.Name, p.Slug, b.Name)
	}
	for _, k := range b.Kinds {
		if k.Kind.Text != "" { // else it adds types to another's kind
			c.claim("kind", k.Kind.Name, b.Name)
		}
		for _, t := range k.Kind.Types {
			c.claim("type of "+k.Kind.Name, t.Symbol, b.Name)
		}
		for _, name := range []string{k.Kind.Permissions.Read, k.Kind.Permissions.Create, k.Kind.Permissions.Update, k.Kind.Permissions.Delete, k.Kind.Permissions.Use} {
			if _, declared := permissions[name]; name != "" && !declared {
				c.faultf(b.Name, "kind %q needs the permission %q, which no enabled blueprint declares", k.Kind.Name, name)
			}
		}
	}
}

func (c *claims) operation(b blueprint.Blueprint, op blueprint.Operation, permissions map[string]string, scratch *http.ServeMux) {
	c.claim("operation", op.ID, b.Name)
	name := op.Method + " " + op.Path
	if !op.Bound() || op.ID == "" || op.Summary == "" {
		c.faultf(b.Name, "operation %s: make it with Handle, and give it an id and a summary", name)
		return
	}
	if !slices.ContainsFunc(b.Mounts, func(m blueprint.Mount) bool { return op.Path == m.Prefix || strings.HasPrefix(op.Path, m.Prefix+"/") }) {
		c.faultf(b.Name, "operation %s lies under none of its mounts", name)
	}
	object, declared := permissions[op.Permission]
	switch {
	case op.Permission == "":
		c.faultf(b.Name, "operation %s declares no permission; if anybody may call it, say blueprint.Public", name)
	case op.Permission != blueprint.Public && op.Counted:
		c.faultf(b.Name, "operation %s counts by address, but its callers are known and counted by who they are", name)
	case op.Permission == blueprint.Public && op.OnObject:
		c.faultf(b.Name, "operation %s is public and asks for an object permission", name)
	case op.Permission != blueprint.Public && !declared:
		c.faultf(b.Name, "operation %s needs the permission %q, which no enabled blueprint declares", name, op.Permission)
	case op.OnObject && object == "":
		c.faultf(b.Name, "operation %s checks the permission %q on an object, but it is not declared with one", name, op.Permission)
	}
	if op.Wide != "" && !strings.Contains(op.Path, "{"+op.Wide+"}") {
		c.faultf(b.Name, "operation %s: the wide parameter %q is not in the path", name, op.Wide)
	}
	c.pattern(scratch, op.Method+" "+op.Path, b.Name)
}

// pattern registers a pattern on a scratch mux, which panics on what is malformed or overlaps.
func (c *claims) pattern(scratch *http.ServeMux, pattern, owner string) {
	// Same shape, other parameter names: name both owners. Overlaps of other shapes come as the mux's own words.
	shape := pathParameter.ReplaceAllString(pattern, "{}")
	if _, taken := c.owners["path "+shape]; taken {
		c.claim("path", shape, owner)
		return
	}
	c.claim("path", shape, owner)
	defer func() {
		if v := recover(); v != nil {
			text := fmt.Sprint(v)
			other := ""
			for key, o := range c.owners {
				if shape, ok := strings.CutPrefix(key, "path "); ok && shape != pathParameter.ReplaceAllString(pattern, "{}") && strings.Contains(pathParameter.ReplaceAllString(text, "{}"), `"`+shape+`"`) {
					other = " of " + describeOwner(o)
				}
			}
			if i := strings.Index(text, "conflicts with pattern"); i >= 0 {
				text = text[i:]
			}
			c.faultf(owner, "path %q overlaps with a path%s: %s", pattern, other, text)
		}
	}()
	scratch.HandleFunc(pattern, func(http.ResponseWriter, *http.Request) {})
}

// configKeys lists the top-level keys of a configuration struct.
func configKeys(t reflect.Type) []string {
	var keys []string
	for i := range t.NumField() {
		f := t.Field(i)
		tag := f.Tag.Get("yaml")
		name, opts, _ := strings.Cut(tag, ",")
		switch {
		case tag == "-":
		case strings.Contains(opts, "inline"):
			keys = append(keys, configKeys(f.Type)...)
		case name != "":
			keys = append(keys, name)
		}
	}
	return keys
}
