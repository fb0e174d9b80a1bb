package provider

import (
	"context"
	"encoding/json"
	"io"
	"net/url"
	"regexp"
	"strings"
	"time"

	"github.com/slipway-platform/slipway"
)

// Builder is what a vendor can do as the builder of tools: it makes of a git repository what a component of a tool runs. All functions are
// required; what is said of those of a Provider holds for them too.
//
// A build belongs to a tool. It is known by the builder's own id, and by the key that whoever ordered it has chosen.
type Builder struct {
	// PerTool says that List reads the builds of one tool at a time, and refuses "" as Invalid.
	PerTool bool

	// Start begins the build of an order, at most one for each Key: a second order with a key that is known gives the build that is there, whatever became of
	// it and whatever else the order says, also when both come at the same moment or when the first one's answer was lost. It does not wait for the build.
	//
	// A builder that has no room says RateLimited, with RetryAfter where it knows: come again with the same key. So does whoever hears Unavailable: it may have begun.
	// Everything else is final: the order will not be taken.
	Start func(ctx context.Context, o BuildOrder) (ComponentBuild, error)
	// Get reads one build. One that is not there, not any more, or not the tool's, is NotFound.
	Get func(ctx context.Context, tool, id string) (ComponentBuild, error)
	// Cancel ends a build. It may return before the build has ended. A finished one is a Conflict, or nil where it ended canceled.
	Cancel func(ctx context.Context, tool, id string) error
	// List reads builds, newest first by CreatedAt. A tool without builds has none. It costs one request, or few, however many builds there are.
	List func(ctx context.Context, q ComponentQuery) ([]ComponentBuild, error)
	// Logs is that of Builds.
	Logs func(ctx context.Context, tool, id string, follow bool) (io.ReadCloser, error)
}

// BuildOrder says what to build for a tool.
type BuildOrder struct {
	Key        string // names the order for good: 1 to 63 of a-z, 0-9 and -, beginning and ending with a letter or digit
	Tool       string // a DNS label
	Component  string // names what is built within the tool: an image's name
	Repository string // address: http, https, git or file
	Ref        string // branch, tag or commit as its author wrote it; "" is the default branch
	Commit     string // full id of what Ref stood for when it was resolved; "": the builder finds out

	LatestVersions     bool // build with the newest versions of what builds
	DeprecatedVersions bool // build with versions that are about to go

	By slipway.Caller // who asks
}

