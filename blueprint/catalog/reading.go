package catalog

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/auth"
	"github.com/slipway-platform/slipway/fetch"
	"github.com/slipway-platform/slipway/safeyaml"
	"github.com/slipway-platform/slipway/store"
)

// The bounds of one location: its target with all that Location entities and placeholders lead to.
const (
	maxFiles      = 10_000
	maxReferences = 1_000 // files that $text, $json and $yaml take in
)

var errReferences = fmt.Errorf("the location takes in more than %d files", maxReferences)

// ahead is how many files are fetched while one is stored: a host that is slow to answer holds up less.
const ahead = 4

// reading is one pass over a location: its target, then the files that Location entities name, each once. Every file is stored when it
// was read; what no file brings any more is known only at the end. A pass that is cut short is no harm: the next one goes over the same files.
type reading struct {
	*service
	location   row
	below      []string          // only files below these addresses are read, the others count as unchanged; none: all are read
	kinds      map[string]bool   // accepted from it
	last       map[Place]file    // as of the pass before
	queue      []target          // files to be read
	visited    map[Place]bool    // those that were
	coming     map[Place]fetched // fetches under way
	next       map[Place]taken   // the file that is read and parsed while another is stored
	seen       map[string]*Place // the file that brings an entity
	faults     map[string]string // the faults of entities that are kept, by ref; empty: as they were
	files      []file
	unsaved    []file // of files, those with something new, not stored yet
	same       []file // of files, those that were read and are as they were
	references atomic.Int64
}

// fetched is the content of a file once it is there.
type fetched chan struct {
	content
	err error
}

// taken is a file once it is read and parsed.
type taken chan parsed

// parsed is a file that was read: its content and what stands in it, or why there is nothing.
type parsed struct {
	content
	entities   []*slipway.Entity
	faults     []fault
	references int64 // how many other files it takes in
	err        error
}

// content is what a place holds.
type content struct {
	data         []byte
	unchanged    bool // since the last reading, which left no fault
	etag         string
	lastModified string
	digest       string
}

