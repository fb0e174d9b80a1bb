package dora

import (
	"encoding/binary"
	"fmt"
)

// A block holds the facts of one service in one environment and calendar month, packed: a deployment takes about six bytes, and 400,000 of them are read in
// some milliseconds. Deployments lie in the month in which they ended, with the changes that they brought; recoveries in the month in which the incident was over.

// blockVersion changes with the form. Blocks of another version are refused; they are derived, and a migration may drop them all.
const blockVersion = 1

// The bits of a deployment's flags; the lowest two are its result.
const (
	flagRework = 1 << (iota + 2)
	flagRolledBack
	flagIncident
	flagRecovered
)

func (f *Facts) empty() bool {
	return f == nil || len(f.Deployments)+len(f.Changes)+len(f.Recoveries) == 0
}

// pack writes facts whose times lie at start or later.
func pack(f *Facts, start int64) []byte {
	b := append(make([]byte, 0, 16+8*(len(f.Deployments)+len(f.Changes)+len(f.Recoveries))), blockVersion)
	b = binary.AppendUvarint(b, uint64(len(f.Deployments)))
	for i := range f.Deployments {
		d := &f.Deployments[i]
		flags := byte(d.Result)
		if d.Rework {
			flags |= flagRework
		}
		if d.RolledBack {
			flags |= flagRolledBack
		}
		if d.Incident >= 0 {
			flags |= flagIncident
		}
		if d.Recovered >= 0 {
			flags |= flagRecovered
		}
		b = append(binary.AppendUvarint(b, uint64(d.At-start)), flags)
		if d.Incident >= 0 {
			b = binary.AppendUvarint(b, uint64(d.Incident))
		}
		if d.Recovered >= 0 {
			b = binary.AppendUvarint(b, uint64(d.Recovered))
		}
	}
	b = binary.AppendUvarint(b, uint64(len(f.Changes)))
	for i := range f.Changes {
		c := &f.Changes[i]
		first := uint64(0)
		if c.First {
			first = 1
		}
		b = binary.AppendUvarint(b, uint64(c.At-start)<<1|first)
		b = binary.AppendVarint(b, c.Lead) // a clock may be wrong: it may be less than nothing
		b = binary.AppendUvarint(b, uint64(c.Cycle+1))
	}
	b = binary.AppendUvarint(b, uint64(len(f.Recoveries)))
	for i := range f.Recoveries {
		r := &f.Recoveries[i]
		told := uint64(0)
		if r.Told {
			told = 1
		}
		b = binary.AppendUvarint(b, uint64(r.At-start)<<1|told)
		b = binary.AppendUvarint(b, uint64(r.Took))
		b = binary.AppendUvarint(b, uint64(r.After+1))
	}
	return b
}

// reset lets go of all facts and keeps the memory.
func (f *Facts) reset() {
	f.Deployments, f.Changes, f.Recoveries = f.Deployments[:0], f.Changes[:0], f.Recoveries[:0]
}

// packed is what is left to be read of a block. What goes beyond its end, or is no number, is 0 and makes it bad.
type packed struct {
	rest []byte
	bad  bool
}

func (p *packed) next() int64 {
	if len(p.rest) > 0 && p.rest[0] < 0x80 {
		v := p.rest[0]
		p.rest = p.rest[1:]
		return int64(v)
	}
	return p.long()
}

func (p *packed) long() int64 {
	v, n := binary.Uvarint(p.rest)
	if n <= 0 {
		p.rest, p.bad = nil, true
		return 0
	}
	p.rest = p.rest[n:]
	return int64(v)
}

func (p *packed) signed() int64 {
	v := uint64(p.next())
	return int64(v>>1) ^ -int64(v&1)
}

func (p *packed) flags() byte {
	if len(p.rest) == 0 {
		p.bad = true
		return 0
	}
	v := p.rest[0]
	p.rest = p.rest[1:]
	return v
}

// unpack adds the facts of a block.
func (f *Facts) unpack(b []byte, start int64) error {
	p := packed{rest: b}
	p.bad = p.flags() != blockVersion
	for n := p.next(); n > 0 && !p.bad; n-- {
		d := DeploymentFact{At: start + p.next(), Incident: none, Recovered: none}
		flags := p.flags()
		d.Result, d.Rework, d.RolledBack = Result(flags&3), flags&flagRework != 0, flags&flagRolledBack != 0
		if flags&flagIncident != 0 {
			d.Incident = p.next()
		}
		if flags&flagRecovered != 0 {
			d.Recovered = p.next()
		}
		f.Deployments = append(f.Deployments, d)
	}
	for n := p.next(); n > 0 && !p.bad; n-- {
		at := p.next()
		f.Changes = append(f.Changes, ChangeFact{At: start + at>>1, First: at&1 == 1, Lead: p.signed(), Cycle: p.next() - 1})
	}
	for n := p.next(); n > 0 && !p.bad; n-- {
		at := p.next()
		f.Recoveries = append(f.Recoveries, RecoveryFact{At: start + at>>1, Told: at&1 == 1, Took: p.next(), After: p.next() - 1})
	}
	if p.bad || len(p.rest) > 0 {
		return fmt.Errorf("a block of %d bytes is damaged", len(b))
	}
	return nil
}

// month gives those of the facts that belong into the block of a month.
func (f *Facts) month(m int64) *Facts {
	w := Window{monthStart(m), monthStart(m + 1)}
	out := &Facts{}
	for _, d := range f.Deployments {
		if w.has(d.At) {
			out.Deployments = append(out.Deployments, d)
		}
	}
	for _, c := range f.Changes {
		if w.has(c.At) {
			out.Changes = append(out.Changes, c)
		}
	}
	for _, r := range f.Recoveries {
		if w.has(r.At) {
			out.Recoveries = append(out.Recoveries, r)
		}
	}
	return out
}
