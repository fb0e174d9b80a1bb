package fetch

import (
	"cmp"
	"errors"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/slipway-platform/slipway"
)

const maxMatches = 10_000 // files that a pattern may name

// filePath takes the path out of a file:// address; ok is false for anything else.
func filePath(raw string) (path string, ok bool, err error) {
	if len(raw) < 5 || !strings.EqualFold(raw[:5], "file:") {
		return "", false, nil
	}
	u, err := url.Parse(raw)
	if err != nil || u.Opaque != "" || u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" ||
		u.Host != "" && u.Host != "localhost" || !strings.HasPrefix(u.Path, "/") || strings.ContainsRune(u.Path, 0) {
		return "", true, slipway.Errorf(slipway.Invalid, "%q is no file address; write it like file:///folder/file", show(raw))
	}
	return filepath.FromSlash(u.Path), true, nil
}

// place is a path below a root, as os.Root wants it.
type place struct {
	root string // without links
	rel  string
}

func (p place) path() string { return filepath.Join(p.root, p.rel) }

// root finds the file root that a path lies in, after all links. Outside of the roots it tells nobody
// whether a file exists. name is what errors call the path: what was asked for.
func (f *Fetcher) root(path, name string) (place, error) {
	outside := slipway.Errorf(slipway.Invalid, "%s lies in none of the folders that may be read: an operator can add its folder to fetch.fileRoots", show(name))
	abs, err := filepath.Abs(path)
	if err != nil || strings.ContainsRune(path, 0) {
		return place{}, outside.WithCause(err)
	}
	real, evalErr := filepath.EvalSymlinks(abs)
	for _, root := range f.cfg.FileRoots {
		realRoot, err := filepath.EvalSymlinks(root)
		if err != nil {
			continue
		}
		if evalErr == nil {
			if rel, err := filepath.Rel(realRoot, real); err == nil && filepath.IsLocal(rel) {
				return place{realRoot, rel}, nil
			}
			continue
		}
		for _, r := range []string{root, realRoot} {
			if rel, err := filepath.Rel(r, abs); err == nil && filepath.IsLocal(rel) && errors.Is(evalErr, fs.ErrNotExist) {
				return place{}, slipway.Errorf(slipway.NotFound, "there is no file %s", show(name)).WithCause(evalErr)
			}
		}
	}
	return place{}, outside.WithCause(evalErr)
}

// ReadFile reads a regular file below Config.FileRoots, named by its path or file:// address; a relative
// path begins at the working directory. limit is its largest size in bytes, 0 for Config.MaxBytes. Links
// are followed as long as they stay in the roots; devices, pipes and folders are refused.
func (f *Fetcher) ReadFile(path string, limit int64) ([]byte, error) {
	limit = cmp.Or(limit, int64(f.cfg.MaxBytes))
	if p, ok, err := filePath(path); err != nil {
		return nil, err
	} else if ok {
		path = p
	}
	at, err := f.root(path, path)
	if err != nil {
		return nil, err
	}
	unreadable := slipway.Errorf(slipway.Invalid, "%s cannot be read: Slipway needs the right to read it", show(path))
	root, err := os.OpenRoot(at.root)
	if err != nil {
		return nil, unreadable.WithCause(err)
	}
	defer root.Close()
	// The root holds even if a link is put in place now; and a pipe does not keep us waiting.
	file, err := root.OpenFile(at.rel, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, slipway.Errorf(slipway.NotFound, "there is no file %s", show(path)).WithCause(err)
	} else if err != nil {
		return nil, unreadable.WithCause(err)
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, unreadable.WithCause(err)
	}
	if !info.Mode().IsRegular() {
		return nil, slipway.Errorf(slipway.Invalid, "%s is not a regular file", show(path))
	}
	if info.Size() > limit {
		return nil, tooLarge(path, limit)
	}
	body, err := io.ReadAll(io.LimitReader(file, limit+1)) // it may grow, or be of a kind that has no size
	if err != nil {
		return nil, unreadable.WithCause(err)
	}
	if int64(len(body)) > limit {
		return nil, tooLarge(path, limit)
	}
	return body, nil
}

// Glob lists the regular files below Config.FileRoots that fit a pattern as of path.Match, with its
// wildcards after the last folder that is written out, sorted, as absolute paths. No match is no error.
func (f *Fetcher) Glob(pattern string) ([]string, error) {
	if p, ok, err := filePath(pattern); err != nil {
		return nil, err
	} else if ok {
		pattern = p
	}
	fixed, wild := pattern, ""
	if i := strings.IndexAny(pattern, `*?[\`); i >= 0 {
		i = strings.LastIndexByte(pattern[:i], filepath.Separator) + 1
		fixed, wild = cmp.Or(pattern[:i], "."), pattern[i:]
	}
	at, err := f.root(fixed, fixed)
	if errors.Is(err, slipway.NotFound) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(at.root)
	if err != nil {
		return nil, slipway.Errorf(slipway.Invalid, "%s cannot be read: Slipway needs the right to read it", show(fixed)).WithCause(err)
	}
	defer root.Close()
	names := []string{filepath.ToSlash(at.rel)}
	if wild != "" {
		below, err := root.OpenRoot(at.rel)
		if err != nil {
			return nil, slipway.Errorf(slipway.Invalid, "%s is no folder that can be read", show(fixed)).WithCause(err)
		}
		defer below.Close()
		names, err = fs.Glob(below.FS(), filepath.ToSlash(wild))
		if err != nil {
			return nil, slipway.Errorf(slipway.Invalid, "the pattern %s is malformed", show(pattern)).WithCause(err)
		}
		for i, name := range names {
			names[i] = filepath.ToSlash(filepath.Join(at.rel, filepath.FromSlash(name)))
		}
	}
	if len(names) > maxMatches {
		return nil, slipway.Errorf(slipway.TooLarge, "the pattern %s fits more than %d files", show(pattern), maxMatches)
	}
	var paths []string
	for _, name := range names {
		if info, err := root.Stat(filepath.FromSlash(name)); err == nil && info.Mode().IsRegular() {
			paths = append(paths, place{at.root, name}.path())
		}
	}
	slices.Sort(paths)
	return paths, nil
}
