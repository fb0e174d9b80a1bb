package workspace

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/santhosh-tekuri/jsonschema/v6/kind"
	"golang.org/x/text/language"
	"golang.org/x/text/message"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/safeyaml"
)

const (
	maxDevfile = 1 << 20 // bytes
	maxValues  = 20_000  // values of a devfile, counting what its aliases repeat
	maxDepth   = 40
	maxFaults  = 50   // that are listed
	maxCounted = 1000 // faults that are counted: a small devfile can have millions, where many lists name many commands
)

// devfileSchema is the JSON Schema of devfiles 2.2.2, from github.com/devfile/api at that tag (Apache-2.0). That of 2.3.0 differs in its title only.
//
//go:embed devfile.schema.json
var devfileSchema []byte

// schemaVersions are the versions of devfiles that the schema describes.
var schemaVersions = []string{"2.2.0", "2.2.1", "2.2.2", "2.3.0"}

var compiledSchema = sync.OnceValue(func() *jsonschema.Schema {
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(devfileSchema))
	if err != nil {
		panic(err) // it is embedded
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("devfile.json", doc); err != nil {
		panic(err)
	}
	return c.MustCompile("devfile.json")
})

// devfile is a devfile that a workspace can be made of.
type devfile struct {
	name, version string
	generateName  string         // the beginning of a name, where the devfile has no name
	template      map[string]any // what spec.template of a DevWorkspace holds
	warnings      []string
}

// The parts of a devfile that are looked at beyond its schema.
type (
	document struct {
		SchemaVersion string
		Metadata      struct {
			Name, Version, GenerateName string
			Attributes                  map[string]any
		}
		Parent            any
		Components        []component
		Commands          []command
		Events            map[string][]string
		Projects          []project
		StarterProjects   []project
		DependentProjects []project
		Variables         map[string]string
	}
	component struct {
		Name      string
		Container *struct {
			MemoryLimit, MemoryRequest, CPULimit, CPURequest string
			MountSources                                     *bool
			Endpoints                                        []endpoint
			Env                                              []struct{ Name string }
			VolumeMounts                                     []struct{ Name, Path string }
		}
		Kubernetes, Openshift *struct {
			URI       string
			Endpoints []endpoint
		}
		Volume *struct{ Size string }
		Image  *struct{}
	}
	endpoint struct {
		Name       string
		TargetPort int
	}
	command struct {
		ID   string
		Exec *struct {
			Component string
			Group     *group
		}
		Apply *struct {
			Component string
			Group     *group
		}
		Composite *struct {
			Commands []string
			Group    *group
		}
	}
	group struct {
		Kind      string
		IsDefault bool
	}
	project struct {
		Name string
		Git  *struct {
			Remotes      map[string]string
			CheckoutFrom *struct{ Remote string }
		}
	}
)

