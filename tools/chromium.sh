#!/bin/sh
# Makes sure that the tests find a browser: they open pages in it, see server/page_test.go.
set -eu

found() {
	command -v chromium >/dev/null 2>&1 || command -v chromium-browser >/dev/null 2>&1 || command -v google-chrome >/dev/null 2>&1
}

if found; then
	exit 0
fi
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
	echo "chromium: installing the package chromium for the tests"
	export DEBIAN_FRONTEND=noninteractive
	{ apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium; } >/dev/null || true
fi
if ! found; then
	echo "chromium: the tests of pages in a browser are skipped. Install one (Debian: apt-get install chromium)." >&2
	[ "${CI:-}" != true ] || exit 1
fi
