package dora

import (
	"fmt"
	"regexp"
	"strings"
)

// EnvironmentRule says what names mean one environment.
type EnvironmentRule struct {
	Name    string `yaml:"name" doc:"What such environments are called here; prod is the one whose deployments reach users"`
	Pattern string `yaml:"pattern" doc:"Regular expression (RE2) that is looked for in the name as the sender writes it, whatever its case"`
}

// defaultEnvironments is the table where the configuration has none. The first that fits counts, and what fits none keeps its own name.
func defaultEnvironments() []EnvironmentRule {
	return []EnvironmentRule{
		{"staging", `(^|[^a-z])(pre-?prod(uction)?|stag(e|ing)?|uat)([^a-z]|$)`},
		{production, `(^|[^a-z])(prod(uction)?|prd|live)([^a-z]|$)`},
		{"dev", `(^|[^a-z])(dev(elopment)?|test(ing)?|qa|int(egration)?|sandbox)([^a-z]|$)`},
	}
}

type environments []environment

type environment struct {
	name string
	expr *regexp.Regexp
}

func compileEnvironments(rules []EnvironmentRule) (environments, error) {
	var list environments
	for i, r := range rules {
		expr, err := regexp.Compile("(?i)" + r.Pattern)
		if err != nil || r.Name == "" || len(r.Name) > maxName {
			return nil, fmt.Errorf("environments[%d]: name and a regular expression are required", i)
		}
		list = append(list, environment{r.Name, expr})
	}
	return list, nil
}

// normalise gives the environment that a name means.
func (e environments) normalise(name string) string {
	for _, rule := range e {
		if rule.expr.MatchString(name) {
			return rule.name
		}
	}
	return strings.ToLower(strings.TrimSpace(name))
}
