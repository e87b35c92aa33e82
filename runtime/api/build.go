package api

import (
	"debug/elf"
	"os"
	"runtime/debug"
	"sync"
	"time"
)

// Build identifies the binary of one side.
type Build struct {
	ID      string    `json:"id"`   // differs between any two builds
	Time    time.Time `json:"time"` // when the executable was installed
	Version string    `json:"version,omitempty"`
}

// Newer reports whether b should take over from other.
func (b Build) Newer(other Build) bool { return b.ID != other.ID && b.Time.After(other.Time) }

// ThisBuild describes the running executable.
var ThisBuild = sync.OnceValue(func() Build {
	b := Build{}
	if info, ok := debug.ReadBuildInfo(); ok {
		b.Version = info.Main.Version
	}
	// The link, not its target: the file may have been replaced since.
	f, err := os.Open("/proc/self/exe")
	if err != nil {
		path, err2 := os.Executable()
		if err2 != nil {
			return b
		}
		if f, err = os.Open(path); err != nil {
			return b
		}
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil {
		b.Time = info.ModTime().UTC()
		b.ID = b.Time.Format(time.RFC3339Nano)
	}
	// The linker's id changes exactly when the program does; reading it costs two
	// small reads.
	if e, err := elf.NewFile(f); err == nil {
		if s := e.Section(".note.go.buildid"); s != nil {
			if note, err := s.Data(); err == nil && len(note) > 16 {
				b.ID = string(note[16:])
			}
		}
	}
	return b
})
