package tool_test

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/slipway-platform/slipway"
)

// toolforge sends what the command `toolforge components` sends, and reads of the answers what it reads.
//
// Source: toolforge-components-cli 0.0.15 on Python's requests: a body only where it has one, a certificate that the proxy turns into the header, no other words of ours.
type toolforge struct {
	t *testing.T
	y *yard
}

// wrapped is an answer as the command takes it apart: an error shows the first of messages.error, and dies without one.
type wrapped struct {
	status   int
	data     json.RawMessage
	messages struct{ info, warning, error []string }
}

func (c toolforge) call(method, path string, body string) (w wrapped) {
	c.t.Helper()
	var in io.Reader
	if body != "" {
		in = strings.NewReader(body)
	}
	req, err := http.NewRequestWithContext(c.t.Context(), method, c.y.URL+"/components/v1/tool/mytool"+path, in)
	if err != nil {
		c.t.Fatal(err)
	}
	req.Header = http.Header{
		"User-Agent": {"tool-mytool@bastion:components-cli"}, "Accept": {"*/*"}, "Connection": {"keep-alive"},
		"Ssl-Client-Subject-Dn": {"CN=mytool,O=toolforge"},
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	req.Header.Set("Accept-Encoding", "identity")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		c.t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	raw, err := io.ReadAll(res.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	var out struct {
		Data     json.RawMessage
		Messages map[string][]string
	}
	if err := json.Unmarshal(raw, &out); err != nil || out.Messages == nil {
		c.t.Fatalf("%s %s: %d %s is not wrapped: %v", method, path, res.StatusCode, raw, err)
	}
	w.status, w.data = res.StatusCode, out.Data
	w.messages.info, w.messages.warning, w.messages.error = out.Messages["info"], out.Messages["warning"], out.Messages["error"]
	if (w.status >= 400) != (len(w.messages.error) > 0) || w.status >= 400 && w.data != nil {
		c.t.Errorf("%s %s: %d has errors %q and data %s", method, path, w.status, w.messages.error, w.data)
	}
	return w
}

// ok calls, wants it to go well, and fills in what the command reads; each of its keys must be there.
func (c toolforge) ok(method, path, body string, keys ...string) map[string]json.RawMessage {
	c.t.Helper()
	w := c.call(method, path, body)
	if w.status != 200 {
		c.t.Fatalf("%s %s: %d %q", method, path, w.status, w.messages.error)
	}
	var data map[string]json.RawMessage
	if err := json.Unmarshal(w.data, &data); err != nil {
		c.t.Fatalf("%s %s: %v: %s", method, path, err, w.data)
	}
	for _, key := range keys {
		if len(data[key]) == 0 || string(data[key]) == "null" {
			c.t.Errorf("%s %s: the command reads %s, which is missing: %s", method, path, key, w.data)
		}
	}
	return data
}

func (c toolforge) deployment(method, path, body string) (id, status string) {
	c.t.Helper()
	d := c.ok(method, path, body, "deploy_id", "creation_time", "status", "long_status", "builds", "runs", "tool_config")
	for what, keys := range map[string][]string{"builds": {"build_status", "build_id", "build_long_status"}, "runs": {"run_status", "run_long_status"}} {
		var parts map[string]map[string]string
		if err := json.Unmarshal(d[what], &parts); err != nil || len(parts) == 0 {
			c.t.Errorf("%s %s: %s are %s: %v", method, path, what, d[what], err)
		}
		for name, part := range parts {
			for _, key := range keys {
				if _, ok := part[key]; !ok {
					c.t.Errorf("%s %s: the command reads %s of %s %s, which is missing", method, path, key, what, name)
				}
			}
		}
	}
	return strings.Trim(string(d["deploy_id"]), `"`), strings.Trim(string(d["status"]), `"`)
}

func (c toolforge) fails(method, path string, status int, text string) {
	c.t.Helper()
	if w := c.call(method, path, ""); w.status != status || !strings.Contains(strings.Join(w.messages.error[:min(1, len(w.messages.error))], ""), text) {
		c.t.Errorf("%s %s: got %d %q, want %d and %q", method, path, w.status, w.messages.error, status, text)
	}
}

// Each of its commands, in the order of somebody's day.
func TestTheToolforgeCommandWorks(t *testing.T) {
	eachYard(t, nil, func(t *testing.T, y *yard) {
		c := toolforge{t, y}
		// config show, delete, generate and create
		c.fails("GET", "/config", 404, "Unable to find")
		c.fails("DELETE", "/config", 404, "Unable to find")
		sample := c.ok("GET", "/config/generate", "", "components")
		if len(sample) == 0 {
			t.Error("generate gives nothing to show")
		}
		if w := c.call("POST", "/config", config("web", "cron")); w.status != 200 || len(w.messages.info) != 1 || w.messages.info[0] != "Configuration for mytool updated successfully." {
			t.Errorf("config create: %+v", w)
		}
		c.ok("GET", "/config", "", "components")
		// deploy-token create, create again, show, refresh, delete
		c.fails("GET", "/deployment/token", 404, "Unable to find")
		c.ok("POST", "/deployment/token", "", "token", "creation_date")
		c.fails("POST", "/deployment/token", 409, "Deploy token already exists")
		c.ok("GET", "/deployment/token", "", "token", "creation_date")
		c.ok("PUT", "/deployment/token", "", "token", "creation_date")
		c.ok("DELETE", "/deployment/token", "", "token", "creation_date")
		c.fails("DELETE", "/deployment/token", 404, "Unable to find")
		// deployment list, show, create, cancel, delete
		c.fails("GET", "/deployment/latest", 404, "Unable to find")
		if list := c.ok("GET", "/deployment", "", "deployments"); string(list["deployments"]) != "[]" {
			t.Errorf("no deployments: %s", list["deployments"])
		}
		id, status := c.deployment("POST", "/deployment?force-build=true&force-run=true", "")
		if status != "pending" {
			t.Errorf("a new deployment is %s", status)
		}
		c.fails("POST", "/deployment", 409, "There's already 1 running")
		c.fails("DELETE", "/deployment/"+id, 409, "cancel it")
		for _, component := range []string{"web", "cron"} {
			y.started(t, "mytool", id, component)
		}
		if same, status := c.deployment("GET", "/deployment/latest", ""); same != id || status != "running" {
			t.Errorf("the latest is %s, %s", same, status)
		}
		c.deployment("GET", "/deployment/"+id, "")
		if same, status := c.deployment("PUT", "/deployment/latest/cancel", ""); same != id || status != "cancelling" {
			t.Errorf("cancelled is %s, %s", same, status)
		}
		y.ended(t, "mytool", id)
		c.fails("PUT", "/deployment/latest/cancel", 409, "only one that is pending or running can be cancelled")
		second, _ := c.deployment("POST", "/deployment", "")
		for _, component := range []string{"web", "cron"} {
			y.move("mytool", component, y.started(t, "mytool", second, component), slipway.BuildSucceeded)
		}
		y.ended(t, "mytool", second)
		var list []struct {
			ID     string `json:"deploy_id"`
			Status string
		}
		if err := json.Unmarshal(c.ok("GET", "/deployment", "", "deployments")["deployments"], &list); err != nil || len(list) != 2 || list[0].ID != id || list[1].ID != second || list[1].Status != "successful" {
			t.Errorf("the list is %+v, %v", list, err)
		}
		c.deployment("DELETE", "/deployment/"+id, "")
		c.fails("GET", "/deployment/"+id, 404, "Unable to find")
		c.ok("DELETE", "/config", "", "components")
		c.fails("POST", "/deployment", 404, "Unable to find")
	})
}
