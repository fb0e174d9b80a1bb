package server

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"strings"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/auth"
	"github.com/slipway-platform/slipway/blueprint"
	"github.com/slipway-platform/slipway/fetch"
)

// Config is the configuration of an installation. Every key is optional; the field tags are the documentation:
// yaml is the key, doc says what it means. Blueprints add sections of their own (Sections).
type Config struct {
	Server     Listen              `yaml:"server" doc:"How the server is reached"`
	DataDir    string              `yaml:"dataDir" doc:"Folder for the embedded database, keys and files of this installation"`
	Databases  map[string]string   `yaml:"databases" doc:"Databases by short name: sqlite:<file> or postgres://…; {dataDir} is replaced"`
	Secrets    Secrets             `yaml:"secrets" doc:"Keys"`
	Blueprints []string            `yaml:"blueprints" doc:"Which parts to run; empty: all of this build"`
	Fetch      fetch.Config        `yaml:"fetch" doc:"What may be read from user-given addresses"`
	Auth       auth.Config         `yaml:",inline" mapstructure:",squash"`
	Providers  []ProviderConfig    `yaml:"providers" doc:"Vendors: name, type, and what the type takes"`
	Resources  []string            `yaml:"resources" doc:"Folders or files with Data API documents, applied at start"`
	Retention  blueprint.Retention `yaml:"retention" doc:"How long things are kept"`
	Log        Log                 `yaml:"log" doc:"What is logged and how"`
	Telemetry  Telemetry           `yaml:"telemetry" doc:"Where traces go"`

	// Sections holds each enabled blueprint's own section by its key: what Blueprint.Config made, filled in.
	Sections map[string]any `yaml:"-" mapstructure:"-"`
	// Role is "all", "web" or "worker"; a flag of serve.
	Role string `yaml:"-" mapstructure:"-"`
}

// Listen says how the server is reached.
type Listen struct {
	Listen         string   `yaml:"listen" doc:"Address to listen on; the environment variable PORT replaces its port"`
	MetricsListen  string   `yaml:"metricsListen" doc:"Second address that serves only /metrics, without a token; empty: /metrics on the main address, with a permission"`
	ExternalURL    string   `yaml:"externalURL" doc:"How users reach the server; empty: http:// and the address"`
	TrustedProxies []string `yaml:"trustedProxies" doc:"Addresses or networks of proxies whose X-Forwarded-For is believed"`
	CORS           CORS     `yaml:"cors" doc:"Browser pages of other origins"`
}

// CORS says which other origins' pages may call the API.
type CORS struct {
	Origins []string `yaml:"origins" doc:"Origins, such as https://portal.example.com"`
}

// Secrets says where the master key is.
type Secrets struct {
	KeyFile string `yaml:"keyFile" doc:"File with the master keys; made at first start on SQLite, required on PostgreSQL, shared by all replicas"`
}

// ProviderConfig is one entry of `providers:`. Rest is what the type takes.
type ProviderConfig struct {
	Name string         `yaml:"name" doc:"Unique name; it never changes, builds are known by it"`
	Type string         `yaml:"type" doc:"Which vendor"`
	Rest map[string]any `yaml:",inline" mapstructure:",remain"`
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
		Server:    Listen{Listen: "127.0.0.1:8080"},
		DataDir:   "slipway-data",
		Databases: map[string]string{"main": "sqlite:{dataDir}/main.db"},
		Secrets:   Secrets{KeyFile: "{dataDir}/master.key"},
		Fetch:     fetch.DefaultConfig(),
		Auth:      auth.DefaultConfig(),
		Retention: blueprint.Retention{Builds: 400 * day, Events: 30 * day, Jobs: 7 * day, Audit: 400 * day},
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
	if err := c.Fetch.Validate(); err != nil {
		faults = append(faults, err)
	}
	for _, p := range c.Server.TrustedProxies {
		if _, err := parsePrefix(p); err != nil {
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
	for key, d := range map[string]slipway.Duration{"builds": c.Retention.Builds, "events": c.Retention.Events, "jobs": c.Retention.Jobs, "audit": c.Retention.Audit} {
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

func parsePrefix(s string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(s); err == nil {
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	return netip.ParsePrefix(s)
}
