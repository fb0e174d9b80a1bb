package catalog

import (
	"cmp"
	"context"
	"encoding/json"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/resource"
	"github.com/slipway-platform/slipway/store"
)

// locationDocuments are the locations as documents of the Data API. Those that stand in the configuration are shown with origin config and cannot be written.
var locationDocuments = resource.Kind{
	Name: "locations", Text: "Addresses and files that the catalog is read from. One that is written is read at once.",
	Permissions: resource.Permissions{Read: readLocations, Create: createLocation, Update: createLocation, Delete: deleteLocation},
	Types: []resource.Type{
		{Symbol: "url", Text: "A catalog file at an address", Fields: locationFields{}},
		{Symbol: "file", Text: "A catalog file on the server, below fetch.fileRoots", Fields: locationFields{}},
	},
	Source: &resource.Source{},
}

type locationFields struct {
	Target  string   `json:"target" required:"true" doc:"Address or path" example:"https://git.example.com/shop/web/blob/main/catalog-info.yaml"`
	Origin  string   `json:"origin,omitempty" readOnly:"true" doc:"config: it stands in the configuration, and is changed there"`
	Trusted bool     `json:"trusted,omitempty" readOnly:"true" doc:"Users and groups may stand in it"`
	Status  string   `json:"status,omitempty" readOnly:"true" enum:"processing,ready,faulty,failed" doc:"processing; ready; faulty, some of it could not be used; failed, it could not be read"`
	Error   string   `json:"error,omitempty" readOnly:"true" doc:"Why it could not be read"`
	Faults  []string `json:"faults,omitempty" readOnly:"true" doc:"What is wrong in it"`
}

func (r row) document() (resource.Fixed, error) {
	d := struct {
		ID   string `json:"id"`
		Type string `json:"type"`
		locationFields
	}{r.ID, r.Type, locationFields{Target: r.Target, Trusted: r.Trusted, Status: r.Status, Error: r.Error, Faults: r.Faults}}
	if r.Origin == fromConfig {
		d.Origin = fromConfig
	}
	raw, err := json.Marshal(d)
	return resource.Fixed{ID: r.ID, Type: r.Type, Document: raw}, err
}

// placeOf reads a document.
func placeOf(document json.RawMessage) (id string, p Place, err error) {
	var d struct {
		ID string `json:"id"`
		Place
	}
	err = json.Unmarshal(document, &d)
	return d.ID, d.Place, err
}

func (s *service) locationKind(k resource.Kind) resource.Kind {
	k.Check = func(ctx context.Context, document json.RawMessage) []slipway.Detail {
		id, p, err := placeOf(document)
		if err == nil {
			err = s.readable(p)
		}
		if err != nil {
			return []slipway.Detail{{Field: "/target", Code: slipway.Invalid, Message: reason(err)}}
		}
		if known, err := findLocation(ctx, s.db, p); err == nil && known.ID != id {
			return []slipway.Detail{{Field: "/target", Code: slipway.Conflict, Message: "is registered already, as " + known.ID}}
		}
		return nil
	}
	k.Source = &resource.Source{
		Get: func(ctx context.Context, id string) (resource.Fixed, error) {
			l, err := s.byID(ctx, id)
			if err != nil {
				return resource.Fixed{}, err
			}
			return l.document()
		},
		List: func(ctx context.Context, q resource.SourceQuery) (list []resource.Fixed, err error) {
			found, err := listLocations(ctx, s.db, `status <> 'removing' AND id > $1 ORDER BY id LIMIT $2`, q.After, q.Limit)
			for _, l := range found {
				d, err := l.document()
				if err != nil {
					return nil, err
				}
				list = append(list, d)
			}
			return list, err
		},
		Write: s.writeLocation,
	}
	return k
}

// writeLocation registers a location, gives it another target, or removes it, in the transaction that makes all changes of a call.
func (s *service) writeLocation(ctx context.Context, tx *store.Tx, c resource.SourceChange) (string, error) {
	var was row
	if c.Before != nil {
		var err error
		if was, err = getLocation(ctx, tx, c.ID); err != nil {
			return "", err
		}
		if was.Origin == fromConfig {
			return "", slipway.Errorf(slipway.Conflict, "the location %s stands in the configuration, under catalog.locations; change it there and restart", c.ID)
		}
		if _, p, err := placeOf(c.Before); err != nil || p != was.Place {
			return "", cmp.Or(err, resource.ErrRaced)
		}
	}
	if c.After == nil {
		return "", s.removeIn(ctx, tx, c.ID)
	}
	_, p, err := placeOf(c.After)
	if err != nil {
		return "", err
	}
	if c.Before != nil {
		err = s.move(ctx, tx, was, p)
	} else {
		l := s.newRow(p, fromAPI)
		l.ID, l.Trusted = c.ID, trusted(ctx)
		if err = s.enter(ctx, tx, l); err == nil {
			err = s.haveRead(ctx, tx, c.ID)
		}
	}
	if slipway.CodeOf(err) == slipway.Conflict {
		err = slipway.Errorf(slipway.Conflict, "there is a location %s, or one with its target, already, or it is just being removed", c.ID).WithCause(err)
	}
	return "", err
}
