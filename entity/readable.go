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
	owned := false
	for _, g := range caller.Grants {
		prefix, pattern := strings.CutSuffix(g.Object, "*")
		switch {
		case !covers(g.Permission, permission):
		case g.Object == ":owned":
			owned = true
		case pattern:
			p := strings.ToLower(prefix)
			or = append(or, fmt.Sprintf("(%s.ref >= %s AND %s.ref < %s)", alias, arg(p), alias, arg(p+"\U0010FFFF")))
		default:
			refs = append(refs, arg(strings.ToLower(g.Object)))
		}
	}
	if len(refs) > 0 {
		or = append(or, alias+".ref IN ("+strings.Join(refs, ", ")+")")
	}
	if owned && len(caller.Owns) > 0 {
		owners := make([]string, len(caller.Owns))
		for i, o := range caller.Owns {
			owners[i] = arg(o)
		}
		or = append(or, alias+".owner IN ("+strings.Join(owners, ", ")+")")
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
		if (g.Object == "" || g.Object == "*") && covers(g.Permission, permission) {
			return true
		}
	}
	return false
}

// covers says that a granted pattern ("build.*", "*") stands for a permission.
func covers(pattern, permission string) bool {
	if prefix, ok := strings.CutSuffix(pattern, "*"); ok {
		return strings.HasPrefix(permission, prefix)
	}
	return pattern == permission
}
