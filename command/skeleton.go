package command

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"go/format"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/blueprint"
	"github.com/slipway-platform/slipway/examples"
	"github.com/slipway-platform/slipway/provider"
)

const slipwayModule = "github.com/slipway-platform/slipway"

// skeleton is an example from which new code begins.
type skeleton struct {
	what    string // "blueprint"
	example string // its folder in package examples, and the word that the new name takes the place of
	list    string // where a build lists them
	value   string // what goes into the list
	// opening is how the example begins to speak of itself, and how the new package does.
	opening [2]string
}

var skeletons = map[string]skeleton{
	"blueprint": {
		what: "blueprint", example: "widget", list: "Blueprints", value: "Blueprint",
		opening: [2]string{"// Package widget is the blueprint that `slipway blueprint new` begins with: it keeps", "// Package widget keeps"},
	},
	"provider": {
		what: "provider", example: "paperboy", list: "Providers", value: "Kind",
		opening: [2]string{"// Package paperboy is an example of a provider: Paperboy is a small CI that exists only in this package's tests. docs/providers.md walks\n// through it.",
			"// Package paperboy connects Slipway with Paperboy, which so far is the small CI that this package's tests play. docs/providers.md walks through it."},
	},
}

// blueprintCommand is `slipway blueprint`.
func (a *app) blueprintCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "blueprint", Short: "Write the beginning of a blueprint",
		Long:    "Begin a blueprint, a pluggable part of Slipway. \"slipway describe\" shows those of this build.",
		Example: "  slipway blueprint new deploybot",
	}
	cmd.AddCommand(a.newSkeleton(skeletons["blueprint"], `It keeps things in a database of its own (in main, below Slipway's own tree), and has an operation to make one and one to read it, permissions, a schedule with its job,
an event, a proxy, a command and a page of the reference. Take away what you do not need.`))
	return cmd
}

// newSkeleton is `slipway blueprint new` and `slipway provider new`.
func (a *app) newSkeleton(k skeleton, about string) *cobra.Command {
	var w workshop
	cmd := &cobra.Command{
		Use: "new NAME", Short: "Write a working " + k.what + " to begin with",
		Long: `Write a working ` + k.what + ` to begin with: code, tests and a page. ` + about + `

Within Slipway's own source tree, it is put next to the others. Within a module that requires Slipway, it becomes a package of that module. Anywhere else, a new folder gets a module of its own, with a main that adds it to everything Slipway has. Existing files are never overwritten.`,
		Example: "  slipway " + k.what + " new deploybot\n  slipway " + k.what + " new deploybot --module example.com/acme/platform",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			taken := slices.ContainsFunc(a.blueprints, func(b blueprint.Blueprint) bool { return b.Name == args[0] })
			if k.what == "provider" {
				taken = slices.ContainsFunc(a.kinds, func(p provider.Kind) bool { return p.Name == args[0] })
			}
			if taken {
				return slipway.Errorf(slipway.Conflict, "this build has a %s %s already; take another name", k.what, args[0])
			}
			next, err := w.write(k, args[0])
			if err != nil {
				return err
			}
			fmt.Fprint(cmd.OutOrStdout(), next)
			return nil
		},
	}
	cmd.Flags().StringVar(&w.dir, "dir", ".", "folder to write below")
	cmd.Flags().StringVar(&w.module, "module", "", "path of the module that is made where there is none (default example.com/NAME)")
	cmd.Flags().StringVar(&w.slipway, "slipway", "", "folder with Slipway's sources, for a module that uses these and no released version")
	return cmd
}

// workshop is where a skeleton is written.
type workshop struct{ dir, module, slipway string }

var skeletonName = regexp.MustCompile(`^[a-z][a-z0-9]{1,30}$`)

