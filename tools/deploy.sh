#!/bin/sh
# Makes sure that the tests find what checks the files in deploy/: promtool for alerts, systemd-analyze for the unit.
set -eu

missing=
command -v promtool >/dev/null 2>&1 || missing="$missing prometheus"
if [ "$(uname)" = Linux ]; then
	command -v systemd-analyze >/dev/null 2>&1 || missing="$missing systemd"
fi
[ -n "$missing" ] || exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
	echo "deploy: installing the packages$missing for the tests"
	export DEBIAN_FRONTEND=noninteractive
	# The tests want the programs, not a server of the machine's own.
	policy=/usr/sbin/policy-rc.d
	if [ ! -e $policy ]; then
		printf '#!/bin/sh\nexit 101\n' >$policy
		chmod +x $policy
		trap 'rm -f $policy' EXIT
	fi
	# shellcheck disable=SC2086 # several words on purpose
	{ apt-get update -qq && apt-get install -y -qq --no-install-recommends $missing; } >/dev/null || true
fi
for name in promtool systemd-analyze; do
	command -v $name >/dev/null 2>&1 && continue
	[ $name = promtool ] || [ "$(uname)" = Linux ] || continue
	echo "deploy: the tests that need $name are skipped (Debian: apt-get install$missing)." >&2
	[ "${CI:-}" != true ] || exit 1
done
