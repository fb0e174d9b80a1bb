#!/bin/sh
# Has the real npm package @backstage/catalog-client call every method that it has against Slipway servers, on both engines. Needs Go, Node 20 and npm.
set -eu
cd "$(dirname "$0")/.."

for tool in node npm; do
	command -v "$tool" >/dev/null 2>&1 || {
		echo "compat: $tool is missing; install Node 20 or later (Debian: apt-get install nodejs npm)" >&2
		exit 1
	}
done
if [ "$(node -p 'parseInt(process.versions.node)')" -lt 20 ]; then
	echo "compat: node is $(node --version); install Node 20 or later" >&2
	exit 1
fi

# The packages are kept outside of the sources, and installed anew when package.json changes.
mkdir -p .cache/compat
if ! cmp -s compat/package.json .cache/compat/package.json || [ ! -e .cache/compat/installed ]; then
	rm -rf .cache/compat/node_modules .cache/compat/installed
	cp compat/package.json .cache/compat/package.json
	npm install --prefix .cache/compat --no-package-lock --no-audit --no-fund --ignore-scripts --loglevel error
	touch .cache/compat/installed
fi
CGO_ENABLED=0 go build -o .cache/compat/slipway ./cmd/slipway
sh tools/postgres.sh
exec go test -tags compat -count 1 -v ./compat
