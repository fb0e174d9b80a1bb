package provider_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/slipway-platform/slipway"
	"github.com/slipway-platform/slipway/provider"
)

type config struct {
	URL      string           `json:"url" required:"true"`
	Interval slipway.Duration `json:"interval" default:"90s"`
	Parallel int              `json:"parallel" default:"2"`
	Names    []string         `json:"names"`
	Cache    struct {
		Size slipway.Size `json:"size" default:"1MiB"`
		On   bool         `json:"on"`
	} `json:"cache"`
	Rules []struct {
		Branch string `json:"branch" required:"true"`
	} `json:"rules"`
}

func (c *config) Check() []slipway.Detail {
	var faults []slipway.Detail
	if c.Parallel > 10 {
		faults = append(faults, slipway.Detail{Field: "parallel", Code: slipway.Invalid, Message: "must be at most 10"})
	}
	if c.URL != "" && !strings.HasPrefix(c.URL, "https://") {
		faults = append(faults, slipway.Detail{Field: "url", Code: slipway.Invalid, Message: "must begin with https://"})
	}
	return faults
}

func TestDecodeFillsInDefaults(t *testing.T) {
	t.Parallel()
	var c config
	if err := provider.Decode(json.RawMessage(`{"url":"https://ci.example.com","cache":{"on":true}}`), &c); err != nil {
		t.Fatal(err)
	}
	if c.Interval.Std() != 90*time.Second || c.Parallel != 2 || c.Cache.Size != 1<<20 || !c.Cache.On {
		t.Errorf("got %+v, want the defaults where nothing was said", c)
	}
}

func TestDecodeReportsAllFaultsTogether(t *testing.T) {
	t.Parallel()
	var c config
	err := provider.Decode(json.RawMessage(`{"ulr":"x","interval":"soon","parallel":11,"names":"s3cret",
		"cache":{"size":true,"of":1},"rules":[{"branch":"main"},{"brunch":"x"}]}`), &c)
	coded, ok := errors.AsType[*slipway.Error](err)
	if !ok || coded.Code != slipway.Invalid {
		t.Fatalf("got %v, want invalid", err)
	}
	var fields []string
	for _, d := range coded.Details {
		fields = append(fields, d.Field)
	}
	want := "ulr url interval names cache.of cache.size rules[1].brunch rules[1].branch parallel"
	if got := strings.Join(fields, " "); got != want {
		t.Errorf("faults at %s\nwant      %s\n%v", got, want, err)
	}
	if strings.Contains(err.Error(), "s3cret") {
		t.Errorf("the message shows a value: %v", err)
	}
}

func TestDecodeRefusesWhatIsNoObject(t *testing.T) {
	t.Parallel()
	for _, raw := range []string{`[]`, `7`, `null`, `{"url":`, `{"url":"https://a"} {}`, `{"url":"https://a","url":"https://b"}`, `{"URL":"https://a"}`} {
		var c config
		if err := provider.Decode(json.RawMessage(raw), &c); !errors.Is(err, slipway.Invalid) {
			t.Errorf("%s: got %v, want invalid", raw, err)
		}
	}
	var none struct{}
	if err := provider.Decode(nil, &none); err != nil {
		t.Errorf("no config at all for a kind that needs none: %v", err)
	}
}

func TestAnAnswerOfTinyValuesIsRefusedBeforeItTakesMemory(t *testing.T) {
	t.Parallel()
	repeat := func(text string, n int) string { return strings.Repeat(text, n) }
	for name, tt := range map[string]struct {
		body string
		want slipway.Code
	}{
		"a page as it is":            {`{"items":[` + repeat(`{"id":1,"text":"a, b, [c] and {d}"},`, 5000) + `{"id":2}]}`, ""},
		"commas in texts":            {`{"items":[{"id":1,"text":"` + repeat(`\",[{`, 300_000) + `"}]}`, ""},
		"empty objects":              {`{"items":[` + repeat(`{},`, 300_000) + `{}]}`, slipway.TooLarge},
		"numbers":                    {`{"items":[` + repeat(`0,`, 300_000) + `0]}`, slipway.TooLarge},
		"lists of lists":             {`{"more":[` + repeat(`[0,0,0,0],`, 70_000) + `0]}`, slipway.TooLarge},
		"members":                    {`{"more":{` + repeat(`"a":0,`, 1_100_000) + `"a":0}}`, slipway.TooLarge},
		"as deep as it can be":       {`{"more":` + repeat(`[`, 500_000) + repeat(`]`, 500_000) + `}`, slipway.TooLarge},
		"lists that nobody asks for": {`{"other":[` + repeat(`{},`, 300_000) + `{}]}`, slipway.TooLarge},
	} {
		var out struct {
			Items []struct {
				ID   int
				Text string
			}
			More any
		}
		err := provider.Unmarshal([]byte(tt.body), &out)
		if got := slipway.CodeOf(err); err == nil && tt.want != "" || err != nil && got != tt.want {
			t.Errorf("%s: got %v, want %q", name, err, tt.want)
		}
	}
}
