// Package catalog is the blueprint of the software catalog: it registers locations (files that describe entities), reads them again
// when they change, and answers entities by name and by filter, in the shapes of Backstage's catalog API. The tables
// of entities and the rights to read them are package entity's; a location owns what it brings.
package catalog

import (
	"context"
	"crypto/sha1" // Backstage names locations so; no security hangs on it
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/http"
	"net/url"
	"path"
	"regexp"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/auth"
	"github.com/slipway-platform/slipway/blueprint"
	"github.com/slipway-platform/slipway/entity"
	"github.com/slipway-platform/slipway/event"
	"github.com/slipway-platform/slipway/job"
	"github.com/slipway-platform/slipway/store"
	"github.com/slipway-platform/slipway/task"
)

//go:embed migrations
var migrationFiles embed.FS

//go:embed README.md
var readme string

// Config is the section catalog of the configuration.
type Config struct {
	Locations []Place          `yaml:"locations" doc:"Locations that are registered at start, and removed again once they no longer stand here"`
	Refresh   slipway.Duration `yaml:"refresh" doc:"How long after reading a location it is read again, at least 30 s; a location that fails is tried again later and later"`
	Orphans   slipway.Duration `yaml:"orphans" doc:"How long entities stay that their location no longer brings, marked as orphans; 0 removes them at once"`
	Kinds     []string         `yaml:"kinds" doc:"Kinds of entities that are accepted"`
	MaxFile   slipway.Size     `yaml:"maxFile" doc:"Largest file that is read, 1 KiB to 16 MiB"`
}

// Place is where entities are described.
type Place struct {
	Type   string `json:"type" yaml:"type" enum:"url,file" doc:"url, or file: a file of the server below one of fetch.fileRoots" example:"url"`
	Target string `json:"target" yaml:"target" minLength:"1" maxLength:"2048" doc:"Address or path" example:"https://git.example.com/shop/web/blob/main/catalog-info.yaml"`
}

// DefaultConfig is what holds where nothing is said.
func DefaultConfig() *Config {
	return &Config{
		Refresh: slipway.Duration(5 * time.Minute),
		Orphans: slipway.Duration(time.Hour),
		MaxFile: 2 << 20,
		Kinds:   []string{"Component", "API", "Resource", "System", "Domain", "Group", "User", "Location", "Template"},
	}
}

// Validate reports all faults together.
func (c *Config) Validate() error {
	var faults []error
	if c.Refresh.Std() < 30*time.Second {
		faults = append(faults, errors.New("refresh: it must be at least 30s"))
	}
	if c.Orphans < 0 {
		faults = append(faults, errors.New("orphans: it must not be negative"))
	}
	if c.MaxFile < 1<<10 || c.MaxFile > 16<<20 {
		faults = append(faults, errors.New("maxFile: it must be from 1KiB to 16MiB"))
	}
	for i, p := range c.Locations {
		if err := p.check(); err != nil {
			faults = append(faults, fmt.Errorf("locations[%d]: %w", i, err))
		}
	}
	for _, k := range c.Kinds {
		if err := (slipway.EntityRef{Kind: k, Namespace: slipway.DefaultNamespace, Name: "x"}).Validate(); err != nil {
			faults = append(faults, fmt.Errorf("kinds: %q: %s", k, err.Message))
		}
	}
	return errors.Join(faults...)
}

func (p Place) check() error {
	switch {
	case p.Type != "url" && p.Type != "file":
		return fmt.Errorf("type %q is not known; write url or file", clip(p.Type))
	case p.Target == "" || len(p.Target) > 2048 || strings.ContainsRune(p.Target, 0):
		return errors.New("target must be an address or a path, at most 2048 bytes")
	case p.Type == "url" && holdsCredential(p.Target):
		return errors.New("target holds what looks like a credential, and whoever reads the catalog would see it; write an address without a user, and without " +
			"a query such as token=…, and let the server have access in another way, such as a host that it may read without one")
	}
	return nil
}

// credentialName fits names of query fields that carry credentials.
var credentialName = regexp.MustCompile(`(?i)token|secret|passw|credential|signature|apikey|accesskey|privatekey|authoriz|oauth|(^|[^a-z])(key|sig|pwd|jwt|auth)($|[^a-z])`)

