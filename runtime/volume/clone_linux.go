package volume

import (
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// cloneSparse makes to a copy of from's size bytes: by reference where the file
// system can, otherwise data only, holes kept.
func cloneSparse(to, from *os.File, size int64) error {
	if err := unix.IoctlFileClone(int(to.Fd()), int(from.Fd())); err == nil {
		return nil
	}
	for at := int64(0); at < size; {
		data, err := from.Seek(at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return nil // only a hole is left
		}
		if err != nil {
			return err
		}
		end, err := from.Seek(data, unix.SEEK_HOLE)
		if err != nil {
			return err
		}
		if _, err := from.Seek(data, io.SeekStart); err != nil {
			return err
		}
		if _, err := to.Seek(data, io.SeekStart); err != nil {
			return err
		}
		if _, err := io.CopyN(to, from, end-data); err != nil { // copy_file_range inside
			return err
		}
		at = end
	}
	return nil
}
