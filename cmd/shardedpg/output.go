package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
)

// results is where a command's results go. It remembers that they went nowhere: half of them is no result, and a disk that is full
// must not look like an empty list.
type results struct {
	to  io.Writer
	err error
}

func (r *results) Write(some []byte) (n int, err error) {
	if r.err == nil {
		n, r.err = r.to.Write(some)
	}
	return n, r.err
}

// lost returns why results went nowhere.
func (a *app) lost() error {
	if r, ok := a.out.(*results); ok {
		return r.err
	}
	return nil
}

// show prints value as JSON, or what human prints.
func (a *app) show(value any, human func()) error {
	if !a.json {
		human()
		return a.lost()
	}
	out := json.NewEncoder(a.out)
	out.SetIndent("", "  ")
	out.SetEscapeHTML(false)
	return out.Encode(value)
}

// say prints one line of a result.
func (a *app) say(format string, args ...any) {
	fmt.Fprintln(a.out, clean(speak(fmt.Sprintf(format, args...))))
}

// note prints one line beside a result.
func (a *app) note(format string, args ...any) {
	fmt.Fprintln(a.notes, clean(speak(fmt.Sprintf(format, args...))))
}

// table prints rows below a header: plain columns that awk can read, coloured on a terminal.
func (a *app) table(header []string, rows [][]string) {
	w := a.newTable()
	names := make(table.Row, len(header))
	for i, name := range header {
		names[i] = a.paint(name, text.Bold)
	}
	w.AppendHeader(names)
	for _, row := range rows {
		cells := make(table.Row, len(row))
		for i, cell := range row {
			cells[i] = a.cell(cell)
		}
		w.AppendRow(cells)
	}
	fmt.Fprintln(a.out, w.Render())
}

// fields prints names and values of one thing, and leaves out those that are empty.
func (a *app) fields(pairs ...string) {
	w := a.newTable()
	for pair := range slices.Chunk(pairs, 2) {
		if pair[1] != "" {
			w.AppendRow(table.Row{a.paint(pair[0], text.Bold), a.cell(pair[1])})
		}
	}
	fmt.Fprintln(a.out, w.Render())
}

func (a *app) newTable() table.Writer {
	w := table.NewWriter()
	style := table.StyleDefault
	style.Options = table.OptionsNoBordersAndSeparators
	style.Box.PaddingLeft, style.Box.PaddingRight = "", "  "
	style.Format = table.FormatOptions{}
	w.SetStyle(style)
	w.SuppressTrailingSpaces()
	return w
}

// cell colours what an operator should notice.
func (a *app) cell(value string) string {
	value = clean(value)
	switch value {
	case "":
		return "-"
	case "active", "open", "ok", "held":
		return a.paint(value, text.FgGreen)
	case "readonly", "full", "draining", "provisioning", "moving", "medium", "not tried", "known":
		return a.paint(value, text.FgYellow)
	case "disabled", "deleting", "problem", "unreachable", "removed", "critical", "high", "broken":
		return a.paint(value, text.FgRed)
	}
	return value
}

func (a *app) paint(value string, color text.Color) string {
	if !a.color {
		return value
	}
	return color.EscapeSeq() + value + text.EscapeReset
}

// clean keeps what others stored from steering the terminal.
func clean(value string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) && r != '\n' {
			return '?'
		}
		return r
	}, value)
}

// word writes a tenant's ID as a word of a shell, for a command that is there to be pasted: customers may choose IDs, and
// $(reboot) is one. Quotes are not allowed in them.
func word(id string) string {
	if strings.ContainsFunc(id, func(r rune) bool {
		return !unicode.IsLetter(r) && !unicode.IsDigit(r) && !strings.ContainsRune("-._:@/+", r)
	}) {
		return "'" + id + "'"
	}
	return id
}

func when(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format("2006-01-02 15:04:05Z")
}

func pairs(labels map[string]string) string {
	var all []string
	for _, name := range slices.Sorted(maps.Keys(labels)) {
		all = append(all, name+"="+labels[name])
	}
	return strings.Join(all, ",")
}

// count writes "1 tenant" and "2 tenants".
func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
