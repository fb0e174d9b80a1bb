package catalog

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/auth"
	"github.com/slipway-platform/slipway/blueprint"
	"github.com/slipway-platform/slipway/entity"
	"github.com/slipway-platform/slipway/secret"
	"github.com/slipway-platform/slipway/store"
)

// readAtOnce is how long a registration waits for its target.
const readAtOnce = 5 * time.Second

// Location is a location as it is answered.
type Location struct {
	ID        string     `json:"id" doc:"Id"`
	Type      string     `json:"type" enum:"url,file" doc:"What the target is"`
	Target    string     `json:"target" doc:"Address or path"`
	EntityRef string     `json:"entityRef" doc:"Ref that Backstage gives the location"`
	Origin    string     `json:"origin,omitempty" enum:"api,config" doc:"Who registered it"`
	Status    string     `json:"status,omitempty" enum:"processing,ready,faulty,failed" doc:"processing, not read yet; ready; faulty, some of it could not be used; failed, it could not be read, and what it brought before is kept"`
	Trusted   bool       `json:"trusted" doc:"Whether users and groups may stand in it: it is one of the configuration, or was registered by a caller with catalog.location.trust"`
	Error     string     `json:"error,omitempty" doc:"Why it could not be read"`
	Faults    []string   `json:"faults,omitempty" doc:"What is wrong in it"`
	ReadAt    *time.Time `json:"readAt,omitempty" nullable:"true" doc:"When it was last read"`
	NextRead  *time.Time `json:"nextRead,omitempty" nullable:"true" doc:"When it is read again"`
}

func shown(l row) Location {
	return Location{ID: l.ID, Type: l.Type, Target: l.Target, EntityRef: l.ref(), Origin: l.Origin, Status: l.Status, Trusted: l.Trusted,
		Error: l.Error, Faults: l.Faults, ReadAt: l.ReadAt.Ptr(), NextRead: l.NextRead.Ptr()}
}

// Registered is the answer to a registration.
type Registered struct {
	LocationID string            `json:"locationId,omitempty" doc:"Id of the location; absent in a dry run"`
	Type       string            `json:"type" doc:"As asked"`
	Target     string            `json:"target" doc:"As asked"`
	Status     string            `json:"status" doc:"processing; the location itself says how it stands" example:"processing"`
	Location   Location          `json:"location" doc:"The location"`
	Entities   []*slipway.Entity `json:"entities" doc:"What was read so far"`
	Faults     []string          `json:"faults,omitempty" doc:"What could not be used, and why"`
	Exists     *bool             `json:"exists,omitempty" nullable:"true" doc:"In a dry run: whether the location is registered already"`
}

type registerInput struct {
	DryRun     bool   `query:"dryRun" doc:"Read the target and answer, but store nothing"`
	OnConflict string `query:"onConflict" enum:"refresh,reject" default:"reject" doc:"What to do when it is registered already: refresh reads it again and answers 201, reject answers 409"`
	Body       Registration
}

// Registration says what to register.
type Registration struct {
	Place
	Presence string `json:"presence,omitempty" enum:"required,optional" doc:"optional: registered although there is nothing at the target yet; it is read once there is"`
}

// registerOutput may hold an error: the 400 of this operation is {"error":"text"}, unlike the others of the catalog.
type registerOutput struct {
	Status int
	Body   blueprint.Raw[Registered]
}

