package logs

import (
	"fmt"
	"strconv"

	"github.com/docker/go-units"
)

// Rotation bounds what a replica's log takes on disk.
type Rotation struct {
	MaxBytes int64 // of one file; 0: no bound
	MaxFiles int   // the current one included, at least 1
}

// Default is the rotation of a service that says nothing.
var Default = Rotation{MaxBytes: 100 << 20, MaxFiles: 3}

// maxFiles bounds max-file: each file is one more to open when reading.
const maxFiles = 1000

// With is r with the max-size and max-file options of the json-file and local
// drivers that are there.
func (r Rotation) With(options map[string]string) (Rotation, error) {
	if s, ok := options["max-size"]; ok {
		if s == "-1" {
			r.MaxBytes = 0
		} else {
			n, err := units.RAMInBytes(s)
			if err != nil || n <= 0 {
				return r, fmt.Errorf("logging option max-size %q: want a size such as 10m", s)
			}
			r.MaxBytes = n
		}
	}
	if s, ok := options["max-file"]; ok {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 || n > maxFiles {
			return r, fmt.Errorf("logging option max-file %q: want a number from 1 to %d", s, maxFiles)
		}
		r.MaxFiles = n
	}
	return r, nil
}
