package auth

import (
	"strconv"
	"strings"

	"github.com/slipway-platform/slipway"
)

// Rate is how many requests a minute somebody may make; 0 is no limit. As text it reads "100/m", or "0".
type Rate int64

const maxRate = 1_000_000_000

// String writes the rate as it is read.
func (r Rate) String() string {
	if r == 0 {
		return "0"
	}
	return strconv.FormatInt(int64(r), 10) + "/m"
}

// MarshalText writes the rate as it is read.
func (r Rate) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText reads "<requests>/m", or "0" for no limit.
func (r *Rate) UnmarshalText(b []byte) error {
	s := string(b)
	number, minute := strings.CutSuffix(s, "/m")
	n, err := strconv.ParseUint(number, 10, 63)
	if err != nil || n > maxRate || !minute && n != 0 {
		return slipway.Errorf(slipway.Invalid, "rate %.40q: write <requests>/m, such as 100/m, or 0 for no limit", s)
	}
	*r = Rate(n)
	return nil
}

// RateLimits are the limits of callers who have none of their own.
type RateLimits struct {
	User    Rate `json:"user" yaml:"user" doc:"Requests of one user or tool in a minute, over all of its tokens and all replicas; default 100/m; 0: no limit"`
	Service Rate `json:"service" yaml:"service" doc:"Requests with one service token in a minute, over all replicas; default 1000/m; 0: no limit"`
	Address Rate `json:"address" yaml:"address" doc:"Failed sign-ins and requests without a credential from one address (IPv6: a /64 network) in a minute; default 60/m; 0: no limit"`
}
