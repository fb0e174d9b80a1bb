package task

import (
	"context"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/provider"
	"github.com/slipway-platform/slipway/store"
)

// Of a provider with visibility `source`, a caller sees the items of those projects that the vendor shows to them: the caller shows a token of theirs with each request, the
// vendor is asked once, and what it said is kept for some minutes for this caller with this token, as a keyed hash of both. The token itself is not kept.
const (
	accessGranted = 5 * time.Minute
	accessRefused = time.Minute
	accessKnown   = 10 * time.Second // that all is known of a viewer; what is new, or was refused, waits so long where they look at everything
	accessGrace   = time.Hour        // a grant counts so long while the vendor cannot be asked
	accessWait    = 5 * time.Second
	accessChecks  = 50 // projects that one request has checked at most; the next goes on
	accessAtOnce  = 8
	maxTokens     = 20
	maxToken      = 4096 // bytes
)

type tokensKey struct{}

// WithTokens returns a context whose caller shows tokens of their own at vendors: the values of a header, each a list of <provider>=<token> with commas between.
// What is malformed is Invalid; no error holds a token.
func WithTokens(ctx context.Context, values []string) (context.Context, error) {
	tokens := map[string]provider.Secret{}
	for _, value := range values {
		for part := range strings.SplitSeq(value, ",") {
			name, token, ok := strings.Cut(strings.TrimSpace(part), "=")
			name, token = strings.TrimSpace(name), strings.TrimSpace(token)
			_, twice := tokens[name]
			switch {
			case !ok || name == "" || token == "" || len(name) > 100 || strings.ContainsAny(token, " \t"):
				return ctx, slipway.Errorf(slipway.Invalid, "Slipway-Provider-Token: write <provider>=<token>, several with commas between")
			case twice:
				return ctx, slipway.Errorf(slipway.Invalid, "Slipway-Provider-Token: there are two tokens for %q; send one", clip(name))
			case len(token) > maxToken || len(tokens) == maxTokens:
				return ctx, slipway.Errorf(slipway.Invalid, "Slipway-Provider-Token: at most %d tokens of at most %d bytes", maxTokens, maxToken)
			}
			tokens[name] = provider.Secret(token)
		}
	}
	return context.WithValue(ctx, tokensKey{}, tokens), nil
}

func tokensFrom(ctx context.Context) map[string]provider.Secret {
	tokens, _ := ctx.Value(tokensKey{}).(map[string]provider.Secret)
	return tokens
}

// viewer is a caller with the tokens that they show.
type viewer struct {
	engine *Engine
	caller *slipway.Caller
	tokens map[string]provider.Secret
	keys   []string // of the tokens of providers that ask for them
}

func (e *Engine) viewer(ctx context.Context, caller *slipway.Caller) *viewer {
	v := &viewer{engine: e, caller: caller, tokens: tokensFrom(ctx)}
	for name := range v.tokens {
		if o, ok := e.opened(name); ok && o.Visibility == visibleAtSource {
			v.keys = append(v.keys, v.key(name))
		}
	}
	slices.Sort(v.keys)
	return v
}

// key stands for caller and token in the database, and for the vendor that was asked: whoever reads it there learns neither, and what one vendor granted counts
// for no other that takes its place.
func (v *viewer) key(providerName string) string {
	if v.caller == nil {
		return ""
	}
	o, _ := v.engine.opened(providerName)
	mac := v.engine.Keys.MAC("task access", []byte(v.caller.Subject+"\x00"+providerName+"\x00"+o.Opened+"\x00"+string(v.tokens[providerName])))
	return hex.EncodeToString(mac[:min(len(mac), 24)])
}

// all says that nothing is hidden from the viewer, because nothing is hidden at all or because it is Slipway itself.
func (v *viewer) all() bool {
	return v.caller != nil && v.caller.Kind == slipway.CallerSystem || !v.engine.providers.Load().restricted
}

// The states of a viewer's access to a source.
const (
	accessUnknown = 0
	accessYes     = 1
	accessNo      = 2
)

// column is what a query selects of the viewer's access to source s: one of the states above.
func (v *viewer) column(q *query) string {
	if v.all() {
		return fmt.Sprint(accessYes)
	}
	open := v.open(q, "s")
	if len(v.keys) == 0 {
		return fmt.Sprintf("CASE WHEN %s THEN %d ELSE %d END", open, accessYes, accessUnknown)
	}
	return fmt.Sprintf(`CASE WHEN %s THEN %d ELSE COALESCE((SELECT CASE WHEN a.granted THEN %d ELSE %d END FROM task_access a
		WHERE a.viewer IN (%s) AND a.source_id = s.id AND a.until > %s LIMIT 1), %d) END`,
		open, accessYes, accessYes, accessNo, q.list(anys(v.keys)), q.arg(store.At(v.engine.Now())), accessUnknown)
}

