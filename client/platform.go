package client

import (
	"context"
	"encoding/json"
	"iter"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/slipway-platform/slipway"
)

// Version is what a server is made of.
type Version struct {
	Version    string             `json:"version"`
	Blueprints []BlueprintVersion `json:"blueprints"`
}

// BlueprintVersion is one part of a server.
type BlueprintVersion struct {
	Name      string `json:"name"`
	Version   string `json:"version"`
	Stability string `json:"stability"`
}

// Caller is who the server takes the client for.
type Caller struct {
	Kind        string   `json:"kind"`
	Subject     string   `json:"subject"`
	TokenID     string   `json:"tokenId"`
	Owns        []string `json:"owns"`
	Permissions []string `json:"permissions"`
}

// Version reads what the server is made of. It needs no token.
func (c *Client) Version(ctx context.Context) (Version, error) {
	return get[Version](ctx, c, "/version")
}

// WhoAmI tells who the server takes the client for; Unauthenticated when it believes the token not.
func (c *Client) WhoAmI(ctx context.Context) (Caller, error) {
	return get[Caller](ctx, c, "/api/auth/me")
}

// Token is a token without its secret.
type Token struct {
	ID          string     `json:"id"`
	Name        string     `json:"name"`
	User        string     `json:"user"`
	Permissions []string   `json:"permissions"`
	CreatedAt   time.Time  `json:"createdAt"`
	ExpiresAt   *time.Time `json:"expiresAt"`
	LastUsedAt  *time.Time `json:"lastUsedAt"`
	RevokedAt   *time.Time `json:"revokedAt"`
}

// NewToken says what token to make.
type NewToken struct {
	Name        string     `json:"name"`
	User        string     `json:"user,omitempty"`        // entity ref of the user that it acts as; empty: a service of its own
	Permissions []string   `json:"permissions,omitempty"` // at most what the caller holds
	ExpiresAt   *time.Time `json:"expiresAt,omitempty"`
	RateLimit   string     `json:"rateLimit,omitempty"` // requests in a minute, such as "5000/m"; empty: as configured
}

// CreatedToken is a new token with its secret, which is told only this once.
type CreatedToken struct {
	Token
	Secret string `json:"secret"`
}

// CreateToken makes a token.
func (c *Client) CreateToken(ctx context.Context, t NewToken) (CreatedToken, error) {
	return post[CreatedToken](ctx, c, "/api/tokens", t)
}

// RevokeToken ends a token at once, on every replica within a second.
func (c *Client) RevokeToken(ctx context.Context, id string) error {
	return c.Do(ctx, http.MethodDelete, "/api/tokens/"+url.PathEscape(id), nil, nil)
}

// List is a page of things.
type List[T any] struct {
	Items    []T              `json:"items"`
	PageInfo slipway.PageInfo `json:"pageInfo"`
}

// Items walks through any list of the API to its end, page by page: Items[Token](ctx, c, "/api/tokens"). The path may hold a query. It stops after the first error.
func Items[T any](ctx context.Context, c *Client, path string) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		var none T
		u, err := url.Parse(path)
		if err != nil {
			yield(none, slipway.Errorf(slipway.Invalid, "%q is no path: %w", path, err))
			return
		}
		for {
			page, err := get[List[T]](ctx, c, u.String())
			if err != nil {
				yield(none, err)
				return
			}
			for _, item := range page.Items {
				if !yield(item, nil) {
					return
				}
			}
			if page.PageInfo.NextCursor == "" {
				return
			}
			q := u.Query()
			q.Set("cursor", page.PageInfo.NextCursor)
			u.RawQuery = q.Encode()
		}
	}
}

// Tokens lists tokens; cursor is "" for the first page.
func (c *Client) Tokens(ctx context.Context, cursor string) (List[Token], error) {
	v := url.Values{}
	if cursor != "" {
		v.Set("cursor", cursor)
	}
	return get[List[Token]](ctx, c, withQuery("/api/tokens", v))
}

