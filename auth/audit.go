package auth

import (
	"context"
	"database/sql"
	"sync"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/store"
)

// Use is the right that a request has used: the last one that Require found. Safe for concurrent use.
type Use struct {
	RequestID string
	Address   string // where the request came from, as the server believes it

	mu         sync.Mutex
	permission string
	object     Object
	held       slipway.Grant
	known      bool
	written    bool // Audit has noted it
}

type useKey struct{}

// WithUse returns a context in which Require notes the right that it finds. The server does it once per request.
func WithUse(ctx context.Context, u *Use) context.Context { return context.WithValue(ctx, useKey{}, u) }

func useOf(ctx context.Context) *Use {
	u, _ := ctx.Value(useKey{}).(*Use)
	return u
}

func (u *Use) note(permission string, o Object, held slipway.Grant) {
	if u == nil {
		return
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.permission, u.object, u.held, u.known = permission, o, held, true
}

// Right is what was used: the permission, the object ("" for none in particular) and the right that the caller holds, as ParseGrant reads it.
func (u *Use) Right() (permission, object, held string) {
	if u == nil {
		return "", "", ""
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if !u.known {
		return "", "", ""
	}
	return u.permission, u.object.Ref, FormatGrant(u.held)
}

// Audit writes down, in the transaction of a change, who made it: what was done ("token.revoke") to what, and by which right, where
// the context knows it (WithUse). Objects hold no secrets.
func (s *Service) Audit(ctx context.Context, tx *store.Tx, c *slipway.Caller, action, object string) error {
	u := useOf(ctx)
	permission, _, held := u.Right()
	origin, request, address := "", "", ""
	if u != nil {
		u.mu.Lock()
		if u.known {
			origin = s.origin(c, u.permission, u.object)
		}
		request, address, u.written = u.RequestID, u.Address, true
		u.mu.Unlock()
	}
	_, err := tx.Exec(ctx, `INSERT INTO auth_audit (at, subject, token_id, session_id, action, object, permission, held, origin, request_id, address)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)`,
		store.At(s.now()), c.Subject, c.TokenID, c.SessionID, action, object, permission, held, origin, request, address)
	return err
}

// AuditUse writes down that a caller has done something, after it was done, unless the change itself was written down.
func (s *Service) AuditUse(ctx context.Context, c *slipway.Caller, action string) error {
	u := useOf(ctx)
	permission, object, _ := u.Right()
	if u == nil || permission == "" {
		return nil
	}
	u.mu.Lock()
	written := u.written
	u.mu.Unlock()
	if written {
		return nil
	}
	return s.db.Write(ctx, func(tx *store.Tx) error { return s.Audit(ctx, tx, c, action, object) })
}

// AuditRecord is one thing that somebody did.
type AuditRecord struct {
	ID         int64     `json:"id" doc:"Its place in the record"`
	At         time.Time `json:"at" doc:"When"`
	Subject    string    `json:"subject" doc:"Who" example:"user:default/jane"`
	TokenID    string    `json:"tokenId,omitempty" doc:"By which token"`
	SessionID  string    `json:"sessionId,omitempty" doc:"By which session"`
	Action     string    `json:"action" doc:"What was done: the operation, or a change of its own such as token.revoke" example:"build.retrigger"`
	Object     string    `json:"object,omitempty" doc:"To what" example:"component:default/web"`
	Permission string    `json:"permission,omitempty" doc:"The permission that it took" example:"build.run.retrigger"`
	Held       string    `json:"held,omitempty" doc:"The right that the caller holds, by which it was allowed" example:"build.*:owned"`
	Origin     string    `json:"origin,omitempty" doc:"Where that right comes from" example:"grants[0] to group:default/team-a"`
	RequestID  string    `json:"requestId,omitempty" doc:"Id of the request in the server's log"`
	Address    string    `json:"address,omitempty" doc:"Where the request came from: the connection's address, or what a proxy of server.trustedProxies says" example:"192.0.2.7"`
}

// AuditQuery says which records to list, newest first. Empty fields mean any.
type AuditQuery struct {
	Subject    string
	Permission string
	Action     string
	Object     string
	Since      time.Time // inclusive
	Before     int64     // read on before this id; 0: from the newest
	AtMost     int
}

// ListAudit lists what callers did.
func (s *Service) ListAudit(ctx context.Context, q AuditQuery) ([]AuditRecord, error) {
	since := int64(0)
	if !q.Since.IsZero() {
		since = q.Since.UnixMicro()
	}
	rows, err := s.db.QueryContext(ctx, `SELECT id, at, subject, token_id, session_id, action, object, permission, held, origin, request_id, address FROM auth_audit
		WHERE ($1 = '' OR subject = $1) AND ($2 = '' OR permission = $2) AND ($3 = '' OR action = $3) AND ($4 = '' OR object = $4)
		AND at >= $5 AND ($6 = 0 OR id < $6) ORDER BY id DESC LIMIT $7`,
		q.Subject, q.Permission, q.Action, q.Object, since, q.Before, q.AtMost)
	if err != nil {
		return nil, store.Err(err)
	}
	list := []AuditRecord{}
	return list, store.Each(rows, func(rows *sql.Rows) error {
		var r AuditRecord
		var at store.Time
		err := rows.Scan(&r.ID, &at, &r.Subject, &r.TokenID, &r.SessionID, &r.Action, &r.Object, &r.Permission, &r.Held, &r.Origin, &r.RequestID, &r.Address)
		r.At = at.Time
		list = append(list, r)
		return err
	})
}
