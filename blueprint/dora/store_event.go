package dora

import (
	"context"
	"database/sql"

	"github.com/slipway-platform/slipway/store"
)

// owner is the entity whose readers are told of a service.
type owner struct {
	id  int64
	ref string
}

// entitiesOf gives, of each service that belongs to entities, the one of its name, else the first.
func entitiesOf(ctx context.Context, q store.Querier, services []int64) (map[int64]owner, error) {
	rows, err := q.QueryContext(ctx, `SELECT x.service_id, e.id, e.ref FROM (
			SELECT b.service_id, COALESCE(MIN(CASE WHEN e.name = s.name THEN e.id END), MIN(e.id)) AS entity_id
			FROM dora_binding b JOIN dora_service s ON s.id = b.service_id JOIN entity e ON e.id = b.entity_id
			WHERE b.service_id IN `+tuples(1, 1, len(services))+` GROUP BY b.service_id) x
		JOIN entity e ON e.id = x.entity_id`, anys(services)...)
	if err != nil {
		return nil, store.Err(err)
	}
	owners := map[int64]owner{}
	return owners, store.Each(rows, func(rows *sql.Rows) error {
		var service int64
		var o owner
		err := rows.Scan(&service, &o.id, &o.ref)
		owners[service] = o
		return err
	})
}
