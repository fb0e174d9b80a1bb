package provider_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"pgregory.net/rapid"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/provider"
)

func TestSecretShowsItselfToNobody(t *testing.T) {
	t.Parallel()
	c := provider.Credential{Type: provider.SecretText, Secret: "hush"}
	encoded, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	var logged strings.Builder
	slog.New(slog.NewTextHandler(&logged, nil)).Info("x", "c", c, "s", c.Secret)
	for _, shown := range []string{fmt.Sprint(c), fmt.Sprintf("%#v %x %q", c, c.Secret, c.Secret), string(encoded), logged.String(), c.Secret.Fingerprint()} {
		if strings.Contains(shown, "hush") || strings.Contains(shown, fmt.Sprintf("%x", "hush")) {
			t.Errorf("the secret shows in %s", shown)
		}
	}
	if c.Secret.Fingerprint() == provider.Secret("other").Fingerprint() || provider.Secret("").Fingerprint() != "" {
		t.Error("fingerprints tell secrets apart")
	}
	if provider.Secret("").Signs(nil, "b613679a0814d9ec772f95d778c35fc5ff1697c493715653c6c712144292c5ad") {
		t.Error("no secret signs nothing")
	}
	if s := provider.Secret("s3cret"); !s.Is("s3cret") || s.Is("s3cre") || s.Is("") || provider.Secret("").Is("") {
		t.Error("a secret is itself and nothing else, and none is nothing")
	}
}

func TestCredentialTellsItsFaults(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		c    provider.Credential
		want string
	}{
		{provider.Credential{}, ""},
		{provider.Credential{Type: "secretText", Secret: "x"}, ""},
		{provider.Credential{Type: "githubApp", AppID: "1", PrivateKey: "x", InstallationID: 7}, ""},
		{provider.Credential{Secret: "x"}, "c.type"},
		{provider.Credential{Type: "usernamePassword", Username: "x", Password: "y"}, "c.type"}, // not one of those that are taken
		{provider.Credential{Type: "secretText"}, "c.secret"},
		{provider.Credential{Type: "secretText", Secret: "x", Username: "y"}, "c.username"},
		{provider.Credential{Type: "githubApp", Secret: "x"}, "c.secret c.appId c.privateKey"},
	} {
		var got []string
		for _, d := range test.c.Faults("c", provider.SecretText, provider.GitHubApp) {
			got = append(got, d.Field)
		}
		if strings.Join(got, " ") != test.want {
			t.Errorf("%+v: faults at %q, want %q", test.c, got, test.want)
		}
	}
}

func TestRefsThatGitWouldNotTake(t *testing.T) {
	t.Parallel()
	for _, good := range []string{"main", "feature/a-b_c.d", "refs/pull/17/merge", "v1.2.0", "größer", "a@b", "pull/17"} {
		if err := provider.CheckRef(good); err != nil {
			t.Errorf("%q: %v", good, err)
		}
	}
	for _, bad := range []string{"", "-x", "--upload-pack=touch", "/a", "a/", "a..b", "a b", "a\nb", "a\x00", "a~1", "a^", "a:b", "a?", "a*", "a[", `a\b`, "a\x7f"} {
		if err := provider.CheckRef(bad); !errors.Is(err, slipway.Invalid) {
			t.Errorf("%q: got %v, want invalid", bad, err)
		}
	}
}

// FuzzRefs looks for refs that are taken though they could do harm in an address or a command.
func FuzzRefs(f *testing.F) {
	for _, ref := range []string{"main", "feature/x", "v1.2.3", "--upload-pack=touch", "a b", "a\x00", "..", "refs/heads/main", "ünï", "\xff"} {
		f.Add(ref)
	}
	f.Fuzz(func(t *testing.T, ref string) {
		if provider.CheckRef(ref) == nil && (ref == "" || strings.HasPrefix(ref, "-") || strings.ContainsAny(ref, " \t\r\n\\") || !utf8.ValidString(ref) || slices.Contains(strings.Split(ref, "/"), "..")) {
			t.Errorf("%q is taken", ref)
		}
	})
}

func TestTimesThatNeverWere(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		`"2026-05-04T09:00:00Z"`: "2026-05-04T09:00:00Z", `"2026-05-04T11:00:00.1234567+02:00"`: "2026-05-04T09:00:00.123456Z", `1777885200`: "2026-05-04T09:00:00Z",
		`null`: "", `""`: "", `0`: "", `"0001-01-01T00:00:00Z"`: "", `"1970-01-01T00:00:00Z"`: "", `"soon"`: "", `{}`: "", `1e99`: "", `-5`: "",
	} {
		var at provider.Time
		if err := json.Unmarshal([]byte(text), &at); err != nil {
			t.Errorf("%s: %v", text, err)
		}
		got := ""
		if p := at.Ptr(); p != nil {
			got = p.Format(time.RFC3339Nano)
		}
		if got != want {
			t.Errorf("%s: got %q, want %q", text, got, want)
		}
	}
}

