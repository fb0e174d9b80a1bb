package server

import (
	"fmt"
	"net/http"
	"sort"
	"strings"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/blueprint"
)

// statuses is the one table of codes and HTTP statuses. (The tool and data dialects answer 422 for a body that does not fit its schema: invalidBody.)
var statuses = map[slipway.Code]int{
	slipway.Invalid:          http.StatusBadRequest,
	slipway.Unauthenticated:  http.StatusUnauthorized,
	slipway.Forbidden:        http.StatusForbidden,
	slipway.NotFound:         http.StatusNotFound,
	slipway.MethodNotAllowed: http.StatusMethodNotAllowed,
	slipway.Conflict:         http.StatusConflict,
	slipway.Precondition:     http.StatusPreconditionFailed,
	slipway.TooLarge:         http.StatusRequestEntityTooLarge,
	slipway.UnsupportedMedia: http.StatusUnsupportedMediaType,
	slipway.RateLimited:      http.StatusTooManyRequests,
	slipway.Internal:         http.StatusInternalServerError,
	slipway.Unsupported:      http.StatusNotImplemented,
	slipway.Unavailable:      http.StatusServiceUnavailable,
}

// failure is an error on its way out: what a dialect needs to write it.
type failure struct {
	status    int
	err       *slipway.Error // its message is what the caller reads
	requestID string
	method    string
	path      string // below the server
	prefix    string // of the mount
}

// dialect writes answers and errors in one wire style.
type dialect struct {
	invalidBody int                                   // status of a body that does not fit its schema
	fail        func(f failure) any                   // the error body
	wrap        func(v any, m blueprint.Messages) any // nil: the value itself
	failExample any                                   // for the API description
}

// The wire shapes of errors.
type (
	apiError struct {
		Error     string           `json:"error" doc:"What went wrong and what to do next"`
		Code      slipway.Code     `json:"code" doc:"What kind of failure, for programs" example:"not_found"`
		RequestID string           `json:"requestId" doc:"Id of this request in the server's log"`
		Details   []slipway.Detail `json:"details,omitempty" doc:"Which fields are at fault"`
	}
	dataError struct {
		Version int           `json:"version" doc:"Version of the envelope" example:"1"`
		Error   dataErrorBody `json:"error" doc:"What went wrong"`
	}
	dataErrorBody struct {
		Code      slipway.Code     `json:"code" doc:"What kind of failure, for programs" example:"not_found"`
		Message   string           `json:"message" doc:"What went wrong and what to do next"`
		Details   []slipway.Detail `json:"details,omitempty" doc:"Which fields are at fault"`
		RequestID string           `json:"requestId" doc:"Id of this request in the server's log"`
	}
	toolError struct {
		Messages toolMessages `json:"messages" doc:"What went wrong"`
	}
	toolMessages struct {
		Info    []string `json:"info" nullable:"false" doc:"For information"`
		Warning []string `json:"warning" nullable:"false" doc:"What to look at"`
		Error   []string `json:"error" nullable:"false" doc:"What went wrong"`
	}
	backstageError struct {
		Error    backstageErrorBody `json:"error" doc:"What went wrong"`
		Request  backstageRequest   `json:"request" doc:"What was asked"`
		Response backstageResponse  `json:"response" doc:"What was answered"`
	}
	backstageErrorBody struct {
		Name    string `json:"name" doc:"Kind of failure in Backstage's words" example:"NotFoundError"`
		Message string `json:"message" doc:"What went wrong and what to do next"`
	}
	backstageRequest struct {
		Method string `json:"method" doc:"Method"`
		URL    string `json:"url" doc:"Path below the catalog"`
	}
	backstageResponse struct {
		StatusCode int `json:"statusCode" doc:"Status of the answer"`
	}
	dataEnvelope struct {
		Version  int               `json:"version"`
		Data     any               `json:"data"`
		PageInfo *slipway.PageInfo `json:"pageInfo,omitempty"`
		Warnings []string          `json:"warnings,omitempty"`
	}
	toolEnvelope struct {
		Data     any          `json:"data"`
		Messages toolMessages `json:"messages"`
	}
)

