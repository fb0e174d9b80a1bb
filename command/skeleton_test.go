package command

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// program runs the command line with no blueprints and no providers.
func program(t *testing.T, args ...string) (out string, status int) {
	t.Helper()
	var b, errs bytes.Buffer
	status = (&app{}).run(t.Context(), args, strings.NewReader(""), &b, &errs)
	return b.String() + errs.String(), status
}

// tool runs a Go command where nothing may be asked of the network.
func tool(t *testing.T, dir string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), args[0], args[1:]...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOPROXY=off", "GOWORK=off", "CGO_ENABLED=0")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

func slipwaySources(t *testing.T) string {
	t.Helper()
	root, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	return root
}

func read(t *testing.T, path string) string {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// A module that the commands write builds, its tests pass, and the program has the new blueprint and the new provider.
func TestAModuleOfSkeletonsBuildsAndItsTestsPass(t *testing.T) {
	t.Parallel()
	root, dir := slipwaySources(t), t.TempDir()
	if out, status := program(t, "blueprint", "new", "gadget", "--dir", dir, "--module", "example.com/acme/platform", "--slipway", root); status != 0 || !strings.Contains(out, "go mod tidy") {
		t.Fatalf("got %d: %s", status, out)
	}
	made := filepath.Join(dir, "gadget")
	if out, status := program(t, "provider", "new", "courier", "--dir", made); status != 0 || !strings.Contains(out, "courier.Kind") {
		t.Fatalf("got %d: %s", status, out)
	}
	main := filepath.Join(made, "main.go")
	withProvider := strings.Replace(read(t, main), "builtin.Providers())", "append(builtin.Providers(), courier.Kind))", 1)
	withProvider = strings.Replace(withProvider, `"example.com/acme/platform/gadget"`, `"example.com/acme/platform/courier"`+"\n\t"+`"example.com/acme/platform/gadget"`, 1)
	if err := os.WriteFile(main, []byte(withProvider), 0o600); err != nil {
		t.Fatal(err)
	}
	if out := tool(t, made, "gofmt", "-l", "."); out != "" {
		t.Errorf("not formatted: %s", out)
	}
	// What go mod tidy would find, without the network: the requirements are Slipway's.
	requirements := strings.Replace(read(t, filepath.Join(root, "go.mod")), "module "+slipwayModule, "module example.com/acme/platform", 1)
	for name, text := range map[string]string{"go.mod": requirements + "\nrequire " + slipwayModule + " v0.0.0\nreplace " + slipwayModule + " => " + root + "\n", "go.sum": read(t, filepath.Join(root, "go.sum"))} {
		if err := os.WriteFile(filepath.Join(made, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	tool(t, made, "go", "vet", "-mod=mod", "./...")
	tool(t, made, "go", "test", "-mod=mod", "-count=1", "./...")
	tool(t, made, "go", "build", "-mod=mod", "-o", "platform", ".")
	described := tool(t, made, "./platform", "describe", "gadget")
	for _, want := range []string{"/api/gadgets", "gadget.sweep", "dev.cdeventsx.slipway-gadget.swept.0.1.0", "gadget_gadget"} {
		if !strings.Contains(described, want) {
			t.Errorf("the program knows no %s: %s", want, described)
		}
	}
	var has struct {
		Blueprints []struct {
			Databases                                         []struct{ Name string }
			Schedules, Jobs, Events, Proxies, Commands, Pages []json.RawMessage
		}
	}
	if err := json.Unmarshal([]byte(described), &has); err != nil || len(has.Blueprints) != 1 {
		t.Fatalf("%v: %s", err, described)
	}
	b := has.Blueprints[0]
	for what, n := range map[string]int{"schedule": len(b.Schedules), "job": len(b.Jobs), "event": len(b.Events), "proxy": len(b.Proxies), "command": len(b.Commands), "page": len(b.Pages)} {
		if n == 0 {
			t.Errorf("the blueprint brings no %s: %s", what, described)
		}
	}
	if !slices.ContainsFunc(b.Databases, func(d struct{ Name string }) bool { return d.Name == "gadget" }) {
		t.Errorf("it has %v, want a database of its own", b.Databases)
	}
	if out := tool(t, made, "./platform", "config", "check", "--config", "slipway.yaml"); !strings.Contains(out, "slipway.yaml") {
		t.Errorf("its configuration: got %s", out)
	}
	if out := tool(t, made, "./platform", "gadget", "--help"); !strings.Contains(out, "Make a gadget.") {
		t.Errorf("its command: got %s", out)
	}
}

// Below Slipway's own tree a skeleton is one folder, which builds there, and its tests pass.
func TestASkeletonBuildsInTheTree(t *testing.T) {
	t.Parallel()
	root, dir := slipwaySources(t), t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "go.mod"), []byte("module "+slipwayModule+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, status := program(t, "blueprint", "new", "gadget", "--dir", dir); status != 0 || !strings.Contains(out, "builtin/builtin.go") {
		t.Fatalf("got %d: %s", status, out)
	}
	if out, status := program(t, "provider", "new", "courier", "--dir", dir); status != 0 || !strings.Contains(out, "builtin/builtin.go") {
		t.Fatalf("got %d: %s", status, out)
	}
	// As if the folders lay in the tree.
	overlay := struct{ Replace map[string]string }{map[string]string{}}
	for _, pattern := range []string{"*/*/*", "*/*/*/*"} {
		files, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			rel, err := filepath.Rel(dir, file)
			if info, statErr := os.Stat(file); err != nil || statErr != nil || info.IsDir() {
				continue
			}
			overlay.Replace[filepath.Join(root, rel)] = file
		}
	}
	raw, err := json.Marshal(overlay)
	if err != nil {
		t.Fatal(err)
	}
	description := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(description, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, folder := range []string{"blueprint/gadget", "provider/courier"} {
		tests := filepath.Join(dir, filepath.Base(folder)+".test")
		tool(t, root, "go", "test", "-c", "-vet=off", "-overlay", description, "-o", tests, "./"+folder)
		tool(t, filepath.Join(dir, folder), tests)
	}
	for _, name := range []string{"blueprint/gadget/gadget.go", "blueprint/gadget/gadget_test.go", "blueprint/gadget/store.go", "blueprint/gadget/README.md", "blueprint/gadget/migrations/0001_gadget.sql", "provider/courier/courier.go", "provider/courier/README.md"} {
		text := strings.ToLower(read(t, filepath.Join(dir, name)))
		for _, word := range []string{"widget", "paperboy", "database of its own", `db("gadget")`, "example.com/gadget"} {
			if strings.Contains(text, word) {
				t.Errorf("%s speaks of %s", name, word)
			}
		}
	}
}

// The example from which blueprints begin has one of everything in less than 80 lines of its own: without comments, imports and what lies between.
func TestABlueprintBeginsShort(t *testing.T) {
	t.Parallel()
	lines := 0
	for _, name := range []string{"widget.go", "store.go"} {
		_, code, _ := strings.Cut(read(t, filepath.Join("..", "examples", "widget", name)), "\n)\n") // behind the imports
		for line := range strings.Lines(code) {
			if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "//") {
				lines++
			}
		}
	}
	if lines < 60 || lines >= 80 {
		t.Errorf("it has %d lines, want less than 80", lines)
	}
}

func TestASkeletonIsRefusedWhereItDoesNotFit(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, want := range map[string]string{"Gadget": "no name", "func": "no name", "a-b": "no name", "../x": "no name", "": "no name", "store": "hide", "auth": "hide", "context": "hide"} {
		if out, status := program(t, "blueprint", "new", name, "--dir", dir); status != exitUsage || !strings.Contains(out, want) {
			t.Errorf("%q: got %d: %s; want it to be told %q", name, status, out, want)
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("something was written: %v, %v", left, err)
	}
	if out, status := program(t, "blueprint", "new", "gadget", "--dir", dir); status != 0 {
		t.Fatal(out)
	}
	if out, status := program(t, "blueprint", "new", "gadget", "--dir", dir); status != exitFailed || !strings.Contains(out, "exists already") {
		t.Errorf("over what is there: got %d: %s", status, out)
	}
	a := testApp()
	var b bytes.Buffer
	if status := a.run(t.Context(), []string{"blueprint", "new", "shop", "--dir", t.TempDir()}, strings.NewReader(""), &b, &b); status != exitFailed || !strings.Contains(b.String(), "has a blueprint shop already") {
		t.Errorf("a name that is taken: got %d: %s", status, b.String())
	}
}

// A module of one's own repeats what does not pass on by itself.
func TestASkeletonRepeatsTheReplacementsOfThisModule(t *testing.T) {
	t.Parallel()
	mod := read(t, filepath.Join("..", "go.mod"))
	lines := regexp.MustCompile(`(?m)^replace .*$`).FindAllString(mod, -1)
	if got := strings.Join(lines, "\n\n") + "\n"; got != replacements {
		t.Errorf("go.mod has\n%s\nand a skeleton\n%s", got, replacements)
	}
	if !strings.Contains(mod, "\ngo "+goVersion+"\n") {
		t.Errorf("a skeleton has Go %s, and go.mod another one", goVersion)
	}
}
