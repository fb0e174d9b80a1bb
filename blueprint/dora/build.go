package dora

import (
	"fmt"
	"regexp"
)

// BuildRule says which builds are deployments.
type BuildRule struct {
	Pipeline    string `yaml:"pipeline" doc:"Regular expression (RE2) that is looked for in the pipeline's name, or in the stage of a build that is reported; whatever the case. Empty: any"`
	Branch      string `yaml:"branch" doc:"Regular expression that is looked for in the branch or tag. Empty: any"`
	Environment string `yaml:"environment" doc:"Where such a build deploys to; empty: the pipeline's name tells"`
}

type buildRules []buildRule

type buildRule struct {
	pipeline, branch *regexp.Regexp
	environment      string
}

func compileBuilds(rules []BuildRule) (list buildRules, err error) {
	for i, r := range rules {
		if r.Pipeline == "" && r.Branch == "" {
			return nil, fmt.Errorf("builds[%d]: pipeline or branch is required; all builds are no deployments", i)
		}
		b := buildRule{environment: r.Environment}
		if b.pipeline, err = regexp.Compile("(?i)" + r.Pipeline); err != nil {
			return nil, fmt.Errorf("builds[%d].pipeline: %w", i, err)
		}
		if b.branch, err = regexp.Compile("(?i)" + r.Branch); err != nil {
			return nil, fmt.Errorf("builds[%d].branch: %w", i, err)
		}
		list = append(list, b)
	}
	return list, nil
}

// environment says where a build deploys to, by the first rule that fits; false where none does.
func (b buildRules) environment(pipeline, branch string) (string, bool) {
	for _, r := range b {
		if r.pipeline.MatchString(pipeline) && r.branch.MatchString(branch) {
			if r.environment == "" {
				return pipeline, true
			}
			return r.environment, true
		}
	}
	return "", false
}