// backstageNames are the error names that Backstage's clients know.
var backstageNames = map[slipway.Code]string{
	slipway.Invalid: "InputError", slipway.Unauthenticated: "AuthenticationError", slipway.Forbidden: "NotAllowedError",
	slipway.NotFound: "NotFoundError", slipway.Conflict: "ConflictError", slipway.Precondition: "ConflictError", slipway.MethodNotAllowed: "InputError",
	slipway.TooLarge: "InputError", slipway.UnsupportedMedia: "InputError", slipway.RateLimited: "ServiceUnavailableError",
	slipway.Unsupported: "NotImplementedError", slipway.Unavailable: "ServiceUnavailableError", slipway.Internal: "Error",
}

var dialects = map[blueprint.Dialect]dialect{
	blueprint.API:   {invalidBody: 400, fail: failAPI, failExample: apiError{}},
	blueprint.Plain: {invalidBody: 400, fail: failAPI, failExample: apiError{}},
	blueprint.Data: {invalidBody: 422, failExample: dataError{},
		fail: func(f failure) any {
			return dataError{Version: 1, Error: dataErrorBody{Code: f.err.Code, Message: f.err.Message, Details: f.err.Details, RequestID: f.requestID}}
		},
		wrap: func(v any, m blueprint.Messages) any {
			e := dataEnvelope{Version: 1, Data: v, Warnings: m.Warning}
			if list, ok := v.(interface {
				Parts() (any, slipway.PageInfo)
			}); ok {
				var page slipway.PageInfo
				e.Data, page = list.Parts()
				e.PageInfo = &page
			}
			return e
		},
	},
	blueprint.Tool: {invalidBody: 422, failExample: toolError{},
		fail: func(f failure) any {
			return toolError{Messages: toolMessages{Info: []string{}, Warning: []string{}, Error: texts(f.err)}}
		},
		wrap: func(v any, m blueprint.Messages) any {
			return toolEnvelope{Data: v, Messages: toolMessages{Info: append([]string{}, m.Info...), Warning: append([]string{}, m.Warning...), Error: []string{}}}
		},
	},
	blueprint.Backstage: {invalidBody: 400, failExample: backstageError{},
		fail: func(f failure) any {
			return backstageError{
				Error:    backstageErrorBody{Name: backstageNames[f.err.Code], Message: strings.Join(texts(f.err), "; ")},
				Request:  backstageRequest{Method: f.method, URL: strings.TrimPrefix(f.path, f.prefix)},
				Response: backstageResponse{StatusCode: f.status},
			}
		},
	},
}

// texts are the sentence of an error and those of its details that it does not hold already.
func texts(err *slipway.Error) []string {
	out := []string{err.Message}
	for _, d := range err.Details {
		if !strings.Contains(err.Message, d.Message) {
			out = append(out, strings.TrimPrefix(d.Field+": "+d.Message, ": "))
		}
	}
	return out
}

func failAPI(f failure) any {
	return apiError{Error: f.err.Message, Code: f.err.Code, RequestID: f.requestID, Details: f.err.Details}
}

// mounts finds the dialect of a path: the longest prefix wins.
type mounts []mount

type mount struct {
	blueprint.Mount
	owner string
}

func (ms mounts) of(path string) blueprint.Mount {
	for _, m := range ms {
		if path == m.Prefix || strings.HasPrefix(path, strings.TrimSuffix(m.Prefix, "/")+"/") {
			return m.Mount
		}
	}
	return blueprint.Mount{Prefix: "", Dialect: blueprint.Plain}
}

func (ms mounts) sorted() mounts {
	sort.SliceStable(ms, func(i, j int) bool { return len(ms[i].Prefix) > len(ms[j].Prefix) })
	return ms
}

// publicMessage is what a caller may read of an error: the message of a coded one, the request id alone otherwise.
func publicMessage(err *slipway.Error, requestID string) *slipway.Error {
	if err.Code != slipway.Internal {
		return err
	}
	return slipway.Errorf(slipway.Internal, "something went wrong on our side; quote request id %s when you report it", requestID)
}

func requirePrefix(prefix string) error {
	if !strings.HasPrefix(prefix, "/") || strings.HasSuffix(prefix, "/") {
		return fmt.Errorf("prefix %q must start with a slash and not end with one", prefix)
	}
	return nil
}
