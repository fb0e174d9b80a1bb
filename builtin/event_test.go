package builtin_test

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/slipway-platform/slipway/builtin"
	"github.com/slipway-platform/slipway/event"
)

// vocabulary are the subjects and predicates of CDEvents 0.4.1.
//
// Source: the specification of CDEvents, version 0.4.1, its chapters on core, source code, continuous integration, testing, deployment and operations.
var vocabulary = map[string]string{
	"pipelinerun": "queued started finished", "taskrun": "started finished",
	"repository": "created modified deleted", "branch": "created deleted", "change": "created reviewed merged abandoned updated",
	"build": "queued started finished", "artifact": "packaged signed published downloaded deleted",
	"testcaserun": "queued started finished skipped", "testsuiterun": "queued started finished", "testoutput": "published",
	"environment": "created modified deleted", "service": "deployed upgraded rolledback removed published",
	"incident": "detected reported resolved", "ticket": "created updated closed",
}

var (
	cdEvents  = regexp.MustCompile(`^dev\.cdevents\.([a-z]+)\.([a-z]+)\.\d+\.\d+\.\d+$`)
	cdCustom  = regexp.MustCompile(`^dev\.cdeventsx\.slipway-[a-z]+\.[a-z]+\.\d+\.\d+\.\d+$`) // its form for words of one's own
	ourEvents = regexp.MustCompile(`^dev\.slipway(\.[a-z]+)+\.v\d+$`)
)

// Events are told in the words of CDEvents where they have one, with a version at the end wherever they come from, and of data that a schema describes.
func TestEventsAreNamedInKnownWords(t *testing.T) {
	t.Parallel()
	types := slices.Clone(event.EntityTypes)
	for _, b := range builtin.Blueprints() {
		types = append(types, b.Events...)
	}
	for _, e := range types {
		if m := cdEvents.FindStringSubmatch(e.Name); m != nil {
			if !slices.Contains(strings.Fields(vocabulary[m[1]]), m[2]) {
				t.Errorf("%s: CDEvents has no such word", e.Name)
			}
		} else if !ourEvents.MatchString(e.Name) && !cdCustom.MatchString(e.Name) {
			t.Errorf("%s: want a type of CDEvents, one of its form for words of one's own, or dev.slipway.<blueprint>.….v<n>", e.Name)
		}
		if e.Data == nil && !strings.HasPrefix(e.Name, "dev.slipway.webhook.") {
			t.Errorf("%s: no schema describes its data", e.Name)
		}
	}
	if len(types) < 10 {
		t.Errorf("only %d types were found", len(types))
	}
}