// parseDevfile reads a devfile and checks it: against the schema, and what the schema cannot say (what names refer to, what may stand twice). The error is Invalid
// and lists all faults with their paths, up to maxFaults.
func parseDevfile(data []byte) (*devfile, error) {
	value, err := readYAML(data)
	if err != nil {
		return nil, slipway.Errorf(slipway.Invalid, "Invalid devfile: %w", err)
	}
	root, ok := value.(map[string]any)
	if !ok {
		return nil, slipway.Errorf(slipway.Invalid, "Invalid devfile: it is not a devfile but a single value or a list; it begins with schemaVersion: 2.2.2")
	}
	switch v := root["schemaVersion"].(type) {
	case nil:
		return nil, faulty(slipway.Detail{Field: "schemaVersion", Message: "is required; write 2.2.2"})
	case string:
		if !slices.Contains(schemaVersions, v) {
			return nil, faulty(slipway.Detail{Field: "schemaVersion", Message: fmt.Sprintf("%.40q is not supported; write one of %s", v, strings.Join(schemaVersions, ", "))})
		}
	default:
		return nil, faulty(slipway.Detail{Field: "schemaVersion", Message: "must be a text such as 2.2.2"})
	}
	// What a cluster would read from somewhere by itself is refused first: the schema would speak of other things.
	if root["parent"] != nil {
		return nil, faulty(slipway.Detail{Field: "parent", Message: "parents are not supported, as the cluster would read them from anywhere; write what the parent holds into the devfile"})
	}
	if err := compiledSchema().Validate(plain(root)); err != nil {
		invalid, ok := errors.AsType[*jsonschema.ValidationError](err)
		if !ok {
			return nil, slipway.Errorf(slipway.Invalid, "Invalid devfile: %w", err)
		}
		return nil, faulty(schemaFaults(invalid)...)
	}
	raw, err := json.Marshal(root)
	if err != nil {
		return nil, slipway.Errorf(slipway.Invalid, "Invalid devfile: %w", err)
	}
	var doc document
	if err := json.Unmarshal(raw, &doc); err != nil {
		return nil, slipway.Errorf(slipway.Invalid, "Invalid devfile: %w", err)
	}
	c := newChecker(doc)
	c.check()
	if len(c.faults) > 0 {
		return nil, faulty(c.faults...)
	}
	d := &devfile{name: doc.Metadata.Name, version: doc.Metadata.Version, generateName: doc.Metadata.GenerateName, warnings: c.warnings}
	d.template = maps.Clone(root)
	delete(d.template, "schemaVersion")
	delete(d.template, "metadata")
	attributes := maps.Clone(doc.Metadata.Attributes)
	if own, ok := root["attributes"].(map[string]any); ok {
		if attributes == nil {
			attributes = map[string]any{}
		}
		maps.Copy(attributes, own)
	}
	if len(doc.StarterProjects) > 0 {
		if attributes == nil {
			attributes = map[string]any{}
		}
		if _, chosen := attributes[starterAttribute]; !chosen {
			attributes[starterAttribute] = doc.StarterProjects[0].Name
		}
	}
	if attributes != nil {
		d.template["attributes"] = attributes
	}
	return d, nil
}

// sources says whether a container of the devfile has the projects' sources: without one there is nothing to work in.
func (d *devfile) sources() bool {
	for _, c := range items(d.template["components"]) {
		container, ok := c["container"].(map[string]any)
		if !ok {
			continue
		}
		if mounts, set := container["mountSources"].(bool); mounts || !set && container["dedicatedPod"] != true {
			return true
		}
	}
	return false
}

func items(list any) []map[string]any {
	var all []map[string]any
	values, _ := list.([]any)
	for _, v := range values {
		if m, ok := v.(map[string]any); ok {
			all = append(all, m)
		}
	}
	return all
}

// faulty is the refusal of a devfile, with what is wrong with it.
func faulty(details ...slipway.Detail) error {
	more := ""
	if n := len(details); n > 1 {
		more = fmt.Sprintf(", and %d more faults", n-1)
		if n == 2 {
			more = ", and 1 more fault"
		}
	}
	first := details[0]
	err := slipway.Errorf(slipway.Invalid, "Invalid devfile: %s: %s%s", first.Field, first.Message, more)
	if len(details) > maxFaults {
		details = details[:maxFaults]
	}
	for i := range details {
		details[i].Code = slipway.Invalid
	}
	return err.WithDetails(details...)
}

var printer = message.NewPrinter(language.English)

// schemaFaults makes a list of what the schema complains of.
func schemaFaults(e *jsonschema.ValidationError) []slipway.Detail {
	var faults []slipway.Detail
	add := func(at []string, text string) {
		faults = append(faults, slipway.Detail{Field: fieldPath(at), Message: text})
	}
	var walk func(e *jsonschema.ValidationError)
	walk = func(e *jsonschema.ValidationError) {
		if len(faults) > maxFaults {
			return
		}
		switch k := e.ErrorKind.(type) {
		case *kind.OneOf:
			var names []string
			for _, cause := range e.Causes {
				if r, ok := cause.ErrorKind.(*kind.Required); ok {
					names = append(names, r.Missing...)
				}
			}
			if len(k.Subschemas) > 1 {
				add(e.InstanceLocation, "has two of what it may have one of; keep one")
			} else {
				add(e.InstanceLocation, "needs one of "+strings.Join(names, ", "))
			}
		case *kind.AdditionalProperties:
			for _, name := range k.Properties {
				add(append(slices.Clone(e.InstanceLocation), name), "is not known here; take it away or look at how it is written")
			}
		case *kind.Required:
			for _, name := range k.Missing {
				add(append(slices.Clone(e.InstanceLocation), name), "is required")
			}
		default:
			if len(e.Causes) == 0 {
				add(e.InstanceLocation, e.ErrorKind.LocalizedString(printer))
			}
			for _, cause := range e.Causes {
				walk(cause)
			}
		}
	}
	walk(e)
	slices.SortStableFunc(faults, func(a, b slipway.Detail) int { return strings.Compare(a.Field, b.Field) })
	return faults
}

