package blueprint

import (
	"cmp"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/slipway-platform/slipway"
)

// SearchFlags are the flags of a command that searches a platform task's items, the same for every task.
type SearchFlags struct {
	cmd          *cobra.Command
	query        url.Values
	since, until string
	fresh        bool
	limit, page  int
}

// NewSearchFlags adds them to a command. statuses are the task's, at least one.
func NewSearchFlags(cmd *cobra.Command, statuses ...string) *SearchFlags {
	s := &SearchFlags{cmd: cmd, query: url.Values{}}
	f := cmd.Flags()
	f.IntVar(&s.limit, "limit", 0, "entries on a page, at most 100 (default 20)")
	f.IntVar(&s.page, "page", 0, "number of the page, from 1")
	f.StringVar(&s.since, "since", "", "created at this time or later")
	f.StringVar(&s.until, "until", "", "created before this time")
	f.BoolVar(&s.fresh, "fresh", false, "ask the vendors first, and wait up to 5 seconds")
	s.Filter("cursor", "cursor", "continue a list: the value that the page before printed")
	s.Filter("order", "order", "desc, newest first, or asc (default desc)")
	s.Filter("triggeredBy", "triggered-by", "id, name, e-mail address or entity ref of the person; me for yourself")
	s.Filter("status", "status", strings.Join(statuses[:len(statuses)-1], ", ")+" or "+statuses[len(statuses)-1]+"; may be repeated")
	s.Filter("owner", "owner", "without ENTITY: only entities of this owner")
	s.Filter("system", "system", "without ENTITY: only entities of this system")
	s.Filter("kind", "kind", "without ENTITY: only entities of this kind")
	_ = cmd.RegisterFlagCompletionFunc("status", cobra.FixedCompletions(statuses, cobra.ShellCompDirectiveNoFileComp)) // the flag was added above
	return s
}

// Filter adds a flag for a parameter of the search.
func (s *SearchFlags) Filter(parameter, flag, text string) {
	s.cmd.Flags().Var(value{s.query, parameter}, flag, text)
}

// Path is what to ask of a task: for an entity, or without one for all that the flags leave.
func (s *SearchFlags) Path(taskName string, entity []string) (string, error) {
	for name, text := range map[string]string{"since": s.since, "until": s.until} {
		if text == "" {
			continue
		}
		t, err := past(text)
		if err != nil {
			return "", slipway.Errorf(slipway.Invalid, "--%s: %w", name, err)
		}
		s.query.Set(name, t)
	}
	if s.fresh {
		s.query.Set("fresh", "true")
	}
	for name, n := range map[string]int{"limit": s.limit, "pageNumber": s.page} {
		if n != 0 {
			s.query.Set(name, strconv.Itoa(n))
		}
	}
	path := "/api/" + taskName + "/search"
	if len(entity) == 1 {
		path = "/api/" + taskName + "/by-entity/" + url.PathEscape(entity[0]) + "/search"
	}
	if q := s.query.Encode(); q != "" {
		path += "?" + q
	}
	return path, nil
}

// value is a flag that goes into a query; repeated, it adds to it.
type value struct {
	query url.Values
	key   string
}

func (v value) String() string {
	if v.query == nil { // pflag asks a zero value
		return ""
	}
	return strings.Join(v.query[v.key], ",")
}

// Type names the value in the help text.
func (v value) Type() string { return "text" }

// Set adds a value.
func (v value) Set(s string) error {
	if s == "" {
		return errors.New("must not be empty")
	}
	v.query.Add(v.key, s)
	return nil
}

// past reads a time, or how long ago it was.
func past(s string) (string, error) {
	if d, err := slipway.ParseDuration(s); err == nil {
		return time.Now().Add(-d.Std()).UTC().Format(time.RFC3339), nil
	}
	for _, layout := range []string{time.RFC3339, time.DateTime, time.DateOnly} {
		if t, err := time.ParseInLocation(layout, s, time.Local); err == nil {
			return t.UTC().Format(time.RFC3339), nil
		}
	}
	return "", fmt.Errorf("%q is no time; write it like 2026-11-21, 2026-11-21T10:15:00Z or 7d", s)
}

// SearchFooter is what stands below a table of items: that there are none, which sources are not fresh, how to read on.
func SearchFooter(none string, items int, sources []slipway.Source, info slipway.PageInfo) string {
	var below []string
	if items == 0 {
		below = append(below, none)
	}
	for _, s := range sources {
		switch s.State {
		case slipway.SourceFresh:
		case slipway.SourceNone: // there is no source; it says what to configure
			below = append(below, s.Error)
		default:
			below = append(below, strings.TrimSuffix(fmt.Sprintf("Source %s %s is %s: %s", s.Provider, s.Project, s.State, s.Error), ": "))
		}
	}
	if info.HasMore && info.NextCursor != "" {
		below = append(below, "There are more: --cursor "+info.NextCursor)
	}
	return strings.Join(below, "\n")
}

// Who names a person in a table; "" for nobody.
func Who(p *slipway.Person) string {
	if p == nil {
		return ""
	}
	return cmp.Or(p.Name, p.EntityRef, p.ID, p.Email)
}

// Clock is a time as tables on a terminal show it: in the zone of the machine, to the second; "" for none.
func Clock(at *time.Time) string {
	if at == nil || at.IsZero() {
		return ""
	}
	return at.Local().Format("2006-01-02 15:04:05")
}
