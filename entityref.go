package slipway

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
)

// EntityRef names a catalog entity: kind, namespace, name. Two refs that differ only in case name the
// same entity; String is the lower-case form "kind:namespace/name" and is what is compared and stored.
//
// Source: Backstage, "Entity References".
type EntityRef struct {
	Kind      string
	Namespace string
	Name      string
}

// What a part of a ref left out stands for.
const (
	DefaultKind      = "component"
	DefaultNamespace = "default"
)

var (
	kindPattern      = regexp.MustCompile(`^[a-zA-Z][a-z0-9A-Z]*$`)
	namespacePattern = regexp.MustCompile(`^[a-z0-9]+(-+[a-z0-9]+)*$`)
	namePattern      = regexp.MustCompile(`^([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]$`)
)

// ParseEntityRef reads "[kind:][namespace/]name"; what is left out is taken from def, and from
// DefaultKind and DefaultNamespace where def is silent too. The parts come back as written; compare
// refs by Key or String. A ref that no entity could have is Invalid.
func ParseEntityRef(s string, def EntityRef) (EntityRef, error) {
	ref := EntityRef{Kind: def.Kind, Namespace: def.Namespace, Name: s}
	if ref.Kind == "" {
		ref.Kind = DefaultKind
	}
	if ref.Namespace == "" {
		ref.Namespace = DefaultNamespace
	}
	slash := strings.IndexByte(s, '/')
	// A slash before the colon means that there is no kind (Backstage reads it so too).
	if colon := strings.IndexByte(s, ':'); colon >= 0 && (slash < 0 || colon < slash) {
		ref.Kind, ref.Name = s[:colon], s[colon+1:]
	}
	if slash := strings.IndexByte(ref.Name, '/'); slash >= 0 {
		ref.Namespace, ref.Name = ref.Name[:slash], ref.Name[slash+1:]
	}
	if err := ref.Validate(); err != nil {
		return EntityRef{}, Errorf(Invalid, "entity ref %q: %s; write [kind:][namespace/]name", clip(s), err.Message)
	}
	return ref, nil
}

// Validate says whether an entity could have this ref.
func (r EntityRef) Validate() *Error {
	switch {
	case len(r.Kind) > 63 || !kindPattern.MatchString(r.Kind):
		return Errorf(Invalid, "kind must be letters and digits, starting with a letter, at most 63")
	case len(r.Namespace) > 63 || !namespacePattern.MatchString(strings.ToLower(r.Namespace)):
		return Errorf(Invalid, "namespace must be letters, digits and single dashes, at most 63")
	case len(r.Name) > 63 || !namePattern.MatchString(r.Name):
		return Errorf(Invalid, "name must be letters, digits, dash, underscore or dot, at most 63, not starting or ending with one of these signs")
	}
	return nil
}

// String is the canonical, lower-case form "kind:namespace/name".
func (r EntityRef) String() string {
	return strings.ToLower(r.Kind + ":" + r.Namespace + "/" + r.Name)
}

// Lower returns the ref with each part in lower case.
func (r EntityRef) Lower() EntityRef {
	return EntityRef{strings.ToLower(r.Kind), strings.ToLower(r.Namespace), strings.ToLower(r.Name)}
}

// MarshalJSON writes the canonical form.
func (r EntityRef) MarshalJSON() ([]byte, error) { return json.Marshal(r.String()) }

// UnmarshalJSON reads any form that ParseEntityRef reads.
func (r *EntityRef) UnmarshalJSON(b []byte) error {
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		return fmt.Errorf("entity ref: %w", err)
	}
	ref, err := ParseEntityRef(s, EntityRef{})
	if err != nil {
		return err
	}
	*r = ref
	return nil
}

// clip keeps hostile input out of messages and logs in its full length.
func clip(s string) string {
	if len(s) > 200 {
		return s[:200] + "…"
	}
	return s
}
