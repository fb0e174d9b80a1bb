package tool

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/store"
	"github.com/slipway-platform/slipway/store/storetest"
)

// What fails again and again, however much of it, keeps nothing else from its turn, and a deployment is not deleted before what it owes was tried.
func TestWhatFailsIsInNobodysWay(t *testing.T) {
	t.Parallel()
	s := kubeServer(t)
	for _, engine := range []store.Engine{store.SQLite, store.Postgres} {
		t.Run(string(engine), func(t *testing.T) {
			db := storetest.Open(t, engine, Migrations)
			k := newKubernetes(s.Client().As("nobody"), db, quiet, time.Now) // whom the cluster refuses everything
			const many = 2*owedPage + 1
			for from := 0; from < many; from += 100 {
				err := db.Write(t.Context(), func(tx *store.Tx) error {
					for i := from; i < min(from+100, many); i++ {
						_, err := tx.Exec(t.Context(), `INSERT INTO tool_owed (tool, id, what, since) VALUES ($1, $2, 'created', $3), ($1, $2, 'ended x', $3)`,
							fmt.Sprintf("tool-%d", i%3), fmt.Sprintf("deploy-%04d", i), store.At(noon.Add(time.Duration(i))))
						if err != nil {
							return err
						}
					}
					return nil
				})
				if err != nil {
					t.Fatal(err)
				}
			}
			at := &service{storage: k, now: time.Now}
			err := at.mend(t.Context(), Owed{})
			wantCode(t, "a cluster that refuses", err, slipway.Unavailable)
			if want := fmt.Sprintf("%d of %d changes, the first: ", many, many); !strings.HasPrefix(err.Error(), want) {
				t.Errorf("got %v, want %s", err, want)
			}
			last := Owed{Tool: fmt.Sprintf("tool-%d", (many-2)%3), ID: fmt.Sprintf("deploy-%04d", many-2)}
			list := need[[]Owed](t)(k.Owed(t.Context(), last, Owed{}))
			if len(list) != 1 || list[0].Tool != last.Tool || list[0].ID != last.ID || list[0].Since.Before(noon) {
				t.Fatalf("of %v is owed %v", last, list)
			}
			_, err = at.discard(t.Context(), last.Tool, last.ID)
			wantCode(t, "the deletion of a deployment whose news cannot be told", err, slipway.Unavailable)
			if err := k.Forget(t.Context(), last); err != nil {
				t.Fatal(err)
			}
			if list := need[[]Owed](t)(k.Owed(t.Context(), last, Owed{})); len(list) != 0 {
				t.Errorf("still owed are %v", list)
			}
		})
	}
}

func TestABroadcastKnowsOnlyWhoWaits(t *testing.T) {
	t.Parallel()
	var b broadcast
	first, leaveFirst := b.on("web")
	second, leaveSecond := b.on("web")
	other, leaveOther := b.on("other")
	leaveFirst()
	b.ring("web")
	<-second
	<-first
	third, leaveThird := b.on("web") // after the ring, before the second has left
	leaveSecond()
	select {
	case <-third:
		t.Error("a ring of before is heard")
	case <-other:
		t.Error("another name's ring is heard")
	default:
	}
	b.ring("web")
	<-third
	leaveThird()
	leaveOther()
	if len(b.waiting) != 0 {
		t.Errorf("nobody waits, and it knows %v", b.waiting)
	}
}
