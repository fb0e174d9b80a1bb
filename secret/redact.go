package secret

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
)

const (
	minSecret = 6           // bytes; hiding shorter ones would make text unreadable and hide little
	maxLine   = 64 << 10    // bytes of an unfinished line that a writer holds back
	overlap   = maxLine / 4 // bytes of it that stay held back when it grows longer
)

// Redactor replaces secrets in text by "<redacted>": those it was told with Add, wherever they stand,
// also in their JSON, URL and base64 forms; and what looks like one: Authorization and cookie headers,
// bearer tokens, credentials in a URL's query or user part, assignments such as PASSWORD=…, members of JSON such as
// "password": "…", JSON Web Tokens, and the tokens of Slipway, GitHub and GitLab. A Redactor may be used by many goroutines at
// once. The zero Redactor is ready and knows the patterns only.
type Redactor struct {
	mu    sync.Mutex
	known map[string]bool
	state atomic.Pointer[known]
}

// known is what a Redactor was told, ready for use.
type known struct {
	forms    []string // longest first
	replacer *strings.Replacer
}

// Add makes secrets known. Of a secret with several lines each line is hidden, as logs are made of lines.
// Secrets and lines shorter than 6 bytes are not hidden: that would blot out ordinary words.
func (r *Redactor) Add(secrets ...string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	before := len(r.known)
	for _, s := range secrets {
		for line := range strings.Lines(s) {
			r.add(strings.TrimSpace(line))
		}
	}
	if len(r.known) == before {
		return
	}
	forms := make([]string, 0, len(r.known))
	for form := range r.known {
		forms = append(forms, form)
	}
	// The longest first, so that a secret that contains another is hidden whole.
	slices.SortFunc(forms, func(a, b string) int { return cmp.Or(len(b)-len(a), strings.Compare(a, b)) })
	pairs := make([]string, 0, 2*len(forms))
	for _, form := range forms {
		pairs = append(pairs, form, Redacted)
	}
	r.state.Store(&known{forms: forms, replacer: strings.NewReplacer(pairs...)})
}

func (r *Redactor) add(s string) {
	if len(s) < minSecret {
		return
	}
	if r.known == nil {
		r.known = map[string]bool{}
	}
	quoted, _ := json.Marshal(s) // strings always encode
	for _, form := range []string{
		s,
		string(quoted[1 : len(quoted)-1]),
		url.QueryEscape(s),
		url.PathEscape(s),
		base64.RawStdEncoding.EncodeToString([]byte(s)), // a prefix of the padded one
		base64.RawURLEncoding.EncodeToString([]byte(s)),
	} {
		r.known[form] = true
	}
}

// Redact returns s with the secrets replaced.
func (r *Redactor) Redact(s string) string {
	if k := r.state.Load(); k != nil {
		s = k.replacer.Replace(s)
	}
	for _, p := range patterns {
		if p.near(s) {
			s = p.expr.ReplaceAllString(s, p.with)
		}
	}
	return s
}

// pattern is a way in which secrets show themselves. Text without one of the words is passed over, which
// makes ordinary log lines cheap.
type pattern struct {
	words []string // lower case
	expr  *regexp.Regexp
	with  string
}

func (p pattern) near(s string) bool {
	for _, word := range p.words {
		if containsFold(s, word) {
			return true
		}
	}
	return false
}

// containsFold is strings.Contains without regard to the case of ASCII letters; word is lower case.
func containsFold(s, word string) bool {
	low, up := word[0], word[0]
	if 'a' <= low && low <= 'z' {
		up -= 'a' - 'A'
	}
	for i := 0; i+len(word) <= len(s); i++ {
		if (s[i] == low || s[i] == up) && strings.EqualFold(s[i:i+len(word)], word) {
			return true
		}
	}
	return false
}

// secretNames are the ends of the names that secrets have in JSON.
const secretNames = `(?:token|api_?key|access_?key|private_?key|secret|password|passwd|passphrase|device_?code)`