var digits = regexp.MustCompile(`^\d+$`)

// fieldPath writes a place in a document as people do: components[0].container.image.
func fieldPath(at []string) string {
	var b strings.Builder
	for _, part := range at {
		switch {
		case digits.MatchString(part):
			fmt.Fprintf(&b, "[%s]", part)
		case b.Len() > 0:
			b.WriteString("." + part)
		default:
			b.WriteString(part)
		}
	}
	if b.Len() == 0 {
		return "devfile"
	}
	return fmt.Sprintf("%.200s", b.String())
}

// checker looks at what the schema cannot say. The rules are those of the validation in github.com/devfile/api/v2.
type checker struct {
	doc      document
	byName   map[string]component // of two with a name, the first
	byID     map[string]int       // of commands; the first too
	faults   []slipway.Detail
	warnings []string
}

func newChecker(doc document) *checker {
	c := &checker{doc: doc, byName: map[string]component{}, byID: map[string]int{}}
	for _, k := range slices.Backward(doc.Components) {
		c.byName[k.Name] = k
	}
	for i, cmd := range slices.Backward(doc.Commands) {
		c.byID[cmd.ID] = i
	}
	return c
}

func (c *checker) fault(field, format string, args ...any) {
	if len(c.faults) == maxCounted {
		return
	}
	c.faults = append(c.faults, slipway.Detail{Field: field, Message: fmt.Sprintf(format, args...)})
}

func (c *checker) check() {
	c.components()
	c.commands()
	c.events()
	for what, list := range map[string][]project{"projects": c.doc.Projects, "starterProjects": c.doc.StarterProjects, "dependentProjects": c.doc.DependentProjects} {
		c.projects(what, list)
	}
	slices.SortStableFunc(c.faults, func(a, b slipway.Detail) int { return strings.Compare(a.Field, b.Field) })
}

// quantity is an amount as Kubernetes writes it.
var quantity = regexp.MustCompile(`^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+|[numkMGTPE]|[KMGTPE]i)?$`)

func (c *checker) components() {
	names, endpoints, ports := map[string]int{}, map[string]string{}, map[int]string{}
	volumes := map[string]bool{}
	for _, k := range c.doc.Components {
		volumes[k.Name] = volumes[k.Name] || k.Volume != nil
	}
	for i, k := range c.doc.Components {
		at := fmt.Sprintf("components[%d]", i)
		if first, twice := names[k.Name]; twice {
			c.fault(at+".name", "%q is the name of components[%d] too", k.Name, first)
		} else {
			names[k.Name] = i
		}
		own := map[int]bool{}
		check := func(field string, list []endpoint, container bool) {
			for j, e := range list {
				at := fmt.Sprintf("%s.%s.endpoints[%d]", at, field, j)
				if first, twice := endpoints[e.Name]; twice {
					c.fault(at+".name", "%q is the name of %s too", e.Name, first)
				} else {
					endpoints[e.Name] = at
				}
				if e.TargetPort < 1 || e.TargetPort > 65535 {
					c.fault(at+".targetPort", "%d is no port", e.TargetPort)
				}
				if first, twice := ports[e.TargetPort]; container && twice && !own[e.TargetPort] {
					c.fault(at+".targetPort", "%d is a port of %s too; containers of a workspace share its network", e.TargetPort, first)
				} else if container && !twice {
					ports[e.TargetPort], own[e.TargetPort] = at, true
				}
			}
		}
		switch {
		case k.Container != nil:
			check("container", k.Container.Endpoints, true)
			for name, q := range map[string]string{
				"memoryLimit": k.Container.MemoryLimit, "memoryRequest": k.Container.MemoryRequest, "cpuLimit": k.Container.CPULimit, "cpuRequest": k.Container.CPURequest,
			} {
				if q != "" && !quantity.MatchString(q) && !strings.Contains(q, "{{") {
					c.fault(at+".container."+name, "%.40q is no amount; write one such as 512Mi or 500m", q)
				}
			}
			for j, m := range k.Container.VolumeMounts {
				if !volumes[m.Name] {
					c.fault(fmt.Sprintf("%s.container.volumeMounts[%d].name", at, j), "there is no volume component %q", m.Name)
				}
			}
			env := map[string]bool{}
			for j, e := range k.Container.Env {
				if strings.EqualFold(e.Name, "PROJECTS_ROOT") || strings.EqualFold(e.Name, "PROJECT_SOURCE") {
					c.fault(fmt.Sprintf("%s.container.env[%d].name", at, j), "%s is set by the workspace itself", e.Name)
				}
				if env[e.Name] {
					c.fault(fmt.Sprintf("%s.container.env[%d].name", at, j), "%q is set twice", e.Name)
				}
				env[e.Name] = true
			}
		case k.Kubernetes != nil:
			check("kubernetes", k.Kubernetes.Endpoints, false)
			if k.Kubernetes.URI != "" {
				c.fault(at+".kubernetes.uri", "is not supported, as the cluster would read it from anywhere; write the object under inlined")
			}
		case k.Openshift != nil:
			check("openshift", k.Openshift.Endpoints, false)
			if k.Openshift.URI != "" {
				c.fault(at+".openshift.uri", "is not supported, as the cluster would read it from anywhere; write the object under inlined")
			}
		case k.Volume != nil:
			if q := k.Volume.Size; q != "" && !quantity.MatchString(q) {
				c.fault(at+".volume.size", "%.40q is no amount; write one such as 2Gi", q)
			}
		case k.Image != nil:
			c.warnings = append(c.warnings, fmt.Sprintf("%s: images are not built by a workspace; the component is passed on as it is", at))
		}
	}
}

