package slipway

import (
	"errors"
	"fmt"
	"time"
)

// Code says what kind of failure an error is, for programs. It is itself an error, so that
// errors.Is(err, slipway.NotFound) works on any chain that holds an *Error with that code.
// The HTTP status of each code stands in one table, in package server.
type Code string

// The codes of the public API. An error without a code is Internal.
const (
	Invalid          Code = "invalid"           // the request does not fit; Details say where
	Unauthenticated  Code = "unauthenticated"   // no caller, or one that is not believed
	Forbidden        Code = "forbidden"         // a caller without the permission; the message names it
	NotFound         Code = "not_found"         // no such thing, or none that the caller may know of
	MethodNotAllowed Code = "method"            // the path exists, the method does not
	Conflict         Code = "conflict"          // the state of the thing forbids it
	Precondition     Code = "precondition"      // If-Match or the like did not hold
	TooLarge         Code = "too_large"         // a body, file or answer over its limit
	UnsupportedMedia Code = "unsupported_media" // a Content-Type that the operation does not read
	RateLimited      Code = "rate_limited"      // ask again after RetryAfter
	Unsupported      Code = "unsupported"       // this provider cannot do that
	Unavailable      Code = "unavailable"       // a vendor, cluster or database does not answer; try again after RetryAfter
	Internal         Code = "internal"          // our fault; the caller gets a request id, the log gets the chain
)

// Error makes a Code usable as the target of errors.Is.
func (c Code) Error() string { return string(c) }

// Error is a failure with a code for the program, a sentence for the caller that says what to do
// next, and a cause for the log. The cause is never shown to a caller.
type Error struct {
	Code       Code
	Message    string        // for the caller: no secrets, no internals
	Details    []Detail      // which fields are at fault, if any
	RetryAfter time.Duration // for RateLimited and Unavailable; 0: the server's default
	Cause      error         // for the log
}

// Detail is one fault in the input.
type Detail struct {
	Field   string `json:"field" doc:"Where: a JSON path such as spec.owner, or a parameter's name"`
	Code    Code   `json:"code" doc:"What kind of fault"`
	Message string `json:"message" doc:"What is wrong and what would be right"`
}

// Errorf makes an *Error. A %w verb sets the cause; its text becomes part of the message too, so
// use WithCause for causes that a caller must not read.
func Errorf(code Code, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	return &Error{Code: code, Message: err.Error(), Cause: errors.Unwrap(err)}
}

// WithCause returns a copy with a cause for the log.
func (e *Error) WithCause(cause error) *Error {
	c := *e
	c.Cause = cause
	return &c
}

// WithDetails returns a copy that also names the faulty fields.
func (e *Error) WithDetails(details ...Detail) *Error {
	c := *e
	c.Details = append(append([]Detail(nil), e.Details...), details...)
	return &c
}

// After returns a copy that tells the caller when to try again.
func (e *Error) After(d time.Duration) *Error {
	c := *e
	c.RetryAfter = d
	return &c
}

func (e *Error) Error() string {
	if e.Cause != nil && e.Cause.Error() != e.Message {
		return fmt.Sprintf("%s: %s (%v)", e.Code, e.Message, e.Cause)
	}
	return fmt.Sprintf("%s: %s", e.Code, e.Message)
}

// Unwrap gives the cause to errors.Is and errors.As.
func (e *Error) Unwrap() error { return e.Cause }

// Is makes errors.Is(err, slipway.NotFound) work.
func (e *Error) Is(target error) bool {
	c, ok := target.(Code)
	return ok && c == e.Code
}

// CodeOf gives the code of the outermost *Error in the chain, Internal when there is none, and ""
// for nil.
func CodeOf(err error) Code {
	if err == nil {
		return ""
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Code
	}
	if c, ok := errors.AsType[Code](err); ok {
		return c
	}
	return Internal
}