var patterns = []pattern{
	{ // header lines, also as JSON and as Go and Python maps print them
		words: []string{"authorization", "-token", "api-key"},
		expr: regexp.MustCompile(`(?i)\b((?:proxy-)?authorization|x-api-key|(?:private|job|deploy|x-[a-z]+)-token)` +
			`(["']?\s*[:=]\s*[\["']*(?:(?:bearer|basic|token|digest|negotiate)\s+)?)[^\s"',\]\\]+`),
		with: "${1}${2}" + Redacted,
	},
	{ // several in one header, with commas or semicolons between
		words: []string{"cookie", "provider-token"},
		expr:  regexp.MustCompile(`(?i)\b((?:(?:set-)?cookie|slipway-provider-token)["']?\s*[:=]\s*[\["']*)[^\r\n"'\]]+`),
		with:  "${1}" + Redacted,
	},
	{ // members of JSON, the second also where it stands in a text of JSON; the length spares words
		words: []string{`":`, `" :`},
		expr:  regexp.MustCompile(`(?i)(` + secretNames + `"\s*:\s*")(?:[^"\\]|\\.){6,}`),
		with:  "${1}" + Redacted,
	},
	{
		words: []string{`\":`, `\" :`},
		expr:  regexp.MustCompile(`(?i)(` + secretNames + `\\+"\s*:\s*\\+")(?:[^"\\]|\\+[^"\\]){6,}`),
		with:  "${1}" + Redacted,
	},
	{ // a bearer token without its header's name; the length spares the word "bearer" in prose
		words: []string{"bearer "},
		expr:  regexp.MustCompile(`(?i)\b(bearer\s+)[a-z0-9._~+/=-]{16,}`),
		with:  "${1}" + Redacted,
	},
	{ // queries, forms and NAME=value
		words: []string{"token=", "key=", "secret=", "password=", "passwd=", "signature=", "sig=", "code="},
		expr: regexp.MustCompile(`(?i)(\b(?:[a-z0-9]+[_-])*(?:token|api_?key|access_?key|private_?key|secret|secret_?key|password|passwd|signature)|[?&](?:code|key|sig))` +
			`=(["']?)[^\s&"'#;]+`),
		with: "${1}=${2}" + Redacted,
	},
	{ // the user part of a URL; GitHub takes a token as the user, so that all of it goes
		words: []string{"://"},
		expr:  regexp.MustCompile(`([A-Za-z][A-Za-z0-9+.-]*://)[^/?#\s"']+@`),
		with:  "${1}" + Redacted + "@",
	},
	{ // tokens that their makers gave a shape
		words: []string{"slp_", "sls_", "slr_", "sld_", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_", "glpat-", "eyj"},
		expr: regexp.MustCompile(`\b(?:sl[prsd]_[A-Za-z0-9_-]{6,}|gh[pousr]_[A-Za-z0-9]{16,}|github_pat_[A-Za-z0-9_]{16,}|glpat-[A-Za-z0-9_.-]{16,}|` +
			`eyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{4,}\.[A-Za-z0-9_-]*)`),
		with: Redacted,
	},
}

// Writer returns a writer that passes on what is written to it, redacted, to w. It passes on whole
// lines, so that a secret that comes in pieces is seen; a line end is \n or \r. Of an unfinished line it
// passes on parts once it is longer than 64 KiB, and Close passes on the rest; Close does not close w.
// A count of bytes is that of the input. The writer may be used by many goroutines at once.
func (r *Redactor) Writer(w io.Writer) io.WriteCloser { return &writer{r: r, w: w} }

type writer struct {
	r    *Redactor
	w    io.Writer
	mu   sync.Mutex
	held []byte
}

func (w *writer) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	end := bytes.LastIndexAny(p, "\r\n") + 1
	if end > 0 {
		end += len(w.held)
	}
	w.held = append(w.held, p...)
	if len(w.held)-end > maxLine {
		end = w.r.cut(w.held, len(w.held)-overlap)
	}
	if err := w.pass(end); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (w *writer) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.pass(len(w.held))
}

