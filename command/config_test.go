package command

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/auth"
	"github.com/slipway-platform/slipway/blueprint"
	"github.com/slipway-platform/slipway/provider"
)

// shopConfig is the section of a blueprint of these tests.
type shopConfig struct {
	Refresh slipway.Duration  `yaml:"refresh" doc:"How often"`
	Limits  map[string]int    `yaml:"limits" doc:"By name"`
	Labels  map[string]string `yaml:"labels" doc:"By name"`
	Open    bool              `yaml:"open" doc:"Whether"`
	Share   float64           `yaml:"share" doc:"How much"`
}

func (c *shopConfig) Validate() error {
	if c.Share > 1 {
		return errors.New("share: at most 1")
	}
	return nil
}

// ciConfig is what a type of provider of these tests takes.
type ciConfig struct {
	Project string           `json:"project" doc:"Which project"`
	Region  string           `json:"region" required:"true" doc:"Where"`
	Timeout slipway.Duration `json:"timeout" default:"5s" doc:"How long"`
}

func (c *ciConfig) Check() (faults []slipway.Detail) {
	if c.Timeout > slipway.Duration(time.Hour) {
		faults = append(faults, slipway.Detail{Field: "timeout", Code: slipway.Invalid, Message: "at most an hour"})
	}
	return faults
}

func testApp() *app {
	return &app{
		blueprints: []blueprint.Blueprint{{
			Name: "shop", Summary: "A shop.", Config: func() any { return &shopConfig{Refresh: slipway.Duration(5 * time.Minute)} },
			Permissions: []auth.Permission{{Name: "shop.goods.read", Text: "Look", Object: "entity"}},
			Databases:   []blueprint.Database{{Name: "goods", Migrations: fstest.MapFS{}}},
		}},
		kinds: []provider.Kind{{Name: "ci", Text: "A CI.", Config: ciConfig{}, Open: func(_ context.Context, raw json.RawMessage, _ provider.Env) (*provider.Provider, error) {
			var c ciConfig
			if err := provider.Decode(raw, &c); err != nil {
				return nil, err
			}
			if c.Region == "moon" {
				return nil, slipway.Errorf(slipway.Invalid, "there is no machine in %s", c.Region)
			}
			return &provider.Provider{}, nil
		}}},
	}
}

// load reads a configuration file with this text.
func load(t *testing.T, yaml string, environ ...string) (*loaded, error) {
	t.Helper()
	return testApp().load(settings{file: written(t, yaml)}, append(environ, "SLIPWAY_DATABASES_GOODS=sqlite:goods.db"))
}

// check does what config check does with it.
func check(t *testing.T, yaml string, environ ...string) error {
	t.Helper()
	a := testApp()
	_, err := a.load(settings{file: written(t, yaml)}, append(environ, "SLIPWAY_DATABASES_GOODS=sqlite:goods.db"), keyFile, a.providers)
	return err
}

