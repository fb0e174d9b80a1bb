#!/bin/sh
# Runs every fuzz target of the module for a while (30s, or the first argument), one after the other. Making an input that
# found something smaller is kept short: with large inputs it would take all of the time.
set -eu
cd "$(dirname "$0")/.."
time=${1:-30s}

grep -rl '^func Fuzz' --include='*_test.go' . | xargs -n1 dirname | sort -u | while read -r dir; do
	for target in $(grep -ho '^func Fuzz[A-Za-z0-9_]*' "$dir"/*_test.go | cut -d' ' -f2 | sort -u); do
		echo "fuzz: $dir $target"
		go test "$dir" -run '^$' -fuzz "^$target\$" -fuzztime "$time" -fuzzminimizetime 10x
	done
done
