# make help lists what there is.

GO       ?= go
FUZZTIME ?= 30s
KUBE     ?= ./cluster/... ./deploy ./provider/tekton ./blueprint/tool ./blueprint/workspace ./seeds

.DEFAULT_GOAL := help
.PHONY: help test test-kube lint bench compat compat-jenkins microbench fuzz e2e e2e-kill e2e-replicas build image generate cover clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' Makefile

test: ## vet, lint, and every test on both engines; what a change must pass
	@sh tools/test.sh

test-kube: ## the tests that need a real Kubernetes; builds its parts first, once: 8 minutes and more
	@sh tools/kube.sh
	@sh tools/test.sh $(KUBE)

lint: ## golangci-lint, built once from tools/go.mod
	@sh tools/lint.sh

build: ## one static binary: ./slipway
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags='-s -w' -o slipway ./cmd/slipway

image: ## dist/slipway-image.tar: an image for containers, made without an engine
	GOOS=linux CGO_ENABLED=0 $(GO) build -trimpath -ldflags='-s -w' -o dist/slipway-linux ./cmd/slipway
	$(GO) run -C tools ./image -binary ../dist/slipway-linux -out ../dist/slipway-image.tar -version "$$(git describe --tags --always 2>/dev/null || echo devel)"

generate: ## write the generated files anew: docs/openapi.json, docs/config.md
	$(GO) test ./docs/ -run 'TestGenerated' -update

e2e: build ## the quick start with the built binary: a real build that succeeds, one that fails, a retrigger
	./slipway quickstart --once

e2e-replicas: ## three processes on one PostgreSQL behind a plain balancer, killed, frozen, their database restarted: 20 times
	$(GO) test ./e2e -run TestThreeReplicas -count 20 -v -timeout 3h

KILLS ?= 100

e2e-kill: ## deployments of tools, the server killed with -9 at random steps, KILLS (100) times on each engine and storage; the last line but two is the result
	SLIPWAY_KILLS=$(KILLS) $(GO) test ./e2e -run TestDeploymentsKilledAtEachStep -count 1 -v -parallel 8 -timeout 3h

compat: ## every method of Backstage's own catalog client, against servers on both engines; needs Node 20 and npm
	@sh compat/run.sh

compat-jenkins: ## the Jenkins of the tests, driven by a client that others wrote for the real one; needs Node 20 and npm
	@sh compat/jenkins/run.sh

bench: ## the numbers of docs/performance.md; takes long and 10 GB, see BENCH_BUILDS in bench/
	$(GO) test ./bench -tags bench -count 1 -v -timeout 6h

microbench: ## the benchmarks of the packages
	$(GO) test ./... -run '^$$' -bench . -benchmem -timeout 1h

fuzz: ## every fuzz target, FUZZTIME each
	@sh tools/fuzz.sh $(FUZZTIME)

cover: ## coverage by package, and coverage.out for go tool cover
	$(GO) test -coverprofile=coverage.out -coverpkg=./... ./... && $(GO) tool cover -func=coverage.out | tail -1

clean: ## remove what was built here
	rm -rf slipway dist .cache coverage.out