func (w *writer) pass(n int) error {
	if n == 0 {
		return nil
	}
	_, err := io.WriteString(w.w, w.r.Redact(string(w.held[:n])))
	w.held = append(w.held[:0], w.held[n:]...)
	return err
}

// cut finds a place at or a little before end where no secret is cut in two: between two words if there
// is such a place in reach, and never within a known secret.
func (r *Redactor) cut(text []byte, end int) int {
	if space := bytes.LastIndexAny(text[max(0, end-overlap):end], " \t"); space >= 0 {
		end = max(0, end-overlap) + space + 1
	}
	k := r.state.Load()
	if k == nil || len(k.forms) == 0 {
		return end
	}
	for {
		moved := false
		for _, form := range k.forms {
			from := max(0, end-len(form)+1)
			to := min(len(text), end+len(form)-1)
			if i := bytes.Index(text[from:to], []byte(form)); i >= 0 {
				end, moved = from+i, true
			}
		}
		if !moved || end <= 0 {
			return max(end, 0)
		}
	}
}

// Handler returns a slog handler that redacts what it hands on to next: the message, and every attribute
// whose text holds a secret or whose key names one ("password", "authorization" …). Attributes given to With are
// redacted with what is known at that time.
func Handler(next slog.Handler, r *Redactor) slog.Handler { return handler{next, r} }

type handler struct {
	next slog.Handler
	r    *Redactor
}

func (h handler) Enabled(ctx context.Context, level slog.Level) bool {
	return h.next.Enabled(ctx, level)
}

func (h handler) Handle(ctx context.Context, record slog.Record) error {
	clean := slog.NewRecord(record.Time, record.Level, h.r.Redact(record.Message), record.PC)
	record.Attrs(func(a slog.Attr) bool {
		clean.AddAttrs(h.r.attr(a))
		return true
	})
	return h.next.Handle(ctx, clean)
}

func (h handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return handler{h.next.WithAttrs(h.r.attrs(attrs)), h.r}
}

func (h handler) WithGroup(name string) slog.Handler { return handler{h.next.WithGroup(name), h.r} }

func (r *Redactor) attrs(attrs []slog.Attr) []slog.Attr {
	clean := make([]slog.Attr, len(attrs))
	for i, a := range attrs {
		clean[i] = r.attr(a)
	}
	return clean
}

// secretKeys are attribute keys whose values are secrets whatever they look like.
var secretKeys = []string{"password", "passwd", "secret", "authorization", "cookie", "apikey", "privatekey"}

func (r *Redactor) attr(a slog.Attr) slog.Attr {
	a.Value = a.Value.Resolve()
	switch a.Value.Kind() {
	case slog.KindGroup:
		return slog.Attr{Key: a.Key, Value: slog.GroupValue(r.attrs(a.Value.Group())...)}
	case slog.KindString:
		if a.Value.String() != "" && slices.Contains(secretKeys, strings.ToLower(a.Key)) {
			return slog.String(a.Key, Redacted)
		}
		return slog.String(a.Key, r.Redact(a.Value.String()))
	case slog.KindAny:
		v := a.Value.Any()
		if err, ok := v.(error); ok {
			return slog.String(a.Key, r.Redact(fmt.Sprint(err))) // Sprint survives a nil *T
		}
		// A handler prints such a value as JSON or with %+v. It keeps its shape unless one of the two
		// would show a secret.
		text := fmt.Sprintf("%+v", v)
		clean := r.Redact(text)
		if encoded, err := json.Marshal(v); err == nil && clean == text {
			text, clean = string(encoded), r.Redact(string(encoded))
		}
		if clean != text {
			return slog.String(a.Key, clean)
		}
	}
	return a
}
