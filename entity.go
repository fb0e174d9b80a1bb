package slipway

import (
	"encoding/json"
	"strings"
)

// Entity is one thing of the catalog, in Backstage's shape. Spec is kept as the source wrote it.
// Relations and Status are derived by the catalog and ignored on the way in.
//
// Source: Backstage, "Descriptor Format of Catalog Entities".
type Entity struct {
	APIVersion string         `json:"apiVersion" doc:"Version of the entity format, such as backstage.io/v1alpha1"`
	Kind       string         `json:"kind" doc:"Kind of the entity, such as Component"`
	Metadata   EntityMetadata `json:"metadata" doc:"Name, namespace, labels, annotations"`
	Spec       map[string]any `json:"spec,omitempty" doc:"What the kind defines"`
	Relations  []Relation     `json:"relations,omitempty" doc:"Relations to other entities, derived"`
	Status     *EntityStatus  `json:"status,omitempty" doc:"Faults found by the catalog"`
}

// EntityMetadata is what every entity carries, whatever its kind. Extra holds fields that the format
// does not name; they are kept.
type EntityMetadata struct {
	UID         string            `json:"uid,omitempty" doc:"Set by the catalog; new when the entity is created anew"`
	ETag        string            `json:"etag,omitempty" doc:"Set by the catalog; changes with the content"`
	Name        string            `json:"name" doc:"Name, unique within kind and namespace"`
	Namespace   string            `json:"namespace,omitempty" doc:"Namespace; default when absent"`
	Title       string            `json:"title,omitempty" doc:"Name for people"`
	Description string            `json:"description,omitempty" doc:"What it is"`
	Labels      map[string]string `json:"labels,omitempty" doc:"Values to select by"`
	Annotations map[string]string `json:"annotations,omitempty" doc:"Where vendors know this entity, and what the catalog notes"`
	Tags        []string          `json:"tags,omitempty" doc:"Words to find it by"`
	Links       []EntityLink      `json:"links,omitempty" doc:"Pages about it"`
	Extra       map[string]any    `json:"-"`
}

// EntityLink is a page about an entity.
type EntityLink struct {
	URL   string `json:"url" doc:"Address"`
	Title string `json:"title,omitempty" doc:"Text to show"`
	Icon  string `json:"icon,omitempty" doc:"Icon name"`
	Type  string `json:"type,omitempty" doc:"What kind of page"`
}

// Relation says how an entity stands to another.
type Relation struct {
	Type      string `json:"type" doc:"Relation, such as ownedBy"`
	TargetRef string `json:"targetRef" doc:"Ref of the other entity"`
}

// EntityStatus lists what the catalog found wrong.
type EntityStatus struct {
	Items []StatusItem `json:"items,omitempty" doc:"Faults, newest reading"`
}

// StatusItem is one fault.
type StatusItem struct {
	Type    string `json:"type" doc:"Who found it"`
	Level   string `json:"level" enum:"info,warning,error" doc:"How bad"`
	Message string `json:"message" doc:"What is wrong"`
}

// Ref is the entity's own ref.
func (e *Entity) Ref() EntityRef {
	ns := e.Metadata.Namespace
	if ns == "" {
		ns = DefaultNamespace
	}
	return EntityRef{Kind: e.Kind, Namespace: ns, Name: e.Metadata.Name}
}

// SpecString gives a string of the spec, or "".
func (e *Entity) SpecString(key string) string {
	s, _ := e.Spec[key].(string)
	return s
}

// SpecStrings gives the strings of a list in the spec, in its order; a string that stands alone is a list of one. What is no string is left out. The result must not be changed.
func (e *Entity) SpecStrings(key string) []string {
	switch v := e.Spec[key].(type) {
	case string:
		return []string{v}
	case []string:
		return v
	case []any:
		var list []string
		for _, item := range v {
			if s, ok := item.(string); ok {
				list = append(list, s)
			}
		}
		return list
	}
	return nil
}

// Owner is the canonical ref of spec.owner (a bare name is a group of the entity's namespace), or "".
func (e *Entity) Owner() string {
	o := e.SpecString("owner")
	if o == "" {
		return ""
	}
	ref, err := ParseEntityRef(o, EntityRef{Kind: "group", Namespace: e.Ref().Namespace})
	if err != nil {
		return ""
	}
	return ref.String()
}

var metadataFields = map[string]bool{
	"uid": true, "etag": true, "name": true, "namespace": true, "title": true, "description": true,
	"labels": true, "annotations": true, "tags": true, "links": true,
}

// MarshalJSON writes the named fields and the extra ones.
func (m EntityMetadata) MarshalJSON() ([]byte, error) {
	type plain EntityMetadata
	b, err := json.Marshal(plain(m))
	if err != nil || len(m.Extra) == 0 {
		return b, err
	}
	all := map[string]any{}
	for k, v := range m.Extra {
		if !metadataFields[k] {
			all[k] = v
		}
	}
	if len(all) == 0 {
		return b, nil
	}
	x, err := json.Marshal(all)
	if err != nil {
		return nil, err
	}
	return append(append(b[:len(b)-1], ','), x[1:]...), nil
}

// UnmarshalJSON reads the named fields and keeps the others in Extra.
func (m *EntityMetadata) UnmarshalJSON(b []byte) error {
	type plain EntityMetadata
	var p plain
	if err := json.Unmarshal(b, &p); err != nil {
		return err
	}
	var all map[string]any
	if err := json.Unmarshal(b, &all); err != nil {
		return err
	}
	for k := range all {
		if metadataFields[k] || metadataFields[strings.ToLower(k)] {
			delete(all, k)
		}
	}
	if len(all) > 0 {
		p.Extra = all
	}
	*m = EntityMetadata(p)
	return nil
}
