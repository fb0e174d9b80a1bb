package task

import (
	"context"
	"maps"
	"strings"
	"testing"

	"github.com/slipway-platform/slipway"
)

// Whatever callers show as tokens of theirs, it is read within bounds, reads the same when it is written again, and no error tells a token.
func FuzzProviderTokens(f *testing.F) {
	for _, s := range []string{"github=ghp_0123456789, gitlab = glpat-x", "a=b,a=c", "=", "a==b=", ",,", "a=b c", "\xff=\x00", strings.Repeat("a=b,", 30), "a=" + strings.Repeat("x", 5000)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, header string) {
		ctx, err := WithTokens(context.Background(), []string{header})
		tokens := tokensFrom(ctx)
		if err != nil {
			if slipway.CodeOf(err) != slipway.Invalid || tokens != nil {
				t.Errorf("%q: %v, %v", header, err, tokens)
			}
			if _, token, _ := strings.Cut(header, "="); len(token) > 20 && strings.Contains(err.Error(), token) {
				t.Errorf("%q: the error tells a token: %v", header, err)
			}
			return
		}
		if len(tokens) > maxTokens {
			t.Errorf("%d tokens", len(tokens))
		}
		var again []string
		for name, token := range tokens {
			if name == "" || token == "" || len(name) > 100 || len(token) > maxToken || strings.ContainsAny(string(token), " \t,") {
				t.Errorf("%q: %q is shown as %d bytes", header, name, len(token))
			}
			again = append(again, name+"="+string(token))
		}
		ctx, err = WithTokens(context.Background(), again)
		if err != nil || !maps.Equal(tokensFrom(ctx), tokens) {
			t.Errorf("%q, written again: %v, %v", header, err, tokensFrom(ctx))
		}
	})
}
