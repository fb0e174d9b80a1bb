package command_test

import (
	"bufio"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// On SIGHUP the documents of the configured folders are applied again: all of them, or, with a fault anywhere, none.
func TestAHangupHasResourcesReadAgain(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "resources"), 0o700); err != nil {
		t.Fatal(err)
	}
	document := func(text string) string {
		return "version: 1\nkind: credentials\ndata: {id: tok, type: secretText, description: " + text + "}\n"
	}
	write("slipway.yaml", "resources: [resources]\n")
	write("resources/a.yaml", document("first"))
	cmd := exec.Command("slipway", "serve", "--listen", "127.0.0.1:0", "--config", "slipway.yaml")
	cmd.Dir = dir
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	errs, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stuck := time.AfterFunc(time.Minute, func() { _ = cmd.Process.Kill() })
	defer stuck.Stop()
	address := ""
	for lines := bufio.NewScanner(out); address == "" && lines.Scan(); {
		_, address, _ = strings.Cut(lines.Text(), " serves ")
	}
	token, err := os.ReadFile(filepath.Join(dir, "slipway-data", "admin-token"))
	if err != nil {
		t.Fatal(err)
	}
	holds := func(want string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), "GET", address+"/data/credentials/tok", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		if body, err := io.ReadAll(res.Body); err != nil || !strings.Contains(string(body), `"description":"`+want+`"`) {
			t.Errorf("got %s, %v; want %s", body, err, want)
		}
	}
	log := bufio.NewScanner(errs)
	hangUp := func(want string) {
		t.Helper()
		if err := cmd.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		for log.Scan() {
			if strings.Contains(log.Text(), want) {
				return
			}
		}
		t.Fatalf("the log never said %q", want)
	}
	holds("first")
	write("resources/a.yaml", document("second"))
	hangUp("read again")
	holds("second")
	write("resources/a.yaml", document("third"))
	write("resources/b.yaml", "version: 1\nkind: credentials\ndata: {id: bad, type: nothing}\n")
	hangUp("b.yaml, document 1")
	holds("second")
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	for log.Scan() { // until it has ended
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}
