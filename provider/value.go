package provider

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/slipway-platform/slipway"
)

// Time is a time in a vendor's JSON: RFC 3339, or seconds since 1970. What a vendor writes where nothing happened (null, "", 0, the years 1 and 1970), and what is no
// time at all, is the zero Time, and never fails the answer it stands in.
type Time struct{ time.Time }

// UnmarshalJSON reads a time.
func (t *Time) UnmarshalJSON(b []byte) error {
	t.Time = time.Time{}
	var at time.Time
	var text string
	if json.Unmarshal(b, &text) == nil {
		at, _ = time.Parse(time.RFC3339, text)
	} else if seconds, err := strconv.ParseInt(string(b), 10, 64); err == nil {
		at = time.Unix(seconds, 0)
	}
	if at.Year() > 1971 && at.Year() < 10000 {
		t.Time = at.UTC().Truncate(time.Microsecond)
	}
	return nil
}

// Ptr is nil for the zero Time.
func (t Time) Ptr() *time.Time {
	if t.IsZero() {
		return nil
	}
	at := t.Time
	return &at
}

// Unmarshal is json.Unmarshal, except that a member whose type is not what out wants is treated as absent, so that a vendor that changes one member does not break the others.
// If the whole value has another type, that is an error. Text that would take far more memory than its size, such as millions of empty lists, is TooLarge.
func Unmarshal(b []byte, out any) error {
	if crowded(b) {
		return slipway.Errorf(slipway.TooLarge, "there are more than %d elements of lists, or %d members of objects, in it", maxElements, maxMembers)
	}
	err := json.Unmarshal(b, out)
	if t, ok := errors.AsType[*json.UnmarshalTypeError](err); ok && t.Field != "" {
		return nil
	}
	return err
}

// What one answer may hold. A page of a hundred builds has some thousand of either.
const (
	maxElements = 200_000
	maxMembers  = 1_000_000
)

// crowded counts what stands in JSON, well-formed or not.
func crowded(b []byte) bool {
	if len(b) < 2*maxElements { // an element takes two bytes
		return false
	}
	const deepest = 10_000 // package json goes no deeper
	lists := make([]bool, 1, 64)
	elements, members := 0, 0
	for i := 0; i < len(b); i++ {
		switch b[i] {
		case '"':
			for i++; i < len(b) && b[i] != '"'; i++ {
				if b[i] == '\\' {
					i++
				}
			}
		case '[', '{':
			if len(lists) > deepest {
				return true
			}
			lists = append(lists, b[i] == '[')
		case ']', '}':
			if len(lists) > 1 {
				lists = lists[:len(lists)-1]
			}
		case ',':
			if lists[len(lists)-1] {
				elements++
			} else {
				members++
			}
		}
	}
	return elements > maxElements || members > maxMembers
}

// FirstLine returns the first line of a text, such as a commit's message, without blanks around it.
func FirstLine(s string) string {
	s, _, _ = strings.Cut(strings.TrimSpace(s), "\n")
	return strings.TrimSpace(s)
}

// Cut returns at most the first n bytes of a text, without a broken character at the end.
func Cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "")
}

// Clip makes a foreign text safe to show in a message: one line of at most 200 characters, without control characters.
func Clip(s string) string {
	s = strings.Join(strings.Fields(strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) && r != unicode.ReplacementChar {
			return r
		}
		return ' '
	}, s)), " ")
	if r := []rune(s); len(r) > 200 {
		return string(r[:200]) + "…"
	}
	return s
}

// Derive sets DurationSeconds and Retriggerable (true for failed and canceled builds) from the other fields. If FinishedAt is before StartedAt, as vendors' clocks sometimes have
// it, it becomes StartedAt.
func Derive(b *slipway.Build) {
	b.DurationSeconds = nil
	if b.StartedAt != nil && b.FinishedAt != nil {
		if b.FinishedAt.Before(*b.StartedAt) {
			end := *b.StartedAt
			b.FinishedAt = &end
		}
		seconds := b.FinishedAt.Sub(*b.StartedAt).Seconds()
		b.DurationSeconds = &seconds
	}
	b.Retriggerable = b.Status == slipway.BuildFailed || b.Status == slipway.BuildCanceled
}