// readTree reads a location, or of it only what lies below some addresses, and stores what changed. first is what its target holds, if that was read
// just now. An error means that the pass did not come to its end; what is wrong with files is stored.
func (s *service) readTree(ctx context.Context, l row, below []string, first *parsed) (err error) {
	l.Status = processing
	r := &reading{service: s, location: l, below: below, kinds: s.kindsOf(l.Trusted), last: map[Place]file{}, coming: map[Place]fetched{}, next: map[Place]taken{},
		queue: []target{{Place: l.Place}}, visited: map[Place]bool{}, seen: map[string]*Place{}, faults: map[string]string{}}
	if first != nil {
		r.references.Add(first.references)
	}
	old, err := filesOf(ctx, s.db, l.ID)
	if err != nil {
		return err
	}
	for _, f := range old {
		r.last[f.Place] = f
	}
	if there, err := r.itself(ctx); err != nil {
		return err
	} else if !there {
		return r.abandon(ctx, l)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // nobody waits for what was fetched ahead then
	defer func() {
		if err != nil { // whoever goes on from here need not read again what is stored
			rest, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
			defer cancel()
			_ = r.saveFiles(rest)
		}
	}()
	var tooMany bool
	for len(r.queue) > 0 {
		t := r.queue[0]
		r.queue = r.queue[1:]
		if r.visited[t.Place] {
			continue // named twice, or a circle
		}
		r.visited[t.Place] = true
		if len(r.files) == maxFiles {
			tooMany = true
			break
		}
		if hasWildcard(t.Place) {
			matches, f := r.expand(t)
			r.queue = append(r.queue, matches...)
			if f.Error != "" {
				r.note(f)
			}
			continue
		}
		if there, err := isThere(ctx, r.db, l); err != nil {
			return err
		} else if !there {
			return r.abandon(ctx, l)
		}
		r.fetchAhead(ctx)
		f, err := r.file(ctx, t, first)
		if err != nil {
			return err
		}
		first = nil
		r.queue = append(r.queue, f.Targets...)
		if len(r.unsaved) >= filesAtOnce || r.unsavedRefs() >= refsAtOnce {
			if err := r.saveFiles(ctx); err != nil {
				return err
			}
		}
	}
	return r.finish(ctx, tooMany)
}

// refsAtOnce is after how many entities the files that bring them are stored: so many are compared with what is stored, for nothing, should the pass be cut short.
const refsAtOnce = 5000

func (r *reading) unsavedRefs() (n int) {
	for _, f := range r.unsaved {
		n += len(f.Refs)
	}
	return n
}

// itself puts the entity that stands for the location, as Backstage has it: it is there from the registration on, also when nothing else is. False: the location is there no more.
func (r *reading) itself(ctx context.Context) (there bool, err error) {
	e := r.location.entity()
	r.seen[e.Ref().String()] = &r.location.Place
	old, err := r.Entities.Get(ctx, r.db, auth.System(), e.Ref())
	switch {
	case err == nil && old.Source == r.location.source() && !old.Orphan:
		return isThere(ctx, r.db, r.location)
	case err != nil && slipway.CodeOf(err) != slipway.NotFound:
		return false, err
	}
	err = r.db.Write(ctx, func(tx *store.Tx) error {
		if there, err = holdLocation(ctx, tx, r.location); err != nil || !there {
			return err
		}
		_, err := r.Entities.Put(ctx, tx, r.location.source(), []*slipway.Entity{e})
		return err
	})
	return there, err
}

func hasWildcard(p Place) bool { return p.Type == "file" && strings.ContainsAny(p.Target, "*?[") }

// expand gives the files that a pattern fits now. When there is none, or they cannot be told, it gives those that it fitted before: each says then why it is not there, and what it brought stays.
func (r *reading) expand(t target) ([]target, file) {
	f := file{Place: t.Place, Parent: t.Parent, ReadAt: store.At(r.Now())}
	matches, err := r.Fetch.Glob(t.Target)
	if err == nil && len(matches) == 0 && !t.Optional {
		err = slipway.Errorf(slipway.NotFound, "no file fits this pattern")
	}
	if err != nil {
		f.Error = reason(err)
		if t.Place == r.location.Place {
			r.couldNotRead(&r.location, err)
		}
		for p := range r.last {
			if fits, _ := filepath.Match(t.Target, p.Target); fits && p.Type == "file" && p != t.Place {
				matches = append(matches, p.Target)
			}
		}
		slices.Sort(matches)
	}
	var targets []target
	for _, m := range matches {
		targets = append(targets, target{Place: Place{"file", m}, Parent: t.Parent})
	}
	return targets, f
}

// note keeps a file with something new.
func (r *reading) note(f file) {
	r.files = append(r.files, f)
	r.unsaved = append(r.unsaved, f)
}

func (r *reading) saveFiles(ctx context.Context) error {
	err := saveFiles(ctx, r.db, r.location.ID, r.unsaved)
	r.unsaved = r.unsaved[:0]
	return err
}

// left says that a file is none of those that this pass is to read: it counts as unchanged.
func (r *reading) left(p Place) bool {
	if last, known := r.last[p]; r.below == nil || !known || last.ReadAt.IsZero() {
		return false
	}
	return !slices.ContainsFunc(r.below, func(address string) bool {
		rest, ok := strings.CutPrefix(strings.ToLower(p.Target), strings.ToLower(address))
		return ok && (strings.HasPrefix(rest, "/") || strings.HasPrefix(rest, "?"))
	})
}

// fetchAhead begins to fetch the next files of the queue.
func (r *reading) fetchAhead(ctx context.Context) {
	for _, t := range r.queue[:min(len(r.queue), 4*ahead)] {
		if len(r.coming) >= ahead {
			return
		}
		if r.coming[t.Place] != nil || r.next[t.Place] != nil || r.visited[t.Place] || t.Type != "url" || r.left(t.Place) {
			continue
		}
		last, c := r.last[t.Place], make(fetched, 1)
		r.coming[t.Place] = c
		go func() {
			got, err := r.fetchContent(ctx, t.Place, &last)
			c <- struct {
				content
				err error
			}{got, err}
		}()
	}
}

// fetching gives what waits for the content of a file, which may have been fetched ahead.
func (r *reading) fetching(ctx context.Context, p Place) func() (content, error) {
	last, c := r.last[p], r.coming[p]
	if c == nil {
		return func() (content, error) { return r.fetchContent(ctx, p, &last) }
	}
	delete(r.coming, p)
	return func() (content, error) {
		select {
		case got := <-c:
			return got.content, got.err
		case <-ctx.Done():
			return content{}, ctx.Err()
		}
	}
}

// taking gives what waits for a file to be read and parsed.
func (r *reading) taking(ctx context.Context, p Place) func() parsed {
	fetch := r.fetching(ctx, p)
	return func() (got parsed) {
		if got.content, got.err = fetch(); got.err == nil && !got.unchanged {
			got.entities, got.faults, got.err = parse(ctx, got.data, r.kinds, r.resolve(ctx, p, &got.references))
			got.data = nil
		}
		return got
	}
}

// takeAhead begins to read and parse the next file, while one is being stored.
func (r *reading) takeAhead(ctx context.Context) {
	for _, t := range r.queue {
		switch {
		case r.visited[t.Place]:
			continue
		case len(r.next) > 0 || hasWildcard(t.Place) || r.left(t.Place):
			return
		}
		take, c := r.taking(ctx, t.Place), make(taken, 1)
		r.next[t.Place] = c
		go func() { c <- take() }()
		return
	}
}

// take gives a file, which may have been read ahead.
func (r *reading) take(ctx context.Context, p Place) parsed {
	c := r.next[p]
	if c == nil {
		return r.taking(ctx, p)()
	}
	delete(r.next, p)
	select {
	case got := <-c:
		return got
	case <-ctx.Done():
		return parsed{err: ctx.Err()}
	}
}

// file reads one file and stores its entities.
func (r *reading) file(ctx context.Context, t target, c *parsed) (file, error) {
	last := r.last[t.Place]
	f := file{Place: t.Place, Parent: t.Parent, ReadAt: store.At(r.Now()), Version: last.Version}
	if c == nil && r.left(t.Place) {
		for _, ref := range last.Refs {
			if _, ok := r.claim(ref, &t.Place); ok {
				r.faults[ref] = ""
			}
		}
		if t.Place == r.location.Place && last.Error != "" {
			r.location.Status = failed // as it was
		}
		r.files = append(r.files, last)
		return last, nil
	}
	if c == nil {
		got := r.take(ctx, t.Place)
		c = &got
	}
	if c.err != nil {
		return r.unread(ctx, t, f, last, c.err)
	}
	if c.unchanged {
		last.ReadAt, last.Parent = f.ReadAt, t.Parent
		for _, ref := range last.Refs {
			r.claim(ref, &t.Place)
		}
		r.files, r.same = append(r.files, last), append(r.same, last)
		return last, nil
	}
	if len(c.entities)+len(c.faults) == 0 {
		return r.unread(ctx, t, f, last, slipway.Errorf(slipway.Invalid, "it is empty"))
	}
	r.takeAhead(ctx)
	if last.Digest != "" {
		var err error
		if f.Version, err = beginFile(ctx, r.db, r.location.ID, f); err != nil {
			return f, err
		}
	}
	var mine []*slipway.Entity
	for _, e := range c.entities {
		ref := e.Ref().String()
		if owner, ok := r.claim(ref, &t.Place); !ok {
			f.Faults = append(f.Faults, fmt.Sprintf("%s stands in %s already", ref, clip(owner.Target)))
			continue
		}
		f.Refs = append(f.Refs, ref)
		f.Targets = append(f.Targets, targetsOf(e, t.Place, &f.Faults)...)
		mine = append(mine, e)
	}
	for _, fault := range c.faults {
		f.Faults = append(f.Faults, fault.String())
		if ref := fault.Ref.String(); fault.Ref.Name != "" {
			if _, ok := r.claim(ref, &t.Place); ok && !slices.Contains(f.Refs, ref) {
				f.Refs, r.faults[ref] = append(f.Refs, ref), fault.Message // its last good version stays
			}
		}
	}
	t.Place.mark(mine, r.location.Place)
	result, err := r.Entities.PutAll(ctx, r.location.source(), mine)
	if err != nil {
		return f, err
	}
	for _, c := range result.Conflicts {
		f.Faults = append(f.Faults, fmt.Sprintf("%s is brought by %s already; remove it here or there", c.Ref, r.describeSource(ctx, c.Source)))
	}
	if len(f.Faults) > 100 {
		f.Faults = append(f.Faults[:100], "…")
	}
	if len(f.Faults) == 0 && c.references == 0 { // else it may change without this file
		f.ETag, f.LastModified, f.Digest = c.etag, c.lastModified, c.digest
	}
	r.note(f)
	return f, nil
}

// claim gives an entity to the first file of the pass that brings it. What is not accepted from the location, though it was once, is given
// to none, and so not kept.
func (r *reading) claim(ref string, p *Place) (owner Place, ok bool) {
	if kind, _, _ := strings.Cut(ref, ":"); !r.kinds[kind] {
		return Place{}, false
	}
	if other := r.seen[ref]; other != nil && *other != *p {
		return *other, false
	}
	r.seen[ref] = p
	return *p, true
}

// unread notes why a file could not be read. What it brought stays, and so do the files that it named.
func (r *reading) unread(ctx context.Context, t target, f, last file, cause error) (file, error) {
	if ctx.Err() != nil {
		return f, ctx.Err()
	}
	if t.Optional && slipway.CodeOf(cause) == slipway.NotFound {
		r.note(f)
		return f, nil
	}
	for _, ref := range last.Refs {
		if _, ok := r.claim(ref, &t.Place); ok {
			f.Refs, r.faults[ref] = append(f.Refs, ref), "" // what was wrong with it still is
		}
	}
	f.Targets = last.Targets
	f.Error = reason(cause)
	if t.Place == r.location.Place {
		r.couldNotRead(&r.location, cause)
	}
	r.note(f)
	return f, nil
}

// finish takes away what no file brings any more and stores how the location stands.
func (r *reading) finish(ctx context.Context, tooMany bool) error {
	l := r.location
	gone, err := r.Entities.BySource(ctx, l.source(), func(ref string) bool { _, kept := r.seen[ref]; return kept })
	if err != nil {
		return err
	}
	if tooMany {
		gone = nil
	}
	if _, err := r.Entities.Orphan(ctx, l.source(), gone); err != nil {
		return err
	}
	if r.config.Orphans == 0 {
		if err := r.removeOrphans(ctx, removeOrphans{}); err != nil {
			return err
		}
	}
	l.Faults = r.allFaults(tooMany)
	wrong := l.Faults
	if l.Status == failed {
		wrong = append([]string{l.Error}, wrong...)
	}
	if len(wrong) > 0 {
		r.faults[l.ref()] = clipTo(strings.Join(wrong, "; "), 1000)
	}
	if err := r.Entities.SetFaults(ctx, l.source(), r.faults); err != nil {
		return err
	}
	if err := r.saveFiles(ctx); err != nil {
		return err
	}
	for _, f := range r.files {
		delete(r.last, f.Place)
	}
	if err := dropFiles(ctx, r.db, l.ID, slices.Collect(maps.Keys(r.last))); err != nil {
		return err
	}
	for len(r.same) > filesAtOnce {
		part := r.same[:filesAtOnce]
		r.same = r.same[filesAtOnce:]
		if err := r.db.Write(ctx, func(tx *store.Tx) error { return touchFiles(ctx, tx, l.ID, part) }); err != nil {
			return err
		}
	}
	switch {
	case l.Status == failed:
	case len(l.Faults) > 0:
		l.Status, l.Error, l.Failures = faulty, "", 0
	default:
		l.Status, l.Error, l.Failures = ready, "", 0
	}
	if l.Status != failed && r.below == nil {
		l.ReadAt = store.At(r.Now())
		l.NextRead = store.At(r.Now().Add(jitter(r.config.Refresh.Std())))
	}
	return r.save(ctx, l, r.same)
}

// allFaults gives what is wrong with the files of the location, each with its file unless that is the target itself.
func (r *reading) allFaults(tooMany bool) (faults []string) {
	for _, f := range r.files {
		if f.Place == r.location.Place {
			faults = append(faults, f.Faults...)
			continue
		}
		if f.Error != "" {
			faults = append(faults, f.Target+": "+f.Error)
		}
		for _, text := range f.Faults {
			faults = append(faults, f.Target+": "+text)
		}
	}
	if tooMany {
		faults = append(faults, fmt.Sprintf("it leads to more than %d files; register some of them on their own", maxFiles))
	}
	if len(faults) > 100 {
		faults = append(faults[:100], "…")
	}
	return faults
}

// fetchContent reads a place. It asks only for what is new when the last reading, if any, left no fault: a fault may have gone
// without a change of the file, such as an entity that another location gave up.
func (s *service) fetchContent(ctx context.Context, p Place, last *file) (content, error) {
	var c content
	clean := last != nil && last.Digest != ""
	if p.Type == "file" {
		data, err := s.Fetch.ReadFile(p.Target, int64(s.config.MaxFile))
		if err != nil {
			return c, err
		}
		c.data = data
	} else {
		o := fetch.Options{MaxBytes: int64(s.config.MaxFile)}
		if clean {
			o.ETag, o.LastModified = last.ETag, last.LastModified
		}
		r, err := s.get(ctx, document(p.Target), o)
		if err != nil {
			return c, err
		}
		c.data, c.etag, c.lastModified = r.Body, r.ETag, r.LastModified
		if r.NotModified {
			return content{unchanged: true}, nil
		}
	}
	sum := sha256.Sum256(c.data)
	c.digest = hex.EncodeToString(sum[:])
	c.unchanged = clean && c.digest == last.Digest
	return c, nil
}

// resolve reads what placeholders of a file name, and counts them. Each is read in full: a file that has some is never taken for unchanged.
func (r *reading) resolve(ctx context.Context, base Place, count *int64) resolver {
	return func(kind, target string, budget *int) (any, error) {
		if *count++; r.references.Add(1) > maxReferences {
			return nil, errReferences
		}
		return r.substitute(ctx, base, kind, target, budget)
	}
}

// substitute reads a file and gives what a placeholder stands for.
func (s *service) substitute(ctx context.Context, base Place, kind, target string, budget *int) (any, error) {
	p, err := base.at(base.Type, target)
	if err != nil {
		return nil, err
	}
	c, err := s.fetchContent(ctx, p, nil)
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, errors.New(reason(err))
	}
	switch kind {
	case "$text":
		return strings.ToValidUTF8(string(c.data), "\uFFFD"), nil
	case "$json":
		if safeyaml.Crowded(c.data, maxValues) {
			return nil, fmt.Errorf("%s has more than %d values", clip(target), maxValues)
		}
		var v any
		if err := json.Unmarshal(c.data, &v); err != nil {
			return nil, fmt.Errorf("%s is no JSON", clip(target))
		}
		if *budget -= count(v); *budget <= 0 {
			return nil, errors.New("too many values")
		}
		return v, nil
	}
	return parseValue(ctx, c.data, budget)
}

