// Package resource is the layer of documents: a Kind declares, as data, what people may configure (its types by symbol, its fields, which of them are
// secret, who may do what), and a Store creates, reads, changes and deletes such documents, seals their secrets and records every change. HTTP, the command
// line and files are other packages' (blueprint/data): here is one format for all of them.
//
// A document is apart from what is stored: it changes only by a further typeVersion with an upgrade, while the stored shape may move behind Type.Save and Type.Load.
// A symbol is looked up in the list of its kind and nowhere else.
package resource

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/provider"
	"github.com/slipway-platform/slipway/secret"
	"github.com/slipway-platform/slipway/store"
)

// Kind declares a kind of documents.
type Kind struct {
	Name string // plural, as in the path: "credentials"
	Text string // one sentence
	Base any    // zero value of a struct with the fields that all types share; nil: none. A key of it hides the same key of a type
	// Types by symbol. A kind whose documents have no "type" has one Type with the symbol "".
	Types       []Type
	Permissions Permissions

	// Uses lists the documents that a document names. They must exist, and cannot be deleted while they are named. It gets the whole document. May be nil.
	Uses func(document json.RawMessage) []Ref
	// Check judges a document that fits its schema against the rest of the world. It may be nil.
	Check func(ctx context.Context, document json.RawMessage) []slipway.Detail
	// Warn gives sentences about a document that is taken and may still not be what its writer wants. They are shown beside the answer, and must hold no
	// secret. It may be nil.
	Warn func(document json.RawMessage) []string
	// Author says whose rights the documents have that the caller in the context writes now, for kinds that act on somebody's behalf. It is kept in the field "owner", which all
	// types have, whatever the document says: a document belongs to whoever changed it last. It may be nil.
	Author func(ctx context.Context) (string, error)
	// Fresh gives fields of a new document that its writer left out, such as a key of its own; only with Author. It may be nil.
	Fresh func() map[string]json.RawMessage
	// Fixed lists documents of this kind that are set elsewhere (in the configuration file): they are read like others and cannot be written. Whole
	// documents, in the order of ids, without secrets. May be nil.
	Fixed func() []Fixed
	// Source has the documents that are kept elsewhere. nil: they are kept here.
	Source *Source
	// Local says that the documents mean something only where they were made, so that an export of everything leaves them out.
	Local bool
}

// Source has documents of a kind that other tables hold. It limits what it gives to what the caller in the context may read. Such documents have no labels.
type Source struct {
	// List gives up to a number of documents after a sort key, in an order of its own.
	List func(ctx context.Context, q SourceQuery) ([]Fixed, error)
	// Get gives one; NotFound when there is none.
	Get func(ctx context.Context, id string) (Fixed, error)
	// Write makes a change in the transaction that puts all changes of a call in place; nil: they are only read. It finds out itself whether the thing is still as
	// the change says (ErrRaced when it is not), and asks for rights beyond those of the kind. It gives a secret that is told this once and kept nowhere, or "".
	Write func(ctx context.Context, tx *store.Tx, c SourceChange) (told string, err error)
}

// SourceChange is a change of a document that is kept elsewhere: it is made (Before is nil), changed, or taken away (After is nil).
type SourceChange struct {
	ID, Type      string
	Before, After json.RawMessage // After without the fields that are only read
}

// Permissions name what a caller must hold, by verb. An empty one means that nobody may do it through documents.
type Permissions struct {
	Read   string `json:"read"`
	Create string `json:"create,omitempty"`
	Update string `json:"update,omitempty"`
	Delete string `json:"delete,omitempty"`
	Use    string `json:"use,omitempty"` // to name such a document in another, and so have its secrets shown to whoever that one names; empty: no more than the other needs
}

// Type declares one type of a kind.
type Type struct {
	Symbol  string // "sshPrivateKey"; never the name of a Go type, a path or a package
	Text    string
	Fields  any // zero value of a struct: json names the keys, doc explains, default and required as for provider.Decode, secret:"true" hides, readOnly:"true" shows only; it may have Check() []slipway.Detail
	Version int // of the document; 0 is 1. From 2 on, documents carry it as "typeVersion"
	// Upgrade takes a document from version i+1 to i+2. There are Version-1 of them.
	Upgrade []func(document map[string]any)
	// Save makes of a document's fields what is stored, and Load the reverse, also for shapes that were stored earlier. Secrets stand in them as
	// "<redacted>". Both nil: stored as it is.
	Save, Load func(fields map[string]json.RawMessage) (map[string]json.RawMessage, error)

	// Deprecated says what to use in place of the type; "" for one that is not deprecated. Whoever writes such a document is told.
	Deprecated string

	secrets  [][]string // paths of the secret fields
	readOnly []string   // keys that are shown, and of no effect on a write
}

