package provider

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/slipway-platform/slipway"
)

// NumberedPage is one page of a vendor that counts its pages from 1.
type NumberedPage[T any] struct {
	Items       []T // in the vendor's order, which is that of Numbered.Key, descending
	More        bool
	Validator   string
	NotModified bool
}

// Numbered reads the list of a vendor that counts pages, newest first. A page's number moves with every new item, so the cursor also holds the last item that was
// seen, and what is not after it is dropped. Items that the vendor deletes in the middle of a reading may hide as many others until the next one.
type Numbered[T any] struct {
	Size int // largest page of the vendor
	// Key places an item in the vendor's order. Items of one time are told apart by id.
	Key  func(T) (at time.Time, id int64)
	Read func(ctx context.Context, page, size int, validator string) (NumberedPage[T], error)
}

// List reads the page that o says.
func (n Numbered[T]) List(ctx context.Context, o ListOptions) (page Page[T], err error) {
	c := place{page: 1, size: n.Size}
	if o.Limit > 0 {
		c.size = min(c.size, o.Limit)
	}
	validator := o.Validator
	if o.Cursor != "" {
		if c, err = readPlace(o.Cursor, n.Size); err != nil {
			return page, err
		}
		validator = ""
	}
	read, err := n.Read(ctx, c.page, c.size, validator)
	if err != nil {
		return page, err
	}
	if o.Cursor == "" {
		page.Validator, page.NotModified = read.Validator, read.NotModified
	}
	limit := cmp.Or(o.Limit, c.size)
	next := place{page: c.page + 1, size: c.size, at: c.at, id: c.id}
	for _, item := range read.Items {
		at, id := n.Key(item)
		if !c.before(at, id) {
			continue
		}
		if len(page.Items) == limit { // the cursor's pages are larger than what is asked for now
			read.More, next.page = true, c.page
			break
		}
		page.Items = append(page.Items, item)
		next.at, next.id = at.UnixMicro(), id
	}
	if read.More {
		page.Next = next.String()
	}
	return page, nil
}

// place is a cursor of Numbered: the page that comes next, and the last item that was seen.
type place struct {
	page, size int
	at, id     int64
}

func (p place) String() string { return fmt.Sprintf("%d.%d.%d.%d", p.page, p.size, p.at, p.id) }

// before says whether an item comes after all that was seen.
func (p place) before(at time.Time, id int64) bool {
	return p.id == 0 || cmp.Or(cmp.Compare(at.UnixMicro(), p.at), cmp.Compare(id, p.id)) < 0
}

func readPlace(cursor string, maxSize int) (place, error) {
	var n [4]int64
	parts := strings.Split(cursor, ".")
	ok := len(parts) == len(n)
	for i := 0; ok && i < len(n); i++ {
		var err error
		n[i], err = strconv.ParseInt(parts[i], 10, 64)
		ok = err == nil
	}
	if !ok || n[0] < 1 || n[0] > 1_000_000 || n[1] < 1 || n[1] > int64(maxSize) {
		return place{}, slipway.Errorf(slipway.Invalid, "this is no cursor of this provider; read the list from its start")
	}
	return place{int(n[0]), int(n[1]), n[2], n[3]}, nil
}

// Link gives the address that a Link header names for a relation ("next"); "" where it names none.
func Link(h http.Header, rel string) string {
	for _, header := range h.Values("Link") {
		for part := range strings.SplitSeq(header, ",") {
			target, params, _ := strings.Cut(part, ";")
			target = strings.TrimSpace(target)
			if !strings.HasPrefix(target, "<") || !strings.HasSuffix(target, ">") {
				continue
			}
			for param := range strings.SplitSeq(params, ";") {
				name, value, _ := strings.Cut(strings.TrimSpace(param), "=")
				if strings.EqualFold(name, "rel") && strings.Trim(value, `"`) == rel {
					return target[1 : len(target)-1]
				}
			}
		}
	}
	return ""
}
