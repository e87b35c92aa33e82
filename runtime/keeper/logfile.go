package keeper

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
)

// maxLog is how large the log of keeper and supervisor gets before the next one
// is begun; the one before is kept.
const maxLog = 8 << 20

// LogFile is the log of keeper and supervisor, two files of bounded size. It may
// be written to concurrently.
type LogFile struct {
	path string

	mu   sync.Mutex
	f    *os.File
	size int64
}

// OpenLog opens the log in the state directory for the supervisor, which writes
// most of it.
func OpenLog(stateDir string) (*LogFile, error) {
	l := &LogFile{path: filepath.Join(stateDir, LogName)}
	if err := l.open(); err != nil {
		return nil, fmt.Errorf("opening the log: %w", err)
	}
	return l, nil
}

func (l *LogFile) open() error {
	f, err := os.OpenFile(l.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return err
	}
	l.f, l.size = f, info.Size()
	return nil
}

// Write implements io.Writer.
func (l *LogFile) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.size > 0 && l.size+int64(len(b)) > maxLog {
		old := l.f
		err := os.Rename(l.path, l.path+".1")
		if err == nil {
			err = l.open()
		}
		if err == nil {
			old.Close()
		} else {
			l.size = 0 // written to the old one all the same, and tried again later
		}
	}
	n, err := l.f.Write(b)
	l.size += int64(n)
	return n, err
}

// Close closes the file.
func (l *LogFile) Close() error { return l.f.Close() }
