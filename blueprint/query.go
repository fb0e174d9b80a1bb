package blueprint

import (
	"net/url"

	"github.com/danielgtaylor/huma/v2"
)

// Query is a field of an input that holds the query as it was sent, to tell a parameter that is empty from one that is absent. What a parameter means is
// a field with a query tag.
type Query struct{ url.Values }

// Resolve fills it in. It is called by the server.
func (q *Query) Resolve(ctx huma.Context) []error {
	u := ctx.URL()
	q.Values = u.Query()
	return nil
}
