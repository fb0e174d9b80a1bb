package server

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/auth"
	"github.com/slipway-platform/slipway/blueprint"
	"github.com/slipway-platform/slipway/cluster"
	"github.com/slipway-platform/slipway/event"
	"github.com/slipway-platform/slipway/fetch"
	"github.com/slipway-platform/slipway/secret"
	"github.com/slipway-platform/slipway/store"
	"github.com/slipway-platform/slipway/task"
)

// Config is the configuration of an installation. Every key is optional; the field tags are the documentation:
// yaml is the key, doc says what it means. Blueprints add sections of their own (Sections).
type Config struct {
	Server     Listen                     `yaml:"server" doc:"How the server is reached"`
	DataDir    string                     `yaml:"dataDir" doc:"Folder for the embedded database, keys and files of this installation"`
	Databases  map[string]string          `yaml:"databases" doc:"Databases by short name: sqlite:<file> or postgres://…; {dataDir} is replaced. mysql://… is one of another program, which a blueprint reads (dora.database)"`
	Secrets    Secrets                    `yaml:"secrets" doc:"Master keys, which seal secrets in the database"`
	Blueprints []string                   `yaml:"blueprints" doc:"Which parts to run; empty: all of this build"`
	Fetch      fetch.Config               `yaml:"fetch" doc:"What may be read from user-given addresses"`
	Auth       auth.Config                `yaml:",inline" mapstructure:",squash"`
	Providers  []ProviderConfig           `yaml:"providers" doc:"Vendors: name, type, and what the type takes"`
	Proxies    map[string]blueprint.Proxy `yaml:"proxies" doc:"Other HTTP APIs under /api/proxy/{name}/, by name: one lower-case word"`
	Clusters   []cluster.Config           `yaml:"clusters" doc:"Kubernetes clusters: name, and a kubeconfig with its context, or neither in a pod"`
	Resources  []string                   `yaml:"resources" doc:"Folders or files with Data API documents, applied at start and on SIGHUP"`
	Events     Events                     `yaml:"events" doc:"Where events go besides this database"`
	Retention  blueprint.Retention        `yaml:"retention" doc:"How long things are kept"`
	Log        Log                        `yaml:"log" doc:"What is logged and how"`
	Telemetry  Telemetry                  `yaml:"telemetry" doc:"Where traces go"`

	// Sections holds each enabled blueprint's own section by its key: what Blueprint.Config made, filled in.
	Sections map[string]any `yaml:"-" mapstructure:"-"`
	// Role is "all", "web" or "worker"; a flag of serve.
	Role string `yaml:"-" mapstructure:"-"`
}

// Listen says how the server is reached.
type Listen struct {
	Listen         string   `yaml:"listen" doc:"Address to listen on; the environment variable PORT replaces its port"`
	MetricsListen  string   `yaml:"metricsListen" doc:"Second address that serves only /metrics, /healthz and /readyz, without a token, in every role; empty: /metrics on the main address, with a permission"`
	ExternalURL    string   `yaml:"externalURL" doc:"How users reach the server; empty: http:// and the address"`
	TrustedProxies []string `yaml:"trustedProxies" doc:"Addresses or networks of proxies whose X-Forwarded-For is trusted"`
	CORS           CORS     `yaml:"cors" doc:"Browser pages of other origins"`
	Load           Load     `yaml:"load" doc:"How much a replica works at a time"`
	Streams        Streams  `yaml:"streams" doc:"Answers without an end: logs that are followed, events, proxied streams"`
}

// CORS says which other origins' pages may call the API.
type CORS struct {
	Origins []string `yaml:"origins" doc:"Origins, such as https://portal.example.com"`
}

