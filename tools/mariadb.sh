#!/bin/sh
# Makes sure that the tests find MariaDB's server programs. The tests start a private one themselves, see store/storetest.
set -eu

found() {
	command -v mariadbd >/dev/null 2>&1 || [ -x /usr/sbin/mariadbd ] || [ -x /usr/libexec/mariadbd ]
}

if found; then
	exit 0
fi
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
	echo "mariadb: installing the package mariadb-server for the tests"
	export DEBIAN_FRONTEND=noninteractive
	# The tests want the programs, not a server of the machine's own.
	policy=/usr/sbin/policy-rc.d
	if [ ! -e $policy ]; then
		printf '#!/bin/sh\nexit 101\n' >$policy
		chmod +x $policy
		trap 'rm -f $policy' EXIT
	fi
	{ apt-get update -qq && apt-get install -y -qq --no-install-recommends mariadb-server; } >/dev/null || true
fi
if ! found; then
	echo "mariadb: the tests of DevLake's database are skipped. Install MariaDB's server (Debian: apt-get install mariadb-server)." >&2
	[ "${CI:-}" != true ] || exit 1
fi