// write writes a skeleton and says what to do next.
func (w workshop) write(k skeleton, name string) (next string, err error) {
	if !skeletonName.MatchString(name) || token.IsKeyword(name) {
		return "", usage("%q is no name for a package; write one word in small letters, such as deploybot", name)
	}
	dir, err := filepath.Abs(w.dir)
	if err != nil {
		return "", err
	}
	root, module, err := moduleAbove(dir)
	if err != nil {
		return "", err
	}
	files := map[string]string{}
	var at, importPath string
	switch module {
	case slipwayModule:
		at, importPath = filepath.Join(root, k.what, name), slipwayModule+"/"+k.what+"/"+name
		next = fmt.Sprintf("Next: add %s.%s to %s in builtin/builtin.go and a line to CHANGELOG.md, then run make generate and go test ./%s/%s.\n", name, k.value, k.list, k.what, name)
	case "":
		module = cmp.Or(w.module, "example.com/"+name)
		root = filepath.Join(dir, name)
		at, importPath = filepath.Join(root, name), module+"/"+name
		for file, text := range w.around(k, name, module) {
			files[filepath.Join(root, file)] = text
		}
		next = fmt.Sprintf("Next: cd %s && go mod tidy && go test ./..., and go run . serve --config slipway.yaml\n", name)
		if w.slipway == "" && released() == "" {
			next += "This program was not built from a release: give --slipway DIR, or write the version of Slipway that you want into go.mod.\n"
		}
	default:
		rel, err := filepath.Rel(root, dir)
		if err != nil {
			return "", err
		}
		at, importPath = filepath.Join(dir, name), path.Join(module, filepath.ToSlash(rel), name)
		next = fmt.Sprintf("Next: add %s.%s to the %ss in your main, then run go mod tidy and go test ./%s.\n", name, k.value, k.what, path.Join(filepath.ToSlash(rel), name))
		if k.what == "blueprint" {
			next += fmt.Sprintf("It has a database of its own: name one in the configuration, databases.%s.\n", name)
		}
	}
	if err := k.sources(name, importPath, func(file, text string) { files[filepath.Join(at, file)] = text }); err != nil {
		return "", err
	}
	for _, file := range sortedKeys(files) { // nothing is written by half
		if _, err := os.Lstat(file); err == nil {
			return "", slipway.Errorf(slipway.Conflict, "%s exists already and stays as it is; take another name or another folder", file)
		}
	}
	var written strings.Builder
	for _, file := range sortedKeys(files) {
		if err := writeNew(file, files[file]); err != nil {
			return "", err
		}
		shown, err := filepath.Rel(dir, file)
		if err != nil {
			shown = file
		}
		fmt.Fprintln(&written, shown)
	}
	return written.String() + next, nil
}

func sortedKeys(m map[string]string) (keys []string) {
	for key := range m {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}

// writeNew writes a file that must not exist.
func writeNew(file, text string) error {
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}

var module = regexp.MustCompile(`(?m)^module\s+"?([^\s"]+)"?\s*$`)

// moduleAbove finds the module that a folder belongs to; "" for none.
func moduleAbove(dir string) (root, name string, err error) {
	for ; ; dir = filepath.Dir(dir) {
		raw, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil {
			if m := module.FindSubmatch(raw); m != nil {
				return dir, string(m[1]), nil
			}
			return "", "", slipway.Errorf(slipway.Invalid, "%s names no module", filepath.Join(dir, "go.mod"))
		} else if !errors.Is(err, fs.ErrNotExist) {
			return "", "", err
		}
		if dir == filepath.Dir(dir) {
			return "", "", nil
		}
	}
}

// sources gives the files of the example under their new name.
func (k skeleton) sources(name, importPath string, file func(name, text string)) error {
	words := []string{}
	if strings.ContainsRune("aeiou", rune(name[0])) {
		words = append(words, " a "+k.example, " an "+name)
	}
	words = append(words, k.example, name, title(k.example), title(name), strings.ToUpper(k.example), strings.ToUpper(name))
	rename := strings.NewReplacer(append([]string{
		slipwayModule + "/examples/" + k.example, importPath,
		k.opening[0], strings.NewReplacer(words...).Replace(k.opening[1]),
	}, words...)...)
	return fs.WalkDir(examples.Files, k.example, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		raw, err := fs.ReadFile(examples.Files, p)
		if err != nil {
			return err
		}
		if imports(raw, name) {
			return usage("a package called %s would hide one that it needs; take another name", name)
		}
		text := rename.Replace(string(raw))
		if strings.HasPrefix(importPath, slipwayModule+"/") {
			text = inMain(text, name)
		}
		if path.Ext(p) == ".go" { // names of other lengths make other columns
			formatted, err := format.Source([]byte(text))
			if err != nil {
				return fmt.Errorf("%s: %w", p, err)
			}
			text = string(formatted)
		}
		file(strings.ReplaceAll(strings.TrimPrefix(p, k.example+"/"), k.example, name), text)
		return nil
	})
}

