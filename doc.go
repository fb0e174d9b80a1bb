// Package slipway holds the nouns that every part of Slipway shares: EntityRef and Entity, Build,
// Caller, Page, Source, and Error with its codes. One file each; only the standard library is imported.
//
// Slipway is one API for a developer platform, keyed by what you own (a catalog entity) and not by
// the vendor that runs it. How the parts fit together stands in docs/architecture.md.
package slipway