func written(t *testing.T, yaml string) (file string) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "slipway.yaml")
	if err := os.WriteFile(file, []byte(yaml), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// faultsOf is the lines of the report without its head.
func faultsOf(err error) []string {
	if err == nil {
		return nil
	}
	lines := strings.Split(sentence(err), "\n")
	for i, l := range lines {
		lines[i] = strings.TrimSpace(l)
	}
	return lines[1:]
}

func TestAFileAnEnvironmentAndFlagsMakeTheConfiguration(t *testing.T) {
	t.Parallel()
	l, err := load(t, `
server: {listen: "127.0.0.1:1", trustedProxies: [10.0.0.1]}
fetch: {maxBytes: 1MiB, timeout: 5s}
rateLimits: {user: 7/m}
grants:
  - {to: "group:default/shop", permissions: ["shop.*"]}
providers:
  - {name: main-ci, type: ci, project: "${env:PROJECT}", region: north}
shop: {refresh: 2d, limits: {a: 1}, labels: {k: v}, open: true, share: 0.5}
`, "SLIPWAY_FETCH_TIMEOUT=9s", "SLIPWAY_SERVER_TRUSTED_PROXIES=10.0.0.2, 10.0.0.3", "SLIPWAY_DATABASES_SIDE=sqlite:side.db",
		"SLIPWAY_SHOP_LIMITS={b: 2}", "SLIPWAY_SHOP_LABELS_ZONE=north", "PORT=2", "HOME=/x", "PROJECT=web")
	if err != nil {
		t.Fatal(err)
	}
	c := l.config
	shop := c.Sections["shop"].(*shopConfig)
	got := []any{
		c.Server.Listen, c.Server.TrustedProxies, c.Fetch.MaxBytes, c.Fetch.Timeout, c.Auth.RateLimits.User, c.Auth.RateLimits.Service, c.Databases["side"],
		c.Auth.Grants[0].Permissions, c.Providers[0].Rest["project"], *shop,
	}
	want := []any{
		"127.0.0.1:2", []string{"10.0.0.2", "10.0.0.3"}, slipway.Size(1 << 20), slipway.Duration(9 * time.Second), c.Auth.RateLimits.User, c.Auth.RateLimits.Service, "sqlite:side.db",
		[]string{"shop.*"}, "${env:PROJECT}",
		shopConfig{slipway.Duration(48 * time.Hour), map[string]int{"a": 1, "b": 2}, map[string]string{"k": "v", "zone": "north"}, true, 0.5},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if c.Auth.RateLimits.User != 7 || c.Auth.RateLimits.Service != 1000 {
		t.Errorf("rate limits: got %v", c.Auth.RateLimits)
	}
}

func TestAllFaultsAreReportedTogetherWithTheirLines(t *testing.T) {
	t.Parallel()
	_, err := load(t, `server:
  lisen: 127.0.0.1:80
  listen: nowhere
fetch: {maxBytes: many, timeout: 5 minutes}
log: {level: loud}
retention: {builds: [a]}
grants: {}
databases: {main: "${env:NOPE}"}
shop: {limits: {a: b}, open: perhaps, share: 2}
shop2: 1
log: {}
`, "SLIPWAY_SERVER_TRUSTED_PROXIES=here")
	want := []string{
		`line 2, server.lisen: no such key; did you mean "listen"?`,
		`line 3, server.listen: "nowhere" is no address; write host:port`,
		`line 4, fetch.maxBytes: "many" is no size; write it like 512, 64KiB, 10MiB or 2GiB`,
		`line 4, fetch.timeout: "5 minutes" is no length of time; write it like 90s, 5m, 1h30m, 400d or 5y`,
		`line 5, log.level: "loud" is not debug, info, warn or error`,
		`line 6, retention.builds: must be a single value`,
		`line 7, grants: must be a list: write it like [a, b]`,
		`line 8, databases.main: the environment variable NOPE is not set: set it where Slipway is started`,
		`line 9, shop.limits.a: "b" is no whole number`,
		`line 9, shop.open: "perhaps" is neither true nor false`,
		`line 9, shop.share: at most 1`,
		`line 10, shop2: no such key; did you mean "shop"?`,
		`line 11, log: stands here twice; keep one`,
		`SLIPWAY_SERVER_TRUSTED_PROXIES, server.trustedProxies: "here" is neither an address nor a network`,
	}
	got := faultsOf(err)
	slices.Sort(got)
	slices.Sort(want)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if !errors.Is(err, slipway.Invalid) {
		t.Errorf("got code %s, want invalid", slipway.CodeOf(err))
	}
}

func TestWhatIsNoConfigurationIsRefused(t *testing.T) {
	t.Parallel()
	deep := strings.Repeat("{a: ", 100) + "1" + strings.Repeat("}", 100)
	for name, text := range map[string]string{
		"broken YAML":             "server: {",
		"two documents":           "log: {}\n---\nlog: {}",
		"a list":                  "- a",
		"a text":                  "hello",
		"too deep":                "providers: [{name: a, type: ci, x: " + deep + "}]",
		"an alias to itself":      "providers: [{name: a, type: ci, x: &a [*a]}]",
		"a mapping for a value":   "dataDir: {a: b}",
		"a value for a mapping":   "server: here",
		"an unclosed replacement": `dataDir: "${env:"`,
	} {
		if _, err := load(t, text); !errors.Is(err, slipway.Invalid) {
			t.Errorf("%s: got %v, want it refused", name, err)
		}
	}
	if _, err := load(t, "# nothing but a comment\n"); err != nil {
		t.Errorf("an empty file: got %v", err)
	}
	if _, err := testApp().load(settings{file: filepath.Join(t.TempDir(), "none.yaml")}, nil); !errors.Is(err, slipway.Invalid) {
		t.Errorf("a missing file: got %v", err)
	}
}

func TestVariablesThatNameNothingAreNoticed(t *testing.T) {
	t.Parallel()
	l, err := load(t, "", "SLIPWAY_SERVR_LISTEN=x", "SLIPWAY_URL=x", "SLIPWAY_TOKEN=x", "SLIPWAY_SERVICE_HOST=x", "SLIPWAY_PORT_8080_TCP=x", "OTHER=x")
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"SLIPWAY_SERVR_LISTEN"}; !slices.Equal(l.ignored, want) {
		t.Errorf("got %v, want %v", l.ignored, want)
	}
}

func TestSectionsOfBlueprintsThatAreNotEnabledMayStay(t *testing.T) {
	t.Parallel()
	if _, err := load(t, "blueprints: [shop]\nshop: {share: 0.1}"); err != nil {
		t.Error(err)
	}
	_, err := load(t, "blueprints: [shp]")
	if got := faultsOf(err); len(got) != 1 || !strings.HasPrefix(got[0], `line 1, blueprints: there is no "shp" in this build`) {
		t.Errorf("got %v", got)
	}
}

func TestProvidersAreLookedAtAsTheServerWill(t *testing.T) {
	t.Parallel()
	err := check(t, `log: {level: loud}
providers:
  - {name: a, type: ci, region: x, project: "${env:PROJECT}", timeout: 6s}
  - name: b
    type: ci
    region: x
    projct: x
  - {name: c, type: jenkins}
  - {name: d, type: ci, region: ["${env:NONE}"]}
  - name: e
    type: ci
    timeout: "${env:PROJECT}"
  - {name: f, type: ci, region: x, timeout: 2h}
  - {name: g, type: ci, region: moon}
`, "PROJECT=hunter2")
	want := []string{
		`line 1, log.level: "loud" is not debug, info, warn or error`,
		`line 7, providers[1].projct: no such key; did you mean "project"?`,
		`line 8, providers[2].type: there is no type "jenkins"; there are ci`,
		`line 9, providers[3].region[0]: the environment variable NONE is not set: set it where Slipway is started`,
		`line 10, providers[4].region: is required`,
		`line 12, providers[4].timeout: "<redacted>" is no length of time; write it like 90s, 5m, 1h30m, 400d or 5y`,
		`line 13, providers[5].timeout: at most an hour`,
		`line 14, providers[6]: there is no machine in moon`,
	}
	if diff := cmp.Diff(want, faultsOf(err)); diff != "" {
		t.Error(diff)
	}
}

func TestWhatKeepsAServerFromStartingIsAFaultOfTheConfiguration(t *testing.T) {
	t.Parallel()
	err := check(t, `databases:
  main: postgres://slipway@db/slipway
  side: oracle://x
  file: "sqlite:"
  port: postgres://slipway:hunter2@db:http/x
grants:
  - {to: someone, permissions: ["shop.goods.read"]}
  - {to: "group:default/shop", permissions: ["shop.goods.read:owned", "shop.goods.eat", nothing]}
  - {to: "token:a", permissions: []}
secrets: {keyFile: /nowhere/master.key}
`)
	want := []string{
		`line 3, databases.side: the address has no scheme that is known; write sqlite:<file> or postgres://<user>@<host>/<database>`,
		`line 4, databases.file: a SQLite database needs a file`,
		`line 5, databases.port: the address does not parse; write postgres://<user>:<password>@<host>:<port>/<database>`,
		`line 7, grants[0].to: "someone" is no caller; write user:default/<name>, group:default/<name>, token:<name>, service:<issuer>:<subject>, tool:<name>, the beginning of one with a * at the end, or *`,
		`line 8, grants[1].permissions[1]: no enabled blueprint declares the permission "shop.goods.eat"; slipway token permissions lists those there are`,
		`line 8, grants[1].permissions[2]: "nothing" is no permission; write <blueprint>.<noun>.<verb>, a part of it such as build.*, or *`,
		`line 9, grants[2].permissions: list at least one permission`,
		`line 10, secrets.keyFile: there is no key file at /nowhere/master.key: for a new installation, slipway db create makes one; else copy it from another replica or a backup, as without it nothing that is sealed can be read`,
	}
	if diff := cmp.Diff(want, faultsOf(err)); diff != "" {
		t.Error(diff)
	}
	_, err = testApp().load(settings{file: os.DevNull}, nil, keyFile)
	if diff := cmp.Diff([]string{"databases.goods: is missing, and an enabled blueprint needs it"}, faultsOf(err)); diff != "" {
		t.Error(diff)
	}
}

func TestSecretsAreNotShown(t *testing.T) {
	t.Parallel()
	l, err := load(t, `
databases: {main: "postgres://slipway:hunter2@db/slipway", side: "${env:DB}"}
providers:
  - {name: a, type: ci, webhookSecret: hunter2, credential: "${env:CRED}", nested: {token: hunter2, privateKey: hunter2}, url: "https://ci:hunter2@ci.example.com"}
`, "DB=postgres://u:hunter2@h/x", "CRED=hunter2")
	if err != nil {
		t.Fatal(err)
	}
	shown := flow(document(configFields(l.config), l.written))
	if strings.Contains(shown, "hunter2") {
		t.Errorf("the secret is shown: %s", shown)
	}
	for _, want := range []string{"postgres://slipway:<redacted>@db/slipway", "${env:DB}", "${env:CRED}", "https://ci:<redacted>@ci.example.com"} {
		if !strings.Contains(shown, want) {
			t.Errorf("%s is not shown: %s", want, shown)
		}
	}
	for address, want := range map[string]string{
		"postgres://slipway:p!w(1)@db/slipway":                           "postgres://slipway:<redacted>@db/slipway", // which Go would write in another way
		"postgres://slipway:a@b@db/slipway?sslmode=require":              "postgres://slipway:<redacted>@db/slipway?sslmode=require",
		"postgres://slipway@db/slipway?sslmode=require&password=hunter2": "postgres://slipway@db/slipway?sslmode=require&password=<redacted>",
		"https://ci.example.com/hook?access_token=hunter2#top":           "https://ci.example.com/hook?access_token=<redacted>",
		"https://ci.example.com/a?b=c@d":                                 "https://ci.example.com/a?b=c@d",
		"http://ci:x y@h":                                                "<redacted>",
	} {
		if got := hide("url", address); got != want {
			t.Errorf("%s is shown as %s, want %s", address, got, want)
		}
	}
	if got := l.redact.Redact("cannot reach postgres://u:hunter2@h/x"); strings.Contains(got, "hunter2") {
		t.Errorf("the log would show %q", got)
	}
}

func TestTheEffectiveConfigurationCanBeReadAgain(t *testing.T) {
	t.Parallel()
	l, err := load(t, `{log: {level: debug}, shop: {refresh: 2d, labels: {a: "true", b: "1"}}, providers: [{name: a, type: ci, n: "1", m: 1}]}`)
	if err != nil {
		t.Fatal(err)
	}
	first := flow(document(configFields(l.config), l.written))
	l, err = load(t, first)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(first, flow(document(configFields(l.config), l.written))); diff != "" {
		t.Error(diff)
	}
}

func TestNamesOfVariables(t *testing.T) {
	t.Parallel()
	for path, want := range map[string]string{
		"server.metricsListen": "SLIPWAY_SERVER_METRICS_LISTEN",
		"server.externalURL":   "SLIPWAY_SERVER_EXTERNAL_URL",
		"fetch.caFile":         "SLIPWAY_FETCH_CA_FILE",
		"auth.jwksURLFile":     "SLIPWAY_AUTH_JWKS_URL_FILE",
		"dataDir":              "SLIPWAY_DATA_DIR",
	} {
		if got := variable(path); got != want {
			t.Errorf("%s: got %s, want %s", path, got, want)
		}
	}
}

func TestEveryKeyHasAVariableOfItsOwnAndIsDocumented(t *testing.T) {
	t.Parallel()
	owners := map[string]string{}
	testApp().defaults(func(name, path string, k field, _ string) {
		if other, ok := owners[name]; ok {
			t.Errorf("%s is the variable of %s and %s", name, other, path)
		}
		owners[name] = path
		if k.doc == "" {
			t.Errorf("%s has no doc tag", path)
		}
	})
	if len(owners) < 20 {
		t.Errorf("only %d keys were found", len(owners))
	}
}

func TestNearestWord(t *testing.T) {
	t.Parallel()
	known := []string{"listen", "metricsListen", "externalURL", "cors"}
	for word, want := range map[string]string{"lisen": "listen", "Listen": "listen", "lsiten": "listen", "externalUrl": "externalURL", "zzz": "", "core": "cors"} {
		if got := nearest(word, known); got != want {
			t.Errorf("%s: got %q, want %q", word, got, want)
		}
	}
}

// Whatever the file holds, reading it gives a configuration or faults.
func FuzzLoad(f *testing.F) {
	for _, seed := range []string{"", "server: {listen: a}", "a: &x [*x]", "providers: [{name: a, type: ci, x: {y: [1]}}]", "databases: {main: ${env:A}}", "shop: {limits: {a: 1}}", "<<: {a: 1}", "? [a]\n: b"} {
		f.Add(seed, "SLIPWAY_PROVIDERS="+seed)
	}
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, text, pair string) {
		file := filepath.Join(dir, "slipway.yaml")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		l, err := testApp().load(settings{file: file}, []string{pair})
		if err == nil {
			_ = flow(document(configFields(l.config), l.written))
		} else if slipway.CodeOf(err) == slipway.Internal {
			t.Errorf("%q: %v", text, err)
		}
	})
}
