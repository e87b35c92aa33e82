package render

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
)

// Table writes rows under a header, columns aligned with three spaces between
// them, as docker prints tables.
func Table(w io.Writer, header []string, rows [][]string) error {
	return Columns(w, 10, 3, header, rows)
}

// Columns is Table with columns of at least width characters, padding between
// them included.
func Columns(w io.Writer, width, padding int, header []string, rows [][]string) error {
	tw := tabwriter.NewWriter(w, width, 1, padding, ' ', 0)
	fmt.Fprintln(tw, strings.Join(header, "\t"))
	for _, row := range rows {
		for i, cell := range row { // a tab or newline in a cell would break the columns
			row[i] = strings.NewReplacer("\t", " ", "\n", " ").Replace(cell)
		}
		fmt.Fprintln(tw, strings.Join(row, "\t"))
	}
	return tw.Flush()
}
