package jenkinstest

import (
	"fmt"
	"strconv"
	"strings"
)

// node is what the API shows of something: its class, and its properties in order.
type node struct {
	class string
	props []prop
}

// prop is a property. Without a tree a plain one shows down to the depth that is asked for, a brief one wherever its node does, and a hidden one not at all.
type prop struct {
	name  string
	value func() any
	kind  propKind
}

type propKind int

const (
	plain propKind = iota
	brief
	hidden
	inline // like plain, and what it holds counts as its own
)

func is(v any) func() any { return func() any { return v } }

// tree says which properties to show, as Stapler reads it: names, with those of what they hold in brackets and a range of a list in braces.
type tree struct {
	children map[string]*tree
	from, to int // of a list; to is 0 for all
	ranged   bool
}

// parseTree reads the parameter of that name.
func parseTree(s string) (t *tree, err error) {
	defer func() {
		if r := recover(); r != nil {
			t, err = nil, fmt.Errorf("tree %q: %v", s, r)
		}
	}()
	p := &treeParser{rest: s}
	t = p.list()
	if p.rest != "" {
		panic("expected the end, got " + p.rest)
	}
	return t, nil
}

type treeParser struct{ rest string }

func (p *treeParser) accept(token string) bool {
	rest, ok := strings.CutPrefix(p.rest, token)
	p.rest = rest
	return ok
}

func (p *treeParser) expect(token string) {
	if !p.accept(token) {
		panic("expected " + token + " before " + p.rest)
	}
}

func (p *treeParser) word() string {
	end := strings.IndexAny(p.rest, ",[]{}")
	if end < 0 {
		end = len(p.rest)
	}
	word := p.rest[:end]
	p.rest = p.rest[end:]
	return word
}

func (p *treeParser) number() int {
	n, err := strconv.Atoi(p.word())
	if err != nil {
		panic("expected a number")
	}
	return n
}

func (p *treeParser) list() *tree {
	t := &tree{children: map[string]*tree{}}
	for {
		name := p.word()
		if name == "" {
			panic("expected a name before " + p.rest)
		}
		child := &tree{children: map[string]*tree{}}
		if p.accept("[") {
			child = p.list()
			p.expect("]")
		}
		if p.accept("{") {
			p.readRange(child)
			p.expect("}")
		}
		t.children[name] = child
		if !p.accept(",") {
			return t
		}
	}
}

func (p *treeParser) readRange(t *tree) {
	t.ranged = true
	if p.accept(",") { // {,M}
		t.to = p.number()
		return
	}
	t.from = p.number()
	if !p.accept(",") { // {N}
		t.to = t.from + 1
		return
	}
	t.to = 1 << 30
	if !strings.HasPrefix(p.rest, "}") { // {N,M}, otherwise {N,}
		t.to = p.number()
	}
}

// export writes a value for JSON. t is nil without a tree; then depth counts.
func export(v any, t *tree, depth int) any {
	switch v := v.(type) {
	case nil:
		return nil
	case *node:
		if v == nil {
			return nil
		}
		return v.export(t, depth)
	case []*node:
		from, to := 0, len(v)
		if t != nil && t.ranged {
			from, to = min(t.from, len(v)), min(max(t.to, t.from), len(v))
		}
		list := []any{}
		for _, n := range v[from:to] {
			list = append(list, export(n, t, depth))
		}
		return list
	}
	return v
}

func (n *node) export(t *tree, depth int) map[string]any {
	if n.class == "" {
		return map[string]any{} // not for the API
	}
	out := map[string]any{"_class": n.class}
	for _, p := range n.props {
		var child *tree
		if t != nil {
			if child = t.children[p.name]; child == nil {
				child = t.children["*"]
			}
			if child == nil {
				continue
			}
		} else if p.kind == hidden || depth < 0 && p.kind != brief {
			continue
		}
		below := depth - 1
		if p.kind == inline {
			below = depth
		}
		out[p.name] = export(p.value(), child, below)
	}
	return out
}
