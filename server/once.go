package server

import (
	"bytes"
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

// maxOnce is the largest answer that is kept for replay.
const maxOnce = 256 << 10

// once runs an operation at most once per caller, thing and Idempotency-Key within a day: the same body replays the answer of a call that succeeded, another body is
// a conflict, an answer that held a secret is never kept. A server that dies between the effect and noting the answer leaves the key taken for two minutes; then the
// call runs again.
func (s *Server) once(hc huma.Context, op blueprint.Operation, caller *slipway.Caller, keys []string, next func(huma.Context)) {
	r, w := humago.Unwrap(hc)
	ctx := hc.Context()
	key := keys[0]
	if len(keys) > 1 || key == "" || len(key) > 255 {
		s.fail(w, r, slipway.Errorf(slipway.Invalid, "Idempotency-Key: send one, of 1 to 255 characters"))
		return
	}
	limit := op.MaxBody
	if limit == 0 {
		limit = 1 << 20
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
	if err != nil {
		if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge {
			err = slipway.Errorf(slipway.TooLarge, "the body is larger than this operation takes (%d bytes)", limit)
		} else {
			err = slipway.Errorf(slipway.Invalid, "the body did not arrive").WithCause(err)
		}
		s.fail(w, r, err)
		return
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	id := hash(append([]string{caller.Subject, caller.TokenID, op.ID, r.URL.RawQuery, key}, thing(op, r)...)...)
	sum := hash(string(body))

	earlier, err := s.claimOnce(ctx, id, sum)
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
	case earlier != nil && earlier.secret:
		s.fail(w, r, slipway.Errorf(slipway.Conflict, "this was done already, and its answer held a secret that is not kept (%s)", earlier.location))
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
		rw, ok := w.(*response)
		if err := s.noteOnce(noted, id, op, rw, ok && rw.status/100 == 2 && !rw.passing && rw.body.Len() <= maxOnce); err != nil {
			s.log.WarnContext(ctx, "the answer to an idempotent call was not noted", "error", err, "requestId", exchangeOf(ctx).id)
		}
	}()
	next(hc)
}

// noteOnce keeps the answer, or frees the key.
func (s *Server) noteOnce(ctx context.Context, id string, op blueprint.Operation, rw *response, keep bool) error {
	return s.main.Write(ctx, func(tx *store.Tx) error {
		if !keep {
			_, err := tx.Exec(ctx, `DELETE FROM server_once WHERE id = $1`, id)
			return err
		}
		answer, location := rw.body.String(), rw.Header().Get("Location")
		if op.Secret {
			answer = ""
		}
		_, err := tx.Exec(ctx, `UPDATE server_once SET status = $2, body = $3, location = $4, secret = $5 WHERE id = $1`, id, rw.status, answer, location, op.Secret)
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
	secret              bool
}

// claimOnce takes the key, or gives the call that took it before.
func (s *Server) claimOnce(ctx context.Context, id, sum string) (*onceRow, error) {
	var earlier *onceRow
	now := s.now()
	err := s.main.Write(ctx, func(tx *store.Tx) error {
		earlier = nil
		if _, err := tx.Exec(ctx, `DELETE FROM server_once WHERE id = $1 AND (created < $2 OR (status = 0 AND created < $3))`,
			id, store.At(now.Add(-onceKept)), store.At(now.Add(-onceRunning))); err != nil {
			return err
		}
		n, err := tx.Exec(ctx, `INSERT INTO server_once (id, sum, created) VALUES ($1, $2, $3) ON CONFLICT (id) DO NOTHING`, id, sum, store.At(now))
		if err != nil || n == 1 {
			return err
		}
		var row onceRow
		err = tx.QueryRowContext(ctx, `SELECT sum, status, body, location, secret FROM server_once WHERE id = $1`, id).Scan(&row.sum, &row.status, &row.body, &row.location, &row.secret)
		if errors.Is(err, sql.ErrNoRows) {
			return slipway.Errorf(slipway.Unavailable, "try again").After(time.Second)
		}
		earlier = &row
		return store.Err(err)
	})
	return earlier, err
}

// pruneOnce forgets keys older than a day, in small steps.
func (s *Server) pruneOnce(ctx context.Context) error {
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
