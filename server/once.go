package server

import (
	"cmp"
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"errors"
	"io"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/blueprint"
	"github.com/slipway-platform/slipway/store"
)

// How long an Idempotency-Key is remembered, and how long a call with one may be under way before its replica counts as gone and the key may be used again.
const (
	onceKept    = 24 * time.Hour
	onceRunning = 2 * time.Minute
)

// What is kept, in bytes. A day is one of the calendar, in UTC.
const (
	maxOnce       = 256 << 10 // the largest answer
	onceRowBytes  = 512       // what a key costs without its answer
	onceAnswers   = 64 << 20  // of one caller in a day with answers; from there on keys are kept without
	onceMostBytes = 128 << 20 // of one caller in a day; from there on calls with a key are refused
)

// once runs an operation at most once per caller, thing and Idempotency-Key within a day: the same body replays the answer of a call that succeeded, another body is
// a conflict. An answer that held a secret, or is too large, is never kept: the call is a conflict then. A server that dies between the effect and noting the answer
// leaves the key taken for two minutes; then the call runs again. body is that of the request, which has not been read from it.
func (s *Server) once(hc huma.Context, op blueprint.Operation, caller *slipway.Caller, keys []string, body []byte, next func(huma.Context)) {
	r, w := humago.Unwrap(hc)
	ctx := hc.Context()
	key := keys[0]
	if len(keys) > 1 || key == "" || len(key) > 255 {
		s.fail(w, r, slipway.Errorf(slipway.Invalid, "Idempotency-Key: send one, of 1 to 255 characters"))
		return
	}
	id := hash(append([]string{caller.Subject, caller.TokenID, op.ID, r.URL.RawQuery, key}, thing(op, r)...)...)
	sum := hash(string(body))

	use := onceUse{caller: cmp.Or(caller.TokenID, caller.Subject), day: s.now().Unix() / int64((24 * time.Hour).Seconds())}

	earlier, err := s.claimOnce(ctx, id, sum, use)
	switch {
	case err != nil:
		s.fail(w, r, err)
		return
	case earlier != nil && earlier.sum != sum:
		s.fail(w, r, slipway.Errorf(slipway.Conflict, "this Idempotency-Key was used with another body; use a new key"))
		return
	case earlier != nil && earlier.status == 0:
		s.fail(w, r, slipway.Errorf(slipway.Conflict, "the first call with this Idempotency-Key is still under way; try again shortly").After(time.Second))
		return
	case earlier != nil && earlier.unkept:
		where := ""
		if earlier.location != "" {
			where = "; see " + earlier.location
		}
		s.fail(w, r, slipway.Errorf(slipway.Conflict, "this was done already, and its answer is not kept, because it held a secret or was too much%s", where))
		return
	case earlier != nil:
		h := w.Header()
		h.Set("Content-Type", "application/json")
		h.Set("Idempotency-Replayed", "true")
		if earlier.location != "" {
			h.Set("Location", earlier.location)
		}
		w.WriteHeader(earlier.status)
		_, _ = io.WriteString(w, earlier.body)
		return
	}

	// The answer is noted even when the caller has gone away: it did happen. A call that failed, or panicked, leaves the key free.
	defer func() {
		noted, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		if err := s.noteOnce(noted, id, w.(*response), use); err != nil {
			s.log.WarnContext(ctx, "the answer to an idempotent call was not noted", "error", err, "requestId", exchangeOf(ctx).id)
		}
	}()
	next(hc)
}

// onceUse is where it is counted what a caller keeps.
type onceUse struct {
	caller string
	day    int64
}

// add counts bytes, unless they would be more than most. It says whether they were counted.
func (u onceUse) add(ctx context.Context, tx *store.Tx, bytes, most int64) (bool, error) {
	n, err := tx.Exec(ctx, `INSERT INTO server_once_use AS u (caller, day, bytes) VALUES ($1, $2, $3)
		ON CONFLICT (caller, day) DO UPDATE SET bytes = u.bytes + $3 WHERE u.bytes + $3 <= $4`, u.caller, u.day, bytes, most)
	return n == 1, err
}