func title(name string) string { return strings.ToUpper(name[:1]) + name[1:] }

// inMain has a blueprint keep what it keeps in the database main: Slipway must start where nothing is configured.
func inMain(text, name string) string {
	text, _, _ = strings.Cut(text, "\nThey have a database of their own")
	return strings.NewReplacer(
		`{Name: "main"}, {Name: "`+name+`", Migrations`, `{Name: "main", Migrations`,
		`s.DB("`+name+`")`, `s.DB("main")`,
		"in a database of its own, deletes", "in a table, deletes",
		" "+title(name)+"s have a database of their own; jobs and events are stored in main.", "",
		"Blueprint.Databases[1]", "Blueprint.Databases[0]").Replace(text)
}

// imports says whether a Go file imports a package of that name.
func imports(source []byte, name string) bool {
	lines := bufio.NewScanner(strings.NewReader(string(source)))
	for lines.Scan() {
		line := strings.TrimSpace(lines.Text())
		if strings.HasPrefix(line, `"`) && strings.HasSuffix(line, `"`) && path.Base(strings.Trim(line, `"`)) == name {
			return true
		}
	}
	return false
}

// What a module that requires Slipway repeats of Slipway's own go.mod: replacements do not pass on by themselves. A test compares.
const (
	goVersion    = "1.26.0"
	replacements = `replace golang.org/x/exp => golang.org/x/exp v0.0.0-20250620022241-b7579e27df2b

replace github.com/google/pprof => github.com/google/pprof v0.0.0-20260906184651-6331bc6350fe
`
)

// around gives the files of a module around the package.
func (w workshop) around(k skeleton, name, module string) map[string]string {
	mod := fmt.Sprintf("module %s\n\ngo %s\n\nrequire %s %s\n\n%s", module, goVersion, slipwayModule, cmp.Or(released(), "v0.0.0"), replacements)
	if w.slipway != "" {
		folder := w.slipway
		if abs, err := filepath.Abs(folder); err == nil {
			folder = abs
		}
		mod += fmt.Sprintf("\nreplace %s => %s\n", slipwayModule, folder)
	}
	blueprints, providers := "builtin.Blueprints()", "builtin.Providers()"
	config := "# Everything else is as \"slipway config docs\" says.\n"
	if k.what == "blueprint" {
		blueprints = "append(" + blueprints + ", " + name + ".Blueprint)"
		config += "databases:\n  main: \"sqlite:{dataDir}/main.db\"\n  " + name + ": \"sqlite:{dataDir}/" + name + ".db\"\n"
	} else {
		providers = "append(" + providers + ", " + name + ".Kind)"
		config += "providers:\n  - {name: " + name + ", type: " + name + ", url: \"https://" + name + ".example.com\"}\n"
	}
	return map[string]string{
		"go.mod":       mod,
		"slipway.yaml": config,
		".gitignore":   "/slipway-data\n",
		"main.go": fmt.Sprintf(`// Command %s is Slipway with a %s of its own.
package main

import (
	"os"

	"%s/builtin"
	"%s/command"

	"%s/%s"
)

func main() {
	builtin.Early()
	os.Exit(command.Main(%s, %s))
}
`, name, k.what, slipwayModule, slipwayModule, module, name, blueprints, providers),
	}
}

var release = regexp.MustCompile(`^v\d+\.\d+\.\d+$`) // no version of a commit, which may have been pushed nowhere

// released is the version of Slipway that this program was built of; "" when that was no release.
func released() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	for _, m := range append(info.Deps, &info.Main) {
		if m.Path == slipwayModule && m.Replace == nil && release.MatchString(m.Version) {
			return m.Version
		}
	}
	return ""
}