// SourceQuery says what to read of a Source.
type SourceQuery struct {
	Parent string // what the documents belong to, for kinds that lie below another; "" for none
	After  string // sort key of the last document that was read; "" from the beginning
	Limit  int
}

// Ref names a document that is kept here. Field is the JSON pointer to where it is named.
type Ref struct{ Kind, ID, Field string }

func (r Ref) String() string { return r.Kind + "/" + r.ID }

// Fixed is a document that is kept or set elsewhere.
type Fixed struct {
	ID, Type string
	Document json.RawMessage
	Key      string // where it stands in the order of a Source; "" is the id
}

var (
	kindName   = regexp.MustCompile(`^[a-z][a-z0-9-]{0,40}$`)
	symbolName = regexp.MustCompile(`^[a-z][a-zA-Z0-9-]{0,40}$`)
	idPattern  = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)
)

// general are the keys that every document may have, before its own.
var general = []string{"id", "kind", "type", "typeVersion", "labels"}

// reserved are names of paths beside the kinds.
var reserved = []string{"schema", "audit", "job", "rekey"}

// Faults lists what is wrong with a declaration.
func (k Kind) Faults() (faults []error) {
	fault := func(format string, args ...any) {
		faults = append(faults, fmt.Errorf("kind %q: %s", k.Name, fmt.Sprintf(format, args...)))
	}
	if !kindName.MatchString(k.Name) || slices.Contains(reserved, k.Name) {
		fault("the name must be lower-case letters, digits and dashes, and none of %s", strings.Join(reserved, ", "))
	}
	if k.Text == "" || k.Permissions.Read == "" {
		fault("a text and a permission to read are required")
	}
	if len(secretPaths(k.Base)) > 0 {
		fault("its base has secret fields; put them into the types")
	}
	seen := map[string]bool{}
	for _, t := range k.Types {
		if seen[t.Symbol] {
			fault("the symbol %q is declared twice", t.Symbol)
		}
		seen[t.Symbol] = true
		if t.Symbol == "" && len(k.Types) > 1 || t.Symbol != "" && !symbolName.MatchString(t.Symbol) {
			fault("%q is no symbol; write one word that begins with a small letter", t.Symbol)
		}
		if t.Fields != nil && reflect.TypeOf(t.Fields).Kind() != reflect.Struct {
			fault("type %q: Fields must be a struct", t.Symbol)
			continue
		}
		for _, key := range append(slices.Clone(general), "version", "data") {
			if slices.Contains(keysOf(t.Fields), key) || slices.Contains(keysOf(k.Base), key) {
				fault("type %q: the key %q belongs to every document, or to its envelope", t.Symbol, key)
			}
		}
		if k.Source == nil && len(readOnlyKeys(t.Fields)) > 0 {
			fault("type %q: only what is kept elsewhere has fields that are only read", t.Symbol)
		}
		if (t.Save == nil) != (t.Load == nil) || len(t.Upgrade) != max(t.Version, 1)-1 {
			fault("type %q: Save and Load go together, and a version needs an upgrade from each before it", t.Symbol)
		}
	}
	return faults
}

// Join puts kinds together: those of one name are one kind with the types of all, and what is said about the kind itself is said once. Overlaps are
// faults, all reported together.
func Join(kinds ...Kind) ([]Kind, error) {
	var out []Kind
	var faults []error
	for _, k := range kinds {
		i := slices.IndexFunc(out, func(o Kind) bool { return o.Name == k.Name })
		switch {
		case i < 0:
			k.Types = slices.Clone(k.Types)
			out = append(out, k)
		case k.Text != "" || k.Permissions != (Permissions{}):
			faults = append(faults, fmt.Errorf("kind %q is declared twice; to add types to it, give only its name and the types", k.Name))
		default:
			out[i].Types = append(out[i].Types, k.Types...)
		}
	}
	for i := range out {
		faults = append(faults, out[i].Faults()...)
		for j := range out[i].Types {
			t := &out[i].Types[j]
			t.Version, t.readOnly = max(t.Version, 1), readOnlyKeys(t.Fields)
			for _, path := range secretPaths(t.Fields) {
				if !slices.Contains(keysOf(out[i].Base), path[0]) {
					t.secrets = append(t.secrets, path)
				}
			}
		}
	}
	slices.SortFunc(out, func(a, b Kind) int { return strings.Compare(a.Name, b.Name) })
	return out, errors.Join(faults...)
}

