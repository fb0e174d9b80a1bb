package command

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/blueprint"
	"github.com/slipway-platform/slipway/client"
)

const defaultURL = "http://127.0.0.1:8080"

// credentials is what login keeps: a token or a session per server, and which server is meant when none is named.
type credentials struct {
	Current  string             `json:"current"`
	Tokens   map[string]string  `json:"tokens"`             // by address
	Sessions map[string]session `json:"sessions,omitempty"` // by address
}

// session is a sign-in by the device flow: a token for an hour, and what the next one is had with.
type session struct {
	Access  string    `json:"access"`
	Refresh string    `json:"refresh"`
	Expires time.Time `json:"expires"` // of Access
}

// credentialsFile is where login keeps tokens: in the user's own configuration folder.
func credentialsFile() (string, error) {
	dir, err := os.UserConfigDir()
	if err != nil {
		return "", slipway.Errorf(slipway.Invalid, "this user has no folder for configuration: set HOME, or use SLIPWAY_URL and SLIPWAY_TOKEN").WithCause(err)
	}
	return filepath.Join(dir, "slipway", "credentials.json"), nil
}

func readCredentials() (credentials, error) {
	c := credentials{Tokens: map[string]string{}, Sessions: map[string]session{}}
	file, err := credentialsFile()
	if err != nil {
		return c, nil // nothing can have been stored
	}
	raw, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return c, nil
	}
	if err == nil {
		err = json.Unmarshal(raw, &c)
	}
	if err != nil {
		return c, slipway.Errorf(slipway.Invalid, "%s cannot be read: repair or remove it, then run slipway login", file).WithCause(err)
	}
	if c.Tokens == nil {
		c.Tokens = map[string]string{}
	}
	if c.Sessions == nil {
		c.Sessions = map[string]session{}
	}
	return c, nil
}

// write replaces the file whole, so that no reader sees half of it, and nobody else can read it.
func (c credentials) write() error {
	file, err := credentialsFile()
	if err != nil {
		return err
	}
	raw, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(file), "credentials-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(append(raw, '\n'))
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), file)
}

// target finds the server and the token: flag, environment, what login stored, the default. A stored token goes only to the
// server that it was stored for.
func (a *app) target() (address, token string, err error) {
	stored, err := readCredentials()
	if err != nil && os.Getenv("SLIPWAY_TOKEN") == "" {
		return "", "", err
	}
	for _, s := range []string{a.url, os.Getenv("SLIPWAY_URL"), stored.Current, defaultURL} {
		if address = strings.TrimRight(s, "/"); address != "" {
			break
		}
	}
	if token = os.Getenv("SLIPWAY_TOKEN"); token == "" {
		token = stored.Tokens[address]
	}
	return address, strings.TrimSpace(token), nil
}

// connect makes the client that the commands share.
func (a *app) connect() (*client.Client, error) {
	if a.client != nil {
		return a.client, nil
	}
	address, token, err := a.target()
	if err != nil {
		return nil, err
	}
	if a.client, err = newClient(address, token); err == nil && token == "" {
		a.client.Token = func(ctx context.Context) (string, error) { return sessionToken(ctx, address, a.client.HTTP) }
	}
	return a.client, err
}

