#!/bin/sh
# Checks that every link leads to a page, then puts the pages together.
set -eu
for page in pages/*.html; do
    for link in $(sed -n 's/.*href="\([^"]*\)".*/\1/p' "$page"); do
        echo "check $page: $link"
        test -f "pages/$link" || { echo "$page links to $link, which does not exist" >&2; exit 1; }
    done
done
mkdir -p dist
cp pages/*.html dist/
echo "built $(ls dist | wc -l) pages"