// open is that source s shows its items to whoever may read its entities. The providers at hand count beside what the source says of itself: another replica, which knew of
// older ones, may have written it down a moment ago.
func (v *viewer) open(q *query, s string) string {
	names := v.engine.providers.Load().atSource
	if len(names) == 0 {
		return "NOT " + s + ".restricted"
	}
	return "NOT " + s + ".restricted AND " + s + ".provider NOT IN (" + q.list(anys(names)) + ")"
}

// condition is that the viewer may see the items of the source with an id, given as SQL.
func (v *viewer) condition(q *query, id string) string {
	if v.all() {
		return "TRUE"
	}
	open := "(" + v.open(q, "looked") + ")" // the outer query may well call its sources s
	if len(v.keys) > 0 {
		open += fmt.Sprintf(` OR EXISTS (SELECT 1 FROM task_access a WHERE a.viewer IN (%s) AND a.source_id = looked.id AND a.granted AND a.until > %s)`,
			q.list(anys(v.keys)), q.arg(store.At(v.engine.Now())))
	}
	return "EXISTS (SELECT 1 FROM task_source looked WHERE looked.id = " + id + " AND (" + open + "))"
}

// Sees is the condition that the caller may see what comes from a source, whose id is given as SQL, beside what they may see of its entities. Its arguments are
// numbered from argStart. A query with it is asked after Admit, in the same request.
func (e *Engine) Sees(ctx context.Context, caller *slipway.Caller, id string, argStart int) (condition string, args []any) {
	q := query{args: make([]any, argStart-1)}
	condition = e.viewer(ctx, caller).condition(&q, id)
	return condition, q.args[argStart-1:]
}

// restrictEvents is Sees for the events of items, whose origin is their source.
func (e *Engine) restrictEvents(ctx context.Context, caller *slipway.Caller, origin string, argStart int) (string, []any) {
	if e.viewer(ctx, caller).all() {
		return "", nil
	}
	return e.Sees(ctx, caller, origin, argStart)
}

// Admit has vendors asked whether the caller may see sources that show their items only to those who may, as far as the caller shows tokens and it is not known: those of one
// project, by its name or <provider>:<name>, or any ("").
func (e *Engine) Admit(ctx context.Context, caller *slipway.Caller, project string) error {
	v := e.viewer(ctx, caller)
	if v.all() || len(v.keys) == 0 {
		return nil
	}
	var q query
	var names []any
	for _, name := range e.providers.Load().atSource {
		if v.tokens[name] != "" {
			names = append(names, name)
		}
	}
	one := ""
	if project != "" {
		_, name, _ := strings.Cut(project, ":") // names of providers have no colon
		one = fmt.Sprintf(` AND s.project IN (%[1]s, %[2]s) AND %[1]s IN (s.project, s.provider || ':' || s.project)`, q.arg(project), q.arg(name))
	} else if e.admitted(v, time.Time{}) {
		return nil
	}
	fmt.Fprintf(&q, `SELECT s.id, s.provider, s.project FROM task_source s WHERE s.provider IN (%s)`+one+`
		AND NOT EXISTS (SELECT 1 FROM task_access a WHERE a.viewer IN (%s) AND a.source_id = s.id AND a.until > %s) ORDER BY s.id LIMIT %d`,
		q.list(names), q.list(anys(v.keys)), q.arg(store.At(e.Now())), accessChecks)
	rows, err := e.DB.QueryContext(ctx, q.String(), q.args...)
	if err != nil {
		return store.Err(err)
	}
	var unknown []*source
	err = store.Each(rows, func(rows *sql.Rows) error {
		s := &source{access: accessUnknown}
		err := rows.Scan(&s.id, &s.provider, &s.project)
		unknown = append(unknown, s)
		return err
	})
	if err != nil {
		return err
	}
	if _, err = v.admit(ctx, unknown); err == nil && project == "" && len(unknown) < accessChecks {
		e.admitted(v, e.Now().Add(accessKnown))
	}
	return err
}

// admitted says whether everything was known a moment ago of what a viewer may see, so that not all sources need to be gone through again. A time notes until when it is.
func (e *Engine) admitted(v *viewer, until time.Time) bool {
	key := strings.Join(v.keys, " ")
	e.mu.Lock()
	defer e.mu.Unlock()
	if !until.IsZero() {
		if len(e.known) >= 10_000 {
			clear(e.known)
		}
		e.known[key] = until
	}
	return e.Now().Before(e.known[key])
}

