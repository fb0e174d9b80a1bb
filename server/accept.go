package server

import (
	"strconv"
	"strings"
)

// wantsHTML says whether an Accept header prefers a page to JSON, as that of a browser does that opens an address: text/html is named, and its weight is above that of
// application/json. Programs that take anything, or both alike, get JSON. Weights and precedence are those of RFC 9110 section 12.5.1.
func wantsHTML(accept string) bool {
	html, json := weight{}, weight{}
	for part := range strings.SplitSeq(accept, ",") {
		media, parameters, _ := strings.Cut(part, ";")
		q, ok := quality(parameters)
		if !ok {
			continue
		}
		switch strings.ToLower(strings.TrimSpace(media)) {
		case "text/html":
			html.take(3, q)
		case "text/*":
			html.take(2, q)
		case "application/json":
			json.take(3, q)
		case "application/*":
			json.take(2, q)
		case "*/*":
			json.take(1, q) // of HTML only what is named counts
		}
	}
	return html.q > json.q
}

// weight is the weight of a type, by the most specific range that names it.
type weight struct {
	specific int
	q        float64
}

func (w *weight) take(specific int, q float64) {
	if specific > w.specific || specific == w.specific && q > w.q {
		w.specific, w.q = specific, q
	}
}

// quality reads the q of a media range: 1 when there is none, not ok when it is no weight.
func quality(parameters string) (q float64, ok bool) {
	for parameter := range strings.SplitSeq(parameters, ";") {
		name, value, _ := strings.Cut(strings.TrimSpace(parameter), "=")
		if !strings.EqualFold(strings.TrimSpace(name), "q") {
			continue
		}
		q, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
		return q, err == nil && q >= 0 && q <= 1
	}
	return 1, true
}
