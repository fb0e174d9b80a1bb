package resource

import (
	"context"
	"encoding/json"
)

// authorField is where a document of a Kind with an Author keeps it.
const authorField = "owner"

type authorKey struct{}

// KeepAuthor returns a context in which changes leave documents to whom they belong to: for changes that tell the one who makes them nothing.
func KeepAuthor(ctx context.Context) context.Context {
	return context.WithValue(ctx, authorKey{}, true)
}

// authored sets whose the document is, and what a new one lacks: who writes it does not decide that. A document that nobody changes stays whose it was. Text that
// does not parse is left to read.
func (k *Kind) authored(ctx context.Context, raw, before json.RawMessage, anew bool) (json.RawMessage, error) {
	if k.Author == nil {
		return raw, nil
	}
	tree, err := parse(raw)
	if err != nil {
		return raw, nil //nolint:nilerr // read says what is wrong with it
	}
	owner := ""
	if stored, err := parse(before); err == nil {
		owner, _ = stored.string(authorField)
	}
	if owner == "" || anew && ctx.Value(authorKey{}) == nil {
		if owner, err = k.Author(ctx); err != nil {
			return nil, err
		}
	}
	tree.text(authorField, owner)
	if before == nil && k.Fresh != nil {
		for key, value := range k.Fresh() {
			if tree.values[key] == nil {
				tree.set(key, value)
			}
		}
	}
	return tree.bytes(), nil
}
