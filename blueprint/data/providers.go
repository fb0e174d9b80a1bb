package data

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/resource"
	"github.com/slipway-platform/slipway/task"
)

// Where a provider is configured.
const (
	fromConfig = "config"
	fromData   = "data"
)

// opened is a provider that a document describes, as it was opened.
type opened struct {
	task.Provider
	sum [32]byte // of what it was opened with; the same is not opened again
}

// noClash refuses a provider of the configuration file with the name of a document: builds are known by it, and one of them would vanish.
func (s *service) noClash(ctx context.Context) error {
	all, err := s.documents.RevealAll(ctx, "providers", "")
	if err != nil {
		return err
	}
	for _, p := range s.Tasks.Providers() {
		if p.Origin == fromConfig && slices.ContainsFunc(all, func(d resource.Revealed) bool { return d.ID == p.Name }) {
			return slipway.Errorf(slipway.Conflict, "the provider %q stands in the configuration file, and in the Data API too; take another name in the file, or start without it and delete the document", p.Name)
		}
	}
	return nil
}

// reloadProviders opens what is new or changed, and puts it in place of what was there, beside the providers of the configuration file. One that cannot be
// opened is marked failed with the reason, and nothing else is.
func (s *service) reloadProviders(ctx context.Context) error {
	all, err := s.documents.RevealAll(ctx, "providers", "")
	if err != nil {
		return err
	}
	now := map[string]opened{}
	changed := len(all) != len(s.opened)
	defer func() { // what was opened and is not in place, as something failed before, is opened again later
		for name, o := range now {
			if s.opened[name].Provider.Provider != o.Provider.Provider {
				s.close(ctx, name, o)
			}
		}
	}()
	for _, d := range all {
		o := opened{Provider: task.Provider{Name: d.ID, Type: d.Type, Origin: fromData}}
		for _, k := range s.Kinds() {
			if k.Name == d.Type {
				o.Provider.Annotations = k.Annotations
			}
		}
		raw, base, err := s.settings(ctx, d)
		o.Settings = base.Settings
		if err != nil && slipway.CodeOf(err) == slipway.Unavailable {
			return err
		}
		o.sum = sha256.Sum256([]byte(fmt.Sprintf("%s\n%+v\n%s", d.Type, base.Settings, raw)))
		if before, ok := s.opened[d.ID]; ok && err == nil && before.sum == o.sum {
			now[d.ID] = before
			continue
		}
		changed = true
		o.Opened = task.Opened(d.Type, raw)
		if err == nil {
			o.Provider.Provider, err = s.OpenProvider(ctx, d.ID, d.Type, raw)
		}
		if o.Err = err; err != nil {
			o.Provider.Provider, o.sum = nil, [32]byte{}
			s.Log.ErrorContext(ctx, "a provider does not work", "provider", d.ID, "error", err)
		}
		now[d.ID] = o
	}
	if !changed {
		return nil
	}
	list := slices.DeleteFunc(s.Tasks.Providers(), func(p task.Provider) bool { return p.Origin == fromData })
	for _, name := range slices.Sorted(maps.Keys(now)) {
		list = append(list, now[name].Provider)
	}
	if err := s.Tasks.SetProviders(ctx, list); err != nil {
		return err
	}
	before := s.opened
	s.opened = now
	for name, o := range before {
		if now[name].Provider.Provider != o.Provider.Provider {
			s.close(ctx, name, o)
		}
	}
	return nil
}

func (s *service) close(ctx context.Context, name string, o opened) {
	if err := closeProvider(o); err != nil {
		s.Log.WarnContext(ctx, "a provider that is not used any more did not close", "provider", name, "error", err)
	}
}

// settings is what a provider gets: what we keep of it, and what its vendor gets: its own fields, and the credential in place of its name.
func (s *service) settings(ctx context.Context, d resource.Revealed) (raw json.RawMessage, base providerBase, err error) {
	if d.Err != nil {
		return nil, base, d.Err
	}
	s.Redact.Add(d.Secrets...)
	var fields map[string]json.RawMessage
	if err := cmp.Or(json.Unmarshal(d.JSON, &fields), json.Unmarshal(d.JSON, &base)); err != nil {
		return nil, base, err
	}
	fields = without(without(fields, ours...), "id", "type", "typeVersion", "labels")
	if base.Credential != "" {
		c, err := s.documents.Reveal(ctx, "credentials", base.Credential)
		if err != nil {
			return nil, base, err
		}
		s.Redact.Add(c.Secrets...)
		var credential map[string]json.RawMessage
		if err := json.Unmarshal(c.JSON, &credential); err != nil {
			return nil, base, err
		}
		inline, err := json.Marshal(without(credential, "id", "labels", "typeVersion", "scope", "description"))
		if err != nil {
			return nil, base, err
		}
		fields["credential"] = inline
	}
	raw, err = json.Marshal(fields) // in the order of keys
	return raw, base, err
}

func closeProvider(o opened) error {
	if o.Provider.Provider == nil || o.Provider.Provider.Close == nil {
		return nil
	}
	return o.Provider.Provider.Close()
}

func (s *service) closeProviders() error {
	var errs []error
	for _, o := range s.opened {
		errs = append(errs, closeProvider(o))
	}
	return errors.Join(errs...)
}
