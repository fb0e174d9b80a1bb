package client

import (
	"context"
	"net/http"
	"net/url"
	"strconv"

	"github.com/slipway-platform/slipway"
)

// Location is a place that entities are read from.
type Location struct {
	ID     string `json:"id"`
	Type   string `json:"type"` // "url" or "file"
	Target string `json:"target"`
}

// Registered is the answer to a registration.
type Registered struct {
	LocationID string           `json:"locationId"`
	Type       string           `json:"type"`
	Target     string           `json:"target"`
	Status     string           `json:"status"`
	Location   Location         `json:"location"`
	Entities   []slipway.Entity `json:"entities"` // what was read within the request
}

// RegisterLocation makes the catalog read a place ("url" or "file") now and from time to time; a dry
// run only tells what it would read.
func (c *Client) RegisterLocation(ctx context.Context, kind, target string, dryRun bool) (Registered, error) {
	path := "/api/catalog/locations"
	if dryRun {
		path += "?dryRun=true"
	}
	return post[Registered](ctx, c, path, map[string]string{"type": kind, "target": target})
}

// DeleteLocation makes the catalog forget a place.
func (c *Client) DeleteLocation(ctx context.Context, id string) error {
	return c.Do(ctx, http.MethodDelete, "/api/catalog/locations/"+url.PathEscape(id), nil, nil)
}

// Entities lists entities that fit any of the filters, each of the form "kind=component,spec.type=service";
// none gives all. At most limit, from offset on; 0: the server's default.
func (c *Client) Entities(ctx context.Context, limit, offset int, filters ...string) ([]slipway.Entity, error) {
	v := url.Values{"filter": filters}
	if limit > 0 {
		v.Set("limit", strconv.Itoa(limit))
	}
	if offset > 0 {
		v.Set("offset", strconv.Itoa(offset))
	}
	return get[[]slipway.Entity](ctx, c, withQuery("/api/catalog/entities", v))
}

// Entity reads one entity.
func (c *Client) Entity(ctx context.Context, ref slipway.EntityRef) (slipway.Entity, error) {
	path := "/api/catalog/entities/by-name/" + url.PathEscape(ref.Kind) + "/" + url.PathEscape(ref.Namespace) + "/" + url.PathEscape(ref.Name)
	return get[slipway.Entity](ctx, c, path)
}
