package workspace

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/fetch"
)

const (
	keptDocuments = 100         // devfiles in memory
	keptFor       = time.Minute // without asking whether a devfile has changed
)

// documents are devfiles that were read, by address: asked for again, only what has changed is read. Safe for concurrent use; its zero value is ready.
type documents struct {
	mu    sync.Mutex
	byURL map[string]kept
}

// kept is a devfile that was read.
type kept struct {
	etag, modified string
	devfile        *devfile
	at             time.Time
}

// editor is what a workspace is worked on with.
type editor struct {
	id, name string
	template map[string]any
}

// devfile reads a devfile through the guarded client. Its errors are in the words of the API.
func (d *documents) devfile(ctx context.Context, s *service, url string) (*devfile, error) {
	if err := s.allowed(url); err != nil {
		return nil, err
	}
	return d.read(ctx, s, url)
}

// allowed says whether a devfile may be read from an address, as far as can be said without asking.
func (s *service) allowed(url string) error {
	bad := func(text string) error {
		return slipway.Errorf(slipway.Invalid, "Invalid devfileUrl: %s", text).WithDetails(slipway.Detail{Field: "devfileUrl", Code: slipway.Invalid, Message: text})
	}
	switch {
	case url == "":
		return bad("it is required; write the https address of a devfile")
	case len(url) > 2000:
		return bad("it is longer than 2000 bytes")
	case !strings.HasPrefix(strings.ToLower(url), "https://"):
		return bad("URL must be HTTPS")
	case strings.ContainsFunc(url, func(r rune) bool { return r <= ' ' || r == 0x7f }):
		return bad("it has a space or a line break in it")
	}
	for _, pattern := range s.config.Devfiles {
		if fetch.Glob(pattern, url) {
			if err := s.fetch.CheckURL(url); err != nil {
				return bad(messageOf(err))
			}
			return nil
		}
	}
	return bad("devfiles from this address are not allowed here; allowed are " + strings.Join(s.config.Devfiles, ", "))
}

func messageOf(err error) string {
	if e, ok := errors.AsType[*slipway.Error](err); ok {
		return e.Message
	}
	return "it cannot be read"
}

func (d *documents) read(ctx context.Context, s *service, url string) (*devfile, error) {
	d.mu.Lock()
	known, ok := d.byURL[url]
	d.mu.Unlock()
	if ok && s.now().Sub(known.at) < keptFor && !s.now().Before(known.at) {
		return known.devfile, nil
	}
	res, err := s.fetch.Get(ctx, url, fetch.Options{Accept: "application/yaml, text/yaml, text/plain, */*", ETag: known.etag, LastModified: known.modified, MaxBytes: maxDevfile})
	switch {
	case errors.Is(err, slipway.NotFound), errors.Is(err, slipway.TooLarge), errors.Is(err, slipway.Invalid):
		text := messageOf(err)
		return nil, slipway.Errorf(slipway.Invalid, "Invalid devfileUrl: %s", text).WithCause(err).WithDetails(slipway.Detail{Field: "devfileUrl", Code: slipway.Invalid, Message: text})
	case err != nil:
		return nil, err
	}
	fresh := known
	fresh.at = s.now()
	if !res.NotModified {
		if res.FinalURL != "" && res.FinalURL != url { // where a redirect led to must be allowed too
			if err := s.allowed(res.FinalURL); err != nil {
				return nil, slipway.Errorf(slipway.Invalid, "Invalid devfileUrl: it leads to an address from which devfiles are not allowed").WithCause(err).
					WithDetails(slipway.Detail{Field: "devfileUrl", Code: slipway.Invalid, Message: "leads to an address that is not allowed"})
			}
		}
		parsed, err := parseDevfile(res.Body)
		if err != nil {
			return nil, err
		}
		fresh.devfile, fresh.etag, fresh.modified = parsed, res.ETag, res.LastModified
	}
	d.keep(url, fresh)
	return fresh.devfile, nil
}

func (d *documents) keep(url string, k kept) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.byURL == nil {
		d.byURL = map[string]kept{}
	}
	for oldest := ""; len(d.byURL) >= keptDocuments; oldest = "" {
		for u, k := range d.byURL {
			if oldest == "" || k.at.Before(d.byURL[oldest].at) {
				oldest = u
			}
		}
		delete(d.byURL, oldest)
	}
	d.byURL[url] = k
}

// editor reads the definition of the configured editor; nil where there is none.
func (d *documents) editor(ctx context.Context, s *service) (*editor, error) {
	source := s.config.Editor
	if source == "" {
		return nil, nil
	}
	var parsed *devfile
	var err error
	if strings.HasPrefix(source, "https://") {
		parsed, err = d.read(ctx, s, source)
	} else {
		var data []byte
		if data, err = os.ReadFile(source); err == nil {
			parsed, err = parseDevfile(data)
		}
	}
	if err != nil {
		return nil, slipway.Errorf(slipway.Unavailable, "the editor of workspaces cannot be read; an operator has to look at workspaces.editor").WithCause(fmt.Errorf("editor %s: %w", source, err))
	}
	e := &editor{name: "editor", id: source, template: maps.Clone(parsed.template)}
	if name, _ := safeName(parsed.name); name != "" {
		e.name = trimName(name, 30)
		e.id = parsed.name
	}
	return e, nil
}

// with adds a container with an image to a devfile.
func (d *devfile) with(image string) *devfile {
	out := *d
	out.template = maps.Clone(d.template)
	list, _ := out.template["components"].([]any)
	name := "universal-developer-image"
	for _, c := range items(list) {
		if c["name"] == name {
			return d
		}
	}
	out.template["components"] = append(append([]any{}, list...), map[string]any{"name": name, "container": map[string]any{"image": image}})
	return &out
}