func newClient(address, token string) (*client.Client, error) {
	c, err := client.New(address, token)
	if err != nil {
		return nil, err
	}
	c.UserAgent = "slipway/" + version()
	c.ProviderTokens = strings.TrimSpace(os.Getenv("SLIPWAY_PROVIDER_TOKEN"))
	if file := os.Getenv("SLIPWAY_CA_FILE"); file != "" {
		if err := c.TrustCA(file); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// face is what commands of blueprints talk through.
func (a *app) face() *blueprint.Client {
	return &blueprint.Client{
		Do: func(ctx context.Context, method, path string, body, out any) error {
			c, err := a.connect()
			if err != nil {
				return err
			}
			return c.Do(ctx, method, path, body, out)
		},
		Stream: func(ctx context.Context, path string) (blueprint.Stream, error) {
			c, err := a.connect()
			if err != nil {
				return nil, err
			}
			return c.Stream(ctx, path)
		},
		Print: a.print,
	}
}

func (a *app) login() *cobra.Command {
	var stdin, token bool
	cmd := &cobra.Command{
		Use:   "login",
		Short: "Sign in to a server",
		Long: `Sign in to a server, so that the other commands find it. A server that people sign in to with a browser shows a page where you let this command line
in; compare the code there with the one shown here. What is stored is valid for an hour, is renewed automatically, and ends after some days or with "slipway logout".

With --token, or if the server has no browser sign-in, the command asks for a token, which is not shown while you type it, and stores it. --token-stdin reads it from standard input. A token is never an argument, because others could see it there.

You can sign in to several servers. Commands use the last one unless --url or SLIPWAY_URL names another.
The file is slipway/credentials.json in your configuration folder, readable by you alone.`,
		Example: `  slipway login --url https://slipway.example.com
  slipway login --url http://127.0.0.1:8080 --token-stdin <slipway-data/admin-token`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if _, err := readCredentials(); err != nil {
				return err
			}
			address, _, err := a.target()
			if err != nil {
				return err
			}
			c, err := newClient(address, "")
			if err != nil {
				return err
			}
			var signedIn session
			if !token && !stdin {
				signedIn, err = signIn(cmd, c)
			}
			var typed string
			if token || stdin || slipway.CodeOf(err) == slipway.Unsupported {
				typed, err = readToken(cmd, address, stdin)
			}
			if err != nil {
				return err
			}
			if c, err = newClient(address, cmp.Or(typed, signedIn.Access)); err != nil {
				return err
			}
			me, err := c.WhoAmI(cmd.Context())
			if err != nil {
				return err
			}
			if me.Kind == string(slipway.CallerAnonymous) {
				return slipway.Errorf(slipway.Unauthenticated, "%s took no notice of the token: check the address", address)
			}
			err = change(func(stored *credentials) {
				stored.Current = address
				delete(stored.Tokens, address)
				delete(stored.Sessions, address)
				if typed != "" {
					stored.Tokens[address] = typed
				} else {
					stored.Sessions[address] = signedIn
				}
			})
			if err != nil {
				return fmt.Errorf("the token is good but could not be stored: %w", err)
			}
			if u, err := url.Parse(address); err == nil && u.Scheme == "http" && !loopback(u.Hostname()) {
				say(cmd, "Warning: %s is not encrypted: others on the way can read the token.", address)
			}
			say(cmd, "Logged in at %s as %s.", address, me.Subject)
			return nil
		},
	}
	cmd.Flags().BoolVar(&token, "token", false, "ask for a token instead of signing in with a browser")
	cmd.Flags().BoolVar(&stdin, "token-stdin", false, "read a token from standard input")
	return cmd
}

// readToken takes a token from a pipe, or from a person who types it unseen.
func readToken(cmd *cobra.Command, address string, stdin bool) (string, error) {
	in, person := cmd.InOrStdin().(*os.File)
	if person {
		_, person = terminal(in)
	}
	if !stdin {
		if !person {
			return "", usage("standard input is no terminal: pass the token with --token-stdin")
		}
		show, err := hideInput(in)
		if err != nil {
			return "", slipway.Errorf(slipway.Unsupported, "the token cannot be typed unseen here: pass it with --token-stdin").WithCause(err)
		}
		fmt.Fprintf(cmd.ErrOrStderr(), "Token for %s: ", address)
		defer func() { show(); say(cmd, "") }()
	}
	line, err := bufio.NewReader(io.LimitReader(cmd.InOrStdin(), 64<<10)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return "", err
	}
	if line = strings.TrimSpace(line); line == "" {
		return "", slipway.Errorf(slipway.Invalid, "there was no token: make one with slipway token create")
	}
	return line, nil
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

func (a *app) logout() *cobra.Command {
	return &cobra.Command{
		Use:   "logout",
		Short: "Sign out of a server",
		Long: `End the session at the current server, or at the one that --url names, and forget it. Of a token that was stored with --token, only the copy here is
removed; the token itself stays valid: end it with "slipway token revoke".`,
		Example: "  slipway logout",
		RunE: func(cmd *cobra.Command, _ []string) error {
			stored, err := readCredentials()
			if err != nil {
				return err
			}
			address := strings.TrimRight(a.url, "/")
			if address == "" {
				address = stored.Current
			}
			_, token := stored.Tokens[address]
			signedIn, ok := stored.Sessions[address]
			if !token && !ok {
				say(cmd, "No token is stored%s.", strings.TrimSuffix(" for "+address, " for "))
				return nil
			}
			err = change(func(stored *credentials) {
				signedIn = stored.Sessions[address] // it may have been renewed in between
				delete(stored.Tokens, address)
				delete(stored.Sessions, address)
				if stored.Current == address {
					stored.Current = ""
				}
			})
			if err != nil {
				return err
			}
			if !ok {
				say(cmd, "Forgot the token for %s.", address)
				return nil
			}
			c, err := newClient(address, "")
			if err == nil {
				err = revoke(cmd.Context(), c, signedIn.Refresh)
			}
			if err != nil {
				return fmt.Errorf("what was stored is removed, but the server could not be told: end the session at %s/auth: %w", address, err)
			}
			say(cmd, "Logged out at %s.", address)
			return nil
		},
	}
}

// whoami is a command of its own, and one of auth's.
func (a *app) whoami(path string) *cobra.Command {
	return &cobra.Command{
		Use:     "whoami",
		Short:   "Show who you are to the server",
		Long:    `Ask the server who you are, which entities count as yours, and what you may do. This is the quickest way to check that address and token are right.`,
		Example: "  " + path + "\n  " + path + " -o json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.connect()
			if err != nil {
				return err
			}
			raw, me, err := blueprint.Get[client.Caller](cmd.Context(), a.face(), "/api/auth/me")
			if err != nil {
				return err
			}
			rows := [][]string{{"Server", c.URL()}, {"Subject", me.Subject}, {"Kind", me.Kind}}
			if len(me.Owns) > 0 {
				rows = append(rows, []string{"Owns", strings.Join(me.Owns, ", ")})
			}
			for _, p := range me.Permissions {
				rows = append(rows, []string{"May", p})
			}
			return a.print(cmd, raw, blueprint.Table{Rows: rows})
		},
	}
}