func (s *service) register(ctx context.Context, in *registerInput) (*registerOutput, error) {
	p := in.Body.Place
	if err := s.readable(p); err != nil {
		return refused(reason(err))
	}
	known, err := findLocation(ctx, s.db, p)
	exists := err == nil
	switch {
	case err != nil && slipway.CodeOf(err) != slipway.NotFound:
		return nil, err
	case exists && !in.DryRun && known.Status == removing:
		return nil, slipway.Errorf(slipway.Conflict, "this location is just being removed; try again in a moment")
	case exists && !in.DryRun && in.OnConflict == "refresh":
		if err := s.db.Write(ctx, func(tx *store.Tx) error { return s.haveRead(ctx, tx, known.ID) }); err != nil {
			return nil, err
		}
		return answered(http.StatusCreated, Registered{LocationID: known.ID, Type: p.Type, Target: p.Target, Status: processing, Location: shown(known),
			Entities: []*slipway.Entity{}, Faults: known.Faults})
	case exists && !in.DryRun:
		return nil, slipway.Errorf(slipway.Conflict, "this location is registered already, as %s", known.ID)
	}

	reading, cancel := context.WithTimeout(ctx, readAtOnce)
	defer cancel()
	seen := s.look(reading, in, trusted(ctx))
	if ctx.Err() != nil {
		return nil, ctx.Err()
	} else if seen.refusal != "" {
		return refused(seen.refusal)
	}
	entities, later := seen.entities, seen.later
	l := s.newRow(p, fromAPI)
	l.Trusted = trusted(ctx)
	answer := Registered{LocationID: l.ID, Type: p.Type, Target: p.Target, Status: processing, Location: shown(l), Entities: entities}
	for _, f := range seen.faults {
		answer.Faults = append(answer.Faults, f.String())
	}
	if answer.Entities == nil {
		answer.Entities = []*slipway.Entity{}
	}
	if in.DryRun {
		answer.LocationID, answer.Location.ID, answer.Exists = "", "", &exists
		return answered(http.StatusCreated, answer)
	}
	err = s.db.Write(ctx, func(tx *store.Tx) error {
		if later {
			if err := s.haveRead(ctx, tx, l.ID); err != nil {
				return err
			}
		} // else the schedule reads it should we die before it is stored
		err := s.enter(ctx, tx, l)
		if slipway.CodeOf(err) == slipway.Conflict {
			return slipway.Errorf(slipway.Conflict, "this location is registered already").WithCause(err)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	if !later {
		if err = s.readTree(reading, l, nil, seen.target); err != nil && ctx.Err() == nil {
			// What it leads to takes longer, or failed: the job goes on from here.
			s.Log.InfoContext(ctx, "a location is read on by its job", "location", l.ID, "error", err)
			err = s.db.Write(ctx, func(tx *store.Tx) error { return s.haveRead(ctx, tx, l.ID) })
		}
		if err != nil {
			return nil, err
		}
		if l, err = getLocation(ctx, s.db, l.ID); err == nil {
			answer.Location, answer.Faults = shown(l), l.Faults
		}
	}
	return answered(http.StatusCreated, answer)
}

// look is what a registration sees of its target.
type look struct {
	target   *parsed // nil: it was not read
	entities []*slipway.Entity
	faults   []fault
	later    bool   // it takes too long, or is not there yet: the job reads it
	refusal  string // nothing in it can be used, and why
}

// look reads the target of a registration.
func (s *service) look(ctx context.Context, in *registerInput, trusted bool) look {
	p := in.Body.Place
	unread := func(reason string) look { return look{refusal: "The target could not be read: " + reason} }
	if hasWildcard(p) {
		matches, err := s.Fetch.Glob(p.Target)
		if err != nil {
			return unread(reason(err))
		} else if len(matches) == 0 && in.Body.Presence != "optional" {
			return unread("no file fits this pattern")
		}
		return look{}
	}
	c, err := s.fetchContent(ctx, p, nil)
	switch {
	case err == nil:
	case !in.DryRun && (ctx.Err() != nil || slipway.CodeOf(err) == slipway.Unavailable || in.Body.Presence == "optional" && slipway.CodeOf(err) == slipway.NotFound):
		return look{later: true}
	default:
		return unread(reason(err))
	}
	l := look{target: &parsed{content: c}}
	l.entities, l.faults, err = parse(ctx, c.data, s.kindsOf(trusted), func(kind, target string, budget *int) (any, error) {
		if l.target.references++; l.target.references > maxReferences {
			return nil, errReferences
		}
		return s.substitute(ctx, p, kind, target, budget)
	})
	l.target.entities, l.target.faults = l.entities, l.faults
	var texts []string
	switch {
	case err != nil && ctx.Err() != nil && !in.DryRun:
		return look{later: true}
	case err != nil:
		texts = []string{reason(err)}
	case len(l.entities) > 0:
		p.mark(l.entities, p)
		return l
	case len(l.faults) == 0:
		texts = []string{"it is empty"}
	}
	for _, f := range l.faults {
		texts = append(texts, f.Message)
	}
	l.refusal = fmt.Sprintf("Invalid %s: %s", p.file(), strings.Join(texts, "; "))
	return l
}

// trusted says that the caller may define users and groups.
func trusted(ctx context.Context) bool {
	return auth.Allows(auth.CallerFrom(ctx), trustLocation, auth.Object{})
}

// readable refuses at once what will never be read.
func (s *service) readable(p Place) error {
	if err := p.check(); err != nil {
		return err
	}
	if p.Type == "url" {
		return s.Fetch.CheckURL(document(p.Target))
	}
	return nil
}

func answered(status int, body any) (*registerOutput, error) {
	raw, err := json.Marshal(body)
	return &registerOutput{Status: status, Body: blueprint.Raw[Registered]{JSON: raw}}, err
}

func refused(text string) (*registerOutput, error) {
	return answered(http.StatusBadRequest, struct {
		Error string `json:"error"`
	}{text})
}

func asError(err error) (*slipway.Error, bool) { return errors.AsType[*slipway.Error](err) }

type locationItem struct {
	Data Location `json:"data" doc:"A location"`
}

type locationsOutput struct {
	Body []locationItem
}

func (s *service) locations(ctx context.Context, _ *struct{}) (*locationsOutput, error) {
	list, err := listLocations(ctx, s.db, `status <> 'removing' ORDER BY created_at, id`)
	if err != nil {
		return nil, err
	}
	out := &locationsOutput{Body: []locationItem{}}
	for _, l := range list {
		out.Body = append(out.Body, locationItem{shown(l)})
	}
	return out, nil
}

type locationInput struct {
	ID string `path:"id" maxLength:"100" doc:"Id of the location"`
}

type locationOutput struct{ Body Location }

func (s *service) location(ctx context.Context, in *locationInput) (*locationOutput, error) {
	l, err := s.byID(ctx, in.ID)
	return &locationOutput{shown(l)}, err
}

func (s *service) byID(ctx context.Context, id string) (row, error) {
	if !utf8.ValidString(id) || strings.ContainsRune(id, 0) {
		id = "" // PostgreSQL would refuse to look for it
	}
	return getLocation(ctx, s.db, id)
}

func (s *service) unregister(ctx context.Context, in *locationInput) (*struct{}, error) {
	l, err := s.byID(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	if l.Origin == fromConfig {
		return nil, slipway.Errorf(slipway.Conflict, "this location stands in the configuration, under catalog.locations; remove it there and restart")
	}
	if err := s.remove(ctx, l.ID); err != nil {
		return nil, err
	}
	// What is small is gone when the caller looks; the job does the rest.
	inline, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if err := s.removeLocation(inline, removeLocation{l.ID}); err != nil {
		s.Log.DebugContext(ctx, "a location is removed by its job", "location", l.ID, "error", err)
	}
	return &struct{}{}, nil
}

// maxAnswer is how many entities one answer holds when no limit is asked for.
const maxAnswer = 10_000

// fullAnswer is after how many bytes one answer ends, with the address of the next page.
const fullAnswer = 16 << 20

type entitiesInput struct {
	Filter []string `query:"filter,explode" maxItems:"50" doc:"Conditions key=value, joined by commas; may be repeated" example:"kind=Component,metadata.name=my-service"`
	Fields string   `query:"fields" doc:"Only these fields, as paths joined by commas" example:"metadata.name,spec.owner"`
	Order  []string `query:"order,explode" maxItems:"5" doc:"asc: or desc: and a field; may be repeated; then by ref" example:"asc:metadata.name"`
	Limit  int      `query:"limit" minimum:"1" maximum:"10000" doc:"How many at most; absent, all, 10,000 a page; a page also ends after 16 MiB" example:"20"`
	Offset int      `query:"offset" minimum:"0" maximum:"100000" doc:"How many to pass over"`
	After  string   `query:"after" doc:"Cursor of the Link header of the page before"`
}

type entitiesOutput struct {
	Link string `header:"Link" doc:"Address of the next page, rel next; absent on the last one"`
	Body blueprint.Raw[[]slipway.Entity]
}

func (s *service) entities(ctx context.Context, in *entitiesInput) (*entitiesOutput, error) {
	q, err := s.query(in)
	if err != nil {
		return nil, err
	}
	pick, err := parseFields(in.Fields)
	if err != nil {
		return nil, err
	}
	caller := auth.Narrowed(ctx)
	left := cmp.Or(in.Limit, maxAnswer)
	var body bytes.Buffer
	body.WriteByte('[')
	var next *entity.Mark
	for {
		q.Limit = min(left, 1000)
		var rows []entity.Row
		rows, next, err = s.Entities.List(ctx, caller, q)
		if err != nil {
			return nil, err
		}
		pick.grow(&body, rows)
		for _, r := range rows {
			if body.Len() > 1 {
				body.WriteByte(',')
			}
			if err := pick.writeOne(&body, r); err != nil {
				return nil, err
			}
		}
		left -= len(rows)
		if next == nil || left == 0 || body.Len() > fullAnswer {
			break
		}
		q.After, q.Offset = next, 0
	}
	body.WriteByte(']')
	out := &entitiesOutput{Body: blueprint.Raw[[]slipway.Entity]{JSON: body.Bytes()}}
	if next != nil {
		out.Link = s.nextPage(in, next)
	}
	return out, nil
}

func (s *service) query(in *entitiesInput) (entity.Query, error) {
	q := entity.Query{Offset: in.Offset}
	var err error
	if q.Filters, err = parseFilters(in.Filter); err != nil {
		return q, err
	}
	for _, o := range in.Order {
		direction, key, ok := strings.Cut(o, ":")
		if !ok || key == "" || direction != "asc" && direction != "desc" {
			return q, slipway.Errorf(slipway.Invalid, "order %q is not known; write asc:field or desc:field", clip(o))
		}
		q.Order = append(q.Order, entity.Order{Key: key, Desc: direction == "desc"})
	}
	if in.After != "" {
		if in.Offset > 0 {
			return q, slipway.Errorf(slipway.Invalid, "send either after or offset")
		}
		var err error
		if q.After, err = s.listCursors(in).Read(in.After); err != nil {
			return q, err
		}
	}
	return q, nil
}

// parseFilters reads what Backstage's clients send: sets joined by repetition, conditions joined by commas.
func parseFilters(filters []string) ([][]entity.Condition, error) {
	var sets [][]entity.Condition
	for _, f := range filters {
		var set []entity.Condition
		for _, part := range strings.Split(f, ",") {
			if part = strings.TrimSpace(part); part == "" {
				continue
			}
			key, value, equals := strings.Cut(part, "=")
			c := entity.Condition{Key: strings.TrimSpace(key)}
			switch {
			case c.Key == "":
				return nil, slipway.Errorf(slipway.Invalid, "filter %q has a condition without a key; write key=value", clip(f))
			case !utf8.ValidString(part):
				return nil, slipway.Errorf(slipway.Invalid, "a filter is not valid UTF-8")
			case equals:
				c.Values = []string{strings.TrimSpace(value)}
			}
			set = append(set, c)
		}
		if len(set) > 50 {
			return nil, slipway.Errorf(slipway.Invalid, "a filter has more than 50 conditions")
		}
		if set != nil {
			sets = append(sets, set)
		}
	}
	return sets, nil
}

// listCursors are bound to their query, which the address of the next page holds.
func (s *service) listCursors(in *entitiesInput) secret.Cursors[entity.Mark] {
	return secret.CursorsOf[entity.Mark](s.Keys, "catalog entities", in.Filter, in.Order)
}

func (s *service) nextPage(in *entitiesInput, m *entity.Mark) string {
	q := url.Values{"filter": in.Filter, "order": in.Order, "after": {s.listCursors(in).Write(*m)}}
	if in.Fields != "" {
		q.Set("fields", in.Fields)
	}
	if in.Limit > 0 {
		q.Set("limit", strconv.Itoa(in.Limit))
	}
	return "</api/catalog/entities?" + q.Encode() + `>; rel="next"`
}

type entityInput struct {
	Kind      string `path:"kind" doc:"Kind" example:"component"`
	Namespace string `path:"namespace" doc:"Namespace" example:"default"`
	Name      string `path:"name" doc:"Name" example:"web"`
}

type entityOutput struct {
	Body blueprint.Raw[slipway.Entity]
}

func (s *service) entity(ctx context.Context, in *entityInput) (*entityOutput, error) {
	caller := auth.Narrowed(ctx)
	ref := slipway.EntityRef{Kind: in.Kind, Namespace: in.Namespace, Name: in.Name}
	if ref.Validate() != nil {
		return nil, slipway.Errorf(slipway.NotFound, "there is no entity of that name: no entity could have it")
	}
	r, err := s.Entities.Get(ctx, s.db, caller, ref)
	if err != nil {
		return nil, err
	}
	return &entityOutput{blueprint.Raw[slipway.Entity]{JSON: r.JSON}}, nil
}

type refreshInput struct {
	Body struct {
		EntityRef          string `json:"entityRef" doc:"Entity whose location is read again" example:"component:default/web"`
		AuthorizationToken string `json:"authorizationToken,omitempty" doc:"Ignored; Backstage's clients may send it"`
	}
}

func (s *service) refresh(ctx context.Context, in *refreshInput) (*struct{}, error) {
	ref, err := slipway.ParseEntityRef(in.Body.EntityRef, slipway.EntityRef{})
	if err != nil {
		return nil, err
	}
	r, err := s.Entities.Get(ctx, s.db, auth.CallerFrom(ctx), ref)
	if err != nil {
		return nil, err
	}
	if err := auth.Require(ctx, refreshEntity, auth.Object{Ref: r.Ref.String(), Owner: r.Owner}); err != nil {
		return nil, err
	}
	id, ok := strings.CutPrefix(r.Source, "location:")
	if !ok {
		return &struct{}{}, nil // nothing brings it that could be read
	}
	return &struct{}{}, s.db.Write(ctx, func(tx *store.Tx) error { return s.haveRead(ctx, tx, id) })
}
