#!/bin/sh
# All that must hold before a change goes in: vet, lint, and every test on both engines. Needs Go and git; the rest it installs where it
# may, or says what to install. Arguments are packages; without any, all.
#
#   SLIPWAY_LINT=0   leaves the linter out
set -eu
cd "$(dirname "$0")/.."
[ $# -gt 0 ] || set -- ./...

sh tools/postgres.sh
sh tools/mariadb.sh
sh tools/chromium.sh
sh tools/deploy.sh

echo "test: go vet"
go vet -tags bench,compat "$@"

if [ "${SLIPWAY_LINT:-1}" != 0 ]; then
	echo "test: golangci-lint"
	sh tools/lint.sh "$@"
fi

# SQLite in pure Go is a C program in translation: with the race detector inside it, tests take forty times as long.
race=
if [ "$(go env CGO_ENABLED)" = 1 ] && command -v "$(go env CC | cut -d' ' -f1)" >/dev/null 2>&1; then
	race="-race -gcflags=modernc.org/sqlite/lib=-race=false"
	echo "test: go test -race, both engines"
elif [ "${CI:-}" = true ]; then
	echo "test: the race detector needs a C compiler (Debian: apt-get install gcc libc6-dev)" >&2
	exit 1
else
	echo "test: go test, both engines; without the race detector, which needs a C compiler (Debian: apt-get install gcc libc6-dev)"
fi
mkdir -p .cache
go test -C tools ./report
go vet -C tools ./image
go vet -C tools/deploylint .
go build -C tools -o ../.cache/report ./report
# shellcheck disable=SC2086 # several words on purpose
exec .cache/report -allow tools/skips.txt go test -json -timeout 20m $race "$@"