// The forms of an order.
var (
	orderName   = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)
	orderCommit = regexp.MustCompile(`^([0-9a-f]{40}|[0-9a-f]{64})?$`)
	orderPart   = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$`)
)

// ComponentName says whether a text can be the name of a tool's component: DNS labels with dots between, 52 characters at most, so that
// it can name an image, a job and an entity.
func ComponentName(s string) bool { return len(s) <= 52 && orderPart.MatchString(s) }

// ToolName says whether a text can be the name of a tool: a DNS label that still is one behind ToolNamespace's prefix.
func ToolName(s string) bool { return len(s) <= 63-len(ToolNamespace("")) && orderName.MatchString(s) }

// RepositoryURL says whether a text is the address of a git repository that a builder may be given: http, https, git or file, without user, query or fragment.
func RepositoryURL(s string) bool {
	u, err := url.Parse(s)
	if err != nil || len(s) > 2000 || u.User != nil || u.RawQuery != "" || u.Fragment != "" || u.Opaque != "" ||
		strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r == 0x7f || r == '\\' }) {
		return false
	}
	switch u.Scheme {
	case "http", "https", "git":
		return u.Hostname() != "" && !strings.HasPrefix(u.Host, "-")
	case "file":
		return u.Host == "" && strings.HasPrefix(u.Path, "/")
	}
	return false
}

// Check says what no builder would take: Invalid. A builder calls it first.
func (o BuildOrder) Check() error {
	switch {
	case !orderName.MatchString(o.Key):
		return slipway.Errorf(slipway.Invalid, "%.70q is no key of an order; write 1 to 63 of a-z, 0-9 and -", o.Key)
	case !ToolName(o.Tool):
		return slipway.Errorf(slipway.Invalid, "%.70q is no name of a tool; write a DNS label", o.Tool)
	case !ComponentName(o.Component):
		return slipway.Errorf(slipway.Invalid, "%.70q is no name of a component; write lower-case letters, digits, dashes and dots, at most 52", o.Component)
	case !RepositoryURL(o.Repository):
		return slipway.Errorf(slipway.Invalid, "%.200q is no repository that can be built; write an http, https or git address without user and query", o.Repository)
	case !orderCommit.MatchString(o.Commit):
		return slipway.Errorf(slipway.Invalid, "%.70q is no full commit id", o.Commit)
	case strings.HasPrefix(o.Ref, "-") || len(o.Ref) > 500 || strings.ContainsFunc(o.Ref, func(r rune) bool { return r <= ' ' || r == 0x7f }):
		return slipway.Errorf(slipway.Invalid, "%.100q is no branch, tag or commit", o.Ref)
	}
	return nil
}

// ComponentBuild is a build as its builder shows it. Of the embedded Build, ID is the builder's own, EntityRef and Provider are empty, and
// Commit is known at the latest when it has succeeded.
type ComponentBuild struct {
	slipway.Build

	Order BuildOrder // what was asked for, as far as the builder keeps it: Tool, Component, Repository and the versions; By is empty
	Image string     // what was made, with its digest where the builder knows; "" until it has succeeded, and where builds make no image
}

// ComponentQuery chooses builds. An empty field does not choose.
type ComponentQuery struct {
	Tool      string
	Component string
	Since     time.Time // not those created before, unless they still run
	Limit     int       // how many at most, the newest; 0: all
}

// ToolAnnotation is on the entities of tools' components, component:tool-<tool>/<component>, and says which component of which tool they
// are: <tool>/<component>. A provider with a Builder reads it with ToolProject.
const ToolAnnotation = "slipway.dev/tool"

// ToolProjects documents ToolAnnotation: a kind with a Builder lists it in its Annotations.
var ToolProjects = Annotation{Key: ToolAnnotation, Text: "Component of a tool, which is deployed with this provider as its builder. It is on the entities that come from a tool's configuration.", Example: "mytool/web"}

// ToolProject is the project that the builds of a tool's component are listed under by a provider that built them: tool:<tool>/<component>. An
// entity that is not what its annotation says has none: nobody sees a tool's builds by writing its name.
func ToolProject(e *slipway.Entity) (project string, ok bool) {
	tool, component, _ := strings.Cut(e.Metadata.Annotations[ToolAnnotation], "/")
	if tool == "" || component == "" || !strings.EqualFold(e.Kind, slipway.DefaultKind) ||
		e.Metadata.Namespace != ToolNamespace(tool) || e.Metadata.Name != component {
		return "", false
	}
	return ComponentProject(tool, component), true
}

// ComponentProject is the project of a component of a tool.
func ComponentProject(tool, component string) string { return toolPrefix + tool + "/" + component }

// ToolNamespace is the namespace of a tool: of its entities, and on a cluster of its resources.
func ToolNamespace(tool string) string { return "tool-" + tool }

const toolPrefix = "tool:"

// ToolOf reads what ComponentProject wrote.
func ToolOf(project string) (tool, component string, ok bool) {
	rest, ok := strings.CutPrefix(project, toolPrefix)
	tool, component, found := strings.Cut(rest, "/")
	return tool, component, ok && found && tool != "" && component != ""
}

// Runner is what a vendor can do to run the components of tools. It is part of vendors whose builder's images only they can run.
type Runner struct {
	// Run makes the run of a component what the order says: it is created, changed, restarted where the order says so, or left as it is. It may be asked
	// again with the same order. Its errors are those of a Provider; Unavailable and RateLimited: ask again.
	Run func(ctx context.Context, o RunOrder) (RunResult, error)
	// List gives what runs of a tool, as far as it can be run by an order.
	List func(ctx context.Context, tool string) ([]RunOrder, error)
}

// RunOrder says what to run for a component of a tool.
type RunOrder struct {
	Tool      string
	Component string
	Image     string
	Scheduled bool // by its schedule; else all the time
	Restart   bool // also when nothing of the order is new: the image has new content

	// Fields are those of the component's run that are set, by their names in the configuration, as JSON.
	Fields map[string]json.RawMessage
}

// RunResult says what was done, for people.
type RunResult struct {
	Message string
}
