package build

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/auth"
	"github.com/slipway-platform/slipway/blueprint"
	"github.com/slipway-platform/slipway/task"
)

// Page is a page of builds.
type Page struct {
	Items    []slipway.Build  `json:"items" nullable:"false" doc:"The builds, in the order asked for"`
	PageInfo slipway.PageInfo `json:"pageInfo" doc:"Where this page stands"`
	Sources  []slipway.Source `json:"sources" nullable:"false" doc:"Where the builds come from, and how fresh each source is"`
}

// Filters are the parameters that both searches have.
type Filters struct {
	blueprint.Listing
	TriggeredBy string   `query:"triggeredBy" maxLength:"300" doc:"Who caused it: id, name, e-mail address or entity ref; me is the caller" example:"me"`
	Status      []string `query:"status,explode" maxItems:"7" enum:"starting,running,succeeded,failed,canceled,skipped,unknown" doc:"Where it stands; repeat for any of several"`
	Branch      []string `query:"branch,explode" maxItems:"20" doc:"Branch or tag; repeat for any of several" example:"[\"main\"]"`
	Pipeline    []string `query:"pipeline,explode" maxItems:"20" doc:"Id or name of the pipeline; repeat for any of several"`
}

func (f Filters) query() (task.Query, error) {
	return f.Query(f.Status, map[string][]string{"triggeredBy": {f.TriggeredBy}, "branch": f.Branch, "pipeline": f.Pipeline})
}

func (s *service) search(ctx context.Context, in *struct {
	blueprint.OfEntity
	Filters
}) (*blueprint.Answered[Page], error) {
	return blueprint.AnswerSearch[Page](ctx, s.index, in.OfEntity, in.query)
}

func (s *service) searchAll(ctx context.Context, in *struct {
	Filters
	blueprint.Shown
	blueprint.Among
}) (*blueprint.Answered[Page], error) {
	return blueprint.AnswerSearchAll[Page](ctx, s.index, in.Among, in.query)
}

// OfBuild names a build of an entity in the path.
type OfBuild struct {
	blueprint.OfEntity
	ID string `path:"id" maxLength:"600" doc:"Id of the build, as search shows it" example:"ci:0198c2f0"`
}

func (s *service) item(ctx context.Context, in OfBuild, permission string) (item, error) {
	return blueprint.ItemOf(ctx, s.index, in.OfEntity, in.ID, permission)
}

func (s *service) get(ctx context.Context, in *OfBuild) (*blueprint.Answered[slipway.Build], error) {
	return blueprint.AnswerItem(ctx, s.index, in.OfEntity, in.ID)
}

type logsOutput struct{ Body blueprint.Streamed }

func (s *service) logs(ctx context.Context, in *struct {
	OfBuild
	Follow bool `query:"follow" doc:"Go on until the build ends"`
}) (*logsOutput, error) {
	it, err := s.item(ctx, in.OfBuild, logsPermission)
	if err != nil {
		return nil, err
	}
	b, err := builds(it.Place)
	if err != nil {
		return nil, err
	}
	if b.Logs == nil {
		return nil, cannot(it.Place, "show the logs of")
	}
	log, err := b.Logs(ctx, it.Project, native(it), in.Follow)
	if err != nil {
		return nil, err
	}
	return &logsOutput{blueprint.Streamed{
		ContentType: "text/plain; charset=utf-8",
		Write: func(_ context.Context, w io.Writer, flush func()) error {
			defer func() { _ = log.Close() }()
			return copyLog(w, log, flush)
		},
		Still: func(caller *slipway.Caller) error {
			_, err := s.item(auth.WithCaller(ctx, caller), in.OfBuild, logsPermission)
			return err
		},
	}}, nil
}

