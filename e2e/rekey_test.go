package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/slipway-platform/slipway/store"
)

// TestKilledInTheMiddleOfRekey kills the server while it seals secrets with a new key. All of them can be read at every moment, with both keys at hand; without the
// old one nothing starts before the work is done, and everything after it.
func TestKilledInTheMiddleOfRekey(t *testing.T) {
	const n = 5000
	var credentials []map[string]string
	for i := range n {
		credentials = append(credentials, map[string]string{
			"kind": "credentials", "id": fmt.Sprintf("c%05d", i), "type": "usernamePassword", "username": fmt.Sprint("user-", i), "password": fmt.Sprint("password-of-", i),
		})
	}
	for _, engine := range []store.Engine{store.SQLite, store.Postgres} {
		t.Run(string(engine), func(t *testing.T) {
			t.Parallel()
			in := install(t, engine)
			db, err := store.Open("main", in.database)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = db.Close() })
			// left is how many secrets the key has sealed.
			left := func(key string) (sealed int) {
				t.Helper()
				if err := db.QueryRowContext(t.Context(), `SELECT count(*) FROM resource WHERE key_id = $1`, key).Scan(&sealed); err != nil {
					t.Fatal(err)
				}
				return sealed
			}
			r := in.serve()
			// whole says that every secret is what it was: the same documents, sent again with their secrets, change nothing.
			whole := func(when string) {
				t.Helper()
				var answer struct {
					Data struct{ Created, Updated, Unchanged int } `json:"data"`
				}
				if status := r.do("POST", "/data", credentials, &answer); status != 200 || answer.Data.Unchanged != n {
					t.Fatalf("%s: status %d, %+v; want all %d unchanged", when, status, answer.Data, n)
				}
			}
			if status := r.do("POST", "/data", credentials, nil); status != 200 {
				t.Fatalf("apply: status %d", status)
			}
			whole("at first")

			keyFile := filepath.Join(in.dir, "master.key")
			out, err := r.run("data", "rekey")
			if err != nil {
				t.Fatalf("data rekey: %v: %s", err, out)
			}
			lines := keyLines(t, keyFile)
			if len(lines) != 2 || !strings.Contains(string(out), keyID(lines[0])) {
				t.Fatalf("the key file has %d keys, and the command says %s; want the old one and the one that it tells of", len(lines), out)
			}
			newest, old := keyID(lines[0]), keyID(lines[1])
			kills := 0
			for range 2 {
				before := left(old)
				r.eventually("some more is sealed anew", func() bool { now := left(old); return now < before || now == 0 })
				r.kill()
				if now := left(old); 0 < now && now < n {
					kills++
					in.refusesWithoutKey(keyFile, lines, old)
				}
				r = in.serve()
				whole("after a kill")
			}
			if kills == 0 {
				t.Error("the server was never killed in the middle; take more secrets")
			}

			r.eventually("everything is sealed with the new key", func() bool { return left(old) == 0 && left(newest) == n })
			r.eventually("the job is done", func() bool {
				var jobs struct {
					Items []struct{ Kind, State string } `json:"items"`
				}
				return r.do("GET", "/api/jobs?state=completed", nil, &jobs) == 200 && len(jobs.Items) > 0 && strings.Contains(fmt.Sprint(jobs.Items), "data.rekey")
			})
			if status := r.end(); status != 0 {
				t.Errorf("the server ended with status %d: %s", status, r.log)
			}
			write(t, keyFile, lines[0]+"\n")
			r = in.serve()
			whole("without the old key")
			t.Logf("killed %d times in the middle", kills)
		})
	}
}

// refusesWithoutKey says that nothing starts with the new key alone, while the old one is needed.
func (in *installation) refusesWithoutKey(file string, lines []string, old string) {
	in.t.Helper()
	write(in.t, file, lines[0]+"\n")
	if out, err := in.run("serve", "--listen", "127.0.0.1:0"); err == nil || !strings.Contains(string(out), old) || !strings.Contains(string(out), "put the key file back") {
		in.t.Errorf("without the old key: %v: %s; want the start refused, and told which key is missing", err, out)
	}
	write(in.t, file, strings.Join(lines, "\n")+"\n")
}

// keyLines are the lines of a key file, newest key first.
func keyLines(t *testing.T, path string) (lines []string) {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(raw)) {
		if line = strings.TrimSpace(line); line != "" {
			lines = append(lines, line)
		}
	}
	return lines
}

// keyID is the id of the key in a line of a key file.
func keyID(line string) string {
	id, _, _ := strings.Cut(line, " ")
	return id
}
