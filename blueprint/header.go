package blueprint

import (
	"net/http"

	"github.com/danielgtaylor/huma/v2"
)

// Headers is a field of an input that holds all headers of the request, for what only a third party knows the names of: webhooks, proxies. What
// can be named is a field with a header tag.
type Headers struct{ http.Header }

// Resolve fills it in. It is called by the server.
func (h *Headers) Resolve(ctx huma.Context) []error {
	h.Header = http.Header{}
	ctx.EachHeader(func(name, value string) { h.Add(name, value) })
	return nil
}
