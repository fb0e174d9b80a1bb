package workspace

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/auth"
	"github.com/slipway-platform/slipway/blueprint"
	"github.com/slipway-platform/slipway/cluster"
	"github.com/slipway-platform/slipway/event"
	"github.com/slipway-platform/slipway/secret"
)

// maxList is how many workspaces are listed where nobody says how many: more than anybody has.
const maxList = 1000

// Workspace is a workspace as its owner sees it.
type Workspace struct {
	WorkspaceID string      `json:"workspaceId" doc:"Id, known from the first answer on" example:"workspace3f1c2a9b5d4e4f60"`
	Name        string      `json:"name" doc:"Name, unique in its namespace" example:"my-python-workspace"`
	Status      string      `json:"status" doc:"Phase: Starting, Running, Stopping, Stopped; Failing, Failed and Error when something went wrong; Terminating while it is deleted" example:"Running"`
	IDEURL      string      `json:"ideUrl" doc:"Where to work on it: its own address once it runs, before that a page of Che that leads there" example:"https://che.example.com/dashboard/#/ide/jane-workspaces/my-python-workspace"`
	Devfile     DevfileName `json:"devfile" doc:"The devfile that it was made of"`
	CreatedAt   time.Time   `json:"createdAt" doc:"When it was made"`
	LastUsed    time.Time   `json:"lastUsed" doc:"When it was last started, or last changed where that is not known"`
	Namespace   string      `json:"namespace" doc:"Namespace on the cluster" example:"jane-workspaces"`
	Cluster     string      `json:"cluster" doc:"Cluster" example:"main"`
	Message     string      `json:"message,omitempty" doc:"What the cluster says of it" example:"Waiting for workspace deployment"`
	Conditions  []Condition `json:"conditions,omitempty" doc:"How far it has come; only when one workspace is asked for"`
}

// DevfileName names a devfile.
type DevfileName struct {
	Name    string `json:"name" doc:"Name in its metadata" example:"goldenpath-python"`
	Version string `json:"version" doc:"Version in its metadata" example:"1.0.0"`
}

// Workspaces is a list of workspaces.
type Workspaces struct {
	Workspaces []Workspace      `json:"workspaces" nullable:"false" doc:"The workspaces, newest first"`
	Total      int              `json:"total" doc:"How many there are on all pages"`
	PageInfo   slipway.PageInfo `json:"pageInfo" doc:"Where this page stands"`
}

// NewWorkspace says what workspace to make.
type NewWorkspace struct {
	DevfileURL string `json:"devfileUrl" required:"false" doc:"Required. https address of a devfile 2.2 or 2.3.0" example:"https://raw.githubusercontent.com/paruff/fawkes/main/platform/devfiles/goldenpath-python.yaml"`
	Namespace  string `json:"namespace,omitempty" doc:"Namespace; absent: your own, which is made when it is needed"`
	Name       string `json:"name,omitempty" doc:"Name; absent: the devfile's with four random letters" example:"my-python-workspace"`
	Cluster    string `json:"cluster,omitempty" doc:"Cluster, where there are several; absent: the usual one"`
}

type body[T any] struct{ Body T }

type byID struct {
	WorkspaceID string `path:"workspaceId" maxLength:"63" doc:"Id of a workspace of yours" example:"workspace3f1c2a9b5d4e4f60"`
}

// caller is who asks, as an owner of workspaces.
func caller(ctx context.Context) (owner, error) { return ownerOf(auth.CallerFrom(ctx)) }

func (s *service) postWorkspace(ctx context.Context, in *body[NewWorkspace]) (*body[Workspace], error) {
	o, err := caller(ctx)
	if err != nil {
		return nil, err
	}
	if err := s.allowed(in.Body.DevfileURL); err != nil {
		return nil, err
	}
	if in.Body.Name != "" {
		if err := checkName(in.Body.Name); err != nil {
			return nil, slipway.Errorf(slipway.Invalid, "Invalid name: %w", err).WithDetails(slipway.Detail{Field: "name", Code: slipway.Invalid, Message: err.Error()})
		}
	}
	c, w, warnings, err := s.create(ctx, o, in.Body.DevfileURL, in.Body.Namespace, in.Body.Name, in.Body.Cluster)
	if err != nil {
		return nil, err
	}
	for _, text := range warnings {
		blueprint.Warn(ctx, text)
	}
	return &body[Workspace]{s.show(c, keep(w))}, nil
}

