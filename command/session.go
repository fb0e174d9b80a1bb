package command

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/oauth2"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/client"
)

// The command line signs in by the device flow (RFC 8628), with the server as the authorization server.

const (
	clientID   = "slipway-cli"
	renewAhead = time.Minute      // before its end, a token is renewed
	lockStale  = 30 * time.Second // a lock that is older was left behind
)

func oauthConfig(address string) *oauth2.Config {
	return &oauth2.Config{ClientID: clientID, Endpoint: oauth2.Endpoint{
		DeviceAuthURL: address + "/auth/device_authorization", TokenURL: address + "/auth/token", AuthStyle: oauth2.AuthStyleInParams,
	}}
}

func through(ctx context.Context, c *http.Client) context.Context {
	return context.WithValue(ctx, oauth2.HTTPClient, c)
}

// signIn has the user let this command line in. Unsupported when the server offers no sign-in.
func signIn(cmd *cobra.Command, c *client.Client) (session, error) {
	host, _ := os.Hostname() // it only tells the user which machine asks
	config := oauthConfig(c.URL())
	ctx := through(cmd.Context(), c.HTTP)
	d, err := config.DeviceAuth(ctx, oauth2.SetAuthURLParam("label", host))
	if refused, ok := errors.AsType[*oauth2.RetrieveError](err); ok {
		switch refused.Response.StatusCode {
		case http.StatusNotImplemented, http.StatusNotFound:
			return session{}, slipway.Errorf(slipway.Unsupported, "%s offers no sign-in with a browser", c.URL())
		}
		return session{}, slipway.Errorf(slipway.Unavailable, "%s does not let anybody sign in now: %s", c.URL(), refused.Response.Status).WithCause(err)
	} else if err != nil {
		return session{}, unreachable(ctx, c.URL(), err)
	}
	say(cmd, "Open %s\nand let this command line in, if the page shows the code %s. Waiting.", d.VerificationURIComplete, d.UserCode)
	got, err := config.DeviceAccessToken(ctx, d)
	if refused, ok := errors.AsType[*oauth2.RetrieveError](err); ok {
		return session{}, slipway.Errorf(slipway.Unauthenticated, "not signed in: %s; run slipway login again", strings.TrimSpace(refused.ErrorDescription+" ("+refused.ErrorCode+")")).WithCause(err)
	} else if err != nil {
		return session{}, unreachable(ctx, c.URL(), err)
	}
	return session{got.AccessToken, got.RefreshToken, got.Expiry}, nil
}

func unreachable(ctx context.Context, address string, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return slipway.Errorf(slipway.Unavailable, "%s does not answer: check the address (SLIPWAY_URL, --url) and that the server runs", address).WithCause(err)
}

// sessionToken is the token of the session that is stored for a server, renewed when it is about to end; "" when none is stored.
func sessionToken(ctx context.Context, address string, c *http.Client) (string, error) {
	stored, err := readCredentials()
	if err != nil {
		return "", err
	}
	current, ok := stored.Sessions[address]
	if !ok || time.Until(current.Expires) > renewAhead {
		return current.Access, nil
	}
	// One process renews, the others find what it stored: a refresh token is good once.
	var failed error
	err = change(func(stored *credentials) {
		if current, ok = stored.Sessions[address]; !ok || time.Until(current.Expires) > renewAhead {
			return
		}
		got, err := oauthConfig(address).TokenSource(through(ctx, c), &oauth2.Token{RefreshToken: current.Refresh}).Token()
		if refused, ok := errors.AsType[*oauth2.RetrieveError](err); ok && refused.ErrorCode == "invalid_grant" {
			delete(stored.Sessions, address)
			failed = slipway.Errorf(slipway.Unauthenticated, "the session at %s is over: run slipway login", address)
			return
		} else if err != nil {
			failed = unreachable(ctx, address, err)
			return
		}
		current = session{got.AccessToken, got.RefreshToken, got.Expiry}
		stored.Sessions[address] = current
	})
	if err = errors.Join(failed, err); err != nil {
		return "", err
	}
	return current.Access, nil
}

// revoke ends the session of a refresh token.
func revoke(ctx context.Context, c *client.Client, refresh string) error {
	form := url.Values{"token": {refresh}}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.URL()+"/auth/revoke", strings.NewReader(form.Encode()))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	res, err := c.HTTP.Do(req)
	if err != nil {
		return unreachable(ctx, c.URL(), err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return slipway.Errorf(slipway.Unavailable, "the server answered %s", res.Status)
	}
	return nil
}

// change changes what is stored, alone among all processes of the user.
func change(f func(*credentials)) error {
	file, err := credentialsFile()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return err
	}
	unlock, err := lockFile(file + ".lock")
	if err != nil {
		return err
	}
	defer unlock()
	stored, err := readCredentials()
	if err != nil {
		return err
	}
	f(&stored)
	return stored.write()
}

// lockFile makes a file that only one process can have made, and waits for one that has.
func lockFile(name string) (unlock func(), err error) {
	for deadline := time.Now().Add(2 * lockStale); ; time.Sleep(20 * time.Millisecond) {
		f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if err == nil {
			return func() { _ = os.Remove(name) }, f.Close()
		}
		if !errors.Is(err, fs.ErrExist) {
			return nil, err
		}
		if info, err := os.Stat(name); err == nil && time.Since(info.ModTime()) > lockStale {
			_ = os.Remove(name) // its process is gone
		}
		if time.Now().After(deadline) {
			return nil, fmt.Errorf("another slipway command holds %s; remove it if none runs", name)
		}
	}
}
