package server

import "testing"

func TestOnlyWhoPrefersPagesGetsThem(t *testing.T) {
	t.Parallel()
	for accept, want := range map[string]bool{
		"text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8":                       true, // Firefox
		"text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8": true,
		"text/html;q=0.9, application/json;q=0.8":                                               true,
		"Text/HTML":                            true,
		"text/*":                               true,
		"text/html, application/json;q=0":      true,
		"text/html;level=1;q=0.5, */*;q=0.1":   true,
		"":                                     false,
		"*/*":                                  false, // curl
		"application/json":                     false,
		"application/json, text/plain, */*":    false, // axios
		"text/html, application/json":          false, // alike
		"text/html, */*":                       false,
		"text/html;q=0.5, */*":                 false,
		"text/html;q=0, */*;q=0":               false,
		"text/html;q=0.4, application/*;q=0.5": false,
		"text/html;q=2":                        false,
		"text/html;q=nan":                      false,
		"text/html;q=":                         false,
		"text/event-stream":                    false,
		"text/plain":                           false,
		"application/json;q=0.1, text/*;q=0, text/html;q=0.05, */*;q=1": false,
		"application/json;q=0.1, text/*;q=0, text/html;q=0.5, */*;q=1":  true, // the more specific counts
	} {
		if got := wantsHTML(accept); got != want {
			t.Errorf("%q: a page %v, want %v", accept, got, want)
		}
	}
}

func FuzzAccept(f *testing.F) {
	f.Add("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8")
	f.Add("text/html;q=NaN, */*;q=1e400")
	f.Fuzz(func(t *testing.T, accept string) {
		if wantsHTML(accept) && wantsHTML(accept+",application/json;q=1") {
			t.Errorf("%q: JSON at full weight does not win", accept)
		}
	})
}
