#!/bin/sh
# Tests the total of an order, in cents.
set -eu
check() { # want, prices in cents
    want=$1
    shift
    got=$(printf '%s\n' "$@" | awk -f total.awk)
    test "$got" = "$want" || { echo "FAIL total of $*: got $got, want $want" >&2; exit 1; }
    echo "ok   total of $*: $got"
}
check 300 100 200
check 1999 1999
