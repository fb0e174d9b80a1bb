package resource_test

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/resource"
	"github.com/slipway-platform/slipway/store"
)

const many = 600

// manyThings are that many documents with the same text.
func manyThings(text string) string {
	var b strings.Builder
	for i := range many {
		fmt.Fprintf(&b, `{"kind":"things","id":"t%05d","text":%q,"token":"token-%05d"}`+"\n", i, text, i)
	}
	return b.String()
}

// texts counts the documents by their text, in one look.
func (f fixture) texts() map[string]int {
	f.t.Helper()
	all, err := f.RevealAll(f.ctx(), "things", "")
	if err != nil {
		f.t.Fatal(err)
	}
	seen := map[string]int{}
	for _, d := range all {
		_, after, _ := strings.Cut(string(d.JSON), `"text":"`)
		text, _, _ := strings.Cut(after, `"`)
		seen[text]++
	}
	return seen
}

func (f fixture) count(query string) (n int) {
	f.t.Helper()
	if err := f.db.QueryRowContext(f.t.Context(), query).Scan(&n); err != nil {
		f.t.Fatal(err)
	}
	return n
}

// However many documents a call has, readers see all of it or nothing, and no transaction is long. (The harness refuses any that changes more than 500 rows.)
func TestALargeCallBecomesValidAtOnce(t *testing.T) {
	each(t, func(t *testing.T, f fixture) {
		f = f.open(things())
		f.must(resource.Put, manyThings("old"))
		before, moving := f.db.OnWrite, 0
		f.db.OnWrite = func(held time.Duration, rows int64) {
			before(held, rows)
			if f.count(`SELECT count(*) FROM resource_batch`) == 0 {
				return
			}
			moving++
			if seen := f.texts(); seen["new"] != many || len(seen) != 1 {
				t.Errorf("while it was moved, a reader saw %v", seen)
			}
			d, err := f.Get(f.ctx(), "things", fmt.Sprintf("t%05d", many-1))
			if err != nil || !strings.Contains(string(d.JSON), `"new"`) {
				t.Errorf("while it was moved, a reader got %s, %v", d.JSON, err)
			}
		}
		f.must(resource.Put, manyThings("new"))
		f.db.OnWrite = before
		if moving < 2 {
			t.Errorf("nobody looked while it was moved")
		}
		if seen := f.texts(); seen["new"] != many {
			t.Errorf("got %v", seen)
		}
		for _, table := range []string{"resource_batch", "resource_stage", "resource_stage_use"} {
			if n := f.count(`SELECT count(*) FROM ` + table); n != 0 {
				t.Errorf("%d rows are left in %s", n, table)
			}
		}
	})
}

// A process that dies leaves nothing of a call, or all of it.
func TestWhatIsValidIsMovedAfterADeath(t *testing.T) {
	each(t, func(t *testing.T, f fixture) {
		f = f.open(things())
		f.must(resource.Put, manyThings("old"))
		die := func(when string, text string) {
			t.Helper()
			before := f.db.OnWrite
			defer func() {
				if recover() == nil {
					t.Fatalf("nothing died %s", when)
				}
				f.db.OnWrite = before
			}()
			f.db.OnWrite = func(time.Duration, int64) {
				staged, valid := f.count(`SELECT count(*) FROM resource_stage`), f.count(`SELECT count(*) FROM resource_stage AS s JOIN resource_batch AS b ON b.batch = s.batch`)
				if when == "before" && staged > many/2 || when == "after" && 0 < valid && valid < many/2 {
					panic("killed")
				}
			}
			_, _ = f.apply(resource.Put, manyThings(text))
		}
		die("before", "never")
		f = f.open(things())
		if seen := f.texts(); seen["old"] != many {
			t.Errorf("after a death before it was valid: got %v", seen)
		}
		die("after", "new")
		if seen := f.texts(); seen["new"] != many {
			t.Errorf("after a death when it was valid: got %v", seen)
		}
		f = f.open(things()) // a restart moves the rest
		if seen, left := f.texts(), f.count(`SELECT count(*) FROM resource_batch`); seen["new"] != many || left != 0 {
			t.Errorf("after the restart: got %v, and %d to be moved", seen, left)
		}
		if n := f.count(`SELECT count(*) FROM resource_audit WHERE action = 'update' AND subject = 'system'`); n != many {
			t.Errorf("%d changes are recorded, want %d", n, many)
		}
	})
}

