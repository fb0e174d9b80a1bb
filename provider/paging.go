package provider

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/slipway-platform/slipway"
)

// NumberedPage is one page of a list whose pages are numbered from 1.
type NumberedPage[T any] struct {
	Items       []T // in the vendor's order, which is that of Numbered.Key, descending
	More        bool
	Validator   string
	NotModified bool
}

// Numbered turns a vendor's numbered pages, newest first, into the stable list that Builds.List promises. New items push old ones to later pages, so the cursor holds the page
// number and the last item that was returned, and items that are not older than that one are skipped. It reaches the end as long as less than a page of new items arrives between
// two calls. When the vendor deletes items during a reading, as many others may be missed until the next one.
type Numbered[T any] struct {
	Size int // the vendor's largest page size; every page but the first is read in this size
	// Key is what the vendor orders items by, descending: the time, then the id. It must not change while an item exists.
	Key  func(T) (at time.Time, id int64)
	Read func(ctx context.Context, page, size int, validator string) (NumberedPage[T], error)
}

// List returns the page that o asks for. A cursor of another list is Invalid.
func (n Numbered[T]) List(ctx context.Context, o ListOptions) (page Page[T], err error) {
	limit := n.Size
	if o.Limit > 0 {
		limit = min(limit, o.Limit)
	}
	if o.Cursor == "" {
		read, err := n.Read(ctx, 1, limit, o.Validator)
		if err != nil {
			return page, err
		}
		page.Validator, page.NotModified = read.Validator, read.NotModified
		n.take(&page, place{page: 1}, read, limit, limit == n.Size)
		return page, nil
	}
	from, err := readPlace(o.Cursor)
	if err != nil {
		return page, err
	}
	read, err := n.Read(ctx, from.page, n.Size, "")
	if err != nil {
		return page, err
	}
	n.take(&page, from, read, limit, true)
	return page, nil
}

// take puts into page what comes after a place. whole: what was read was a page of the largest size, so that what follows it is on the next one.
func (n Numbered[T]) take(page *Page[T], from place, read NumberedPage[T], limit int, whole bool) {
	next := from
	for _, item := range read.Items {
		at, id := n.Key(item)
		if !from.before(at, id) {
			continue
		}
		if len(page.Items) == limit {
			read.More, whole = true, false
			break
		}
		page.Items = append(page.Items, item)
		next.at, next.id = at.UnixMicro(), id
	}
	if whole {
		next.page++
	}
	if read.More {
		page.Next = next.String()
	}
}

// MapPage converts every item of a page. Complete is not carried over.
func MapPage[T, U any](p Page[T], of func(T) U) Page[U] {
	out := Page[U]{Next: p.Next, Validator: p.Validator, NotModified: p.NotModified}
	for _, item := range p.Items {
		out.Items = append(out.Items, of(item))
	}
	return out
}

// place is a cursor of Numbered: the page that comes next, and the last item that was seen.
type place struct {
	page   int
	at, id int64
}

func (p place) String() string { return fmt.Sprintf("%d.%d.%d", p.page, p.at, p.id) }

// before says whether an item comes after all that was seen.
func (p place) before(at time.Time, id int64) bool {
	return p.id == 0 || cmp.Or(cmp.Compare(at.UnixMicro(), p.at), cmp.Compare(id, p.id)) < 0
}

func readPlace(cursor string) (p place, err error) {
	var n [3]int64
	parts := strings.Split(cursor, ".")
	ok := len(parts) == len(n)
	for i := 0; ok && i < len(n); i++ {
		n[i], err = strconv.ParseInt(parts[i], 10, 64)
		ok = err == nil
	}
	if !ok || n[0] < 1 || n[0] > 1_000_000 {
		return p, slipway.Errorf(slipway.Invalid, "this is no cursor of this provider; read the list from its start")
	}
	return place{int(n[0]), n[1], n[2]}, nil
}

// Link gives the address that a Link header (RFC 8288) names for a relation ("next"); "" where it names none.
func Link(h http.Header, rel string) string {
	for _, header := range h.Values("Link") {
		for {
			_, after, found := strings.Cut(header, "<")
			target, params, closed := strings.Cut(after, ">") // an address may hold commas and semicolons
			if !found || !closed {
				break
			}
			params, header, _ = strings.Cut(params, "<")
			for param := range strings.FieldsFuncSeq(params, func(r rune) bool { return r == ';' || r == ',' }) {
				name, value, _ := strings.Cut(strings.TrimSpace(param), "=")
				if strings.EqualFold(name, "rel") && slices.Contains(strings.Fields(strings.Trim(value, `"`)), rel) {
					return target
				}
			}
			header = "<" + header
		}
	}
	return ""
}

// Whole returns one page of a list that the vendor gives in one piece and in any order. Items are sorted newest first by key (time, then id); all is sorted in place. The
// validator is a hash of all items, so that NotModified is reported when none of them changed. A cursor of another list is Invalid.
func Whole[T any](all []T, key func(T) (at time.Time, id string), o ListOptions) (page Page[T], err error) {
	slices.SortFunc(all, func(a, b T) int {
		atA, idA := key(a)
		atB, idB := key(b)
		return cmp.Or(atB.Compare(atA), strings.Compare(idB, idA))
	})
	if o.Cursor == "" {
		h := fnv.New128a()
		if err := json.NewEncoder(h).Encode(all); err != nil {
			return page, err
		}
		if page.Validator = fmt.Sprintf("%x", h.Sum(nil)); page.Validator == o.Validator {
			page.NotModified = true
			return page, nil
		}
	} else {
		micro, id, ok := strings.Cut(o.Cursor, " ")
		n, err := strconv.ParseInt(micro, 10, 64)
		if err != nil || !ok {
			return page, slipway.Errorf(slipway.Invalid, "this is no cursor of this provider; read the list from its start")
		}
		seen := slices.IndexFunc(all, func(item T) bool {
			at, its := key(item)
			return cmp.Or(cmp.Compare(at.UnixMicro(), n), strings.Compare(its, id)) < 0
		})
		if seen < 0 {
			return page, nil
		}
		all = all[seen:]
	}
	if o.Limit > 0 && len(all) > o.Limit {
		all = all[:o.Limit]
		at, id := key(all[o.Limit-1])
		page.Next = fmt.Sprintf("%d %s", at.UnixMicro(), id)
	}
	page.Items = all
	return page, nil
}