// holdsCredential says that an address holds what its readers must not see: a location's target stands in annotations and in answers.
func holdsCredential(target string) bool {
	bare, more, _ := strings.Cut(target, "?")
	bare, fragment, _ := strings.Cut(bare, "#")
	if _, rest, ok := strings.Cut(bare, "//"); ok {
		authority, _, _ := strings.Cut(rest, "/")
		if strings.Contains(authority, "@") {
			return true
		}
	}
	for field := range strings.FieldsFuncSeq(more+"&"+fragment, func(r rune) bool { return strings.ContainsRune("&;?#", r) }) {
		name, _, _ := strings.Cut(field, "=")
		if plain, err := url.QueryUnescape(name); err == nil {
			name = plain
		}
		if credentialName.MatchString(name) {
			return true
		}
	}
	return false
}

// bare is a target without what may be a credential, for messages.
func bare(target string) string {
	target, _, _ = strings.Cut(target, "?")
	target, _, _ = strings.Cut(target, "#")
	if scheme, rest, ok := strings.Cut(target, "//"); ok {
		authority, path, slash := strings.Cut(rest, "/")
		if i := strings.LastIndexByte(authority, '@'); i >= 0 {
			target = scheme + "//" + authority[i+1:]
			if slash {
				target += "/" + path
			}
		}
	}
	return clip(target)
}

// file is the name of the place's file, for messages.
func (p Place) file() string {
	name := p.Target
	if u, err := url.Parse(p.Target); err == nil && p.Type == "url" {
		name = u.Path
	}
	if name = path.Base(name); name == "." || name == "/" {
		return "catalog-info.yaml"
	}
	return clip(name)
}

// ref is what Backstage calls the location's own entity.
func (p Place) ref() string {
	sum := sha1.Sum([]byte(p.Type + ":" + p.Target))
	return "location:default/" + generated + hex.EncodeToString(sum[:])
}

// generated is how the names begin of the entities that stand for locations.
const generated = "generated-"

// entity is the entity that stands for the location, as Backstage makes it.
func (p Place) entity() *slipway.Entity {
	where := p.Type + ":" + p.Target
	return &slipway.Entity{APIVersion: "backstage.io/v1alpha1", Kind: "Location",
		Metadata: slipway.EntityMetadata{Name: strings.TrimPrefix(p.ref(), "location:default/"), Namespace: slipway.DefaultNamespace,
			Annotations: map[string]string{annotationLocation: where, annotationOrigin: where}},
		Spec: map[string]any{"type": p.Type, "target": p.Target}}
}

// accepted is the set of kinds, in lower case.
func accepted(kinds []string) map[string]bool {
	set := map[string]bool{}
	for _, k := range kinds {
		set[strings.ToLower(k)] = true
	}
	return set
}

// document gives the address of the file itself where a git host's page of it was given: pages hold HTML.
func document(target string) string {
	u, err := url.Parse(target)
	if err != nil {
		return target
	}
	parts := strings.SplitN(strings.TrimPrefix(u.EscapedPath(), "/"), "/", 4)
	switch {
	case u.Host == "github.com" && len(parts) == 4 && parts[2] == "blob":
		return "https://raw.githubusercontent.com/" + parts[0] + "/" + parts[1] + "/" + parts[3]
	case u.Host == "bitbucket.org" && len(parts) == 4 && parts[2] == "src":
		return "https://bitbucket.org/" + parts[0] + "/" + parts[1] + "/raw/" + parts[3]
	case strings.Contains(u.Path, "/-/blob/"): // GitLab
		u.Path, u.RawPath = strings.Replace(u.Path, "/-/blob/", "/-/raw/", 1), ""
	case len(parts) == 4 && parts[2] == "src" && (strings.HasPrefix(parts[3], "branch/") || strings.HasPrefix(parts[3], "tag/") || strings.HasPrefix(parts[3], "commit/")): // Gitea, Forgejo
		u.Path, u.RawPath = "/"+parts[0]+"/"+parts[1]+"/raw/"+parts[3], ""
	}
	return u.String()
}

