//go:build unix

package image

import (
	"context"
	"errors"
	"os"
	"syscall"
)

// fileLock is a lock among processes. It ends with the process at the latest.
type fileLock struct{ f *os.File }

func (l *fileLock) unlock() { l.f.Close() }

func openLock(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
}

func flock(f *os.File, how int) error {
	for {
		err := syscall.Flock(int(f.Fd()), how)
		if !errors.Is(err, syscall.EINTR) {
			if err != nil {
				return &os.PathError{Op: "lock", Path: f.Name(), Err: err}
			}
			return nil
		}
	}
}

// lockShared waits for the lock; whoever holds it alone does so briefly.
func lockShared(path string) (*fileLock, error) { return lockNow(path, syscall.LOCK_SH) }

// lockAlone waits for the lock; use it where every holder is brief.
func lockAlone(path string) (*fileLock, error) { return lockNow(path, syscall.LOCK_EX) }

// tryLockAlone returns nil without an error when somebody else has the lock.
func tryLockAlone(path string) (*fileLock, error) {
	l, err := lockNow(path, syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return nil, nil
	}
	return l, err
}

func lockNow(path string, how int) (*fileLock, error) {
	f, err := openLock(path)
	if err != nil {
		return nil, err
	}
	if err := flock(f, how); err != nil {
		f.Close()
		return nil, err
	}
	return &fileLock{f}, nil
}

// lockLong waits for a lock that others may hold for long, until ctx ends.
// Nothing interrupts a wait for a file lock, so a waiter that is given up stays
// behind in its own goroutine until the other process lets go, unlocks at once
// and ends.
func lockLong(ctx context.Context, path string) (*fileLock, error) {
	if l, err := tryLockAlone(path); l != nil || err != nil {
		return l, err
	}
	type result struct {
		l   *fileLock
		err error
	}
	got := make(chan result)
	go func() {
		l, err := lockAlone(path)
		select {
		case got <- result{l, err}:
		case <-ctx.Done():
			if l != nil {
				l.unlock()
			}
		}
	}()
	select {
	case r := <-got:
		return r.l, r.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
