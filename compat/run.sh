#!/bin/sh
# Runs every method of the real npm package @backstage/catalog-client against a Slipway server of its own. Needs Go, Node 20 and npm.
#
#   SLIPWAY_DATABASE   address of an empty database, such as postgres://…; absent: SQLite in a temporary folder
set -eu
cd "$(dirname "$0")/.."

for tool in node npm; do
	command -v "$tool" >/dev/null 2>&1 || {
		echo "compat: $tool is missing; install Node 20 or later (Debian: apt-get install nodejs npm)" >&2
		exit 1
	}
done

# The packages are kept outside of the sources, and installed anew when package.json changes.
mkdir -p .cache/compat
if ! cmp -s compat/package.json .cache/compat/package.json || [ ! -d .cache/compat/node_modules ]; then
	rm -rf .cache/compat/node_modules
	cp compat/package.json .cache/compat/package.json
	npm install --prefix .cache/compat --no-package-lock --no-audit --no-fund --loglevel error
fi
CGO_ENABLED=0 go build -o .cache/compat/slipway ./cmd/slipway
exec node compat/compat.mjs