// count is how many values a value of JSON holds.
func count(v any) int {
	n := 1
	switch v := v.(type) {
	case map[string]any:
		for _, item := range v {
			n += count(item)
		}
	case []any:
		for _, item := range v {
			n += count(item)
		}
	}
	return n
}

// targetsOf lists the files that a Location entity names. A target is relative to the file in which it stands.
func targetsOf(e *slipway.Entity, base Place, faults *[]string) []target {
	if !strings.EqualFold(e.Kind, "Location") {
		return nil
	}
	kind := e.SpecString("type")
	if kind == "" {
		kind = base.Type
	}
	var list []target
	for _, text := range slices.Concat(e.SpecStrings("target"), e.SpecStrings("targets")) {
		p, err := base.at(kind, text)
		if err != nil {
			*faults = append(*faults, fmt.Sprintf("%s: %s", e.Ref(), reason(err)))
			continue
		}
		list = append(list, target{Place: p, Parent: e.Ref().String(), Optional: e.SpecString("presence") == "optional"})
	}
	return list
}

// at is the place that a target in a file means: an address, a path, or relative to the file. What is read over the network never
// leads to files of the server.
func (p Place) at(kind, target string) (Place, error) {
	if strings.Contains(target, "://") {
		kind = "url"
	}
	if kind == "file" && p.Type != "file" {
		return Place{}, slipway.Errorf(slipway.Invalid, "target %s: an address cannot bring files of the server; write an address", bare(target))
	}
	to := Place{kind, target}
	switch {
	case kind == "file" && !filepath.IsAbs(target):
		to.Target = filepath.Join(filepath.Dir(p.Target), filepath.FromSlash(target))
	case kind == "url" && p.Type == "file" && !strings.Contains(target, "://"):
		to = Place{"file", filepath.Join(filepath.Dir(p.Target), filepath.FromSlash(target))}
	case kind == "url" && p.Type == "url":
		base, err := url.Parse(p.Target)
		if err != nil {
			return Place{}, slipway.Errorf(slipway.Invalid, "target %s: it is relative to no address", bare(target))
		}
		u, err := base.Parse(target)
		if err != nil {
			return Place{}, slipway.Errorf(slipway.Invalid, "target %s is no address", bare(target))
		}
		to.Target = u.String()
	}
	if err := to.check(); err != nil {
		return Place{}, slipway.Errorf(slipway.Invalid, "target %s: %s", bare(target), err.Error())
	}
	return to, nil
}
