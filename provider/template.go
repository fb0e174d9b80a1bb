package provider

import (
	"regexp"
	"slices"
	"strings"

	"github.com/slipway-platform/slipway"
)

// Template is a config text with placeholders in braces, such as {cluster}/{namespace}.
type Template string

var placeholder = regexp.MustCompile(`\{([^{}]*)\}`)

// Faults returns what is wrong with a template; field is the config field that holds it, and names are the placeholders that the kind fills in. A name that ends in a colon stands
// for all that begin with it: "label:" allows {label:team}.
func (t Template) Faults(field string, names ...string) (faults []slipway.Detail) {
	for _, m := range placeholder.FindAllStringSubmatch(string(t), -1) {
		known := slices.ContainsFunc(names, func(n string) bool {
			if strings.HasSuffix(n, ":") {
				return len(m[1]) > len(n) && strings.HasPrefix(m[1], n)
			}
			return m[1] == n
		})
		if !known {
			faults = append(faults, fault(field, "has {%s}, which nothing is known of; known are {%s}", Clip(m[1]), strings.Join(names, "}, {")))
		}
	}
	if strings.ContainsAny(placeholder.ReplaceAllString(string(t), ""), "{}") {
		faults = append(faults, fault(field, "has a brace too many or too few"))
	}
	return faults
}

// Fill replaces every placeholder by what value returns for its name. If the template has placeholders and all of them are empty, the result is "".
func (t Template) Fill(value func(name string) string) string {
	said := !placeholder.MatchString(string(t))
	text := placeholder.ReplaceAllStringFunc(string(t), func(s string) string {
		v := value(s[1 : len(s)-1])
		said = said || v != ""
		return v
	})
	if !said {
		return ""
	}
	return text
}