func TestLinks(t *testing.T) {
	t.Parallel()
	for header, want := range map[string]string{
		`<https://a/x?page=2>; rel="next", <https://a/x?page=9>; rel="last"`: "https://a/x?page=2",
		`<https://a/x?page=1>; rel="prev",<https://a/x?page=3>;rel=next`:     "https://a/x?page=3",
		`<https://a/x?page=1>; rel="first"`:                                  "",
		`https://a; rel="next"`:                                              "",
		`<https://a/x?only=a,b;c&page=2>; rel="next"`:                        "https://a/x?only=a,b;c&page=2",
		`<https://a/x?page=2>; title="more"; rel="next last"`:                "https://a/x?page=2",
		`<https://a/x?page=2; rel="next"`:                                    "",
		``:                                                                   "",
	} {
		if got := provider.Link(http.Header{"Link": {header}}, "next"); got != want {
			t.Errorf("%s: got %q, want %q", header, got, want)
		}
	}
}

func TestLimitsAreReadByTheVendorsConvention(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 5, 4, 9, 0, 0, 0, time.UTC)
	header := func(remaining, reset string) http.Header {
		return http.Header{"X-Limit": {"60"}, "X-Remaining": {remaining}, "X-Reset": {reset}}
	}
	for _, test := range []struct {
		name  string
		read  func(http.Header, string, time.Time) provider.Limit
		h     http.Header
		until time.Duration // 0: none
	}{
		{"epoch", provider.EpochLimit, header("0", strconv.FormatInt(now.Add(time.Minute).Unix(), 10)), time.Minute},
		{"epoch, some left", provider.EpochLimit, header("5", strconv.FormatInt(now.Add(time.Minute).Unix(), 10)), 0},
		{"seconds", provider.SecondsLimit, header("0", "60"), time.Minute},
		{"seconds read as an epoch", provider.EpochLimit, header("0", "60"), 0},
		{"an epoch read as seconds", provider.SecondsLimit, header("0", "1777885260"), 0}, // not fifty years
		{"nothing said", provider.EpochLimit, http.Header{}, 0},
	} {
		l := test.read(test.h, "X-", now)
		want := time.Time{}
		if test.until > 0 {
			want = now.Add(test.until)
		}
		if !l.Until.Equal(want) {
			t.Errorf("%s: until %v, want %v", test.name, l.Until, want)
		}
	}
	ahead := header("0", strconv.FormatInt(now.Add(-59*time.Minute).Unix(), 10))
	ahead.Set("Date", now.Add(-time.Hour).Format(http.TimeFormat))
	if l := provider.EpochLimit(ahead, "X-", now); !l.Until.Equal(now.Add(time.Minute)) {
		t.Errorf("a clock that is an hour off: until %v, want in a minute", l.Until)
	}
	for text, want := range map[string]time.Duration{"7": 7 * time.Second, "0.5": 500 * time.Millisecond, "-1": 0, "soon": 0, "1e12": 0, "": 0,
		now.Add(time.Minute).Format(http.TimeFormat): time.Minute, now.Add(-time.Minute).Format(http.TimeFormat): 0} {
		if got := provider.RetryAfter(http.Header{"Retry-After": {text}}, now); got != want {
			t.Errorf("Retry-After %q: got %v, want %v", text, got, want)
		}
	}
}

