#!/bin/sh
# Makes sure that the tests find PostgreSQL's server programs. The tests start a private one themselves, see store/storetest.
set -eu

found() {
	[ -n "${SLIPWAY_TEST_POSTGRES:-}" ] || command -v initdb >/dev/null 2>&1 ||
		ls -d /usr/lib/postgresql/*/bin/initdb /usr/pgsql-*/bin/initdb /opt/homebrew/opt/postgresql*/bin/initdb 2>/dev/null | grep -q .
}

if found; then
	exit 0
fi
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
	echo "postgres: installing the package postgresql for the tests"
	export DEBIAN_FRONTEND=noninteractive
	# The tests want the programs, not a server of the machine's own.
	mkdir -p /etc/postgresql-common
	[ -e /etc/postgresql-common/createcluster.conf ] || echo "create_main_cluster = false" >/etc/postgresql-common/createcluster.conf
	{ apt-get update -qq && apt-get install -y -qq --no-install-recommends postgresql; } >/dev/null || true
fi
if ! found; then
	echo "postgres: the tests of PostgreSQL are skipped. Install its server (Debian: apt-get install postgresql;" \
		"Fedora: dnf install postgresql-server; macOS: brew install postgresql), or set SLIPWAY_TEST_POSTGRES to the URL of one." >&2
	[ "${CI:-}" != true ] || exit 1
fi
