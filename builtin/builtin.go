// Package builtin is the list of what this build of Slipway is made of: its blueprints and its kinds of providers. It is the only
// place to touch when one is added.
package builtin

import (
	"github.com/slipway-platform/slipway/blueprint"
	"github.com/slipway-platform/slipway/blueprint/build"
	"github.com/slipway-platform/slipway/blueprint/catalog"
	"github.com/slipway-platform/slipway/blueprint/data"
	"github.com/slipway-platform/slipway/blueprint/deployment"
	"github.com/slipway-platform/slipway/blueprint/dora"
	"github.com/slipway-platform/slipway/blueprint/local"
	"github.com/slipway-platform/slipway/blueprint/platform"
	"github.com/slipway-platform/slipway/blueprint/tool"
	"github.com/slipway-platform/slipway/blueprint/webhook"
	"github.com/slipway-platform/slipway/blueprint/workspace"
	"github.com/slipway-platform/slipway/provider"
	"github.com/slipway-platform/slipway/provider/argocd"
	"github.com/slipway-platform/slipway/provider/azure"
	"github.com/slipway-platform/slipway/provider/buildkite"
	"github.com/slipway-platform/slipway/provider/circleci"
	"github.com/slipway-platform/slipway/provider/gitea"
	"github.com/slipway-platform/slipway/provider/github"
	"github.com/slipway-platform/slipway/provider/gitlab"
	"github.com/slipway-platform/slipway/provider/jenkins"
	"github.com/slipway-platform/slipway/provider/kubernetes"
	"github.com/slipway-platform/slipway/provider/tekton"
	"github.com/slipway-platform/slipway/provider/toolforge"
)

// Early is called first in main, and in TestMain of tests that build: it makes the process the supervisor of a local build when it was
// started as one, and then does not return.
func Early() { local.Supervise() }

// Blueprints returns the blueprints of this build, in alphabetical order.
func Blueprints() []blueprint.Blueprint {
	return []blueprint.Blueprint{
		build.Blueprint,
		catalog.Blueprint,
		data.Blueprint,
		deployment.Blueprint,
		dora.Blueprint,
		local.Blueprint,
		platform.Blueprint,
		tool.Blueprint,
		webhook.Blueprint,
		workspace.Blueprint,
	}
}

// Providers returns the kinds of providers of this build, in alphabetical order. Kinds that need a blueprint's service (local) come with
// their blueprint.
func Providers() []provider.Kind {
	return []provider.Kind{
		argocd.Kind,
		azure.Kind,
		buildkite.Kind,
		circleci.Kind,
		gitea.Kind,
		github.Kind,
		gitlab.Kind,
		jenkins.Kind,
		kubernetes.Kind,
		tekton.Kind,
		toolforge.Kind,
	}
}
