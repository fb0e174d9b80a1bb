#!/bin/sh
# Runs golangci-lint on the module, or on the packages given. The linter is built from tools/go.mod once per version and kept in the user's
# cache: the first time takes some minutes.
set -eu
cd "$(dirname "$0")/.."

key=$({ cat tools/go.mod tools/go.sum; go version; } | cksum | cut -d' ' -f1)
bin="${XDG_CACHE_HOME:-$HOME/.cache}/slipway/golangci-lint-$key"
if [ ! -x "$bin" ]; then
	echo "lint: building golangci-lint from tools/go.mod; this happens once and takes some minutes"
	mkdir -p "$(dirname "$bin")"
	CGO_ENABLED=0 go build -C tools -trimpath -ldflags='-s -w' -o "$bin.$$" github.com/golangci/golangci-lint/v2/cmd/golangci-lint
	mv "$bin.$$" "$bin"
fi
exec "$bin" run --allow-serial-runners "${@:-./...}"