func (c *checker) commands() {
	defaults, looping := map[string]string{}, c.looping()
	for i, cmd := range c.doc.Commands {
		if first := c.byID[cmd.ID]; first != i {
			c.fault(fmt.Sprintf("commands[%d].id", i), "%q is the id of commands[%d] too", cmd.ID, first)
		}
	}
	for i, cmd := range c.doc.Commands {
		at := fmt.Sprintf("commands[%d]", i)
		var g *group
		switch {
		case cmd.Exec != nil:
			g = cmd.Exec.Group
			if k, ok := c.byName[cmd.Exec.Component]; !ok {
				c.fault(at+".exec.component", "there is no component %q", cmd.Exec.Component)
			} else if k.Container == nil {
				c.fault(at+".exec.component", "%q is no container, and commands run in one", cmd.Exec.Component)
			}
		case cmd.Apply != nil:
			g = cmd.Apply.Group
			if k, ok := c.byName[cmd.Apply.Component]; !ok {
				c.fault(at+".apply.component", "there is no component %q", cmd.Apply.Component)
			} else if k.Volume != nil {
				c.fault(at+".apply.component", "%q is a volume, which cannot be applied", cmd.Apply.Component)
			}
		case cmd.Composite != nil:
			g = cmd.Composite.Group
			for j, id := range cmd.Composite.Commands {
				if _, ok := c.byID[id]; !ok {
					c.fault(fmt.Sprintf("%s.composite.commands[%d]", at, j), "there is no command %q", id)
				}
			}
			if looping[i] {
				c.fault(at+".composite.commands", "the command %q leads back to itself", cmd.ID)
			}
		}
		if g != nil && g.IsDefault {
			if first, twice := defaults[g.Kind]; twice {
				c.fault(at, "%q and %q are both the default of the group %s; a group has one", first, cmd.ID, g.Kind)
			} else {
				defaults[g.Kind] = cmd.ID
			}
		}
	}
}

// looping finds composite commands that lead back to themselves, at least one in each circle.
func (c *checker) looping() map[int]bool {
	looping := map[int]bool{}
	seen, path := map[int]bool{}, []int{}
	var visit func(i int)
	visit = func(i int) {
		if at := slices.Index(path, i); at >= 0 {
			for _, on := range path[at:] {
				looping[on] = true
			}
		}
		if seen[i] || c.doc.Commands[i].Composite == nil {
			return
		}
		seen[i] = true
		path = append(path, i)
		for _, id := range c.doc.Commands[i].Composite.Commands {
			if next, ok := c.byID[id]; ok {
				visit(next)
			}
		}
		path = path[:len(path)-1]
	}
	for i := range c.doc.Commands {
		visit(i)
	}
	return looping
}

