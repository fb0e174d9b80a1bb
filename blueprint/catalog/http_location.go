package catalog

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/auth"
	"github.com/slipway-platform/slipway/blueprint"
	"github.com/slipway-platform/slipway/entity"
	"github.com/slipway-platform/slipway/secret"
	"github.com/slipway-platform/slipway/store"
)

// File is a file of a location, as it stands.
type File struct {
	Type     string     `json:"type" enum:"url,file" doc:"What the target is"`
	Target   string     `json:"target" doc:"Address or path"`
	Parent   string     `json:"parent,omitempty" doc:"Ref of the Location entity that names it; absent for the target of the location itself"`
	Status   string     `json:"status" enum:"ready,faulty,failed" doc:"ready; faulty, some of it could not be used; failed, it could not be read, and what it brought before is kept"`
	Error    string     `json:"error,omitempty" doc:"Why it could not be read"`
	Faults   []string   `json:"faults,omitempty" doc:"What is wrong in it"`
	Entities []string   `json:"entities" nullable:"false" doc:"Refs of the entities that it brings"`
	ReadAt   *time.Time `json:"readAt,omitempty" nullable:"true" doc:"When it was last read, or tried"`
}

// LocationStatus is how a location stands, file by file.
type LocationStatus struct {
	Location Location `json:"location" doc:"The location"`
	Files    []File   `json:"files" nullable:"false" doc:"Its target and the files that Location entities lead to"`
}

type locationStatusOutput struct{ Body LocationStatus }

