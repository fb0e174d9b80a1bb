#!/bin/sh
# Puts the pages together.
set -eu
mkdir -p dist
cp pages/*.html dist/
echo "built $(ls dist | wc -l) pages"