// copyLog passes on what comes as soon as it comes.
func copyLog(w io.Writer, log io.Reader, flush func()) error {
	buf := make([]byte, 32<<10)
	for {
		n, err := log.Read(buf)
		if n > 0 {
			if _, err := w.Write(buf[:n]); err != nil {
				return err
			}
			flush()
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// retriggerBody says which build to run again. What it does not know goes to the provider.
type retriggerBody struct {
	BuildID string         `json:"buildId,omitempty" maxLength:"600" doc:"Id of the build; without it, the other fields have to find one: provider, commit (at least 7 digits), branch, pipeline, number, attempt" example:"ci:0198c2f0"`
	Extra   map[string]any `json:"-"`
	_       struct{}       `additionalProperties:"true"`
}

// UnmarshalJSON keeps what has no field of its own.
func (b *retriggerBody) UnmarshalJSON(raw []byte) error {
	type plain retriggerBody
	if err := json.Unmarshal(raw, (*plain)(b)); err != nil {
		return err
	}
	return extras(raw, &b.Extra, "buildId")
}

// startBody says what to build. What it does not know goes to the provider.
type startBody struct {
	Ref      string         `json:"ref,omitempty" maxLength:"300" doc:"Branch, tag or commit; absent: the default branch, where the provider knows one" example:"main"`
	Pipeline string         `json:"pipeline,omitempty" maxLength:"300" doc:"Which pipeline; may be absent where the project has one"`
	Provider string         `json:"provider,omitempty" maxLength:"100" doc:"Name of the provider, where several can start builds of the entity"`
	Project  string         `json:"project,omitempty" maxLength:"600" doc:"Project at the provider, where several can"`
	Extra    map[string]any `json:"-"`
	_        struct{}       `additionalProperties:"true"`
}

// UnmarshalJSON keeps what has no field of its own.
func (b *startBody) UnmarshalJSON(raw []byte) error {
	type plain startBody
	if err := json.Unmarshal(raw, (*plain)(b)); err != nil {
		return err
	}
	return extras(raw, &b.Extra, "ref", "pipeline", "provider", "project")
}

func extras(raw []byte, into *map[string]any, known ...string) error {
	if err := json.Unmarshal(raw, into); err != nil {
		return err
	}
	for _, k := range known {
		delete(*into, k)
	}
	return nil
}

// describe takes from the extras what finds a build.
func (b *retriggerBody) describe() (d description, err error) {
	raw, err := json.Marshal(b.Extra)
	if err != nil {
		return d, err
	}
	if err := json.Unmarshal(raw, &d); err != nil {
		return d, slipway.Errorf(slipway.Invalid, "what finds a build is text, number and attempt whole numbers").WithCause(err)
	}
	for _, k := range []string{"provider", "commit", "branch", "pipeline", "number", "attempt"} {
		delete(b.Extra, k)
	}
	return d, nil
}

// Accepted is the answer to a retrigger, a start and a cancel.
type Accepted struct {
	Accepted bool           `json:"accepted" doc:"Always true: the provider has taken it"`
	Build    *slipway.Build `json:"build" doc:"The resulting build, which may have a new id; null while the provider has not named it yet"`
	URL      string         `json:"url" doc:"Page to look at"`
}

type acceptedOutput struct {
	Location string `header:"Location" doc:"Where to see how it goes on"`
	Body     Accepted
}

func accept(o task.Object, p task.Place, result *slipway.Build, url string) *acceptedOutput {
	out := &acceptedOutput{Location: "/api/build/by-entity/" + o.Ref + "/search", Body: Accepted{Accepted: true, URL: url}}
	if result != nil {
		b := *result
		adorn(&b, slipway.ProviderRef{Name: p.Provider.Name, Type: p.Provider.Type}, func(*slipway.Person) {})
		b.EntityRef = o.Ref
		out.Body.Build = &b
		out.Location = "/api/build/by-entity/" + o.Ref + "/builds/" + pathEscape(b.ID)
		if b.URL != "" {
			out.Body.URL = b.URL
		}
	}
	return out
}

// pathEscape keeps an id in one segment of a path.
func pathEscape(id string) string {
	return strings.NewReplacer("%", "%25", "/", "%2F", "?", "%3F", "#", "%23", " ", "%20").Replace(id)
}

func (s *service) postRetrigger(ctx context.Context, in *struct {
	blueprint.OfEntity
	Force bool           `query:"force" doc:"Also a build that neither failed nor was canceled"`
	Body  *retriggerBody // nil: no body, as good as {}
}) (*acceptedOutput, error) {
	ref, err := in.Ref()
	if err != nil {
		return nil, err
	}
	caller := auth.CallerFrom(ctx)
	body := cmp.Or(in.Body, &retriggerBody{})
	var it item
	if body.BuildID != "" {
		it, err = s.index.Get(ctx, caller, ref, body.BuildID, blueprint.Allow(ctx, retriggerPermission))
	} else {
		var d description
		if d, err = body.describe(); err == nil {
			it, err = s.find(ctx, caller, ref, d, blueprint.Allow(ctx, retriggerPermission))
		}
	}
	if err != nil {
		return nil, err
	}
	result, err := s.retrigger(ctx, it, in.Force, body.Extra, caller)
	if err != nil {
		return nil, err
	}
	return accept(it.Object, it.Place, result, it.Value.URL), nil
}

func (s *service) postStart(ctx context.Context, in *struct {
	blueprint.OfEntity
	Body *startBody // nil: no body, as good as {}
}) (*acceptedOutput, error) {
	ref, err := in.Ref()
	if err != nil {
		return nil, err
	}
	caller := auth.CallerFrom(ctx)
	o, places, err := s.index.Places(ctx, caller, ref, blueprint.Allow(ctx, startPermission))
	if err != nil {
		return nil, err
	}
	if changed, err := s.index.Bind(ctx, o); err != nil {
		return nil, err
	} else if changed {
		if o, places, err = s.index.Places(ctx, caller, ref, nil); err != nil {
			return nil, err
		}
	}
	p, result, err := s.start(ctx, o, places, *cmp.Or(in.Body, &startBody{}), caller)
	if err != nil {
		return nil, err
	}
	return accept(o, p, result, ""), nil
}

func (s *service) postCancel(ctx context.Context, in *OfBuild) (*acceptedOutput, error) {
	it, err := s.item(ctx, *in, cancelPermission)
	if err != nil {
		return nil, err
	}
	result, err := s.cancel(ctx, it)
	if err != nil {
		return nil, err
	}
	out := accept(it.Object, it.Place, result, it.Value.URL)
	out.Location = "/api/build/by-entity/" + it.Object.Ref + "/builds/" + pathEscape(it.Value.ID)
	return out, nil
}

// TaskStatus is a platform task and who serves it.
type TaskStatus struct {
	task.Info
	Providers []task.Serving `json:"providers" nullable:"false" doc:"Which providers serve it, and which of its actions each offers"`
}

func (s *service) tasks(context.Context, *struct{}) (*struct{ Body blueprint.List[TaskStatus] }, error) {
	list := blueprint.List[TaskStatus]{Items: []TaskStatus{}}
	for _, info := range s.infos() {
		list.Items = append(list.Items, TaskStatus{Info: info, Providers: s.engine.Serving(info.Name)})
	}
	list.PageInfo.Limit = len(list.Items)
	return &struct{ Body blueprint.List[TaskStatus] }{list}, nil
}

// Delivered is the answer to a webhook.
type Delivered struct {
	Changed int `json:"changed" doc:"How many items were new or changed"`
}

// receives refuses what nobody takes before its body is read.
func (s *service) receives(_ context.Context, r *http.Request) error {
	return s.engine.Receives(r.PathValue("provider"))
}

func (s *service) hook(ctx context.Context, in *struct {
	Provider string `path:"provider" maxLength:"100" doc:"Name of the provider in the configuration"`
	Headers  blueprint.Headers
	RawBody  []byte
}) (*struct{ Body Delivered }, error) {
	n, err := s.engine.Deliver(ctx, in.Provider, http.Header(in.Headers.Header), in.RawBody)
	return &struct{ Body Delivered }{Delivered{Changed: n}}, err
}
