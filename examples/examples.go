// Package examples has the sources of the examples that skeletons are made of, so that a skeleton is code that is built and tested with everything else.
package examples

import "embed"

// Files are the folders widget, a blueprint, and paperboy, a provider, as they lie beside this file.
//
//go:embed widget paperboy
var Files embed.FS
