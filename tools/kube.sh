#!/bin/sh
# The Kubernetes that the tests talk to: the real API server with etcd and the controller manager in one program (kubesrv), and Tekton's own
# controller (tekton). Each is built once from a module of its own below cluster/clustertest and kept in the user's cache by the hash of its
# inputs. Cold, on two cores, the first takes from 5 minutes and the second from 3.
#
#   sh tools/kube.sh [NAME...]        builds what is not there yet; without a name, all
#   sh tools/kube.sh -find NAME       prints the file; fails when it has not been built
set -eu
cd "$(dirname "$0")/.."

# Each module keeps its own versions, wherever it is built.
export GOFLAGS= GOWORK=off CGO_ENABLED=0

file() { # file NAME: where that program is kept
	key=$({ cat "cluster/clustertest/$1"/go.mod "cluster/clustertest/$1"/go.sum; cat "cluster/clustertest/$1"/*.go 2>/dev/null || true; cat tools/kube.sh; go version; } | cksum | tr ' ' -)
	echo "${XDG_CACHE_HOME:-$HOME/.cache}/slipway/$1-$key"
}

build() { # build NAME PACKAGE LDFLAGS
	bin=$(file "$1")
	if [ -x "$bin" ]; then
		echo "kube: $1 is built: $bin"
		return
	fi
	echo "kube: building $1 from cluster/clustertest/$1; this happens once and takes some minutes"
	mkdir -p "$(dirname "$bin")"
	nice go build -C "cluster/clustertest/$1" -trimpath -buildvcs=false -ldflags="-s -w $3" -o "$bin.$$" "$2"
	mv "$bin.$$" "$bin"
}

if [ "${1:-}" = -find ]; then
	bin=$(file "$2")
	[ -x "$bin" ] || exit 1
	echo "$bin"
	exit
fi
[ $# -gt 0 ] || set -- kubesrv tekton
for name; do
	case $name in
	kubesrv)
		v=k8s.io/component-base/version
		build kubesrv . "-X $v.gitVersion=v1.36.3 -X $v.gitMajor=1 -X $v.gitMinor=36"
		;;
	tekton) build tekton github.com/tektoncd/pipeline/cmd/controller "" ;;
	*)
		echo "kube: there is no $name; there are kubesrv and tekton" >&2
		exit 2
		;;
	esac
done
