package tool

import (
	"testing"

	"github.com/slipway-platform/slipway/blueprint"
)

func TestTheDescriptionForThePeersClientsIsMadeOnce(t *testing.T) {
	t.Parallel()
	asked := 0
	s := &service{host: &blueprint.Host{Describe: func() ([]byte, error) {
		asked++
		return []byte(`{"openapi":"3.1.0","paths":{"/api/build/search":{},"/components/v1/healthz":{}}}`), nil
	}}}
	for range 3 {
		out, err := s.peerDescription(t.Context(), nil)
		if err != nil || string(out.Body.JSON) != `{"openapi":"3.1.0","paths":{"/components/v1/healthz":{}}}` {
			t.Errorf("got %s, %v", out.Body.JSON, err)
		}
	}
	if asked != 1 {
		t.Errorf("the whole was described %d times, want once", asked)
	}
}