// ReadOnly lists the fields that are shown, and of no effect on a write.
func (k Kind) ReadOnly() (keys []string) {
	for _, t := range k.Types {
		for _, key := range readOnlyKeys(t.Fields) {
			if !slices.Contains(keys, key) {
				keys = append(keys, key)
			}
		}
	}
	return keys
}

// symbol finds a type by its symbol: in this kind, and by nothing but equality.
func (k *Kind) symbol(symbol string) (*Type, bool) {
	i := slices.IndexFunc(k.Types, func(t Type) bool { return t.Symbol == symbol })
	if i < 0 {
		return nil, false
	}
	return &k.Types[i], true
}

func (k *Kind) symbols() string {
	var names []string
	for _, t := range k.Types {
		names = append(names, t.Symbol)
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}

// isSecret says whether a field is hidden: it is a secret.Text, says so, or is a text with the name of one and does not say otherwise. A tag that was
// forgotten must not show a password.
func isSecret(f reflect.StructField) bool {
	switch f.Tag.Get("secret") {
	case "true":
		return true
	case "false":
		return false
	}
	name := strings.ToLower(f.Name)
	return f.Type == textType || f.Type.Kind() == reflect.String && f.Type.Name() == "Secret" || f.Type.Kind() == reflect.String && slices.ContainsFunc(secretWords, func(w string) bool { return strings.HasSuffix(name, w) })
}

var (
	textType    = reflect.TypeFor[secret.Text]()
	secretWords = []string{"secret", "password", "passphrase", "token", "privatekey", "apikey", "accesskey"}
)

// field is a key of a document with the Go field behind it.
type field struct {
	key string
	reflect.StructField
}

func fieldsOf(t reflect.Type) (fields []field) {
	for _, f := range reflect.VisibleFields(t) {
		key, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if !f.IsExported() || key == "-" || f.Anonymous && key == "" {
			continue
		}
		if key == "" {
			key = f.Name
		}
		fields = append(fields, field{key, f})
	}
	return fields
}

func keysOf(v any) (keys []string) {
	if v == nil {
		return nil
	}
	for _, f := range fieldsOf(reflect.TypeOf(v)) {
		keys = append(keys, f.key)
	}
	return keys
}

func readOnlyKeys(v any) (keys []string) {
	if v == nil {
		return nil
	}
	for _, f := range fieldsOf(reflect.TypeOf(v)) {
		if f.Tag.Get("readOnly") == "true" {
			keys = append(keys, f.key)
		}
	}
	return keys
}

// secretPaths lists where a struct has secrets, also in structs inside it.
func secretPaths(v any) (paths [][]string) {
	if v == nil || reflect.TypeOf(v).Kind() != reflect.Struct {
		return nil
	}
	var walk func(t reflect.Type, above []string)
	walk = func(t reflect.Type, above []string) {
		for _, f := range fieldsOf(t) {
			path := append(slices.Clone(above), f.key)
			ft := f.Type
			if ft.Kind() == reflect.Pointer {
				ft = ft.Elem()
			}
			switch {
			case isSecret(f.StructField):
				paths = append(paths, path)
			case ft.Kind() == reflect.Struct && !isText(ft) && len(path) < 6:
				walk(ft, path)
			}
		}
	}
	walk(reflect.TypeOf(v), nil)
	return paths
}

// decode reads keys of a document strictly into the struct that zero is a value of, and gives what it holds as an object. Faults carry JSON pointers.
func decode(tree *object, zero any, keys []string) (*object, []slipway.Detail) {
	if zero == nil {
		return newObject(), nil
	}
	part := newObject()
	for _, key := range tree.keys {
		if slices.Contains(keys, key) {
			part.set(key, tree.values[key])
		}
	}
	into := reflect.New(reflect.TypeOf(zero))
	var faults []slipway.Detail
	if err := provider.Decode(part.bytes(), into.Interface()); err != nil {
		e, _ := errors.AsType[*slipway.Error](err)
		for _, d := range e.Details {
			first, _, _ := strings.Cut(strings.NewReplacer("[", ".").Replace(d.Field), ".")
			if slices.Contains(keys, first) || d.Field == "" {
				faults = append(faults, slipway.Detail{Field: Pointer(d.Field), Code: d.Code, Message: d.Message})
			}
		}
	}
	whole, err := parse(encode(into.Interface()))
	if err != nil {
		panic(fmt.Sprintf("resource: %T encodes to something else than an object", zero))
	}
	out := newObject()
	for _, key := range whole.keys {
		if slices.Contains(keys, key) {
			out.set(key, whole.values[key])
		}
	}
	return out, faults
}
