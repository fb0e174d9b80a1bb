// Package entitytest makes catalogs of any size for tests and measurements: components, APIs, systems, groups and users, in the proportions
// and with the labels, tags, annotations and relations of a large company's. The same number gives the same entities every time.
package entitytest

import (
	"fmt"
	"iter"

	"github.com/slipway-platform/slipway"
)

// The kinds come in rounds of a hundred, so that every stretch of a catalog has all of them: 3 groups, 4 systems, 15 users, 20 APIs, 58 components.
const (
	round   = 100
	groups  = 3
	systems = groups + 4
	users   = systems + 15
	apis    = users + 20
)

var (
	adjectives = []string{"amber", "brisk", "calm", "deep", "early", "fair", "grand", "hidden", "inner", "jade", "keen", "lunar", "mild", "north", "open", "prime", "quiet", "rapid", "solar", "true"}
	things     = []string{"account", "billing", "cart", "delivery", "export", "fraud", "gateway", "history", "invoice", "journal", "ledger", "mailer", "notice", "order", "payment", "quota",
		"report", "search", "tariff", "upload", "voucher", "webhook", "yield", "zone", "audit"}
	languages  = []string{"go", "java", "typescript", "python", "kotlin", "rust"}
	topics     = []string{"grpc", "rest", "kafka", "postgres", "redis", "batch", "frontend", "public", "internal", "pci", "gdpr", "ml", "legacy", "pilot", "mobile"}
	types      = []string{"service", "website", "library"}
	lifecycles = []string{"production", "production", "production", "experimental", "deprecated"}
	stages     = []string{"prod", "staging", "dev"}
	tiers      = []string{"tier-1", "tier-2", "tier-3", "tier-4"}
)

// Catalog gives n entities, each made when it is asked for.
func Catalog(n int) iter.Seq[*slipway.Entity] {
	return func(yield func(*slipway.Entity) bool) {
		for i := range n {
			if !yield(At(i)) {
				return
			}
		}
	}
}

// At is the entity at a place of every catalog that is so large. Those that it names come within the same rounds or before, but for
// what a round leaves out at the end.
func At(i int) *slipway.Entity {
	switch k := i % round; {
	case k < groups:
		return group(i)
	case k < systems:
		return system(i)
	case k < users:
		return user(i)
	case k < apis:
		return api(i)
	}
	return component(i)
}

// Name is the name of the entity at a place: words that searches find, and the number.
func Name(i int) string {
	return fmt.Sprintf("%s-%s-%06d", pick(adjectives, i, 1), pick(things, i, 2), i)
}

// mix spreads numbers evenly, the same every time.
func mix(i, salt int) int {
	x := uint64(i)*0x9E3779B97F4A7C15 + uint64(salt)*0xBF58476D1CE4E5B9
	x = (x ^ x>>30) * 0xBF58476D1CE4E5B9
	x = (x ^ x>>27) * 0x94D049BB133111EB
	return int((x ^ x>>31) >> 1)
}

func pick(list []string, i, salt int) string { return list[mix(i, salt)%len(list)] }

// other is the place of an entity of a kind that lies at or before i: the k-th of a round's from to to.
func other(i, salt, from, to int) int {
	return mix(i, salt)%(i/round+1)*round + from + mix(i, salt+1000)%(to-from)
}

func newEntity(i int, kind string) *slipway.Entity {
	name := Name(i)
	return &slipway.Entity{
		APIVersion: "backstage.io/v1alpha1",
		Kind:       kind,
		Metadata: slipway.EntityMetadata{
			Name:        name,
			Title:       fmt.Sprintf("%s %s of %s", pick(things, i, 3), kind, pick(adjectives, i, 4)),
			Description: "What it is for, in a sentence or two that nobody searches through, and whom to ask.",
			Annotations: map[string]string{"backstage.io/techdocs-ref": "dir:."},
		},
		Spec: map[string]any{},
	}
}

func group(i int) *slipway.Entity {
	e := newEntity(i, "Group")
	e.Spec["type"] = []string{"team", "department"}[min(i%round, 1)]
	e.Spec["children"] = []any{}
	if i >= round {
		e.Spec["parent"] = Name(other(i-round, 5, 0, groups))
	}
	e.Spec["profile"] = map[string]any{"displayName": e.Metadata.Title, "email": e.Metadata.Name + "@example.com"}
	return e
}

func system(i int) *slipway.Entity {
	e := newEntity(i, "System")
	e.Spec["owner"] = Name(other(i, 6, 0, groups))
	e.Metadata.Labels = map[string]string{"tier": pick(tiers, i, 7)}
	e.Metadata.Tags = []string{pick(topics, i, 8)}
	return e
}

func user(i int) *slipway.Entity {
	e := newEntity(i, "User")
	e.Spec["memberOf"] = []any{Name(other(i, 9, 0, groups)), Name(other(i, 10, 0, groups))}
	e.Spec["profile"] = map[string]any{"displayName": e.Metadata.Title, "email": e.Metadata.Name + "@example.com"}
	return e
}

// described are the labels, tags and annotations of what is built.
func described(i int, e *slipway.Entity) {
	owner := Name(other(i, 6, 0, groups))
	e.Spec["owner"], e.Spec["system"], e.Spec["lifecycle"] = owner, Name(other(i, 11, groups, systems)), pick(lifecycles, i, 12)
	e.Metadata.Labels = map[string]string{"env": pick(stages, i, 13), "tier": pick(tiers, i, 7), "cost-center": fmt.Sprintf("cc-%d", mix(i, 14)%1000)}
	e.Metadata.Tags = []string{pick(languages, i, 15), pick(topics, i, 8)}
	e.Metadata.Annotations["github.com/project-slug"] = "octo/" + e.Metadata.Name
	e.Metadata.Annotations["sonarqube.org/project-key"] = "octo_" + e.Metadata.Name
	e.Metadata.Annotations["pagerduty.com/service-id"] = fmt.Sprintf("P%d", mix(i, 16)%5000)
	e.Metadata.Links = []slipway.EntityLink{{URL: "https://dash.example.com/d/" + e.Metadata.Name, Title: "Dashboard"}}
}

func api(i int) *slipway.Entity {
	e := newEntity(i, "API")
	e.Spec["type"] = []string{"openapi", "grpc", "asyncapi"}[mix(i, 17)%3]
	e.Spec["definition"] = "openapi: 3.1.0\ninfo:\n  title: " + e.Metadata.Title + "\n  version: 1.0.0\npaths:\n  /:\n    get:\n      summary: Everything there is\n      responses:\n        \"200\":\n          description: All of it\n"
	described(i, e)
	return e
}

func component(i int) *slipway.Entity {
	e := newEntity(i, "Component")
	e.Spec["type"] = pick(types, i, 18)
	e.Spec["providesApis"] = []any{Name(other(i, 19, users, apis))}
	e.Spec["consumesApis"] = []any{Name(other(i, 20, users, apis)), Name(other(i, 21, users, apis))}
	if i >= round {
		e.Spec["dependsOn"] = []any{"component:" + Name(other(i-round, 22, apis, round))}
	}
	described(i, e)
	return e
}
