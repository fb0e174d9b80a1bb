package catalog

import (
	"context"
	"net/http"
	"strings"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/auth"
	"github.com/slipway-platform/slipway/blueprint"
	"github.com/slipway-platform/slipway/entity"
	"github.com/slipway-platform/slipway/store"
)

// written is the source of entities that were written over the API.
const written = "api"

type putInput struct {
	Kind      string `path:"kind" doc:"Kind" example:"component"`
	Namespace string `path:"namespace" doc:"Namespace" example:"default"`
	Name      string `path:"name" doc:"Name" example:"web"`
	Body      map[string]any
}

type putOutput struct {
	Status int
	Body   blueprint.Raw[slipway.Entity]
}

func (s *service) putEntity(ctx context.Context, in *putInput) (*putOutput, error) {
	doc := in.Body
	delete(doc, "relations") // what GET answered may be sent back
	delete(doc, "status")
	e, ref, err := checked(doc, s.kinds)
	if err != nil {
		return nil, slipway.Errorf(slipway.Invalid, "%s", err)
	}
	at := slipway.EntityRef{Kind: in.Kind, Namespace: in.Namespace, Name: in.Name}.Lower()
	if at != ref {
		return nil, slipway.Errorf(slipway.Invalid, "the entity is %s, the address says %s; they must be the same", ref, at)
	}
	if strings.EqualFold(e.Kind, "Location") {
		return nil, slipway.Errorf(slipway.Invalid, "a Location written here would lead nowhere; register its target with POST /api/catalog/locations")
	}
	for _, key := range []string{annotationLocation, annotationOrigin, entity.OrphanAnnotation} {
		delete(e.Metadata.Annotations, key)
	}
	e.Metadata.Namespace = e.Ref().Namespace
	if err := auth.Require(ctx, writeEntity, auth.Object{Ref: ref.String(), Owner: e.Owner()}); err != nil {
		return nil, err
	}
	if !s.kindsOf(trusted(ctx))[ref.Kind] { // users and groups decide who holds which rights
		return nil, auth.Require(ctx, trustLocation, auth.Object{})
	}
	status := http.StatusCreated
	old, err := s.Entities.Get(ctx, s.db, auth.System(), ref)
	switch {
	case err == nil:
		if err := auth.Require(ctx, writeEntity, auth.Object{Ref: ref.String(), Owner: old.Owner}); err != nil {
			return nil, err
		}
		status = http.StatusOK
	case slipway.CodeOf(err) != slipway.NotFound:
		return nil, err
	}
	err = s.db.Write(ctx, func(tx *store.Tx) error {
		result, err := s.Entities.Put(ctx, tx, written, []*slipway.Entity{e})
		if err == nil && len(result.Conflicts) > 0 {
			return s.owned(ctx, result.Conflicts[0].Source)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	r, err := s.Entities.Get(ctx, s.db, auth.System(), ref)
	return &putOutput{Status: status, Body: blueprint.Raw[slipway.Entity]{JSON: r.JSON}}, err
}

// owned is the answer to one who would write what something else brings.
func (s *service) owned(ctx context.Context, source string) error {
	return slipway.Errorf(slipway.Conflict, "this entity is brought by %s; change it there", s.describeSource(ctx, source))
}

func (s *service) deleteEntity(ctx context.Context, in *entityInput) (*struct{}, error) {
	ref := slipway.EntityRef{Kind: in.Kind, Namespace: in.Namespace, Name: in.Name}
	none := slipway.Errorf(slipway.NotFound, "there is no entity %s that you may read", clip(ref.String()))
	if ref.Validate() != nil {
		if err := auth.RequireAny(ctx, writeEntity); err != nil {
			return nil, err
		}
		return nil, none
	}
	r, err := s.writable(ctx, func(c *slipway.Caller) (entity.Row, error) { return s.Entities.Get(ctx, s.db, c, ref) })
	if err != nil {
		return nil, err
	}
	if r.Source != written && !r.Orphan {
		return nil, s.owned(ctx, r.Source)
	}
	return s.removeEntity(ctx, r)
}

// deleteEntityByUID also removes what a location brings, as Backstage does: it comes back, with another uid, when the location is read again.
func (s *service) deleteEntityByUID(ctx context.Context, in *uidInput) (*struct{}, error) {
	r, err := s.writable(ctx, func(c *slipway.Caller) (entity.Row, error) { return s.byUID(ctx, c, in.UID) })
	if err != nil {
		return nil, err
	}
	if r.Source != written && !r.Orphan && !strings.HasPrefix(r.Source, "location:") {
		return nil, s.owned(ctx, r.Source)
	}
	return s.removeEntity(ctx, r)
}

// writable finds an entity that the caller may read and write.
func (s *service) writable(ctx context.Context, find func(*slipway.Caller) (entity.Row, error)) (entity.Row, error) {
	r, err := find(auth.CallerFrom(ctx))
	if err != nil {
		return r, err
	}
	return r, auth.Require(ctx, writeEntity, auth.Object{Ref: r.Ref.String(), Owner: r.Owner})
}

func (s *service) removeEntity(ctx context.Context, r entity.Row) (*struct{}, error) {
	return &struct{}{}, s.db.Write(ctx, func(tx *store.Tx) error {
		if id, ok := strings.CutPrefix(r.Source, "location:"); ok && !r.Orphan {
			if err := forgetDigests(ctx, tx, id); err != nil {
				return err
			}
		}
		_, err := s.Entities.Remove(ctx, tx, r.Source, []slipway.EntityRef{r.Ref})
		return err
	})
}