// A large call and small ones at the same time: none is lost, and the large one ends.
func TestALargeCallAmongSmallOnes(t *testing.T) {
	each(t, func(t *testing.T, f fixture) {
		f = f.open(things())
		var wg sync.WaitGroup
		stop := make(chan struct{})
		n := 0
		wg.Go(func() {
			for ; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				if _, err := f.apply(resource.Create, fmt.Sprintf(`{"kind":"things","id":"small%d"}`, n)); err != nil && slipway.CodeOf(err) != slipway.Conflict {
					t.Error(err)
					return
				}
			}
		})
		f.must(resource.Put, manyThings("large"))
		close(stop)
		wg.Wait()
		if seen := f.texts(); seen["large"] != many {
			t.Errorf("got %v", seen)
		}
	})
}

// Where others change what is stored all the time, a large call gives up and says so.
func TestALargeCallThatOthersAreAlwaysInTheWayOfEnds(t *testing.T) {
	each(t, func(t *testing.T, f fixture) {
		f = f.open(things())
		f.must(resource.Put, `{"kind":"things","id":"first"}`)
		// Whatever is changed, another batch is being moved at that moment.
		inTheWay := []string{`CREATE TRIGGER in_the_way AFTER UPDATE ON revision BEGIN
			INSERT INTO resource_batch (batch, at, subject, token_id, request_id) VALUES ('another', 0, '', '', ''); END`}
		if f.db.Engine() == store.Postgres {
			inTheWay = []string{
				`CREATE FUNCTION in_the_way() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
					INSERT INTO resource_batch (batch, at, subject, token_id, request_id) VALUES ('another', 0, '', '', ''); RETURN NEW; END $$`,
				`CREATE TRIGGER in_the_way AFTER UPDATE ON revision FOR EACH ROW EXECUTE FUNCTION in_the_way()`,
			}
		}
		for _, statement := range inTheWay {
			if _, err := f.db.Writer().ExecContext(t.Context(), statement); err != nil {
				t.Fatal(err)
			}
		}
		inputs, err := resource.Read([]byte(manyThings("new")))
		if err != nil {
			t.Fatal(err)
		}
		var changes []resource.Change
		for _, in := range inputs {
			changes = append(changes, resource.Change{Input: in, Verb: resource.Put})
		}
		ctx, cancel := context.WithTimeout(f.ctx(), time.Minute)
		defer cancel()
		if _, err := f.Apply(ctx, changes, resource.Options{}); slipway.CodeOf(err) != slipway.Conflict {
			t.Errorf("got %v, want a conflict", err)
		}
		if seen := f.texts(); seen["new"] != 0 {
			t.Errorf("got %v", seen)
		}
		if n := f.count(`SELECT count(*) FROM resource_stage`); n != 0 {
			t.Errorf("%d rows are left on the stage", n)
		}
	})
}

// A call as large as one transaction takes leaves nothing to be moved by others.
func TestACallOfOneWholeTransactionIsMovedByIt(t *testing.T) {
	each(t, func(t *testing.T, f fixture) {
		f = f.open(things())
		var b strings.Builder
		for i := range 100 {
			fmt.Fprintf(&b, `{"kind":"things","id":"t%d"}`+"\n", i)
		}
		f.must(resource.Put, b.String())
		if n := f.count(`SELECT count(*) FROM resource_batch`); n != 0 {
			t.Errorf("%d batches are left to be moved", n)
		}
	})
}

// A filter that nothing fits must not have a call look at all that there is, which for documents that are kept elsewhere has no bound.
func TestAFilterLooksAtSomeDocumentsForOnePage(t *testing.T) {
	each(t, func(t *testing.T, f fixture) {
		kept, given := 25_000, 0
		f = f.open(resource.Kind{
			Name: "rows", Text: "Rows of another table.", Permissions: everything,
			Source: &resource.Source{List: func(_ context.Context, q resource.SourceQuery) (list []resource.Fixed, err error) {
				from := 0
				if q.After != "" {
					if from, err = strconv.Atoi(q.After); err != nil {
						return nil, err
					}
					from++
				}
				for i := from; i < min(kept, from+q.Limit); i++ {
					list = append(list, resource.Fixed{ID: strconv.Itoa(i), Key: strconv.Itoa(i), Document: fmt.Appendf(nil, `{"id":"%d","tens":%t}`, i, i%10_000 == 9_000)})
				}
				given += len(list)
				return list, nil
			}},
		})
		pages, cursor := 0, ""
		var found []string
		for {
			given = 0
			page, err := f.List(f.ctx(), resource.Query{Kind: "rows", Filter: []string{"tens=true"}, Limit: 20, Cursor: cursor})
			if err != nil {
				t.Fatal(err)
			}
			if given > 10_000 {
				t.Errorf("one page looked at %d documents", given)
			}
			pages++
			for _, d := range page.Documents {
				found = append(found, d.ID)
			}
			if cursor = page.Next; cursor == "" {
				break
			}
		}
		if !slices.Equal(found, []string{"9000", "19000"}) || pages != 3 {
			t.Errorf("got %v on %d pages, want both on 3", found, pages)
		}
	})
}