// Secrets says where the master key is.
type Secrets struct {
	KeyFile string      `yaml:"keyFile" doc:"File with the master keys; made at first start on SQLite, required on PostgreSQL, shared by all replicas"`
	Keys    secret.Text `yaml:"keys" doc:"The lines of a key file, in place of one, such as ${env:MASTER_KEYS}"`
	KMS     KMS         `yaml:"kms" doc:"Commands that wrap and unwrap master keys, so that a copy of the key file opens nothing; each reads bytes on its standard input and writes the answer on its standard output"`
}

// KMS names the commands that reach a key management service.
type KMS struct {
	Wrap   []string `yaml:"wrap" doc:"Command with its arguments that wraps a new key"`
	Unwrap []string `yaml:"unwrap" doc:"Command with its arguments that unwraps a key, at start and when the file has changed"`
}

func (s Secrets) open(create bool) (*secret.Keyring, error) {
	keys := secret.Keys{File: s.KeyFile, Create: create, Text: s.Keys.Reveal()}
	if len(s.KMS.Wrap)+len(s.KMS.Unwrap) > 0 {
		keys.KMS = secret.Command{WrapArgs: s.KMS.Wrap, UnwrapArgs: s.KMS.Unwrap}
	}
	return secret.Open(keys)
}

// ProviderConfig is one entry of `providers:`. Rest is what the type takes.
type ProviderConfig struct {
	Name string `yaml:"name" doc:"Unique name; it never changes, builds are known by it"`
	Type string `yaml:"type" doc:"Which vendor"`

	task.Settings `yaml:",inline" mapstructure:",squash"`
	Rest          map[string]any `yaml:",inline" mapstructure:",remain"`
}

// Events says where events go besides the database.
type Events struct {
	Broker event.BrokerConfig `yaml:"broker" doc:"NATS JetStream, which gets every event"`
}

// Log says what is logged.
type Log struct {
	Level  string `yaml:"level" doc:"debug, info, warn or error"`
	Format string `yaml:"format" doc:"json or text"`
}

// Telemetry says where traces go.
type Telemetry struct {
	Endpoint string `yaml:"endpoint" doc:"OTLP/HTTP address for traces, such as http://127.0.0.1:4318; empty: none"`
}

// DefaultConfig is what holds where nothing is said.
func DefaultConfig() *Config {
	day := slipway.Duration(24 * time.Hour)
	return &Config{
		Server: Listen{Listen: "127.0.0.1:8080", Streams: Streams{User: 20, Service: 200, All: 500},
			Load: Load{Requests: 256, Wait: slipway.Duration(time.Second)}},
		DataDir:   "slipway-data",
		Databases: map[string]string{"main": "sqlite:{dataDir}/main.db"},
		Secrets:   Secrets{KeyFile: "{dataDir}/master.key"},
		Fetch:     fetch.DefaultConfig(),
		Auth:      auth.DefaultConfig(),
		Retention: blueprint.Retention{Builds: 400 * day, Events: 30 * day, Jobs: 7 * day, Audit: 400 * day, Deployments: 5 * 365 * day},
		Events:    Events{Broker: event.DefaultBroker()},
		Log:       Log{Level: "info", Format: "json"},
		Role:      "all",
	}
}