func (s *service) locationStatus(ctx context.Context, in *locationInput) (*locationStatusOutput, error) {
	l, err := s.byID(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	files, err := filesOf(ctx, s.db, l.ID)
	if err != nil {
		return nil, err
	}
	out := &locationStatusOutput{LocationStatus{Location: shown(l), Files: []File{}}}
	for _, f := range files {
		status := ready
		switch {
		case f.Error != "":
			status = failed
		case len(f.Faults) > 0:
			status = faulty
		}
		out.Body.Files = append(out.Body.Files, File{Type: f.Type, Target: f.Target, Parent: f.Parent, Status: status, Error: f.Error, Faults: f.Faults,
			Entities: notNil(f.Refs), ReadAt: f.ReadAt.Ptr()})
	}
	return out, nil
}

type locationsQueryInput struct {
	Body struct {
		Query  map[string]any `json:"query,omitempty" doc:"A predicate over id, type, target, entityRef, origin and status"`
		Limit  int            `json:"limit,omitempty" minimum:"1" maximum:"10000" doc:"How many at most, 1,000 by default"`
		Cursor string         `json:"cursor,omitempty" doc:"Of the page before; it holds the query"`
	}
}

// Locations is a page of locations.
type Locations struct {
	Items      []Location `json:"items" nullable:"false" doc:"The locations, in the order of their registration"`
	TotalItems int        `json:"totalItems" doc:"How many there are on all pages"`
	PageInfo   Pages      `json:"pageInfo" doc:"Where this page stands"`
}

type locationsQueryOutput struct{ Body Locations }

// locationCursor holds where a page of locations ended.
type locationCursor struct {
	Query   map[string]any `json:"q,omitempty"`
	Limit   int            `json:"l"`
	Created int64          `json:"c"` // microseconds
	ID      string         `json:"i"`
}

func (s *service) queryLocations(ctx context.Context, in *locationsQueryInput) (*locationsQueryOutput, error) {
	c := locationCursor{Query: in.Body.Query}
	cursors := secret.CursorsOf[locationCursor](s.Keys, "catalog locations")
	if after, err := cursors.Read(in.Body.Cursor); err != nil {
		return nil, err
	} else if after != nil {
		c = *after
	}
	limit := cmp.Or(in.Body.Limit, c.Limit, 1000)
	where, err := parsePredicate(c.Query)
	if err != nil {
		return nil, err
	}
	list, err := listLocations(ctx, s.db, `status <> 'removing' ORDER BY created_at, id`)
	if err != nil {
		return nil, err
	}
	out := &locationsQueryOutput{Locations{Items: []Location{}}}
	for _, l := range list {
		shown := shown(l)
		if where != nil && !holds(where, map[string]string{"id": l.ID, "type": l.Type, "target": l.Target, "entityRef": shown.EntityRef, "origin": l.Origin, "status": l.Status}) {
			continue
		}
		out.Body.TotalItems++
		if at := l.CreatedAt.UnixMicro(); at < c.Created || at == c.Created && l.ID <= c.ID {
			continue // on a page before
		}
		if n := len(out.Body.Items); n == limit {
			if out.Body.PageInfo.NextCursor == "" {
				out.Body.PageInfo.NextCursor = cursors.Write(c.after(limit, list, out.Body.Items[n-1].ID))
			}
			continue
		}
		out.Body.Items = append(out.Body.Items, shown)
	}
	return out, nil
}

// after is the cursor that goes on behind a location.
func (c locationCursor) after(limit int, list []row, id string) locationCursor {
	i := slices.IndexFunc(list, func(l row) bool { return l.ID == id })
	return locationCursor{Query: c.Query, Limit: limit, Created: list[i].CreatedAt.UnixMicro(), ID: id}
}

func (s *service) locationByEntity(ctx context.Context, in *entityInput) (*locationOutput, error) {
	none := slipway.Errorf(slipway.NotFound, "no location that you may read brings this entity")
	ref := slipway.EntityRef{Kind: in.Kind, Namespace: in.Namespace, Name: in.Name}
	if ref.Validate() != nil {
		return nil, none
	}
	r, err := s.Entities.Get(ctx, s.db, auth.CallerFrom(ctx), ref)
	if err != nil {
		return nil, err
	}
	id, ok := strings.CutPrefix(r.Source, "location:")
	if !ok {
		return nil, none
	}
	l, err := getLocation(ctx, s.db, id)
	return &locationOutput{shown(l)}, err
}

type updateLocationInput struct {
	ID   string `path:"id" maxLength:"100" doc:"Id of the location"`
	Body Place
}

func (s *service) updateLocation(ctx context.Context, in *updateLocationInput) (*locationOutput, error) {
	l, err := s.byID(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	if l.Origin == fromConfig {
		return nil, slipway.Errorf(slipway.Conflict, "this location stands in the configuration, under catalog.locations; change it there and restart")
	}
	if err := s.readable(in.Body); err != nil {
		return nil, slipway.Errorf(slipway.Invalid, "%s", reason(err))
	}
	known, err := findLocation(ctx, s.db, in.Body)
	if err == nil && known.ID != l.ID {
		return nil, slipway.Errorf(slipway.Conflict, "this target is registered already, as %s", known.ID)
	} else if err != nil && slipway.CodeOf(err) != slipway.NotFound {
		return nil, err
	}
	if err = s.db.Write(ctx, func(tx *store.Tx) error { return s.move(ctx, tx, l, in.Body) }); err != nil {
		return nil, err
	}
	l, err = getLocation(ctx, s.db, l.ID)
	return &locationOutput{shown(l)}, err
}

// move gives a location another target, and has that read.
func (s *service) move(ctx context.Context, tx *store.Tx, l row, to Place) error {
	if err := setPlace(ctx, tx, l.ID, to, trusted(ctx)); err != nil {
		return err
	}
	if err := s.haveRead(ctx, tx, l.ID); err != nil || to == l.Place {
		return err
	}
	if _, err := s.Entities.Remove(ctx, tx, l.source(), []slipway.EntityRef{l.entity().Ref()}); err != nil {
		return err
	}
	_, err := s.Entities.Put(ctx, tx, l.source(), []*slipway.Entity{to.entity()})
	return err
}

type validateInput struct {
	Body struct {
		Entity   map[string]any `json:"entity" doc:"An entity, as a catalog file would hold it"`
		Location string         `json:"location" doc:"Where it would stand, url: and an address" example:"url:https://git.example.com/shop/web/blob/main/catalog-info.yaml"`
	}
}

// Faults say what is wrong with an entity.
type Faults struct {
	Errors []Fault `json:"errors" nullable:"false" doc:"What is wrong"`
}

// Fault is one thing that is wrong.
type Fault struct {
	Name    string `json:"name" doc:"What kind of failure" example:"InputError"`
	Message string `json:"message" doc:"What is wrong"`
}

type validateOutput struct {
	Status int
	Body   blueprint.Raw[Faults]
}

// validate answers nothing for an entity that could be registered, and 400 with errors in a shape of its own for another.
func (s *service) validate(_ context.Context, in *validateInput) (*validateOutput, error) {
	var faults Faults
	target, isURL := strings.CutPrefix(in.Body.Location, "url:")
	if u, err := url.Parse(target); !isURL || err != nil || u.Host == "" {
		faults.Errors = append(faults.Errors, Fault{"TypeError", fmt.Sprintf("location %q is not of the form url:https://…", clip(in.Body.Location))})
	}
	if _, _, err := checked(map[string]any(in.Body.Entity), s.kinds); err != nil {
		all, ok := errors.AsType[faultList](err)
		if !ok {
			all = faultList{err.Error()}
		}
		for _, text := range all {
			faults.Errors = append(faults.Errors, Fault{"InputError", text})
		}
	}
	if faults.Errors == nil {
		return &validateOutput{Status: http.StatusOK}, nil
	}
	raw, err := json.Marshal(faults)
	return &validateOutput{Status: http.StatusBadRequest, Body: blueprint.Raw[Faults]{JSON: raw}}, err
}

type analyzeInput struct {
	Body struct {
		Location        Place  `json:"location" doc:"A catalog file, or a repository that has none yet"`
		CatalogFilename string `json:"catalogFilename,omitempty" doc:"Name of the file to look for in a repository; catalog-info.yaml by default"`
		CatalogFileName string `json:"catalogFileName,omitempty" doc:"The same, as Backstage's description spells it"`
	}
}

// Analysis is what stands at an address, or could.
type Analysis struct {
	ExistingEntityFiles []ExistingEntity  `json:"existingEntityFiles" nullable:"false" doc:"Entities that stand there"`
	GenerateEntities    []GeneratedEntity `json:"generateEntities" nullable:"false" doc:"Entities that could be written there"`
}

// ExistingEntity is an entity in a file.
type ExistingEntity struct {
	IsRegistered bool            `json:"isRegistered" doc:"Whether the file is registered"`
	Location     Place           `json:"location" doc:"The file"`
	Entity       *slipway.Entity `json:"entity" doc:"The entity"`
}

// GeneratedEntity is the draft of an entity.
type GeneratedEntity struct {
	Entity slipway.Entity `json:"entity" doc:"The draft"`
	Fields []DraftField   `json:"fields" nullable:"false" doc:"What was guessed and what is left to fill in"`
}

// DraftField is a field of a draft.
type DraftField struct {
	Field       string `json:"field" doc:"Path of the field"`
	State       string `json:"state" enum:"analysisSuggestedValue,needsUserInput" doc:"Whether it was guessed"`
	Value       string `json:"value" doc:"The guess"`
	Description string `json:"description" doc:"What it is"`
}

type analyzeOutput struct{ Body Analysis }

// analyze reads the address, or the catalog file of the repository there; where there is none, it drafts a component.
func (s *service) analyze(ctx context.Context, in *analyzeInput) (*analyzeOutput, error) {
	p := in.Body.Location
	if err := s.readable(p); err != nil {
		return nil, slipway.Errorf(slipway.Invalid, "%s", reason(err))
	}
	name := cmp.Or(in.Body.CatalogFilename, in.Body.CatalogFileName, "catalog-info.yaml")
	if ext := path.Ext(p.Target); ext != ".yaml" && ext != ".yml" && ext != ".json" {
		p.Target = strings.TrimSuffix(strings.TrimSuffix(p.Target, "/"), ".git") + "/blob/HEAD/" + name
	}
	out := &analyzeOutput{Analysis{ExistingEntityFiles: []ExistingEntity{}, GenerateEntities: []GeneratedEntity{}}}
	ctx, cancel := context.WithTimeout(ctx, readAtOnce)
	defer cancel()
	if c, err := s.fetchContent(ctx, p, nil); err == nil {
		entities, _, err := parse(ctx, c.data, s.kinds, nil)
		if err != nil {
			return nil, slipway.Errorf(slipway.Invalid, "Invalid %s: %s", p.file(), reason(err))
		}
		_, err = findLocation(ctx, s.db, p)
		for _, e := range entities {
			out.Body.ExistingEntityFiles = append(out.Body.ExistingEntityFiles, ExistingEntity{IsRegistered: err == nil, Location: p, Entity: e})
		}
	}
	if len(out.Body.ExistingEntityFiles) == 0 {
		out.Body.GenerateEntities = append(out.Body.GenerateEntities, draft(in.Body.Location))
	}
	return out, nil
}

// draft is a component for a repository.
func draft(p Place) GeneratedEntity {
	u, err := url.Parse(p.Target)
	if err != nil {
		u = new(url.URL)
	}
	parts := strings.FieldsFunc(u.Path, func(r rune) bool { return r == '/' })
	name := "component"
	if len(parts) >= 2 && u.Host == "github.com" {
		name = parts[1]
	} else if len(parts) > 0 {
		name = parts[len(parts)-1]
	}
	name = strings.TrimSuffix(name, ".git")
	if (slipway.EntityRef{Kind: "Component", Namespace: slipway.DefaultNamespace, Name: name}).Validate() != nil {
		name = "component"
	}
	g := GeneratedEntity{Entity: slipway.Entity{APIVersion: "backstage.io/v1alpha1", Kind: "Component", Metadata: slipway.EntityMetadata{Name: name},
		Spec: map[string]any{"type": "other", "lifecycle": "unknown"}}, Fields: []DraftField{
		{"metadata.name", "analysisSuggestedValue", name, "Taken from the address"},
		{"spec.owner", "needsUserInput", "", "The group or user that owns it"},
	}}
	if u.Host == "github.com" && len(parts) >= 2 {
		g.Entity.Metadata.Annotations = map[string]string{"github.com/project-slug": parts[0] + "/" + strings.TrimSuffix(parts[1], ".git")}
	}
	return g
}

// Ancestry is how an entity came into the catalog.
type Ancestry struct {
	RootEntityRef string     `json:"rootEntityRef" doc:"Ref of the entity that was asked for"`
	Items         []Ancestor `json:"items" doc:"The entity, and the Location entities above it"`
}

// Ancestor is an entity with those that brought it.
type Ancestor struct {
	Entity           slipway.Entity `json:"entity" doc:"The entity"`
	ParentEntityRefs []string       `json:"parentEntityRefs" doc:"Refs of the Location entities that name its file"`
}

type ancestryOutput struct {
	Body blueprint.Raw[Ancestry]
}

func (s *service) ancestry(ctx context.Context, in *entityInput) (*ancestryOutput, error) {
	caller := auth.Narrowed(ctx)
	ref := slipway.EntityRef{Kind: in.Kind, Namespace: in.Namespace, Name: in.Name}
	if ref.Validate() != nil {
		return nil, slipway.Errorf(slipway.NotFound, "there is no entity of that name: no entity could have it")
	}
	type item struct {
		Entity           json.RawMessage `json:"entity"`
		ParentEntityRefs []string        `json:"parentEntityRefs"`
	}
	items := []item{}
	seen := map[string]bool{}
	for next := ref.String(); next != "" && !seen[next]; {
		seen[next] = true
		at, err := slipway.ParseEntityRef(next, slipway.EntityRef{})
		if err != nil {
			return nil, err
		}
		r, err := s.Entities.Get(ctx, s.db, caller, at)
		if err != nil && len(items) > 0 && slipway.CodeOf(err) == slipway.NotFound {
			break // above that it is not for the caller to see
		} else if err != nil {
			return nil, err
		}
		parent, err := s.parent(ctx, r)
		if err != nil {
			return nil, err
		}
		i := item{Entity: r.JSON, ParentEntityRefs: []string{}}
		if parent != "" {
			i.ParentEntityRefs = append(i.ParentEntityRefs, parent)
		}
		items = append(items, i)
		next = parent
	}
	raw, err := json.Marshal(struct {
		RootEntityRef string `json:"rootEntityRef"`
		Items         []item `json:"items"`
	}{ref.String(), items})
	return &ancestryOutput{blueprint.Raw[Ancestry]{JSON: raw}}, err
}

// parent is the Location entity that names the file of an entity: one of a file, or the one that stands for the registered location; "" when there is none.
func (s *service) parent(ctx context.Context, r entity.Row) (string, error) {
	id, ok := strings.CutPrefix(r.Source, "location:")
	if !ok || r.Orphan || strings.HasPrefix(r.Ref.String(), "location:default/"+generated) {
		return "", nil
	}
	var e slipway.Entity
	if err := json.Unmarshal(r.JSON, &e); err != nil {
		return "", err
	}
	kind, target, _ := strings.Cut(e.Metadata.Annotations[annotationLocation], ":")
	parent, err := parentOf(ctx, s.db, id, Place{kind, target})
	if err != nil || parent != "" {
		return parent, err
	}
	l, err := getLocation(ctx, s.db, id)
	if slipway.CodeOf(err) == slipway.NotFound {
		return "", nil // it is being removed
	}
	return l.ref(), err
}
