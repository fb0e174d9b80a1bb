#!/bin/sh
# Tests the total of an order.
set -eu
check() { # want in cents, prices
    want=$1
    shift
    got=$(printf '%s\n' "$@" | awk -f total.awk)
    test "$got" = "$want" || { echo "FAIL total of $*: got $got cents, want $want" >&2; exit 1; }
    echo "ok   total of $*: $got cents"
}
check 300 1.00 2.00
check 1999 19.99