// Annotations that the catalog sets on what it reads.
const (
	annotationLocation = "backstage.io/managed-by-location"
	annotationOrigin   = "backstage.io/managed-by-origin-location"
	annotationView     = "backstage.io/view-url"
	annotationEdit     = "backstage.io/edit-url"
	annotationSource   = "backstage.io/source-location"
)

// mark notes on entities where they come from: the file, and the location that led to it.
func (p Place) mark(entities []*slipway.Entity, origin Place) {
	links := p.links()
	for _, e := range entities {
		if e.Metadata.Annotations == nil {
			e.Metadata.Annotations = map[string]string{}
		}
		e.Metadata.Namespace = e.Ref().Namespace
		for key, v := range links {
			if e.Metadata.Annotations[key] == "" {
				e.Metadata.Annotations[key] = v
			}
		}
		delete(e.Metadata.Annotations, entity.OrphanAnnotation) // an export may hold it
		e.Metadata.Annotations[annotationLocation] = p.Type + ":" + p.Target
		e.Metadata.Annotations[annotationOrigin] = origin.Type + ":" + origin.Target
	}
}

// links are the annotations with the pages of a file at a git host: where to see it, to edit it, and the folder that it lies in.
func (p Place) links() map[string]string {
	u, err := url.Parse(p.Target)
	if p.Type != "url" || err != nil || p.Target == document(p.Target) {
		return nil
	}
	page := func(view, to string) map[string]string {
		if !strings.Contains(u.Path, view) {
			return nil
		}
		edit, folder := *u, *u
		edit.Path, edit.RawPath = strings.Replace(u.Path, view, to, 1), ""
		folder.Path, folder.RawPath = path.Dir(strings.Replace(u.Path, "/blob/", "/tree/", 1))+"/", ""
		return map[string]string{annotationView: p.Target, annotationEdit: edit.String(), annotationSource: "url:" + folder.String()}
	}
	if links := page("/blob/", "/edit/"); links != nil {
		return links
	}
	return page("/src/branch/", "/_edit/")
}

// The permissions.
const (
	refreshEntity  = "catalog.entity.refresh"
	writeEntity    = "catalog.entity.write"
	createLocation = "catalog.location.create"
	readLocations  = "catalog.location.read"
	deleteLocation = "catalog.location.delete"
	trustLocation  = "catalog.location.trust"
)

type service struct {
	*blueprint.Host
	db     *store.DB
	config *Config
	kinds  map[string]bool // accepted from trusted locations
	others map[string]bool // accepted from the other ones
	hosts  hosts
}

// kindsOf gives the kinds that are accepted from a location. False: only from a trusted one.
func (s *service) kindsOf(trusted bool) map[string]bool {
	if trusted {
		return s.kinds
	}
	return s.others
}

func open(_ context.Context, h *blueprint.Host) (any, error) {
	s := &service{Host: h, db: h.DB("main"), config: h.Config.(*Config)}
	s.kinds = accepted(s.config.Kinds)
	s.others = maps.Clone(s.kinds)
	for _, kind := range []string{"user", "group"} { // who is in a group holds its rights
		if s.others[kind] {
			s.others[kind] = false
		}
	}
	h.Go("configured locations", s.keepConfigured)
	return s, nil
}

// What answers look like, for the reference.
var (
	exampleEntities = Entities{TotalItems: 1, Items: []slipway.Entity{exampleEntity}}
	exampleEntity   = slipway.Entity{APIVersion: "backstage.io/v1alpha1", Kind: "Component",
		Metadata:  slipway.EntityMetadata{UID: "0198c2f0-6b5e-7cc0-9d5e-0f6f3c1f7a11", ETag: "5f2b0c", Name: "web", Namespace: "default"},
		Spec:      map[string]any{"type": "website", "lifecycle": "production", "owner": "shop"},
		Relations: []slipway.Relation{{Type: "ownedBy", TargetRef: "group:default/shop"}}}
	exampleLocation = Location{ID: "0198c2f0-6b5e-7cc0-9d5e-0f6f3c1f7a12", Type: "url", Target: "https://git.example.com/shop/web/blob/main/catalog-info.yaml",
		EntityRef: "location:default/generated-5f2b0c", Origin: "api", Status: "ready"}
	exampleAnalysis = map[string]any{"existingEntityFiles": []any{}, "generateEntities": []any{map[string]any{"entity": exampleEntity, "fields": []any{}}}}
	exampleAncestry = map[string]any{"rootEntityRef": "component:default/web", "items": []any{map[string]any{"entity": exampleEntity, "parentEntityRefs": []string{}}}}
	exampleFacets   = Facets{map[string][]FacetValue{"spec.type": {{"service", 12}, {"website", 3}}}}
)

