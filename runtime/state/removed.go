package state

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/go-multierror"
)

// Removed is what is left of a removed replica, whose log is kept for a while.
type Removed struct {
	ID      string    `json:"id"`
	Name    string    `json:"name"`
	Project string    `json:"project"`
	Service string    `json:"service"`
	Number  int       `json:"number"`
	At      time.Time `json:"at"` // when it was removed
}

const removedFile = "removed.json"

func (s *Store) removedDir(id string) string { return filepath.Join(s.dir, "removed", id) }

// RemovedLogPath is the current log file of a removed replica.
func (s *Store) RemovedLogPath(id string) string { return filepath.Join(s.removedDir(id), logFile) }

// Removed returns the removed replicas of a project, the first removed first.
func (s *Store) Removed(project string) ([]*Removed, error) {
	all, err := s.removed()
	return slices.DeleteFunc(all, func(r *Removed) bool { return r.Project != project }), err
}

func (s *Store) removed() ([]*Removed, error) {
	return list(filepath.Join(s.dir, "removed"), within(removedFile), func(a, b *Removed) int {
		return cmp.Or(a.At.Compare(b.At), cmp.Compare(a.ID, b.ID))
	})
}

// KeepLog takes the log of a replica that is being removed out of its directory.
// An empty log is not kept. A call that was interrupted may be repeated.
func (s *Store) KeepLog(r *Replica, at time.Time) error {
	if !ValidID(r.ID) {
		return fmt.Errorf("keeping the log of replica %q: not an id", r.ID)
	}
	names, err := logFiles(s.ReplicaDir(r.ID))
	if err != nil || len(names) == 0 {
		return err
	}
	// The record first: a directory without one is swept away.
	rec := Removed{ID: r.ID, Name: r.Name, Project: r.Project, Service: r.Service, Number: r.Number, At: at}
	if err := s.put(filepath.Join(s.removedDir(r.ID), removedFile), rec); err != nil {
		return err
	}
	for _, name := range names {
		if err := os.Rename(filepath.Join(s.ReplicaDir(r.ID), name), filepath.Join(s.removedDir(r.ID), name)); err != nil {
			return fmt.Errorf("keeping the log of %s: %w", r.Name, err)
		}
	}
	return nil
}

// logFiles names the files of a log in dir that are not empty, the oldest first.
func logFiles(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
		return nil, err
	}
	age := map[string]int{}
	var names []string
	for _, e := range entries {
		n := 0
		if suffix, ok := strings.CutPrefix(e.Name(), logFile+"."); ok {
			if n, err = strconv.Atoi(suffix); err != nil {
				continue
			}
		} else if e.Name() != logFile {
			continue
		}
		if info, err := e.Info(); err != nil || info.Size() == 0 {
			continue
		}
		age[e.Name()] = n
		names = append(names, e.Name())
	}
	slices.SortFunc(names, func(a, b string) int { return age[b] - age[a] })
	return names, nil
}

// PruneLogs removes files of the logs of removed replicas, the oldest first,
// until the rest take at most budget bytes. Only one call may run at a time.
func (s *Store) PruneLogs(budget int64) error {
	removed, err := s.removed()
	if err != nil {
		return err
	}
	type file struct {
		dir, name string
		bytes     int64
	}
	var files []file
	var total int64
	for _, r := range removed {
		dir := s.removedDir(r.ID)
		names, err := logFiles(dir)
		if err != nil {
			return err
		}
		for _, name := range names {
			info, err := os.Lstat(filepath.Join(dir, name))
			if err != nil {
				return err
			}
			files = append(files, file{dir, name, info.Size()})
			total += info.Size()
		}
	}
	var faults *multierror.Error
	for i := 0; i < len(files) && total > budget; i++ {
		f := files[i]
		total -= f.bytes
		if i+1 == len(files) || files[i+1].dir != f.dir { // its last
			faults = multierror.Append(faults, removeDir(f.dir, removedFile))
			continue
		}
		faults = multierror.Append(faults, removeFile(filepath.Join(f.dir, f.name)))
	}
	return faults.ErrorOrNil()
}
