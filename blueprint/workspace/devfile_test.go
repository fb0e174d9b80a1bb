package workspace

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/slipway-platform/slipway"
)

func TestGoldenPathsAreAccepted(t *testing.T) {
	for name, starter := range map[string]string{"goldenpath-python": "python-fastapi", "goldenpath-ai": ""} {
		data, err := os.ReadFile(filepath.Join("testdata", "devfiles", name+".yaml"))
		if err != nil {
			t.Fatal(err)
		}
		d, err := parseDevfile(data)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if d.name != name || d.version != "1.0.0" || !d.sources() {
			t.Errorf("%s: got name %q, version %q, sources %v", name, d.name, d.version, d.sources())
		}
		if d.template["schemaVersion"] != nil || d.template["metadata"] != nil || d.template["components"] == nil || d.template["events"] == nil {
			t.Errorf("%s: the template is not the devfile without schemaVersion and metadata: %v", name, d.template)
		}
		attributes, _ := d.template["attributes"].(map[string]any)
		if got := attributes[starterAttribute]; starter != "" && got != starter {
			t.Errorf("%s: got starter project %v, want %s", name, got, starter)
		}
	}
}

const head = "schemaVersion: 2.2.2\nmetadata: {name: x, version: 1.0.0}\n"

func TestFaultyDevfilesAreRefusedWithAllTheirFaults(t *testing.T) {
	for name, c := range map[string]struct {
		devfile string
		faults  []string // field: part of the message
		message string   // instead
	}{
		"nothing":          {"", nil, "it is empty"},
		"a list":           {"[]", nil, "it is not a devfile"},
		"no YAML":          {head + "components: [", nil, "it is no YAML"},
		"tabs":             {head + "components:\n\t- name: a", nil, "it is no YAML"},
		"two documents":    {head + "---\n" + head, nil, "more than one document"},
		"a key twice":      {head + "metadata: {}\n", nil, "stands twice"},
		"merge keys":       {head + "variables:\n  <<: {a: b}\n", nil, "merge keys are not read"},
		"a bomb":           {bomb(), nil, "more than 20000 values"},
		"a loop":           {head + "attributes: &a\n  b: *a\n", nil, "nested deeper"},
		"depth":            {head + "attributes: " + strings.Repeat("{a: ", 60) + "1" + strings.Repeat("}", 60), nil, "nested deeper"},
		"not a number":     {head + "attributes: {a: .nan}", nil, "is no number"},
		"no version":       {"metadata: {name: x}", []string{"schemaVersion: is required"}, ""},
		"an old version":   {"schemaVersion: 2.1.0", []string{`schemaVersion: "2.1.0" is not supported; write one of 2.2.0`}, ""},
		"version 1":        {"apiVersion: 1.0.0\nmetadata: {name: x}", []string{"schemaVersion: is required"}, ""},
		"a number":         {"schemaVersion: 2.2", []string{"schemaVersion: must be a text"}, ""},
		"a parent":         {head + "parent: {uri: 'http://169.254.169.254/x'}", []string{"parent: parents are not supported"}, ""},
		"an unknown field": {head + "component: []", []string{"component: is not known here"}, ""},
		"metadata": {
			"schemaVersion: 2.2.2\nmetadata: {name: 5, version: latest}",
			[]string{"metadata.name: got number, want string", "metadata.version: 'latest' does not match pattern"}, "",
		},
		"components without a kind, or with two": {
			head + "components:\n- name: a\n- name: b\n  volume: {}\n  container: {image: x}\n- container: {}\n  name: c\n  colour: red",
			[]string{"components[0]: needs one of container, kubernetes, openshift, volume, image", "components[1]: has two", "components[2].colour: is not known", "components[2].container.image: is required"},
			"",
		},
		"names": {
			head + "components:\n- name: A b\n  volume: {}\n- name: " + strings.Repeat("a", 64) + "\n  volume: {}\n- name: c\n  container: {image: x, endpoints: [{name: much-too-long-name, targetPort: 1}]}",
			[]string{"components[0].name: 'A b' does not match pattern", "components[1].name: maxLength: got 64, want 63", "components[2].container.endpoints[0].name: maxLength: got 18, want 15"}, "",
		},
		"what stands twice": {
			head + `components:
- name: a
  container: {image: x, endpoints: [{name: web, targetPort: 80}, {name: web, targetPort: 81}], env: [{name: A, value: b}, {name: A, value: c}]}
- name: a
  container: {image: x, endpoints: [{name: other, targetPort: 80}, {name: far, targetPort: 70000}]}
commands:
- {id: build, exec: {component: a, commandLine: make}}
- {id: build, exec: {component: a, commandLine: make}}
`,
			[]string{
				"commands[1].id: \"build\" is the id of commands[0] too", "components[0].container.endpoints[1].name: \"web\" is the name of", "components[0].container.env[1].name: \"A\" is set twice",
				"components[1].container.endpoints[0].targetPort: 80 is a port of", "components[1].container.endpoints[1].targetPort: 70000 is no port", "components[1].name: \"a\" is the name of components[0] too",
			}, "",
		},
		"dangling references": {
			head + `components:
- {name: vol, volume: {size: lots}}
- {name: a, container: {image: x, memoryLimit: much, volumeMounts: [{name: none, path: /x}, {name: vol, path: /y}, {name: a, path: /z}]}}
- {name: k, kubernetes: {uri: 'http://10.0.0.1/x.yaml'}}
commands:
- {id: one, exec: {component: none, commandLine: x}}
- {id: two, exec: {component: vol, commandLine: x}}
- {id: three, apply: {component: none}}
- {id: four, composite: {commands: [one, none]}}
- {id: five, composite: {commands: [six]}}
- {id: six, composite: {commands: [five]}}
- {id: seven, apply: {component: vol}}
events: {postStart: [none]}
`,
			[]string{
				"commands[0].exec.component: there is no component \"none\"", "commands[1].exec.component: \"vol\" is no container", "commands[2].apply.component: there is no component", "commands[3].composite.commands[1]: there is no command \"none\"",
				"commands[4].composite.commands: the command \"five\" leads back to itself", "commands[5].composite.commands: the command \"six\" leads", "commands[6].apply.component: \"vol\" is a volume",
				"components[0].volume.size: \"lots\" is no amount", "components[1].container.memoryLimit: \"much\" is no amount", "components[1].container.volumeMounts[0].name: there is no volume component \"none\"",
				"components[1].container.volumeMounts[2].name: there is no volume component \"a\"", "components[2].kubernetes.uri: is not supported", "events.postStart[0]: there is no command \"none\"",
			}, "",
		},
		"events and defaults": {
			head + `components:
- {name: a, container: {image: x}}
commands:
- {id: one, exec: {component: a, commandLine: x, group: {kind: build, isDefault: true}}}
- {id: two, apply: {component: a, group: {kind: build, isDefault: true}}}
- {id: both, composite: {commands: [one, two]}}
events: {preStart: [one], postStart: [two, both], postStop: [both]}
`,
			[]string{
				"commands[1]: \"one\" and \"two\" are both the default", "events.postStart[0]: \"two\" is an apply command", "events.postStart[1]: \"two\" is an apply command", "events.postStop[0]: \"one\" runs in a container",
				"events.preStart[0]: \"one\" runs in a container",
			}, "",
		},
		"projects": {
			head + `projects:
- {name: a, git: {remotes: {}}}
- {name: a, git: {remotes: {origin: x, up: y}}}
- {name: b, git: {remotes: {origin: x}, checkoutFrom: {remote: none}}}
starterProjects:
- {name: a, git: {remotes: {origin: x, up: y}, checkoutFrom: {remote: up}}}
`,
			[]string{
				"projects[0].git.remotes: needs at least one", "projects[1].git.checkoutFrom: with several remotes", "projects[1].name: \"a\" is the name of projects[0] too", "projects[2].git.checkoutFrom.remote: there is no remote \"none\"",
				"starterProjects[0].git.remotes: a starter project has one remote",
			}, "",
		},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := parseDevfile([]byte(c.devfile))
			e, ok := errors.AsType[*slipway.Error](err)
			if !ok || e.Code != slipway.Invalid || !strings.HasPrefix(e.Message, "Invalid devfile: ") {
				t.Fatalf("got %v, want invalid", err)
			}
			if c.message != "" && !strings.Contains(e.Message, c.message) {
				t.Errorf("got %q, want %q in it", e.Message, c.message)
			}
			var got []string
			for _, d := range e.Details {
				got = append(got, d.Field+": "+d.Message)
			}
			if !slices.EqualFunc(got, c.faults, strings.HasPrefix) {
				t.Errorf("got the faults\n  %s\nwant\n  %s", strings.Join(got, "\n  "), strings.Join(c.faults, "\n  "))
			}
		})
	}
}

