package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// cache is a directory of results: subdirectories named KIND-DIGEST, each
// complete or absent, whatever was killed meanwhile and whoever else builds.
type cache struct {
	root string
	log  io.Writer // told when another build is waited for
}

// once returns the subdirectory name, which fill makes if it is not there yet.
// fill gets an empty directory that becomes the result by a rename; of several
// processes that want one result a single one runs fill, the others wait for it.
func (c cache) once(ctx context.Context, name string, fill func(dir string) error) (string, error) {
	dir := filepath.Join(c.root, name)
	if found(dir) {
		return dir, nil
	}
	unlock, err := c.lock(ctx, name)
	if err != nil {
		return "", err
	}
	defer unlock()
	if found(dir) {
		return dir, nil
	}
	work := filepath.Join(c.root, name+".work")
	if err := os.RemoveAll(work); err != nil { // left by a build that was killed
		return "", err
	}
	if err := os.Mkdir(work, 0o755); err != nil {
		return "", err
	}
	err = fill(work)
	if err == nil {
		err = os.Rename(work, dir)
	}
	if err != nil {
		return "", errors.Join(err, os.RemoveAll(work))
	}
	return dir, nil
}

// found reports whether dir is there, and marks it as used for prune.
func found(dir string) bool {
	now := time.Now()
	return os.Chtimes(dir, now, now) == nil
}

// lock takes the lock of a name; the kernel frees it when its holder dies.
func (c cache) lock(ctx context.Context, name string) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(c.root, name+".lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		fmt.Fprintf(c.log, "waiting for another build of %.20s\n", name)
		taken := make(chan error, 1)
		go func() { taken <- flock(f) }() // ends with the lock, or with the process
		select {
		case err = <-taken:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("locking %s: %w", f.Name(), err)
	}
	return func() { f.Close() }, nil
}

func flock(f *os.File) error {
	for {
		if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); !errors.Is(err, syscall.EINTR) {
			return err
		}
	}
}

// point makes the symlink name lead to dir, at every moment to the old or to
// the new one.
func (c cache) point(name, dir string) error {
	next := filepath.Join(c.root, fmt.Sprintf("%s.%d", name, os.Getpid()))
	if err := os.Remove(next); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Symlink(filepath.Base(dir), next); err != nil {
		return err
	}
	return os.Rename(next, filepath.Join(c.root, name))
}

// How many results of a kind stay, and how long one stays at least: a stack that
// runs on an older guest restarts its machines from it.
const (
	keepResults = 8
	keepFor     = 7 * 24 * time.Hour
)

// prune removes, of each kind, what was not among the last used for a while.
func (c cache) prune() error {
	entries, err := os.ReadDir(c.root)
	if err != nil {
		return err
	}
	kinds := map[string][]fs.FileInfo{}
	for _, e := range entries {
		kind, _, ok := strings.Cut(e.Name(), "-")
		if !ok || !e.IsDir() || strings.HasSuffix(e.Name(), ".work") {
			continue
		}
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue // another build prunes too
		}
		if err != nil {
			return err
		}
		kinds[kind] = append(kinds[kind], info)
	}
	for _, results := range kinds {
		slices.SortFunc(results, func(a, b fs.FileInfo) int { return b.ModTime().Compare(a.ModTime()) })
		for _, old := range results[min(keepResults, len(results)):] {
			if time.Since(old.ModTime()) < keepFor {
				continue
			}
			// The lock file stays: removing it could part two who wait for one name.
			if err := os.RemoveAll(filepath.Join(c.root, old.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}