// Blueprint is the catalog.
var Blueprint = blueprint.Blueprint{
	Name:      "catalog",
	Version:   "0.1.0",
	Summary:   "Entities: what there is, who owns it, and where vendors know it",
	Stability: blueprint.Experimental,
	Config:    func() any { return DefaultConfig() },
	Mounts:    []blueprint.Mount{{Prefix: "/api/catalog", Dialect: blueprint.Backstage}},
	Permissions: []auth.Permission{
		{Name: entity.ReadPermission, Text: "Read an entity, and with it its builds, events and metrics", Object: "entity", Tools: true},
		{Name: refreshEntity, Text: "Have the location of an entity read again", Object: "entity"},
		{Name: writeEntity, Text: "Write and remove entities that no location brings", Object: "entity"},
		{Name: createLocation, Text: "Register a location, or give it another target"},
		{Name: readLocations, Text: "Read locations and what is wrong with them"},
		{Name: deleteLocation, Text: "Remove a location with the entities that it brings"},
		{Name: trustLocation, Text: "Register locations that may define users and groups, and so who holds a group's rights"},
	},
	Kinds:     []blueprint.ResourceKind{blueprint.Resource(locationDocuments, (*service).locationKind)},
	Databases: []blueprint.Database{{Name: "main", Migrations: must(fs.Sub(migrationFiles, "migrations")), Tables: []string{"catalog_location", "catalog_file"}}},
	Events:    event.EntityTypes,
	Jobs: []blueprint.Job{
		blueprint.Work((*service).readLocation, job.Worker{Text: "Read a location and store what changed", Timeout: 15 * time.Minute, Parallel: 4}),
		blueprint.Work((*service).removeLocation, job.Worker{Text: "Remove what a location brought", Timeout: 5 * time.Minute}),
		blueprint.Work((*service).removeOrphans, job.Worker{Text: "Remove entities that no location brings any more", Timeout: 5 * time.Minute}),
		blueprint.Work((*service).readPushed, job.Worker{Text: "Have the files of a repository read that has new content", Timeout: time.Minute}),
		blueprint.Work((*service).readDue, job.Worker{Text: "Have the locations read whose time has come", Timeout: time.Minute}),
	},
	Subscriptions: []blueprint.Subscription{blueprint.Subscribe("catalog.push", []string{task.EventPushed}, (*service).pushed)},
	Schedules: []job.Schedule{
		{Name: "catalog.orphans", Text: "Removes entities that no location brings any more, once catalog.orphans has passed", Every: time.Minute, Args: removeOrphans{}},
		{Name: "catalog.refresh", Text: "Reads locations again once catalog.refresh has passed", Every: 30 * time.Second, Args: readDue{}},
	},
	Operations: []blueprint.Operation{
		blueprint.Handle((*service).register, blueprint.Operation{
			ID: "catalog.register", ResponseExample: Registered{LocationID: exampleLocation.ID, Type: exampleLocation.Type, Target: exampleLocation.Target, Status: "processing", Location: exampleLocation, Entities: []*slipway.Entity{&exampleEntity}}, Method: http.MethodPost, Path: "/api/catalog/locations", Tag: "Locations", Status: http.StatusCreated,
			Summary: "Register a location",
			Description: "The target is read at once, for 5 seconds at most. When nothing in it can be used, the answer is 400 with the reason. When some of it can, the good " +
				"entities are stored and the faults listed. When it does not answer in time, it is read later. The status is always `processing`: " +
				"`GET /api/catalog/locations/{id}` says how it stands. With `dryRun`, nothing is stored.",
			Permission: createLocation, Errors: []slipway.Code{slipway.Conflict}, Idempotent: true, Timeout: 20 * time.Second,
			RequestExample: Place{"url", "https://git.example.com/shop/web/blob/main/catalog-info.yaml"},
		}),
		blueprint.Handle((*service).locations, blueprint.Operation{
			ID: "catalog.locations", ResponseExample: []any{map[string]any{"data": exampleLocation}}, Method: http.MethodGet, Path: "/api/catalog/locations", Tag: "Locations",
			Summary: "List locations", Permission: readLocations,
		}),
		blueprint.Handle((*service).location, blueprint.Operation{
			ID: "catalog.location", ResponseExample: exampleLocation, Method: http.MethodGet, Path: "/api/catalog/locations/{id}", Tag: "Locations",
			Summary: "Get a location, how it stands and what is wrong with it", Permission: readLocations, Errors: []slipway.Code{slipway.NotFound},
		}),
		blueprint.Handle((*service).locationStatus, blueprint.Operation{
			ID: "catalog.locationStatus", ResponseExample: map[string]any{"id": exampleLocation.ID, "status": "ready"}, Method: http.MethodGet, Path: "/api/catalog/locations/{id}/status", Tag: "Locations",
			Summary: "Get how a location stands, file by file", Permission: readLocations, Errors: []slipway.Code{slipway.NotFound},
		}),
		blueprint.Handle((*service).queryLocations, blueprint.Operation{
			ID: "catalog.queryLocations", ResponseExample: map[string]any{"items": []any{exampleLocation}, "totalItems": 1, "pageInfo": map[string]any{}}, Method: http.MethodPost, Path: "/api/catalog/locations/by-query", Tag: "Locations", Status: http.StatusOK,
			Summary: "Query locations by a predicate", Permission: readLocations,
			RequestExample: map[string]any{"query": map[string]any{"status": "faulty"}, "limit": 100},
		}),
		blueprint.Handle((*service).locationByEntity, blueprint.Operation{
			ID: "catalog.locationByEntity", ResponseExample: exampleLocation, Method: http.MethodGet, Path: "/api/catalog/locations/by-entity/{kind}/{namespace}/{name}", Tag: "Locations",
			Summary: "Get the location that brings an entity", Permission: readLocations, Errors: []slipway.Code{slipway.NotFound},
		}),
		blueprint.Handle((*service).updateLocation, blueprint.Operation{
			ID: "catalog.updateLocation", ResponseExample: exampleLocation, Method: http.MethodPut, Path: "/api/catalog/locations/{id}", Tag: "Locations",
			Summary: "Give a location another target", Description: "The new target is read next. What only the old one brought stays for a while, marked as orphans.",
			Permission: createLocation, Errors: []slipway.Code{slipway.NotFound, slipway.Conflict},
			RequestExample: Place{"url", "https://git.example.com/shop/web/blob/main/catalog-info.yaml"},
		}),
		blueprint.Handle((*service).analyze, blueprint.Operation{
			ID: "catalog.analyzeLocation", ResponseExample: exampleAnalysis, Method: http.MethodPost, Path: "/api/catalog/analyze-location", Tag: "Locations", Status: http.StatusOK,
			Summary: "Look what an address holds, or could hold", Description: "Reads a catalog file, or that of a repository; where there is none, drafts a component. Nothing is stored.",
			Permission: createLocation, RequestExample: map[string]any{"location": Place{"url", "https://github.com/example/shop"}},
		}),
		blueprint.Handle((*service).validate, blueprint.Operation{
			ID: "catalog.validateEntity", ResponseExample: map[string]any{}, Method: http.MethodPost, Path: "/api/catalog/validate-entity", Tag: "Entities", Status: http.StatusOK,
			Summary: "Check an entity without storing it", Description: "200 without a body for an entity that could be registered; 400 with `errors`, each with `name` and `message`, for another.",
			Permission: entity.ReadPermission,
			RequestExample: map[string]any{"location": "url:https://git.example.com/shop/web/blob/main/catalog-info.yaml", "entity": map[string]any{
				"apiVersion": "backstage.io/v1alpha1", "kind": "Group", "metadata": map[string]any{"name": "shop"}, "spec": map[string]any{"type": "team", "children": []string{}}}},
		}),
		blueprint.Handle((*service).ancestry, blueprint.Operation{
			ID: "catalog.ancestry", ResponseExample: exampleAncestry, Method: http.MethodGet, Path: "/api/catalog/entities/by-name/{kind}/{namespace}/{name}/ancestry", Tag: "Entities",
			Summary: "Get the Location entities that an entity came through", Permission: entity.ReadPermission, OnObject: true, Errors: []slipway.Code{slipway.NotFound},
		}),
		blueprint.Handle((*service).putEntity, blueprint.Operation{
			ID: "catalog.putEntity", Method: http.MethodPut, Path: "/api/catalog/entities/by-name/{kind}/{namespace}/{name}", Tag: "Entities",
			Summary: "Write an entity", Description: "For entities without a file: one that a location brings is written there, and refused here with 409. 201 when it is new.",
			Permission: writeEntity, OnObject: true, Errors: []slipway.Code{slipway.Conflict},
			RequestExample: slipway.Entity{APIVersion: "backstage.io/v1alpha1", Kind: "Component", Metadata: slipway.EntityMetadata{Name: "web"},
				Spec: map[string]any{"type": "website", "lifecycle": "production", "owner": "shop"}}, ResponseExample: exampleEntity,
		}),
		blueprint.Handle((*service).deleteEntity, blueprint.Operation{
			ID: "catalog.deleteEntity", Method: http.MethodDelete, Path: "/api/catalog/entities/by-name/{kind}/{namespace}/{name}", Tag: "Entities",
			Summary: "Remove an entity that no location brings", Permission: writeEntity, OnObject: true, Errors: []slipway.Code{slipway.NotFound, slipway.Conflict},
		}),
		blueprint.Handle((*service).deleteEntityByUID, blueprint.Operation{
			ID: "catalog.deleteEntityByUid", Method: http.MethodDelete, Path: "/api/catalog/entities/by-uid/{uid}", Tag: "Entities",
			Summary: "Remove an entity by its uid", Description: "What a location brings comes back, with another uid, when the location is read again.",
			Permission: writeEntity, OnObject: true, Errors: []slipway.Code{slipway.NotFound, slipway.Conflict},
		}),
		blueprint.Handle((*service).unregister, blueprint.Operation{
			ID: "catalog.unregister", Method: http.MethodDelete, Path: "/api/catalog/locations/{id}", Tag: "Locations",
			Summary: "Remove a location", Description: "The entities that it brings go with it.",
			Permission: deleteLocation, Errors: []slipway.Code{slipway.NotFound, slipway.Conflict},
		}),
		blueprint.Handle((*service).entities, blueprint.Operation{
			ID: "catalog.entities", ResponseExample: []slipway.Entity{exampleEntity}, Method: http.MethodGet, Path: "/api/catalog/entities", Tag: "Entities",
			Columns: []string{"metadata.name", "kind", "metadata.namespace", "metadata.title", "spec.type", "spec.lifecycle", "spec.owner", "metadata.description"},
			Summary: "List entities",
			Description: "`filter` takes conditions `key=value` joined by commas, which must all hold; the same key twice means either value; a key alone means that the field is " +
				"there. `filter` may be repeated: one of them must hold. Keys are paths such as `spec.type` or `metadata.annotations.github.com/project-slug`, also " +
				"`relations.ownedBy=group:default/shop`. Case does not matter. With more entities than `limit`, the `Link` header has the next page.",
			Permission: entity.ReadPermission, OnObject: true,
		}),
		blueprint.Handle((*service).entity, blueprint.Operation{
			ID: "catalog.entity", ResponseExample: exampleEntity, Method: http.MethodGet, Path: "/api/catalog/entities/by-name/{kind}/{namespace}/{name}", Tag: "Entities",
			Summary: "Get an entity", Permission: entity.ReadPermission, OnObject: true, Errors: []slipway.Code{slipway.NotFound},
		}),
		blueprint.Handle((*service).queryEntities, blueprint.Operation{
			ID: "catalog.query", Method: http.MethodGet, Path: "/api/catalog/entities/by-query", Tag: "Entities",
			Columns: []string{"metadata.name", "kind", "metadata.namespace", "metadata.title", "spec.type", "spec.lifecycle", "spec.owner", "metadata.description"},
			Summary: "Query entities by pages",
			Description: "Filters as of `GET /api/catalog/entities`. Entities without a field of the order come last. The count is that of the first page. A cursor works with " +
				"`GET` and with `POST`.",
			Permission: entity.ReadPermission, OnObject: true, ResponseExample: exampleEntities,
		}),
		blueprint.Handle((*service).queryEntitiesBody, blueprint.Operation{
			ID: "catalog.queryByPredicate", Method: http.MethodPost, Path: "/api/catalog/entities/by-query", Tag: "Entities", Status: http.StatusOK,
			Summary:     "Query entities by a predicate",
			Description: "`query` holds `$all`, `$any`, `$not`, or fields, each with a value or one of `$exists`, `$in`, `$hasPrefix`, `$contains`. Case does not matter.",
			Permission:  entity.ReadPermission, OnObject: true,
			RequestExample:  map[string]any{"query": map[string]any{"$all": []any{map[string]any{"kind": "Component"}, map[string]any{"spec.type": map[string]any{"$in": []any{"service", "website"}}}}}, "limit": 20},
			ResponseExample: exampleEntities,
		}),
		blueprint.Handle((*service).entityByUID, blueprint.Operation{
			ID: "catalog.entityByUid", ResponseExample: exampleEntity, Method: http.MethodGet, Path: "/api/catalog/entities/by-uid/{uid}", Tag: "Entities",
			Summary: "Get an entity by its uid", Permission: entity.ReadPermission, OnObject: true, Errors: []slipway.Code{slipway.NotFound},
		}),
		blueprint.Handle((*service).entitiesByRefs, blueprint.Operation{
			ID: "catalog.entitiesByRefs", ResponseExample: map[string]any{"items": []any{exampleEntity, nil}}, Method: http.MethodPost, Path: "/api/catalog/entities/by-refs", Tag: "Entities", Status: http.StatusOK,
			Summary: "Get many entities by their refs", Description: "The answer has one item for each ref, in the same order: null where there is no such entity that the caller may read.",
			Permission: entity.ReadPermission, OnObject: true,
			RequestExample: map[string]any{"entityRefs": []string{"component:default/web", "group:default/shop"}, "fields": []string{"kind", "metadata.name"}},
		}),
		blueprint.Handle((*service).facets, blueprint.Operation{
			ID: "catalog.facets", Method: http.MethodGet, Path: "/api/catalog/entity-facets", Tag: "Entities",
			Summary: "Count the values of fields", Description: "Values that differ only in case are one.",
			Permission: entity.ReadPermission, OnObject: true, ResponseExample: exampleFacets,
		}),
		blueprint.Handle((*service).facetsBody, blueprint.Operation{
			ID: "catalog.facetsByPredicate", Method: http.MethodPost, Path: "/api/catalog/entity-facets", Tag: "Entities", Status: http.StatusOK,
			Summary: "Count the values of fields, by a predicate", Permission: entity.ReadPermission, OnObject: true,
			RequestExample: map[string]any{"facets": []string{"spec.type"}, "query": map[string]any{"kind": "Component"}}, ResponseExample: exampleFacets,
		}),
		blueprint.Handle((*service).refresh, blueprint.Operation{
			ID: "catalog.refresh", RequestExample: map[string]any{"entityRef": "component:default/web"}, Method: http.MethodPost, Path: "/api/catalog/refresh", Tag: "Entities", Status: http.StatusOK,
			Summary: "Have the location of an entity read again", Permission: refreshEntity, OnObject: true, Errors: []slipway.Code{slipway.NotFound},
		}),
	},
	Commands: []func(*blueprint.Client) *cobra.Command{commands},
	Pages:    []blueprint.Page{{Slug: "catalog", Title: "The catalog", Text: readme}},
	Open:     open,
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
