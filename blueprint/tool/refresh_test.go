package tool

import (
	"fmt"
	"testing"
	"time"

	"github.com/slipway-platform/slipway/store"
	"github.com/slipway-platform/slipway/store/storetest"
)

// Whatever a deployment has of components, it is stored by one statement.
func TestADeploymentIsOneRow(t *testing.T) {
	t.Parallel()
	storetest.Each(t, []store.Migrations{Migrations}, func(t *testing.T, db *store.DB) {
		s := database{db}
		var writes, rows int64
		db.OnWrite = func(_ time.Duration, n int64) { writes, rows = writes+1, rows+n }
		cost := func(what string, f func() (Deployment, error)) Deployment {
			t.Helper()
			writes, rows = 0, 0
			d := need[Deployment](t)(f())
			if writes != 1 || rows != 1 {
				t.Errorf("%s took %d transactions and %d rows, want one of each", what, writes, rows)
			}
			return d
		}
		for _, n := range []int{1, 50, 1000} {
			tool := someTool(t)
			d := deployment(tool, tool+"-deploy-1", noon, Pending)
			d.Components = nil
			for i := range n {
				d.Components = append(d.Components, Component{Name: fmt.Sprintf("c%d", i), Build: BuildState{Status: BuildPending}, Run: RunState{Status: RunPending}})
			}
			d = cost(fmt.Sprintf("creating one of %d", n), func() (Deployment, error) { return s.Create(t.Context(), d, nil) })
			for i := range d.Components {
				d.Components[i].Build.Status = BuildRunning
			}
			cost(fmt.Sprintf("updating one of %d", n), func() (Deployment, error) { return s.Update(t.Context(), d, nil) })
		}
	})
}

func TestOneReplicaAsksAndTheOthersReadWhatItStored(t *testing.T) {
	t.Parallel()
	storetest.Each(t, []store.Migrations{Migrations}, func(t *testing.T, db *store.DB) {
		const interval = 1500 * time.Millisecond
		ask := func(after time.Duration, want bool) refreshNote {
			t.Helper()
			note, claimed, err := claimRefresh(t.Context(), db, "ci", "", noon.Add(after), interval)
			if err != nil || claimed != want {
				t.Fatalf("claimed after %v: %v, %v; want %v", after, claimed, err, want)
			}
			return note
		}
		ask(0, true)
		if note := ask(time.Second, false); !note.asked.Equal(noon) || !note.stored.IsZero() {
			t.Errorf("nothing has been stored yet, and the note is %+v", note)
		}
		if err := noteRefresh(t.Context(), db, "ci", "", noon); err != nil {
			t.Fatal(err)
		}
		if note := ask(time.Second, false); !note.stored.Equal(noon) {
			t.Errorf("what was said at %v is stored, and the note is %+v", noon, note)
		}
		ask(interval, true)
		if note := ask(interval+time.Second, false); !note.asked.Equal(noon.Add(interval)) || !note.stored.Equal(noon) {
			t.Errorf("the second answer has not been stored yet, and the note is %+v", note)
		}
		ask(-time.Hour, true) // the clock was put back
		claims := make(chan bool)
		for range 8 {
			go func() {
				_, claimed, err := claimRefresh(t.Context(), db, "other", "", noon, interval)
				claims <- claimed && err == nil
			}()
		}
		made := 0
		for range 8 {
			if <-claims {
				made++
			}
		}
		if made != 1 {
			t.Errorf("%d of 8 may ask at one instant, want one", made)
		}
	})
}
