package build

import (
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestTheTableIsWhatTheIndexNeeds(t *testing.T) {
	t.Parallel()
	got, err := os.ReadFile("migrations/0001_item.sql")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(Task.Table(), string(got)); diff != "" {
		t.Errorf("a new field or index is a migration of its own; the first one stays as it was (-want +got):\n%s", diff)
	}
}
