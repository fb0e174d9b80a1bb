package server

import (
	"bytes"
	"compress/gzip"
	"context"
	"net/http"
	"strconv"
	"strings"
	"sync"

	"github.com/cespare/xxhash/v2"
)

// maxBuffered is how much of an answer is held back for its ETag and compression; what is longer is sent as it comes, without an ETag.
const maxBuffered = 1 << 20

// minCompressed is the size below which compression costs more than it saves.
const minCompressed = 1400

// response holds an answer back until it is whole, so that it can get an ETag, become a 304 or a 500, and be compressed. Streams and very
// long answers pass through.
type response struct {
	http.ResponseWriter
	request *http.Request
	ctx     context.Context // of the operation; streams write under it
	status  int
	body    bytes.Buffer
	passing bool  // headers are sent
	private bool  // no ETag, no store: it holds a secret
	sent    int64 // bytes of the body, uncompressed

	leave func()                                                   // gives up the place to work, when the caller begins to get the answer; nil: there is none
	page  func(status int, header http.Header, body []byte) []byte // makes a page of a JSON answer for a browser; nil: JSON is wanted
}

var responses = sync.Pool{New: func() any { return new(response) }}

func newResponse(w http.ResponseWriter, r *http.Request) *response {
	rw := responses.Get().(*response)
	rw.ResponseWriter, rw.request, rw.ctx = w, r, r.Context()
	return rw
}

func (w *response) release() {
	if w.body.Cap() > maxBuffered {
		return
	}
	body := w.body
	body.Reset()
	*w = response{body: body}
	responses.Put(w)
}

func (w *response) WriteHeader(status int) {
	if w.status == 0 {
		w.status = status
	}
}

func (w *response) Write(p []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	w.sent += int64(len(p))
	if !w.passing && w.body.Len()+len(p) <= maxBuffered {
		return w.body.Write(p)
	}
	if err := w.pass(); err != nil {
		return 0, err
	}
	return w.ResponseWriter.Write(p)
}

// pass sends the headers and what was held back; from here on everything goes straight to the caller.
func (w *response) pass() error {
	if w.passing {
		return nil
	}
	w.passing = true
	if w.leave != nil {
		w.leave() // from here on it depends on how fast the caller reads
	}
	if w.status == 0 {
		w.status = http.StatusOK
	}
	w.ResponseWriter.WriteHeader(w.status)
	_, err := w.ResponseWriter.Write(w.body.Bytes())
	w.body.Reset()
	return err
}

// Flush sends what there is now: the answer is a stream.
func (w *response) Flush() {
	if w.pass() == nil {
		_ = http.NewResponseController(w.ResponseWriter).Flush()
	}
}

// Unwrap lets http.ResponseController reach the connection.
func (w *response) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// discard forgets an answer that was not sent yet. It says whether that was still possible.
func (w *response) discard() bool {
	if w.passing {
		return false
	}
	w.body.Reset()
	w.status = 0
	w.sent = 0
	return true
}

// finish sends the answer that was held back.
func (w *response) finish() {
	if w.passing {
		return
	}
	if w.status == 0 {
		w.status = http.StatusOK
	}
	h := w.Header()
	body := w.body.Bytes()
	read := w.request.Method == http.MethodGet || w.request.Method == http.MethodHead
	if w.page != nil && (w.status == http.StatusOK || w.status >= 400) && strings.HasPrefix(h.Get("Content-Type"), "application/json") {
		if page := w.page(w.status, h, body); page != nil {
			body = page
			setHTML(h, strictPolicy)
			h.Del("ETag") // that of the JSON
			h.Del("Content-Length")
		}
	}
	if read && w.status == http.StatusOK && !w.private {
		tag := h.Get("ETag")
		if tag == "" {
			tag = `W/"` + strconv.FormatUint(xxhash.Sum64(body), 36) + `"` // tells versions of one answer apart; nothing hangs on it
			h.Set("ETag", tag)
		}
		if h.Get("Cache-Control") == "" {
			h.Set("Cache-Control", "private, no-cache") // keep, but ask each time
		}
		if matches(w.request.Header.Get("If-None-Match"), tag) {
			h.Del("Content-Type")
			h.Del("Content-Length")
			w.status = http.StatusNotModified
			w.ResponseWriter.WriteHeader(w.status)
			w.passing = true
			return
		}
	} else if h.Get("Cache-Control") == "" {
		h.Set("Cache-Control", "no-store")
	}
	w.passing = true
	if len(body) >= minCompressed && h.Get("Content-Encoding") == "" && acceptsGzip(w.request.Header.Get("Accept-Encoding")) && compressible(h.Get("Content-Type")) {
		h.Add("Vary", "Accept-Encoding")
		h.Set("Content-Encoding", "gzip")
		h.Del("Content-Length")
		w.ResponseWriter.WriteHeader(w.status)
		z := gzips.Get().(*gzip.Writer)
		z.Reset(w.ResponseWriter)
		_, _ = z.Write(body) // the caller went away: nobody is left to tell
		_ = z.Close()
		gzips.Put(z)
		return
	}
	if bodyAllowed(w.status) && (w.request.Method != http.MethodHead || len(body) > 0) { // some write nothing when asked for the header only
		h.Set("Content-Length", strconv.Itoa(len(body)))
	}
	w.ResponseWriter.WriteHeader(w.status)
	if len(body) > 0 {
		_, _ = w.ResponseWriter.Write(body)
	}
}

var gzips = sync.Pool{New: func() any {
	z, _ := gzip.NewWriterLevel(nil, gzip.BestSpeed)
	return z
}}

func bodyAllowed(status int) bool {
	return status >= 200 && status != http.StatusNoContent && status != http.StatusNotModified
}

// matches says whether an If-None-Match header names the tag; weak comparison, RFC 9110 section 8.8.3.2.
func matches(header, tag string) bool {
	if header == "" {
		return false
	}
	for part := range strings.SplitSeq(header, ",") {
		part = strings.TrimSpace(part)
		if part == "*" || strings.TrimPrefix(part, "W/") == strings.TrimPrefix(tag, "W/") {
			return true
		}
	}
	return false
}

func acceptsGzip(header string) bool {
	for part := range strings.SplitSeq(header, ",") {
		name, params, _ := strings.Cut(strings.TrimSpace(part), ";")
		if name == "gzip" || name == "*" {
			q := strings.TrimSpace(params)
			return q != "q=0" && !strings.HasPrefix(q, "q=0.0")
		}
	}
	return false
}

func compressible(contentType string) bool {
	return strings.HasPrefix(contentType, "application/json") || strings.HasPrefix(contentType, "text/") ||
		strings.HasPrefix(contentType, "application/yaml") || strings.HasPrefix(contentType, "application/vnd.oai.openapi")
}