// admit asks vendors about the sources whose access is not known, and says whether it learned something.
func (v *viewer) admit(ctx context.Context, sources []*source) (bool, error) {
	var ask []*source
	for _, s := range sources {
		o, ok := v.engine.opened(s.provider)
		if s.access == accessUnknown && v.tokens[s.provider] != "" && ok && o.Provider != nil && o.Provider.Access != nil && len(ask) < accessChecks {
			ask = append(ask, s)
		}
	}
	if len(ask) == 0 {
		return false, nil
	}
	wait, cancel := context.WithTimeout(ctx, accessWait)
	defer cancel()
	said := make([]error, len(ask))
	var running sync.WaitGroup
	var refused sync.Map // by provider: that it does not know the token, which is so for all of its projects. It need not be told again
	places := make(chan struct{}, accessAtOnce)
	for i, s := range ask {
		places <- struct{}{}
		if err, ok := refused.Load(s.provider); ok {
			said[i] = err.(error)
			<-places
			continue
		}
		running.Go(func() {
			defer func() { <-places }()
			o, _ := v.engine.opened(s.provider)
			said[i] = o.Provider.Access(wait, s.project, v.tokens[s.provider])
			if slipway.CodeOf(said[i]) == slipway.Unauthenticated {
				refused.Store(s.provider, said[i])
			}
		})
	}
	running.Wait()
	if ctx.Err() != nil {
		return false, ctx.Err()
	}
	return true, v.engine.DB.Write(ctx, func(tx *store.Tx) error {
		now := v.engine.Now()
		if _, err := tx.Exec(ctx, `DELETE FROM task_access WHERE (viewer, source_id) IN (SELECT viewer, source_id FROM task_access WHERE until < $1 LIMIT 100)`,
			store.At(now.Add(-accessGrace))); err != nil {
			return err
		}
		for i, s := range ask {
			if err := v.note(ctx, tx, s, said[i], now); err != nil {
				return err
			}
		}
		return nil
	})
}

// note writes down what a vendor said of the viewer's access to a source.
func (v *viewer) note(ctx context.Context, tx *store.Tx, s *source, said error, now time.Time) error {
	until := now.Add(accessRefused)
	switch code := slipway.CodeOf(said); {
	case said == nil:
		until = now.Add(accessGranted)
	case code == slipway.Unauthenticated, code == slipway.Forbidden, code == slipway.NotFound, code == slipway.Invalid:
	default: // nothing: what it said within the last hour counts on
		v.engine.Log.WarnContext(ctx, "a vendor could not be asked for a caller's access", "provider", s.provider, "project", s.project, "error", said)
		_, err := tx.Exec(ctx, `UPDATE task_access SET until = $3 WHERE viewer = $1 AND source_id = $2 AND granted AND said > $4`,
			v.key(s.provider), s.id, store.At(until), store.At(now.Add(-accessGrace)))
		return err
	}
	_, err := tx.Exec(ctx, `INSERT INTO task_access (viewer, source_id, granted, said, until) VALUES ($1, $2, $3, $4, $5)
		ON CONFLICT (viewer, source_id) DO UPDATE SET granted = excluded.granted, said = excluded.said, until = excluded.until`,
		v.key(s.provider), s.id, said == nil, store.At(now), store.At(until))
	return err
}

// hidden is the error where a caller asks for something of a provider that is not shown to them.
func hidden(providerName string, access int) error {
	return slipway.Errorf(slipway.Forbidden, "%s", hiddenText(providerName, access))
}

func hiddenText(providerName string, access int) string {
	if access == accessNo {
		return fmt.Sprintf("provider %s shows this project only to those who may see it there, and does not count you among them", providerName)
	}
	return fmt.Sprintf("provider %[1]s shows this project only to those who may see it there; show who you are there with the header Slipway-Provider-Token: %[1]s=<your token>", providerName)
}

// restrict carries the visibility of the providers at hand over to their sources, before the providers are replaced. Sources of a provider that is gone
// stay as they are, and so does what one that did not open hid.
func (e *Engine) restrict(ctx context.Context, s *snapshot) error {
	rows, err := e.DB.QueryContext(ctx, `SELECT DISTINCT provider, restricted FROM task_source`)
	if err != nil {
		return store.Err(err)
	}
	differing := map[string]bool{}
	err = store.Each(rows, func(rows *sql.Rows) error {
		var name string
		var restricted bool
		if err := rows.Scan(&name, &restricted); err != nil {
			return err
		}
		o, ok := s.byName[name]
		if at := o.Visibility == visibleAtSource; ok && at != restricted && (at || o.Provider != nil) {
			differing[name] = at
		}
		return nil
	})
	if err != nil {
		return err
	}
	for name, at := range differing {
		for n := int64(restrictedAtOnce); n == restrictedAtOnce; {
			err := e.DB.Write(ctx, func(tx *store.Tx) (err error) {
				n, err = tx.Exec(ctx, `UPDATE task_source SET restricted = $1 WHERE id IN (SELECT id FROM task_source WHERE provider = $2 AND restricted <> $1 ORDER BY id LIMIT $3)`,
					at, name, restrictedAtOnce)
				return err
			})
			if err != nil {
				return err
			}
		}
	}
	return nil
}

const restrictedAtOnce = 400 // sources whose visibility changes in one transaction

// anyRestricted says whether any source hides its items from those who may not see it at the vendor.
func (e *Engine) anyRestricted(ctx context.Context, s *snapshot) (bool, error) {
	for _, o := range s.byName {
		if o.Visibility == visibleAtSource {
			return true, nil
		}
	}
	var any bool
	err := e.DB.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM task_source WHERE restricted)`).Scan(&any)
	return any, store.Err(err)
}

var errNoAccess = errors.New("its type cannot ask the vendor what others may see there: visibility source is not to be had")
