package entity

import (
	"context"
	"database/sql"
	"math/bits"
	"strings"

	"github.com/slipway-platform/slipway/store"
)

// idSet is a set of ids of entities, in blocks of which most are full or missing. Counting what several long lists have in common is
// some twenty times cheaper here than in either engine: see Count and Facets.
type idSet map[int64]*[blockWords]uint64

const (
	blockBits  = 13
	blockWords = 1 << blockBits / 64
)

// eachID visits the ids of a list, as STRING_AGG writes it.
func eachID(list sql.RawBytes, visit func(id int64)) {
	var id int64
	for _, c := range list {
		if c == ',' {
			visit(id)
			id = 0
			continue
		}
		id = id*10 + int64(c-'0')
	}
	if len(list) > 0 {
		visit(id)
	}
}

func (s idSet) add(list sql.RawBytes) {
	eachID(list, func(id int64) {
		block := s[id>>blockBits]
		if block == nil {
			block = new([blockWords]uint64)
			s[id>>blockBits] = block
		}
		block[id%(1<<blockBits)/64] |= 1 << (id % 64)
	})
}

func (s idSet) has(id int64) bool {
	block := s[id>>blockBits]
	return block != nil && block[id%(1<<blockBits)/64]&(1<<(id%64)) != 0
}

// keep leaves what is in the other set too.
func (s idSet) keep(other idSet) {
	for at, block := range s {
		with := other[at]
		if with == nil {
			delete(s, at)
			continue
		}
		for i := range block {
			block[i] &= with[i]
		}
	}
}

func (s idSet) len() int64 {
	n := 0
	for _, block := range s {
		for _, word := range block {
			n += bits.OnesCount64(word)
		}
	}
	return int64(n)
}

const idList = `STRING_AGG(CAST(e.id AS TEXT), ',')`

// matching gives the ids of the entities of a planned query.
func (s *Store) matching(ctx context.Context, b *builder) (idSet, error) {
	lists := b.lists
	if lists == nil {
		lists = []statement{{b.with + `SELECT ` + idList + ` FROM ` + b.from + ` WHERE ` + strings.Join(b.where, ` AND `), b.args}}
	}
	var all idSet
	for _, l := range lists {
		rows, err := s.read.QueryContext(ctx, l.text, l.args...)
		if err != nil {
			return nil, store.Err(err)
		}
		one := idSet{}
		err = store.Each(rows, func(rows *sql.Rows) error {
			var list sql.RawBytes
			err := rows.Scan(&list)
			one.add(list)
			return err
		})
		if err != nil {
			return nil, err
		}
		if all == nil {
			all = one
		} else {
			all.keep(one)
		}
	}
	return all, nil
}
