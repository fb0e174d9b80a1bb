package entity

import (
	"fmt"
	"strings"

	"github.com/slipway-platform/slipway"
)

// Readable is the condition, in SQL, that limits rows of entity to those that a caller may read. The table goes by an alias;
// the condition's arguments start at $argStart. It is "TRUE" for one who may read all, "FALSE" for one who
// may read nothing, and can stand after AND as it is.
func Readable(caller *slipway.Caller, alias string, argStart int) (sql string, args []any) {
	return Holding(caller, ReadPermission, alias, argStart)
}

// Holding is Readable for another permission on entities.
func Holding(caller *slipway.Caller, permission, alias string, argStart int) (sql string, args []any) {
	if caller == nil {
		return "FALSE", nil
	}
	if All(caller, permission) {
		return "TRUE", nil
	}
	arg := func(v string) string {
		args = append(args, v)
		return fmt.Sprintf("$%d", argStart+len(args)-1)
	}
	var or, refs []string
	var owners string // written once, however many grants need it
	own := func() string {
		if owners == "" {
			list := make([]string, len(caller.Owns))
			for i, o := range caller.Owns {
				list[i] = arg(o)
			}
			owners = alias + ".owner IN (" + strings.Join(list, ", ") + ")"
		}
		return owners
	}
	for _, g := range caller.Grants {
		if !slipway.Fits(g.Permission, permission) {
			continue
		}
		owned, pattern := g.Narrowing()
		pattern = strings.ToLower(pattern)
		if owned && len(caller.Owns) == 0 {
			continue
		}
		fits := ""
		switch prefix, open := strings.CutSuffix(pattern, "*"); {
		case open && prefix == "":
		case open:
			fits = fmt.Sprintf("(%s.ref >= %s AND %s.ref < %s)", alias, arg(prefix), alias, arg(prefix+"\U0010FFFF"))
		case !owned:
			refs = append(refs, arg(pattern))
			continue
		default:
			fits = alias + ".ref = " + arg(pattern)
		}
		switch {
		case owned && fits == "":
			or = append(or, own())
		case owned:
			or = append(or, "("+own()+" AND "+fits+")")
		default:
			or = append(or, fits)
		}
	}
	if len(refs) > 0 {
		or = append(or, alias+".ref IN ("+strings.Join(refs, ", ")+")")
	}
	if or == nil {
		return "FALSE", nil
	}
	return "(" + strings.Join(or, " OR ") + ")", args
}

// All says that a caller holds a permission on everything. The system itself does.
func All(caller *slipway.Caller, permission string) bool {
	if caller == nil {
		return false
	}
	if caller.Kind == slipway.CallerSystem {
		return true
	}
	for _, g := range caller.Grants {
		if owned, pattern := g.Narrowing(); !owned && pattern == "*" && slipway.Fits(g.Permission, permission) {
			return true
		}
	}
	return false
}