// bomb is a small text with many values.
func bomb() string {
	var b strings.Builder
	b.WriteString(head + "attributes:\n  a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n")
	for i := range 9 {
		fmt.Fprintf(&b, "  a%d: &a%d [%s]\n", i+1, i+1, strings.Repeat(fmt.Sprintf("*a%d, ", i), 10))
	}
	return b.String()
}

func TestListsOfFaultsAreBounded(t *testing.T) {
	_, err := parseDevfile([]byte(head + "components:\n" + strings.Repeat("- {name: A}\n", 2000)))
	e, ok := errors.AsType[*slipway.Error](err)
	if !ok || len(e.Details) != maxFaults {
		t.Errorf("got %v with %d faults, want %d", err, len(e.Details), maxFaults)
	}
}

// What lists of names lead to is looked at once: a devfile of 90 KB could otherwise have a server count millions of faults.
func TestManyNamesOfManyCommandsCostLittle(t *testing.T) {
	var b strings.Builder
	b.WriteString(head + "components: [{name: a, container: {image: i}}]\ncommands:\n")
	var all []string
	for i := range 1500 {
		fmt.Fprintf(&b, "- {id: c%d, exec: {component: a, commandLine: x}}\n", i)
		all = append(all, fmt.Sprintf("c%d", i))
	}
	fmt.Fprintf(&b, "- {id: all, composite: {commands: [%s]}}\n", strings.Join(all, ", "))
	b.WriteString("events: {preStart: [" + strings.Repeat("all, ", 2000) + "all]}\n")
	_, err := parseDevfile([]byte(b.String()))
	if err == nil || !strings.Contains(err.Error(), "and 999 more faults") {
		t.Errorf("got %.300v, want no more than a thousand faults", err)
	}
}

