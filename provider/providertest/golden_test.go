package providertest_test

import (
	"encoding/json"
	"testing"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/provider/providertest"
)

func TestGolden(t *testing.T) {
	t.Parallel()
	providertest.Golden(t, "testdata/status", func(payload []byte) (any, error) {
		var native struct{ State string }
		if err := json.Unmarshal(payload, &native); err != nil {
			return nil, slipway.Errorf(slipway.Invalid, "no JSON").WithCause(err)
		}
		return slipway.Build{Status: slipway.BuildUnknown, Detail: native.State}, nil
	})
}