// noteOnce keeps the answer of a call that succeeded, or frees the key.
func (s *Server) noteOnce(ctx context.Context, id string, rw *response, use onceUse) error {
	return s.main.Write(ctx, func(tx *store.Tx) error {
		if rw.status/100 != 2 {
			if _, err := use.add(ctx, tx, -onceRowBytes, onceMostBytes); err != nil {
				return err
			}
			_, err := tx.Exec(ctx, `DELETE FROM server_once WHERE id = $1`, id)
			return err
		}
		answer, kept := "", false
		if !rw.private && !rw.passing && rw.body.Len() <= maxOnce {
			var err error
			if kept, err = use.add(ctx, tx, int64(rw.body.Len()), onceAnswers); err != nil {
				return err
			}
		}
		if kept {
			answer = rw.body.String()
		}
		_, err := tx.Exec(ctx, `UPDATE server_once SET status = $2, body = $3, location = $4, secret = $5 WHERE id = $1`,
			id, rw.status, answer, rw.Header().Get("Location"), !kept)
		return err
	})
}

// thing names what a path is about, however it is spelt.
func thing(op blueprint.Operation, r *http.Request) []string {
	var out []string
	for _, m := range pathParameter.FindAllStringSubmatch(op.Path, -1) {
		value := r.PathValue(m[1])
		if m[1] == op.Wide {
			if ref, err := slipway.ParseEntityRef(value, slipway.EntityRef{}); err == nil {
				value = ref.String()
			}
		}
		out = append(out, value)
	}
	return out
}

type onceRow struct {
	sum, body, location string
	status              int
	unkept              bool // the answer is not there: column secret
}

// claimOnce takes the key, or gives the call that took it before.
func (s *Server) claimOnce(ctx context.Context, id, sum string, use onceUse) (*onceRow, error) {
	var earlier *onceRow
	now := s.now()
	err := s.main.Write(ctx, func(tx *store.Tx) error {
		earlier = nil
		if _, err := tx.Exec(ctx, `DELETE FROM server_once WHERE id = $1 AND (created < $2 OR (status = 0 AND created < $3))`,
			id, store.At(now.Add(-onceKept)), store.At(now.Add(-onceRunning))); err != nil {
			return err
		}
		n, err := tx.Exec(ctx, `INSERT INTO server_once (id, sum, created) VALUES ($1, $2, $3) ON CONFLICT (id) DO NOTHING`, id, sum, store.At(now))
		if err != nil {
			return err
		}
		if n == 1 {
			counted, err := use.add(ctx, tx, onceRowBytes, onceMostBytes)
			if err == nil && !counted {
				tomorrow := time.Unix((use.day+1)*int64((24*time.Hour).Seconds()), 0)
				err = slipway.Errorf(slipway.RateLimited, "too many calls with an Idempotency-Key today; leave it out, or wait until midnight UTC").After(tomorrow.Sub(now))
			}
			return err
		}
		var row onceRow
		err = tx.QueryRowContext(ctx, `SELECT sum, status, body, location, secret FROM server_once WHERE id = $1`, id).Scan(&row.sum, &row.status, &row.body, &row.location, &row.unkept)
		if errors.Is(err, sql.ErrNoRows) {
			return slipway.Errorf(slipway.Unavailable, "try again").After(time.Second)
		}
		earlier = &row
		return store.Err(err)
	})
	return earlier, err
}

// pruneOnce forgets keys older than a day, in small steps, and what was counted of days past.
func (s *Server) pruneOnce(ctx context.Context) error {
	yesterday := s.now().Add(-onceKept).Unix() / int64((24 * time.Hour).Seconds())
	if err := s.main.Write(ctx, func(tx *store.Tx) error {
		_, err := tx.Exec(ctx, `DELETE FROM server_once_use WHERE day < $1`, yesterday)
		return err
	}); err != nil {
		return err
	}
	for {
		var n int64
		err := s.main.Write(ctx, func(tx *store.Tx) (err error) {
			n, err = tx.Exec(ctx, `DELETE FROM server_once WHERE id IN (SELECT id FROM server_once WHERE created < $1 ORDER BY created LIMIT 500)`, store.At(s.now().Add(-onceKept)))
			return err
		})
		if err != nil || n < 500 {
			return err
		}
	}
}

// hash is a fixed-length name of some texts.
func hash(texts ...string) string {
	h := sha256.New()
	for _, t := range texts {
		h.Write([]byte(t))
		h.Write([]byte{0})
	}
	return hex.EncodeToString(h.Sum(nil))
}