func (c *checker) events() {
	for _, event := range slices.Sorted(maps.Keys(c.doc.Events)) {
		looked := map[string]bool{}
		for j, id := range c.doc.Events[event] {
			at := fmt.Sprintf("events.%s[%d]", event, j)
			i, ok := c.byID[id]
			if !ok {
				c.fault(at, "there is no command %q", id)
			}
			if !ok || looked[id] {
				continue
			}
			looked[id] = true
			apply := event == "preStart" || event == "postStop"
			for _, leaf := range c.leaves(c.doc.Commands[i], map[string]bool{}) {
				if apply && leaf.Exec != nil {
					c.fault(at, "%q runs in a container, which is not there at %s; only apply commands are", leaf.ID, event)
				}
				if !apply && leaf.Apply != nil {
					c.fault(at, "%q is an apply command, and at %s only exec commands run", leaf.ID, event)
				}
			}
		}
	}
}

// leaves are the commands that a command comes to.
func (c *checker) leaves(cmd command, seen map[string]bool) []command {
	if cmd.Composite == nil {
		return []command{cmd}
	}
	var all []command
	for _, id := range cmd.Composite.Commands {
		if i, ok := c.byID[id]; ok && !seen[id] {
			seen[id] = true
			all = append(all, c.leaves(c.doc.Commands[i], seen)...)
		}
	}
	return all
}

func (c *checker) projects(what string, list []project) {
	names := map[string]int{}
	for i, p := range list {
		at := fmt.Sprintf("%s[%d]", what, i)
		if first, twice := names[p.Name]; twice {
			c.fault(at+".name", "%q is the name of %s[%d] too", p.Name, what, first)
		} else {
			names[p.Name] = i
		}
		if p.Git == nil {
			continue
		}
		remotes, from := p.Git.Remotes, ""
		if p.Git.CheckoutFrom != nil {
			from = p.Git.CheckoutFrom.Remote
		}
		switch {
		case len(remotes) == 0:
			c.fault(at+".git.remotes", "needs at least one remote")
		case len(remotes) > 1 && what == "starterProjects":
			c.fault(at+".git.remotes", "a starter project has one remote")
		case len(remotes) > 1 && from == "":
			c.fault(at+".git.checkoutFrom", "with several remotes, remote says which one is checked out")
		}
		if _, ok := remotes[from]; from != "" && !ok && len(remotes) > 0 {
			c.fault(at+".git.checkoutFrom.remote", "there is no remote %q", from)
		}
	}
}

// readYAML reads one document with bounds on its values and its depth, aliases counted as often as they are used. Times stay texts.
func readYAML(data []byte) (any, error) {
	tell := func(err error) error {
		if errors.Is(err, safeyaml.ErrTooMany) {
			return fmt.Errorf("it has more than %d values, counting what its aliases repeat", maxValues)
		}
		return err
	}
	r, err := safeyaml.NewReader(data, safeyaml.Limits{Nodes: 2 * maxValues, Values: maxValues, Depth: maxDepth}, nil, nil)
	if err != nil {
		return nil, tell(err)
	}
	root, err := r.Only()
	if err != nil {
		return nil, fmt.Errorf("it is no YAML: %w", err)
	}
	b := safeyaml.Values
	b.Scalar = func(s safeyaml.Scalar) (any, error) {
		v, err := s.Value()
		switch n := v.(type) {
		case int:
			return int64(n), err
		case uint64:
			return nil, fmt.Errorf("the number %.100q is too large", s.Text())
		}
		return v, err
	}
	v, err := safeyaml.Build(r, root, b)
	return v, tell(err)
}

// plain gives numbers as the schema's validator knows them.
func plain(v any) any {
	switch v := v.(type) {
	case map[string]any:
		m := make(map[string]any, len(v))
		for k, x := range v {
			m[k] = plain(x)
		}
		return m
	case []any:
		list := make([]any, len(v))
		for i, x := range v {
			list[i] = plain(x)
		}
		return list
	case int64:
		return json.Number(strconv.FormatInt(v, 10))
	}
	return v
}