// DeriveDeployment sets DurationSeconds from the other fields. If FinishedAt is before StartedAt, it becomes StartedAt.
func DeriveDeployment(d *slipway.Deployment) {
	b := slipway.Build{StartedAt: d.StartedAt, FinishedAt: d.FinishedAt}
	Derive(&b)
	d.FinishedAt, d.DurationSeconds = b.FinishedAt, b.DurationSeconds
}

// Logins returns the account that an annotation of a user entity names: as written and, if different, in lower case, because many vendors ignore case.
func Logins(e *slipway.Entity, annotation string) []string {
	login := strings.TrimSpace(e.Metadata.Annotations[annotation])
	if login == "" {
		return nil
	}
	return slices.Compact([]string{login, strings.ToLower(login)})
}

// Words returns the comma-separated values of an annotation: each once, without blanks and slashes around it.
func Words(e *slipway.Entity, annotation string) (words []string) {
	for word := range strings.SplitSeq(e.Metadata.Annotations[annotation], ",") {
		if word = strings.Trim(strings.TrimSpace(word), "/"); word != "" && !slices.Contains(words, word) {
			words = append(words, word)
		}
	}
	return words
}

// Elsewhere reports whether the entity's source location is a repository with the path project on another host than host. Then the project of that name at host is not meant.
func Elsewhere(e *slipway.Entity, host, project string) bool {
	source := strings.ToLower(strings.TrimPrefix(e.Metadata.Annotations["backstage.io/source-location"], "url:"))
	u, err := url.Parse(source)
	return err == nil && u.Host != "" && u.Host != host && strings.HasPrefix(strings.TrimSuffix(u.Path, "/")+"/", "/"+project+"/")
}

// Inputs converts a pipeline's inputs, as a caller sent them, to texts. nil gives nil. A value that is no map, or holds anything but texts, numbers and booleans, is Invalid.
func Inputs(given any) (map[string]string, error) {
	if given == nil {
		return nil, nil
	}
	object, ok := given.(map[string]any)
	if !ok {
		return nil, slipway.Errorf(slipway.Invalid, "inputs must be a map of names and values")
	}
	inputs := map[string]string{}
	for name, value := range object {
		switch v := value.(type) {
		case string:
			inputs[name] = v
		case bool:
			inputs[name] = strconv.FormatBool(v)
		case float64:
			inputs[name] = strconv.FormatFloat(v, 'f', -1, 64)
		case json.Number, int, int64:
			inputs[name] = fmt.Sprint(v)
		default:
			return nil, slipway.Errorf(slipway.Invalid, "input %q must be a text, a number, true or false", name)
		}
	}
	return inputs, nil
}

// CheckRef returns Invalid for a ref that git accepts as no branch or tag, or that a program could take for an option (-x).
func CheckRef(ref string) error {
	odd := func(r rune) bool {
		return r <= ' ' || r == 0x7f || r == utf8.RuneError || strings.ContainsRune(`~^:?*[\`, r)
	}
	if ref == "" || strings.HasPrefix(ref, "-") || strings.HasPrefix(ref, "/") || strings.HasSuffix(ref, "/") || strings.Contains(ref, "..") || strings.ContainsFunc(ref, odd) {
		return slipway.Errorf(slipway.Invalid, "ref %q is no name of a branch or tag", Clip(ref))
	}
	return nil
}

// Payload returns the JSON of a webhook, whose body may also be a form with a field "payload".
func Payload(h http.Header, body []byte) ([]byte, error) {
	if !strings.HasPrefix(h.Get("Content-Type"), "application/x-www-form-urlencoded") {
		return body, nil
	}
	form, err := url.ParseQuery(string(body))
	if err != nil {
		return nil, slipway.Errorf(slipway.Invalid, "the webhook's body is no form").WithCause(err)
	}
	return []byte(form.Get("payload")), nil
}

// RepositoryAddress returns the address of a repository's page as Delivery.Pushed holds it: http or https, a host, and at least an owner and a repository. It returns "" for
// anything else, so that no notification can name a whole host.
func RepositoryAddress(page string) string {
	u, err := url.Parse(strings.TrimSuffix(strings.TrimRight(page, "/"), ".git"))
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return ""
	}
	if names := strings.Split(u.Path, "/"); len(names) < 3 || slices.Contains(names[1:], "") {
		return ""
	}
	return u.String()
}