// Job is a stored job.
type Job struct {
	ID          int64           `json:"id"`
	Kind        string          `json:"kind"`
	Queue       string          `json:"queue"`
	State       string          `json:"state"`
	Args        json.RawMessage `json:"args"`
	Attempt     int             `json:"attempt"`
	MaxAttempts int             `json:"maxAttempts"`
	CreatedAt   time.Time       `json:"createdAt"`
	ScheduledAt time.Time       `json:"scheduledAt"`
	StartedAt   *time.Time      `json:"startedAt"`
	FinishedAt  *time.Time      `json:"finishedAt"`
	Errors      []JobFailure    `json:"errors"`
}

// JobFailure is one run of a job that failed.
type JobFailure struct {
	At      time.Time `json:"at"`
	Attempt int       `json:"attempt"`
	Error   string    `json:"error"`
}

// Jobs lists jobs, newest first, in any of the states; cursor is "" for the first page.
func (c *Client) Jobs(ctx context.Context, cursor string, states ...string) (List[Job], error) {
	v := url.Values{"state": states}
	if cursor != "" {
		v.Set("cursor", cursor)
	}
	return get[List[Job]](ctx, c, withQuery("/api/jobs", v))
}

// Job reads one job.
func (c *Client) Job(ctx context.Context, id int64) (Job, error) {
	return get[Job](ctx, c, "/api/jobs/"+strconv.FormatInt(id, 10))
}

// RetryJob makes a job that ended run again.
func (c *Client) RetryJob(ctx context.Context, id int64) (Job, error) {
	return post[Job](ctx, c, "/api/jobs/"+strconv.FormatInt(id, 10)+"/retry", nil)
}

// CancelJob ends a job, also while it runs.
func (c *Client) CancelJob(ctx context.Context, id int64) (Job, error) {
	return post[Job](ctx, c, "/api/jobs/"+strconv.FormatInt(id, 10)+"/cancel", nil)
}

// Schedule inserts a job again and again.
type Schedule struct {
	Name    string     `json:"name"`
	Text    string     `json:"text"`
	Every   string     `json:"every"`
	Cron    string     `json:"cron"`
	Paused  bool       `json:"paused"`
	NextRun *time.Time `json:"nextRun"`
}

// Schedules lists all schedules.
func (c *Client) Schedules(ctx context.Context) (List[Schedule], error) {
	return get[List[Schedule]](ctx, c, "/api/schedules")
}

// RunSchedule runs a schedule's job now, besides its usual times.
func (c *Client) RunSchedule(ctx context.Context, name string) error {
	return c.Do(ctx, http.MethodPost, "/api/schedules/"+url.PathEscape(name)+"/run", nil, nil)
}

// PauseSchedule keeps a schedule from running until it is resumed.
func (c *Client) PauseSchedule(ctx context.Context, name string) error {
	return c.Do(ctx, http.MethodPut, "/api/schedules/"+url.PathEscape(name)+"/pause", nil, nil)
}

// ResumeSchedule lets a paused schedule run again.
func (c *Client) ResumeSchedule(ctx context.Context, name string) error {
	return c.Do(ctx, http.MethodPut, "/api/schedules/"+url.PathEscape(name)+"/resume", nil, nil)
}

// Event is one event, as CloudEvents 1.0 names its parts.
type Event struct {
	SpecVersion     string          `json:"specversion"`
	Position        int64           `json:"position"`
	ID              string          `json:"id"`
	Source          string          `json:"source"`
	Type            string          `json:"type"`
	Subject         string          `json:"subject"`
	Time            time.Time       `json:"time"`
	DataContentType string          `json:"datacontenttype"`
	Data            json.RawMessage `json:"data"`
}

// Events lists events after a position (0: from the first one kept), oldest first, of these types; a type
// may end in *.
func (c *Client) Events(ctx context.Context, after int64, limit int, types ...string) (List[Event], error) {
	v := url.Values{"type": types}
	if after > 0 {
		v.Set("after", strconv.FormatInt(after, 10))
	}
	if limit > 0 {
		v.Set("limit", strconv.Itoa(limit))
	}
	return get[List[Event]](ctx, c, withQuery("/api/events", v))
}

// LastEvent gives the position of the newest event, for Events to begin after.
func (c *Client) LastEvent(ctx context.Context) (int64, error) {
	list, err := get[List[Event]](ctx, c, "/api/events?latest=true")
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(list.PageInfo.NextCursor, 10, 64)
}

func withQuery(path string, v url.Values) string {
	if q := v.Encode(); q != "" {
		return path + "?" + q
	}
	return path
}