func (s *service) getWorkspaces(ctx context.Context, in *struct {
	Status string `query:"status" enum:"Running,Stopped,Starting,Stopping,Failing,Failed,Error,Terminating" doc:"Only workspaces in this phase" example:"Running"`
	Limit  int    `query:"limit" minimum:"1" maximum:"100" doc:"How many on a page; absent: all, up to 1,000"`
	Cursor string `query:"cursor" doc:"pageInfo.nextCursor of the page before"`
},
) (*body[Workspaces], error) {
	o, err := caller(ctx)
	if err != nil {
		return nil, err
	}
	if s.unready != nil {
		return nil, s.unready
	}
	cursors := secret.CursorsOf[position](s.keys, "workspaces", o.subject, in.Status)
	after, err := cursors.Read(in.Cursor)
	if err != nil {
		return nil, err
	}
	var all []Workspace
	for _, name := range s.names {
		c := s.connections[name]
		since, stale, err := c.ready(ctx)
		if err != nil {
			return nil, err
		}
		if stale != nil {
			blueprint.Warn(ctx, fmt.Sprintf("the cluster %s does not answer; its workspaces are shown as they were at %s", name, since.UTC().Format(time.RFC3339)))
		}
		for _, i := range s.mine(c, o) {
			if in.Status == "" || i.status() == in.Status {
				all = append(all, s.show(c, i))
			}
		}
	}
	slices.SortFunc(all, Workspace.compare)
	out := Workspaces{Workspaces: all, Total: len(all), PageInfo: slipway.PageInfo{Limit: cmp.Or(in.Limit, maxList)}}
	if after != nil {
		i, _ := slices.BinarySearchFunc(all, *after, func(w Workspace, p position) int { return w.position().compare(p) })
		if i < len(all) && all[i].position() == *after {
			i++
		}
		out.Workspaces = all[i:]
	}
	if n := out.PageInfo.Limit; len(out.Workspaces) > n {
		out.Workspaces = out.Workspaces[:n]
		out.PageInfo.HasMore = true
		out.PageInfo.NextCursor = cursors.Write(out.Workspaces[n-1].position())
	}
	if out.Workspaces == nil {
		out.Workspaces = []Workspace{}
	}
	return &body[Workspaces]{out}, nil
}

func (s *service) getWorkspace(ctx context.Context, in *byID) (*body[Workspace], error) {
	o, err := caller(ctx)
	if err != nil {
		return nil, err
	}
	c, w, err := s.find(ctx, o, in.WorkspaceID)
	if err != nil {
		return nil, err
	}
	out := s.show(c, keep(w))
	out.Conditions = conditions(w)
	return &body[Workspace]{out}, nil
}

func (s *service) startWorkspace(ctx context.Context, in *byID) (*body[Workspace], error) {
	return s.change(ctx, in.WorkspaceID, true)
}

func (s *service) stopWorkspace(ctx context.Context, in *byID) (*body[Workspace], error) {
	return s.change(ctx, in.WorkspaceID, false)
}

func (s *service) change(ctx context.Context, id string, up bool) (*body[Workspace], error) {
	o, err := caller(ctx)
	if err != nil {
		return nil, err
	}
	c, w, err := s.want(ctx, o, id, up)
	if err != nil {
		return nil, err
	}
	return &body[Workspace]{s.show(c, keep(w))}, nil
}

func (s *service) deleteWorkspace(ctx context.Context, in *byID) (*struct{}, error) {
	o, err := caller(ctx)
	if err != nil {
		return nil, err
	}
	return &struct{}{}, s.remove(ctx, o, in.WorkspaceID)
}

// show is a workspace as its owner sees it.
func (s *service) show(c *connection, i item) Workspace {
	w := Workspace{
		WorkspaceID: i.id, Name: i.name, Status: i.status(), Devfile: DevfileName{cmp.Or(i.devfile, i.name), i.version}, CreatedAt: i.created, LastUsed: i.used,
		Namespace: i.namespace, Cluster: c.client.Name(), Message: i.message,
	}
	if i.mainURL != "" && w.Status == running {
		w.IDEURL = i.mainURL
	} else if s.config.URL != "" {
		w.IDEURL = strings.TrimSuffix(strings.ReplaceAll(s.config.URL, "{cluster}", c.client.Name()), "/") + "/dashboard/#/ide/" + i.namespace + "/" + i.name
	}
	return w
}

// position is a place in a list.
type position struct {
	Created int64  `json:"c"` // Unix seconds
	Cluster string `json:"k"`
	ID      string `json:"i"`
}

func (w Workspace) position() position {
	return position{w.CreatedAt.Unix(), w.Cluster, w.Namespace + "/" + w.Name}
}

func (p position) compare(q position) int {
	return cmp.Or(cmp.Compare(q.Created, p.Created), cmp.Compare(p.Cluster, q.Cluster), cmp.Compare(p.ID, q.ID))
}

func (w Workspace) compare(v Workspace) int { return w.position().compare(v.position()) }

// environmentEvent is the data of the events that are sent when somebody does something to a workspace through Slipway: it is an environment in the words of CDEvents.
type environmentEvent = event.CDEvent[event.CDEnvironment, workspaceData]

// workspaceData is what an event tells of a workspace.
type workspaceData struct {
	Action      string      `json:"action" enum:"create,start,stop,delete" doc:"What was done"`
	WorkspaceID string      `json:"workspaceId" doc:"Id of the workspace"`
	Name        string      `json:"name" doc:"Its name"`
	Namespace   string      `json:"namespace" doc:"Its namespace on the cluster"`
	Owner       string      `json:"owner" doc:"Whose it is; empty for one that was made elsewhere"`
	Devfile     DevfileName `json:"devfile" doc:"The devfile that it was made of"`
}

func workspaceEvent(action string, at time.Time, w cluster.Object) event.Event {
	kind := map[string]string{"create": event.EnvironmentCreated, "start": event.EnvironmentModified, "stop": event.EnvironmentModified, "delete": event.EnvironmentDeleted}[action]
	source := event.SourceOf("workspace")
	i := keep(w)
	subject := event.CDSubject[event.CDEnvironment]{ID: i.namespace + "/" + i.name, Source: source, Content: event.CDEnvironment{Name: i.name}}
	if kind != event.EnvironmentDeleted {
		subject.Content.URI = event.AbsoluteURI(i.mainURL)
	}
	return event.NewCDEvent(kind, source, at, subject, workspaceData{action, i.id, i.name, i.namespace, i.owner, DevfileName{i.devfile, i.version}}).Event()
}
