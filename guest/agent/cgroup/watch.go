//go:build linux

package cgroup

import (
	"encoding/binary"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// Watcher tells when groups' memory.events change.
type Watcher struct {
	inotify *os.File
	done    chan struct{}

	mu      sync.Mutex
	watched map[uint32]func() // by watch descriptor
}

// NewWatcher starts watching.
func NewWatcher() (*Watcher, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("watching for memory events: %w", err)
	}
	w := &Watcher{
		inotify: os.NewFile(uintptr(fd), "inotify"),
		done:    make(chan struct{}),
		watched: make(map[uint32]func()),
	}
	go w.run()
	return w, nil
}

// Close ends the watching; no function is called after it returns.
func (w *Watcher) Close() {
	w.inotify.Close()
	<-w.done
}

// Watch calls changed, one call at a time, whenever the kernel counts another
// memory event in g. The watch ends when the group is removed.
func (w *Watcher) Watch(g *Group, changed func()) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	var wd int
	var err error
	raw, rawErr := w.inotify.SyscallConn()
	if rawErr != nil {
		return rawErr
	}
	if rawErr := raw.Control(func(fd uintptr) {
		wd, err = unix.InotifyAddWatch(int(fd), g.Dir+"/memory.events", unix.IN_MODIFY)
	}); rawErr != nil {
		return rawErr
	}
	if err != nil {
		return fmt.Errorf("watching for memory events: %w", err)
	}
	w.watched[uint32(wd)] = changed
	return nil
}

func (w *Watcher) run() {
	defer close(w.done)
	buf := make([]byte, 16*unix.SizeofInotifyEvent)
	for {
		n, err := w.inotify.Read(buf)
		if err != nil {
			return
		}
		for b := buf[:n]; len(b) >= unix.SizeofInotifyEvent; {
			wd, mask := binary.NativeEndian.Uint32(b), binary.NativeEndian.Uint32(b[4:])
			name := binary.NativeEndian.Uint32(b[12:])
			b = b[min(unix.SizeofInotifyEvent+int(name), len(b)):]
			w.mu.Lock()
			changed := w.watched[wd]
			if mask&unix.IN_IGNORED != 0 {
				delete(w.watched, wd)
				changed = nil
			}
			w.mu.Unlock()
			if changed != nil {
				changed()
			}
		}
	}
}