// However items arrive while a list is read, and whatever is asked for at once, what was there is seen once, newest first.
func TestNumberedPagesRepeatAndSkipNothing(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var ids []int64
		grow := func(n int) {
			for range n {
				ids = append(ids, int64(len(ids)+1))
			}
		}
		at := func(id int64) time.Time { return time.Unix(1_700_000_000+id/3, 0) } // some at one time
		list := provider.Numbered[int64]{
			Size: 7,
			Key:  func(id int64) (time.Time, int64) { return at(id), id },
			Read: func(_ context.Context, page, size int, _ string) (provider.NumberedPage[int64], error) {
				newest := slices.Clone(ids)
				slices.Reverse(newest)
				from := min((page-1)*size, len(newest))
				to := min(from+size, len(newest))
				return provider.NumberedPage[int64]{Items: newest[from:to], More: to < len(newest)}, nil
			},
		}
		grow(rapid.IntRange(0, 40).Draw(t, "there"))
		there := len(ids)
		var got []int64
		o := provider.ListOptions{}
		for range 1000 {
			o.Limit = rapid.IntRange(0, 9).Draw(t, "limit")
			page, err := list.List(context.Background(), o)
			if err != nil {
				t.Fatal(err)
			}
			if o.Limit > 0 && len(page.Items) > o.Limit {
				t.Fatalf("got %d items, want at most %d", len(page.Items), o.Limit)
			}
			got = append(got, page.Items...)
			if page.Next == "" {
				break
			}
			o.Cursor = page.Next
			grow(rapid.IntRange(0, 6).Draw(t, "more"))
		}
		if len(got) != there || !slices.IsSortedFunc(got, func(a, b int64) int { return int(b - a) }) || len(slices.Compact(slices.Clone(got))) != there {
			t.Fatalf("got %v, want %d to 1", got, there)
		}
	})
}

func TestForeignCursorsAreInvalid(t *testing.T) {
	t.Parallel()
	list := provider.Numbered[int64]{Size: 10}
	for _, cursor := range []string{"x", "1.2", "0.1.1", "1.1.1.1", "9999999999.1.1", "1.x.1", "-1.1.1", "1.1.99999999999999999999"} {
		if _, err := list.List(t.Context(), provider.ListOptions{Cursor: cursor}); !errors.Is(err, slipway.Invalid) {
			t.Errorf("%q: got %v, want invalid", cursor, err)
		}
	}
}

func TestInputsBecomeTexts(t *testing.T) {
	t.Parallel()
	got, err := provider.Inputs(map[string]any{"a": "x", "b": true, "c": 3.0, "d": 1e6, "e": 2.5})
	if want := "map[a:x b:true c:3 d:1000000 e:2.5]"; err != nil || fmt.Sprint(got) != want {
		t.Errorf("got %v, %v; want %s", got, err, want)
	}
	for _, bad := range []any{"x", []any{}, map[string]any{"a": nil}, map[string]any{"a": map[string]any{}}} {
		if _, err := provider.Inputs(bad); !errors.Is(err, slipway.Invalid) {
			t.Errorf("%v: got %v, want invalid", bad, err)
		}
	}
}

func TestDerive(t *testing.T) {
	t.Parallel()
	start := time.Date(2026, 5, 4, 9, 0, 0, 0, time.UTC)
	end := start.Add(-time.Second)
	b := slipway.Build{Status: slipway.BuildFailed, StartedAt: &start, FinishedAt: &end}
	provider.Derive(&b)
	if !b.FinishedAt.Equal(start) || *b.DurationSeconds != 0 || !b.Retriggerable {
		t.Errorf("got %+v", b)
	}
	b = slipway.Build{Status: slipway.BuildRunning, StartedAt: &start}
	if provider.Derive(&b); b.DurationSeconds != nil || b.Retriggerable {
		t.Errorf("got %+v", b)
	}
}

func TestWordsOfAnAnnotation(t *testing.T) {
	t.Parallel()
	e := &slipway.Entity{Metadata: slipway.EntityMetadata{Annotations: map[string]string{"a": " octo/hello, /octo/two/,,octo/hello ,"}}}
	if got := provider.Words(e, "a"); !slices.Equal(got, []string{"octo/hello", "octo/two"}) {
		t.Errorf("got %q", got)
	}
	if got := provider.Words(e, "b"); got != nil {
		t.Errorf("got %q of nothing", got)
	}
}

func TestForeignTextsAreShort(t *testing.T) {
	t.Parallel()
	if got := provider.Clip(" a\r\n\x1b[2Jb \xff c "); got != "a [2Jb c" {
		t.Errorf("got %q", got)
	}
	if got := provider.Clip(strings.Repeat("ä", 300)); got != strings.Repeat("ä", 200)+"…" {
		t.Errorf("got %d bytes", len(got))
	}
	if got := provider.Cut("ää", 3); got != "ä" {
		t.Errorf("got %q, want no half character", got)
	}
}

func TestAWebhookThatIsSentOnceMoreIsRefused(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_800_000_000, 0)
	for at, fresh := range map[string]bool{"1800000000": true, "1799999701": true, "1800000299": true, "1799999699": false, "1800000301": false, "": false, "x": false, "9223372036854775807": false} {
		if err := provider.Fresh(at, now); (err == nil) != fresh || err != nil && !errors.Is(err, slipway.Unauthenticated) {
			t.Errorf("%s: got %v", at, err)
		}
	}
}
