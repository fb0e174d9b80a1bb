package builtin_test

import (
	"testing"

	"github.com/slipway-platform/slipway/builtin"
	"github.com/slipway-platform/slipway/server"
	"github.com/slipway-platform/slipway/store/storetest"
)

// TestSchemasGoDownAndUp takes the schema of every named database, with the parts of all blueprints, up, down and up again.
func TestSchemasGoDownAndUp(t *testing.T) {
	t.Parallel()
	for name, owners := range server.Owners(builtin.Blueprints()) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			storetest.UpDownUp(t, owners...)
		})
	}
}
