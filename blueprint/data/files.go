package data

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/resource"
	"github.com/slipway-platform/slipway/secret"
)

const maxFile = 32 << 20 // bytes

// filed is one document of a file, with its envelope.
type filed struct {
	place string // file and number of the document, for messages
	raw   json.RawMessage
}

// readFiles reads documents from files, folders (every .yaml, .yml, .json and .ndjson file below them, in order) and "-", the standard input. ${env:NAME} and
// ${file:/path} in texts are replaced; env is os.LookupEnv outside of tests. All faults are reported together.
func readFiles(paths []string, in io.Reader, env func(string) (string, bool)) ([]filed, error) {
	var all []filed
	var faults []error
	read := func(name string, r io.Reader) {
		raw, err := io.ReadAll(io.LimitReader(r, maxFile+1))
		if err == nil && len(raw) > maxFile {
			err = slipway.Errorf(slipway.TooLarge, "it has more than 32 MiB")
		}
		if err == nil {
			var docs []filed
			docs, err = readDocuments(name, raw, env)
			all = append(all, docs...)
		}
		if err != nil {
			faults = append(faults, fmt.Errorf("%s: %w", name, err))
		}
	}
	for _, path := range paths {
		if path == "-" {
			read("standard input", in)
			continue
		}
		files, err := filesBelow(path)
		if err != nil {
			faults = append(faults, err)
		}
		for _, name := range files {
			f, err := os.Open(name)
			if err != nil {
				faults = append(faults, err)
				continue
			}
			read(name, f)
			_ = f.Close() // it was only read
		}
	}
	if err := errors.Join(faults...); err != nil {
		return nil, slipway.Errorf(slipway.Invalid, "%s", err.Error())
	}
	return all, nil
}

// filesBelow lists a file, or the documents of a folder.
func filesBelow(path string) (files []string, err error) {
	err = filepath.WalkDir(path, func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && name != path && strings.HasPrefix(d.Name(), "."):
			return fs.SkipDir
		case d.IsDir():
		case name == path || slices.Contains([]string{".yaml", ".yml", ".json", ".ndjson"}, filepath.Ext(name)):
			files = append(files, name)
		}
		return nil
	})
	return files, err
}

// readDocuments reads JSON, one document a line, or YAML with several documents. JSON is YAML, but for large files much faster to read as what it is.
func readDocuments(name string, raw []byte, env func(string) (string, bool)) ([]filed, error) {
	var all []filed
	var faults []error
	var add func(v any)
	add = func(v any) {
		if list, ok := v.([]any); ok {
			for _, item := range list {
				add(item)
			}
			return
		}
		place := fmt.Sprintf("%s, document %d", name, len(all)+1)
		expanded, err := expand(v, env)
		if err != nil {
			faults = append(faults, fmt.Errorf("document %d: %w", len(all)+1, err))
		}
		if n := nameless(v); n > 0 {
			faults = append(faults, fmt.Errorf("document %d: %d of its documents have no id; in files each needs one, so that applying it twice changes nothing", len(all)+1, n))
		}
		encoded, err := json.Marshal(expanded)
		if err != nil {
			faults = append(faults, fmt.Errorf("document %d: it has no form in JSON", len(all)+1))
		}
		all = append(all, filed{place, encoded})
	}
	if ext := filepath.Ext(name); ext == ".json" || ext == ".ndjson" || json.Valid(raw) {
		d := json.NewDecoder(bytes.NewReader(raw))
		d.UseNumber()
		for {
			var v any
			if err := d.Decode(&v); errors.Is(err, io.EOF) {
				return all, errors.Join(faults...)
			} else if err != nil {
				return nil, errors.New("it is no well-formed JSON")
			}
			add(v)
		}
	}
	d := yaml.NewDecoder(bytes.NewReader(raw))
	for {
		var v any
		if err := d.Decode(&v); errors.Is(err, io.EOF) {
			return all, errors.Join(faults...)
		} else if err != nil {
			return nil, fmt.Errorf("it is no YAML: %w", err)
		}
		if v != nil { // else nothing stands between two lines of dashes
			add(v)
		}
	}
}

// nameless counts the documents without an id in an envelope, or in a bare document.
func nameless(v any) (n int) {
	top, _ := v.(map[string]any)
	if data, envelope := top["data"]; envelope {
		list, many := data.([]any)
		if !many {
			list = []any{data}
		}
		for _, item := range list {
			if d, ok := item.(map[string]any); ok && d["id"] == nil {
				n++
			}
		}
		return n
	}
	if top != nil && top["id"] == nil && top["version"] == nil {
		n = 1
	}
	return n
}

// expand replaces ${…} in all texts.
func expand(v any, env func(string) (string, bool)) (any, error) {
	switch v := v.(type) {
	case string:
		text, err := secret.Expand(v, env)
		if coded, ok := errors.AsType[*slipway.Error](err); ok {
			err = errors.New(coded.Message) // it becomes part of a sentence
		}
		return text, err
	case map[string]any:
		for key, value := range v {
			x, err := expand(value, env)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", key, err)
			}
			v[key] = x
		}
	case []any:
		for i, value := range v {
			x, err := expand(value, env)
			if err != nil {
				return nil, err
			}
			v[i] = x
		}
	}
	return v, nil
}

// envelopes puts documents into one array, as POST /data takes it.
func envelopes(all []filed) []byte {
	var b bytes.Buffer
	b.WriteByte('[')
	for i, d := range all {
		if i > 0 {
			b.WriteByte(',')
		}
		b.Write(d.raw)
	}
	b.WriteByte(']')
	return b.Bytes()
}

// located puts the names of files in place of positions in the array.
func located(err error, all []filed) error {
	coded, ok := errors.AsType[*slipway.Error](err)
	if !ok {
		return err
	}
	for i, d := range coded.Details {
		var n int
		if _, err := fmt.Sscanf(d.Field, "/%d", &n); err != nil || n >= len(all) {
			continue
		}
		field := strings.TrimPrefix(d.Field, fmt.Sprintf("/%d", n))
		coded.Details[i].Field = all[n].place + ": " + field
	}
	return coded
}

// applyFolders applies the documents of the configured folders, at start: all of them or none.
func (s *service) applyFolders(ctx context.Context) error {
	if len(s.Folders) == 0 {
		return nil
	}
	all, err := readFiles(s.Folders, nil, os.LookupEnv)
	if err != nil {
		return fmt.Errorf("resources: %w", err)
	}
	if len(all) == 0 {
		return nil
	}
	var results []resource.Result
	inputs, err := resource.Read(envelopes(all))
	if err == nil {
		results, err = s.documents.Apply(ctx, puts(inputs), resource.Options{})
	}
	if err != nil {
		return fmt.Errorf("resources: %w", withDetails(located(err, all)))
	}
	for _, r := range results {
		for _, text := range r.Warnings {
			s.Log.WarnContext(ctx, "a document of a configured folder: "+r.Ref().String()+": "+text)
		}
	}
	return nil
}

// withDetails writes the details of an error into its text: at start nobody else would tell them.
func withDetails(err error) error {
	coded, ok := errors.AsType[*slipway.Error](err)
	if !ok {
		return err
	}
	text := coded.Message
	for _, d := range coded.Details {
		text += "\n  " + d.Field + ": " + d.Message
	}
	return slipway.Errorf(coded.Code, "%s", text).WithCause(err)
}
