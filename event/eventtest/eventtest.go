// Package eventtest says whether events are what CDEvents and its CloudEvents binding say that they are, by the schemas that CDEvents publishes.
package eventtest

import (
	"bytes"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"
	"sync"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/slipway-platform/slipway/event"
)

//go:embed testdata/schemas
var files embed.FS

// schemas are those of CDEvents by type, "" for types of one's own.
var schemas = sync.OnceValues(func() (map[string]*jsonschema.Schema, error) {
	compiler := jsonschema.NewCompiler()
	compiler.AssertFormat()
	ids := map[string]string{}
	err := fs.WalkDir(files, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		raw, err := files.ReadFile(name)
		if err != nil {
			return err
		}
		doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(raw))
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		var head struct {
			ID         string `json:"$id"`
			Properties struct {
				Context struct {
					Properties struct {
						Type struct {
							Enum []string `json:"enum"`
						} `json:"type"`
					} `json:"properties"`
				} `json:"context"`
			} `json:"properties"`
		}
		if err := json.Unmarshal(raw, &head); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if path.Base(name) == "custom.json" {
			ids[""] = head.ID
		}
		for _, t := range head.Properties.Context.Properties.Type.Enum {
			ids[t] = head.ID
		}
		return compiler.AddResource(head.ID, doc)
	})
	if err != nil {
		return nil, err
	}
	out := map[string]*jsonschema.Schema{}
	for name, id := range ids {
		if out[name], err = compiler.Compile(id); err != nil {
			return nil, err
		}
	}
	return out, nil
})

// Types lists the types that CDEvents has schemas for, in no order.
func Types() ([]string, error) {
	all, err := schemas()
	var names []string
	for name := range all {
		if name != "" {
			names = append(names, name)
		}
	}
	return names, err
}

// IsCDEvent says whether a type claims to be one of CDEvents, or of its form for words of one's own.
func IsCDEvent(eventType string) bool {
	return strings.HasPrefix(eventType, "dev.cdevents.") || strings.HasPrefix(eventType, "dev.cdeventsx.")
}

// Check says what is wrong with an event as CDEvents has it: its data by the published schema, with formats, and what the CloudEvent says by what the data says. Events of types that do
// not claim to be of CDEvents pass.
func Check(e event.Event) error {
	if !IsCDEvent(e.Type) {
		return nil
	}
	if err := event.CheckName(e.Type); err != nil {
		return err
	}
	all, err := schemas()
	if err != nil {
		return err
	}
	name := e.Type
	if !event.Standard(name) {
		name = ""
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(e.Data))
	if err != nil {
		return fmt.Errorf("its data is no JSON: %w", err)
	}
	if err := all[name].Validate(doc); err != nil {
		return err
	}
	var data struct {
		Context event.CDContext
		Subject struct{ ID string }
	}
	if err := json.Unmarshal(e.Data, &data); err != nil {
		return err
	}
	var faults []error
	for _, same := range []struct{ what, outer, inner string }{
		{"id", e.ID, data.Context.ID}, {"source", e.Source, data.Context.Source}, {"type", e.Type, data.Context.Type}, {"subject", e.Subject, data.Subject.ID},
		{"time", e.Time.UTC().Format(time.RFC3339Nano), data.Context.Timestamp.UTC().Format(time.RFC3339Nano)}, {"version of CDEvents", event.CDVersion, data.Context.SpecVersion},
	} {
		if same.outer != same.inner {
			faults = append(faults, fmt.Errorf("its %s is %q, and that of its data %q", same.what, same.outer, same.inner))
		}
	}
	return errors.Join(faults...)
}
