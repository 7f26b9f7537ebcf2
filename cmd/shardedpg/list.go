package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/jedib0t/go-pretty/v6/text"
)

// list prints what is read in pages: as one table, or as one JSON document with one thing on a line. It holds one page,
// however many there are.
type list struct {
	a      *app
	out    *bufio.Writer
	name   string // of the list in JSON
	header []string
	rows   [][]string
	widths []int // of the columns so far
	begun  bool
	err    error
}

func (a *app) list(name string, header ...string) *list {
	return &list{a: a, out: bufio.NewWriter(a.out), name: name, header: header, widths: make([]int, len(header))}
}

// add prints one thing: value in JSON, cells in a table.
func (l *list) add(value any, cells ...string) {
	if !l.a.json {
		l.rows = append(l.rows, cells)
		return
	}
	separator := ",\n    "
	if !l.begun {
		separator = fmt.Sprintf("{\n  %q: [\n    ", l.name)
		l.begun = true
	}
	encoded, err := encode(value)
	if err != nil {
		l.err = errors.Join(l.err, err)
		return
	}
	_, _ = l.out.WriteString(separator + encoded) // Flush says why not
}

// flush ends a page.
func (l *list) flush() error {
	if !l.a.json {
		l.page()
	}
	return errors.Join(l.err, l.out.Flush())
}

// page prints the rows of a page below those of the pages before, in columns that only ever get wider.
func (l *list) page() {
	rows := l.rows
	if !l.begun {
		rows = append([][]string{l.header}, rows...)
	}
	for _, row := range rows {
		for i, cell := range row {
			l.widths[i] = max(l.widths[i], text.StringWidth(clean(cell)))
		}
	}
	for n, row := range rows {
		var line strings.Builder
		for i, cell := range row {
			shown := l.a.cell(cell)
			if n == 0 && !l.begun {
				shown = l.a.paint(cell, text.Bold)
			}
			line.WriteString(text.Pad(shown, l.widths[i]+2, ' '))
		}
		_, _ = l.out.WriteString(strings.TrimRight(line.String(), " ") + "\n")
	}
	l.begun, l.rows = true, l.rows[:0]
}

// end prints what is left. next is where the next page begins, if it was not asked for.
func (l *list) end(next string) error {
	if l.a.json {
		closing := "\n  ]"
		if !l.begun {
			closing = fmt.Sprintf("{\n  %q: []", l.name)
		}
		if next != "" {
			encoded, err := encode(next)
			l.err = errors.Join(l.err, err)
			closing += ",\n  \"next\": " + encoded
		}
		_, _ = l.out.WriteString(closing + "\n}\n")
	}
	return l.flush()
}

// abandon prints what there is after a failure. A document that ends early is no JSON.
func (l *list) abandon() error {
	if l.begun || len(l.rows) > 0 {
		return l.flush()
	}
	return nil
}

// encode writes a value as JSON on one line.
func encode(value any) (string, error) {
	var b strings.Builder
	out := json.NewEncoder(&b)
	out.SetEscapeHTML(false)
	err := out.Encode(value)
	return strings.TrimSuffix(b.String(), "\n"), err
}
