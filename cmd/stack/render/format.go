package render

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/docker/cli/templates"
)

// Layout says how rows of one kind look.
type Layout struct {
	Table   string            // template of the default table, columns separated by tabs
	Raw     string            // template of --format raw; empty: there is none
	Headers map[string]string // of the fields that a table may show
	Width   int               // least width of a column; 0: 10, as docker has it
	Padding int               // between columns; 0: 3
}

// Rows writes rows in one of docker's formats: "table" (or nothing), "table
// TEMPLATE", "json" (an object per line), or a Go template, which is applied to
// each row. A template has docker's functions.
func Rows[T any](w io.Writer, format string, l Layout, rows []T) error {
	columns, table := strings.CutPrefix(format, "table")
	switch {
	case format == "json":
		return Lines(w, rows)
	case format == "raw" && l.Raw != "":
		columns = l.Raw
	case format == "", table && columns == "":
		columns, table = l.Table, true
	}
	columns = strings.NewReplacer(`\t`, "\t", `\n`, "\n").Replace(strings.Trim(columns, " "))
	t, err := templates.Parse(columns)
	if err != nil {
		return fmt.Errorf("--format: %w", err)
	}
	var out bytes.Buffer
	if table {
		head, err := t.Clone()
		if err == nil {
			err = head.Funcs(templates.HeaderFunctions).Execute(&out, headers(l.Headers))
		}
		if err != nil {
			return fmt.Errorf("--format: %w", err)
		}
		out.WriteByte('\n')
	}
	for _, row := range rows {
		if err := t.Execute(&out, row); err != nil {
			return fmt.Errorf("--format: %w", err)
		}
		out.WriteByte('\n')
	}
	if !table {
		_, err = out.WriteTo(w)
		return err
	}
	width, padding := l.Width, l.Padding
	if width == 0 {
		width = 10
	}
	if padding == 0 {
		padding = 3
	}
	tw := tabwriter.NewWriter(w, width, 1, padding, ' ', 0)
	if _, err := out.WriteTo(tw); err != nil {
		return err
	}
	return tw.Flush()
}

// Lines writes a JSON object per line.
func Lines[T any](w io.Writer, rows []T) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	for _, row := range rows {
		if err := enc.Encode(row); err != nil {
			return err
		}
	}
	return nil
}

// Template writes values through a Go template with docker's functions, a line
// each.
func Template[T any](w io.Writer, text string, values []T) error {
	t, err := templates.Parse(text)
	if err != nil {
		return fmt.Errorf("--format: %w", err)
	}
	for _, v := range values {
		var out bytes.Buffer
		if err := t.Execute(&out, v); err != nil {
			return fmt.Errorf("--format: %w", err)
		}
		out.WriteByte('\n')
		if _, err := out.WriteTo(w); err != nil {
			return err
		}
	}
	return nil
}

// headers stands in for a row where a table's header is made.
type headers map[string]string

// Label names the column of a label.
func (headers) Label(name string) string {
	return strings.NewReplacer("-", " ", "_", " ").Replace(name[strings.LastIndex(name, ".")+1:])
}
