package command

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"unicode"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
	"github.com/mattn/go-isatty"
	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v4"

	"github.com/slipway-platform/slipway/blueprint"
)

// print writes v as the user asked: the table, or v itself as JSON or YAML. A json.RawMessage is written with
// its keys in the order in which the API gave them.
func (a *app) print(cmd *cobra.Command, v any, t blueprint.Table) error {
	out := cmd.OutOrStdout()
	switch a.format {
	case "json":
		return printJSON(out, v)
	case "yaml":
		return printYAML(out, v)
	}
	return printTable(out, t)
}

func printJSON(out io.Writer, v any) error {
	e := json.NewEncoder(out)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// printYAML goes through JSON, which is YAML too: so the keys are the API's, in their order.
func printYAML(out io.Writer, v any) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return err
	}
	var doc yaml.Node
	if err := yaml.Load(raw, &doc); err != nil {
		return err
	}
	plain(&doc)
	b, err := yaml.Dump(&doc, yaml.WithIndent(2))
	if err != nil {
		return err
	}
	_, err = out.Write(b)
	return err
}

// plain takes the look of JSON from a document.
func plain(n *yaml.Node) {
	n.Style = 0
	for _, c := range n.Content {
		plain(c)
	}
}

// tones are the colours of words that say how something stands.
var tones = map[string]text.Color{
	"succeeded": text.FgGreen, "completed": text.FgGreen, "fresh": text.FgGreen, "ok": text.FgGreen,
	"failed": text.FgRed, "discarded": text.FgRed, "error": text.FgRed, "revoked": text.FgRed, "expired": text.FgRed,
	"running": text.FgCyan, "starting": text.FgCyan, "retrying": text.FgYellow, "stale": text.FgYellow,
	"canceled": text.Faint, "skipped": text.Faint, "unknown": text.Faint, "paused": text.FgYellow,
}

// printTable writes columns without lines around them, so that other programs can cut them too. On a terminal no row
// is longer than a line, and words of state are coloured.
func printTable(out io.Writer, t blueprint.Table) error {
	colored := colors(out)
	w := table.NewWriter()
	style := table.StyleDefault
	style.Options = table.OptionsNoBordersAndSeparators
	style.Box.PaddingLeft, style.Box.PaddingRight = "", "  "
	style.Format.Header = text.FormatUpper
	w.SetStyle(style)
	w.SuppressTrailingSpaces()
	if width := terminalWidth(out); width > 0 {
		w.Style().Size.WidthMax = width
	}
	if len(t.Header) > 0 {
		w.AppendHeader(row(t.Header, false))
	}
	for _, r := range t.Rows {
		w.AppendRow(row(r, colored))
	}
	var b strings.Builder
	if len(t.Rows) > 0 {
		b.WriteString(w.Render() + "\n")
	}
	if t.Footer != "" {
		b.WriteString(clean(t.Footer, "\n") + "\n")
	}
	_, err := io.WriteString(out, b.String())
	return err
}

func row(cells []string, colored bool) table.Row {
	r := make(table.Row, len(cells))
	for i, cell := range cells {
		cell = clean(cell, "")
		if tone, ok := tones[cell]; ok && colored {
			cell = tone.Sprint(cell)
		}
		r[i] = cell
	}
	return r
}

// clean takes control characters out of what others wrote: a commit message must not command the terminal, nor turn around what stands beside it.
func clean(s, keep string) string {
	return strings.Map(func(r rune) rune {
		if (unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r)) && !strings.ContainsRune(keep, r) {
			return ' '
		}
		return r
	}, s)
}

// terminal is out's file when a person sees it.
func terminal(out io.Writer) (*os.File, bool) {
	f, ok := out.(*os.File)
	return f, ok && isatty.IsTerminal(f.Fd()) && os.Getenv("TERM") != "dumb"
}

// colors says whether colours may be used: on a terminal, and not where NO_COLOR is set.
func colors(out io.Writer) bool {
	_, ok := terminal(out)
	return ok && os.Getenv("NO_COLOR") == ""
}

// say writes a line for people to standard error, which leaves standard output to the answer.
func say(cmd *cobra.Command, format string, args ...any) {
	fmt.Fprintf(cmd.ErrOrStderr(), format+"\n", args...)
}