// Resolve replaces {dataDir} and checks what does not need the declarations. All faults are reported together.
func (c *Config) Resolve() error {
	var faults []error
	fault := func(key, format string, args ...any) {
		faults = append(faults, fmt.Errorf("%s: %s", key, fmt.Sprintf(format, args...)))
	}
	dir, err := filepath.Abs(c.DataDir)
	if c.DataDir == "" || err != nil {
		fault("dataDir", "name a folder")
	}
	c.DataDir = dir
	for name, u := range c.Databases {
		c.Databases[name] = strings.ReplaceAll(u, "{dataDir}", dir)
	}
	if c.Databases["main"] == "" {
		fault("databases.main", "there must be a database called main")
	}
	c.Secrets.KeyFile = strings.ReplaceAll(c.Secrets.KeyFile, "{dataDir}", dir)
	for key, addr := range map[string]string{"server.listen": c.Server.Listen, "server.metricsListen": c.Server.MetricsListen} {
		if _, _, err := net.SplitHostPort(addr); err != nil && (addr != "" || key == "server.listen") {
			fault(key, "%q is no address; write host:port", addr)
		}
	}
	if u := c.Server.ExternalURL; u != "" {
		if p, err := url.Parse(u); err != nil || p.Host == "" || (p.Scheme != "http" && p.Scheme != "https") {
			fault("server.externalURL", "%q is no http or https address", u)
		}
	}
	for key, n := range map[string]int{"user": c.Server.Streams.User, "service": c.Server.Streams.Service, "all": c.Server.Streams.All} {
		if n < 1 {
			fault("server.streams."+key, "%d is less than 1", n)
		}
	}
	if c.Server.Load.Requests < 1 {
		fault("server.load.requests", "%d is less than 1", c.Server.Load.Requests)
	}
	if w := c.Server.Load.Wait.Std(); w < time.Millisecond || w > 30*time.Second {
		fault("server.load.wait", "%s is not between 1ms and 30s", c.Server.Load.Wait)
	}
	if err := c.Events.Broker.Validate(); err != nil {
		faults = append(faults, err)
	}
	if err := c.Fetch.Validate(); err != nil {
		faults = append(faults, err)
	}
	for _, p := range c.Server.TrustedProxies {
		if _, err := auth.ParseNetwork(p); err != nil {
			fault("server.trustedProxies", "%q is neither an address nor a network", p)
		}
	}
	switch c.Log.Level {
	case "debug", "info", "warn", "error":
	default:
		fault("log.level", "%q is not debug, info, warn or error", c.Log.Level)
	}
	if c.Log.Format != "json" && c.Log.Format != "text" {
		fault("log.format", "%q is not json or text", c.Log.Format)
	}
	switch c.Role {
	case "all", "web", "worker":
	default:
		fault("role", "%q is not all, web or worker", c.Role)
	}
	for key, d := range map[string]slipway.Duration{"builds": c.Retention.Builds, "events": c.Retention.Events, "jobs": c.Retention.Jobs, "audit": c.Retention.Audit,
		"deployments": c.Retention.Deployments} {
		if d.Std() < time.Hour {
			fault("retention."+key, "%s is shorter than an hour", d)
		}
	}
	names := map[string]bool{}
	for i, p := range c.Providers {
		switch {
		case p.Name == "" || p.Type == "":
			fault(fmt.Sprintf("providers[%d]", i), "name and type are required")
		case !providerName.MatchString(p.Name):
			fault(fmt.Sprintf("providers[%d].name", i), "%q: letters, digits, dash, underscore and dot, at most 63, starting with a letter or digit", p.Name)
		case names[p.Name]:
			fault(fmt.Sprintf("providers[%d].name", i), "%q is used twice", p.Name)
		}
		names[p.Name] = true
		for _, d := range p.Check() {
			fault(fmt.Sprintf("providers[%d].%s", i, d.Field), "%s", d.Message)
		}
	}
	for _, d := range cluster.Check(c.Clusters) {
		fault(d.Field, "%s", d.Message)
	}
	for key, section := range c.Sections {
		if v, ok := section.(interface{ Validate() error }); ok {
			if err := v.Validate(); err != nil {
				faults = append(faults, fmt.Errorf("%s: %w", key, err))
			}
		}
	}
	return errors.Join(faults...)
}