func TestWordsOfYAML11StayTexts(t *testing.T) {
	d, err := parseDevfile([]byte(head + "components: [{name: a, container: {image: y, env: [{name: A, value: off}, {name: B, value: 2020-01-01}]}}]"))
	if err != nil {
		t.Fatal(err)
	}
	if got := items(d.template["components"])[0]["container"].(map[string]any)["image"]; got != "y" {
		t.Errorf("got the image %v, want y", got)
	}
}

func FuzzParseDevfile(f *testing.F) {
	for _, name := range []string{"goldenpath-python", "goldenpath-ai"} {
		data, err := os.ReadFile(filepath.Join("testdata", "devfiles", name+".yaml"))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Add([]byte(bomb()))
	f.Add([]byte(head + "attributes: &a\n  b: *a\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		d, err := parseDevfile(data)
		if (d == nil) == (err == nil) {
			t.Fatalf("got %v and %v", d, err)
		}
		if err != nil && slipway.CodeOf(err) != slipway.Invalid {
			t.Errorf("got %v, want invalid", err)
		}
	})
}

func TestNamesAreMadeSafe(t *testing.T) {
	seen := map[string]string{}
	for _, c := range []slipway.Caller{
		{Kind: slipway.CallerUser, Subject: "user:default/jane"}, {Kind: slipway.CallerUser, Subject: "user:default/jane.doe"}, {Kind: slipway.CallerUser, Subject: "user:default/jane-doe"},
		{Kind: slipway.CallerUser, Subject: "user:default/jane_doe"}, {Kind: slipway.CallerUser, Subject: "user:other/jane"}, {Kind: slipway.CallerUser, Subject: "user:default/other-jane"},
		{Kind: slipway.CallerUser, Subject: "user:default/" + strings.Repeat("a", 63)}, {Kind: slipway.CallerUser, Subject: "user:default/" + strings.Repeat("a", 62)},
		{Kind: slipway.CallerService, Subject: "token:jane"}, {Kind: slipway.CallerTool, Subject: "tool:jane"},
	} {
		o, err := ownerOf(&c)
		if err != nil {
			t.Errorf("%s: %v", c.Subject, err)
			continue
		}
		if !dnsLabel.MatchString(o.name) || len(o.expand("{user}-workspaces")) > 63 {
			t.Errorf("%s: %q is no name for a namespace", c.Subject, o.name)
		}
		if other, taken := seen[o.name]; taken {
			t.Errorf("%s and %s have the same name %q", c.Subject, other, o.name)
		}
		seen[o.name] = c.Subject
	}
	if seen["jane"] != "user:default/jane" || seen["jane-doe"] != "user:default/jane-doe" {
		t.Errorf("plain names do not stay as they are: %v", seen)
	}
	if _, err := ownerOf(&slipway.Caller{Kind: slipway.CallerAnonymous}); slipway.CodeOf(err) != slipway.Forbidden {
		t.Errorf("somebody without a name: got %v, want forbidden", err)
	}
}
