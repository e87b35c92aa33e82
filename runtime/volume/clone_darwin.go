package volume

import (
	"io"
	"os"
)

// cloneSparse makes to a copy of from's size bytes, holes kept.
func cloneSparse(to, from *os.File, size int64) error {
	_, err := writeSparse(to, io.NewSectionReader(from, 0, size))
	return err
}
