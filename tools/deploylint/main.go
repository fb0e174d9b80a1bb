// Command deploylint checks a Containerfile with BuildKit's own parser and rules, and a Compose file with the Compose specification's own loader. It prints what is wrong
// and fails then. It is a module of its own, because what it needs is needed by nothing else.
//
//	deploylint Containerfile compose.yaml
package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
)

func main() {
	faults := 0
	for _, file := range os.Args[1:] {
		check := containerfile
		if strings.HasSuffix(file, ".yaml") {
			check = compose
		}
		for _, fault := range check(file) {
			fmt.Printf("%s: %s\n", file, fault)
			faults++
		}
	}
	if len(os.Args) < 2 || faults > 0 {
		os.Exit(1)
	}
}

func containerfile(file string) (faults []string) {
	text, err := os.ReadFile(file)
	if err != nil {
		return []string{err.Error()}
	}
	parsed, err := parser.Parse(bytes.NewReader(text))
	if err != nil {
		return []string{err.Error()}
	}
	for _, w := range parsed.Warnings {
		faults = append(faults, w.Short)
	}
	lint := linter.New(&linter.Config{Warn: func(rule, _, _, message string, at []parser.Range) {
		line := 0
		if len(at) > 0 {
			line = at[0].Start.Line
		}
		faults = append(faults, fmt.Sprintf("line %d: %s: %s", line, rule, message))
	}})
	stages, _, err := instructions.Parse(parsed.AST, lint)
	if err != nil {
		return append(faults, err.Error())
	}
	// Rules of ours, for images that run in production.
	last := stages[len(stages)-1]
	has := map[string]string{}
	for _, c := range last.Commands {
		has[c.Name()] = fmt.Sprint(c)
	}
	for _, want := range []string{"USER", "HEALTHCHECK", "ENTRYPOINT", "LABEL", "VOLUME", "EXPOSE"} {
		if has[strings.ToLower(want)] == "" && has[want] == "" {
			faults = append(faults, "the image lacks "+want)
		}
	}
	for _, c := range last.Commands {
		if u, ok := c.(*instructions.UserCommand); ok && (strings.HasPrefix(u.User, "0") || strings.HasPrefix(u.User, "root")) {
			faults = append(faults, "the image runs as root")
		}
	}
	for _, line := range strings.Split(string(text), "\n") {
		if name, ok := strings.CutPrefix(line, "ARG GO_IMAGE="); ok && !pinned(name) {
			faults = append(faults, "GO_IMAGE has no version")
		}
		if name, ok := strings.CutPrefix(line, "ARG BASE_IMAGE="); ok && !pinned(name) {
			faults = append(faults, "BASE_IMAGE has no version")
		}
	}
	return faults
}

// pinned says whether the name of an image says which one.
func pinned(image string) bool {
	_, tag, _ := strings.Cut(filepath.Base(image), ":")
	return strings.ContainsAny(tag, "0123456789")
}

func compose(file string) (faults []string) {
	o, err := cli.NewProjectOptions([]string{file}, cli.WithName("slipway"), cli.WithInterpolation(true), cli.WithResolvedPaths(false))
	if err != nil {
		return []string{err.Error()}
	}
	project, err := o.LoadProject(context.Background())
	if err != nil {
		return []string{err.Error()}
	}
	for name, s := range project.Services {
		if s.Build == nil && !pinned(s.Image) && !strings.Contains(s.Image, "slipway:") {
			faults = append(faults, fmt.Sprintf("%s: the image %s has no version", name, s.Image))
		}
		if s.MemLimit == 0 {
			faults = append(faults, name+": its memory has no limit")
		}
		if s.Restart != "" && s.HealthCheck == nil {
			faults = append(faults, name+": a service that is restarted has no health check")
		}
		if s.Privileged {
			faults = append(faults, name+": it is privileged")
		}
		for key, value := range s.Environment {
			if value != nil && strings.Contains(strings.ToLower(key), "password") && !strings.HasSuffix(key, "_FILE") {
				faults = append(faults, fmt.Sprintf("%s: %s stands in the environment; give it by a file", name, key))
			}
		}
	}
	return faults
}