// ResolveFor is Resolve, and checks what needs the declarations of the enabled blueprints: that the databases they need are there and have
// addresses that can be meant, and that what is granted exists. Nothing is opened. All faults are reported together.
func (c *Config) ResolveFor(enabled []blueprint.Blueprint) error {
	faults := []error{c.Resolve()}
	fault := func(key, format string, args ...any) {
		faults = append(faults, fmt.Errorf("%s: %s", key, fmt.Sprintf(format, args...)))
	}
	for _, name := range slices.Sorted(maps.Keys(Owners(enabled))) {
		if c.Databases[name] == "" && name != "main" { // Resolve has asked for that one
			fault("databases."+name, "is missing, and an enabled blueprint needs it")
		}
	}
	for _, name := range slices.Sorted(maps.Keys(c.Databases)) {
		engine, err := store.EngineOf(c.Databases[name])
		if err != nil && c.Databases[name] != "" {
			fault("databases."+name, "%v", err)
		}
		if _, ours := Owners(enabled)[name]; ours && engine == store.MySQL {
			fault("databases."+name, "Slipway's own tables do not go into MySQL; write sqlite:<file> or postgres://<user>@<host>/<database>")
		}
	}
	var permissions []auth.Permission
	for _, b := range enabled {
		permissions = append(permissions, b.Permissions...)
	}
	proxies := c.proxies(enabled)
	for _, p := range proxies {
		if p.Permission == ownPermission(p.Name) {
			permissions = append(permissions, proxyPermission(p))
		}
	}
	for _, p := range proxies {
		for _, d := range checkProxy(p, permissions) {
			fault("proxies."+p.Name+"."+d.Field, "%s", d.Message)
		}
	}
	for i, issuer := range c.Auth.SignIn.Issuers {
		if n := issuer.Cluster; n != "" && !slices.ContainsFunc(c.Clusters, func(k cluster.Config) bool { return k.Name == n }) {
			fault(fmt.Sprintf("auth.issuers[%d].cluster", i), "there is no cluster %.60q under clusters", n)
		}
	}
	for _, d := range c.Auth.Check(permissions) {
		fault(d.Field, "%s", d.Message)
	}
	return errors.Join(faults...)
}

// CheckKeyFile says what keeps a server from using the key file. On SQLite a missing one is none: the first start makes it. Call it after Resolve.
func (c *Config) CheckKeyFile() error {
	engine, err := store.EngineOf(c.Databases["main"])
	if err != nil {
		return nil // a fault of its own
	}
	_, err = c.keyring(false)
	if engine == store.SQLite && errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// keyring opens the key file, or makes it.
func (c *Config) keyring(create bool) (*secret.Keyring, error) {
	keys, err := c.Secrets.open(create)
	if errors.Is(err, fs.ErrNotExist) {
		err = slipway.Errorf(slipway.Invalid, "there is no key file at %s: for a new installation, slipway db create makes one; else copy it from "+
			"another replica or a backup, as without it nothing that is sealed can be read", c.Secrets.KeyFile).WithCause(fs.ErrNotExist)
	}
	if err != nil {
		return nil, fmt.Errorf("secrets.keyFile: %w", err)
	}
	return keys, nil
}

// Raw is what the provider's type takes, as JSON, with ${env:NAME} and ${file:PATH} replaced in all texts; what came from there is kept out of what redact
// cleans.
func (p ProviderConfig) Raw(getenv func(string) (string, bool), redact *secret.Redactor) (json.RawMessage, error) {
	rest, err := expand(p.Rest, getenv, redact)
	if err != nil {
		return nil, err
	}
	return json.Marshal(rest)
}

// expand replaces in all texts of a value.
func expand(v any, getenv func(string) (string, bool), redact *secret.Redactor) (any, error) {
	switch v := v.(type) {
	case string:
		out, err := secret.Expand(v, func(name string) (string, bool) {
			value, ok := getenv(name)
			redact.Add(value) // alone, and below with what stands around it
			return value, ok
		})
		if err == nil && out != v {
			redact.Add(out)
		}
		return out, err
	case map[string]any:
		out := map[string]any{}
		for k, e := range v {
			x, err := expand(e, getenv, redact)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", k, err)
			}
			out[k] = x
		}
		return out, nil
	case []any:
		out := make([]any, len(v))
		for i, e := range v {
			x, err := expand(e, getenv, redact)
			if err != nil {
				return nil, err
			}
			out[i] = x
		}
		return out, nil
	}
	return v, nil
}
