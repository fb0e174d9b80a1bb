#!/bin/sh
# Drives the Jenkins of our tests (package provider/jenkinstest) with the npm package jenkins, which others wrote for the real one: what it cannot work with is no Jenkins.
# Needs Go, Node 20 and npm.
set -eu
cd "$(dirname "$0")/../.."

for tool in node npm; do
	command -v "$tool" >/dev/null 2>&1 || {
		echo "compat-jenkins: $tool is missing; install Node 20 or later (Debian: apt-get install nodejs npm)" >&2
		exit 1
	}
done

# The package is kept outside of the sources, and installed anew when package.json changes.
cache=.cache/compat-jenkins
mkdir -p "$cache"
if ! cmp -s compat/jenkins/package.json "$cache/package.json" || [ ! -d "$cache/node_modules/jenkins" ]; then
	rm -rf "$cache/node_modules"
	npm install --prefix "$cache" --no-package-lock --no-audit --no-fund --ignore-scripts --loglevel error "jenkins@$(node -p 'require("./compat/jenkins/package.json").dependencies.jenkins')"
	cp compat/jenkins/package.json "$cache/package.json"
fi
JENKINS_CLIENT="$PWD/compat/jenkins/client.mjs" exec go test ./provider/jenkins -run '^TestForeignClient$' -count 1 -v
