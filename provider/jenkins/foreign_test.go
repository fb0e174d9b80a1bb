package jenkins

import (
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/slipway-platform/slipway/provider/jenkinstest"
)

// TestForeignClient has a client that others wrote for the real Jenkins work with ours. make compat-jenkins installs it and runs this.
func TestForeignClient(t *testing.T) {
	script := os.Getenv("JENKINS_CLIENT")
	if script == "" {
		t.Skip("make compat-jenkins runs a client of others against the Jenkins of these tests")
	}
	j := jenkinstest.New()
	j.Prefix, j.Stall = prefix, 2
	web := j.Add(jenkinstest.Freestyle, "shop/web")
	for range 120 {
		j.Run(web, jenkinstest.Success, time.Now().Add(-time.Hour))
	}
	web.Parameters = []jenkinstest.Parameter{{Name: "BRANCH", Type: "StringParameterDefinition", Value: "main"}}
	j.Add(jenkinstest.Multibranch, "shop/site")
	j.Add(jenkinstest.Pipeline, "shop/site/main")
	j.Add(jenkinstest.Pipeline, "shop/site/feature%2Fx")
	j.Add(jenkinstest.Freestyle, "alone")
	j.Began = func(r *jenkinstest.Run) {
		r.Log = "Started by " + jenkinstest.Mark + "Build Bot\n"
		if r.Job.Kind == jenkinstest.Pipeline {
			return // until it is stopped
		}
		go func() {
			for _, text := range []string{"one\n", jenkinstest.Mark + "two\n", "Finished: SUCCESS\n"} {
				j.Write(r, text)
			}
			j.Set(r, jenkinstest.Success)
		}()
	}
	s := httptest.NewServer(j)
	defer s.Close()
	out, err := exec.CommandContext(t.Context(), "node", script, strings.TrimPrefix(s.URL, "http://")).CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Fatal(err)
	}
}
