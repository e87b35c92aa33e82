package supervisor

import (
	"fmt"
	"os"
	"slices"
	"syscall"

	"github.com/stackvm/stack/runtime/api"
	"github.com/stackvm/stack/runtime/state"
	"github.com/stackvm/stack/spec"
)

// OwnCheckout refuses a project that has its name from its directory's when that
// name is recorded of another directory, which still holds a compose file: two
// checkouts whose directories are called the same would otherwise take each
// other's containers for their own. A name that was chosen never collides, and a
// directory may be moved, or reached through a link. The error is an *api.Error.
func OwnCheckout(files *state.Store, p *spec.Project) error {
	if p.NameFrom != spec.NameFromDirectory {
		return nil
	}
	rec, err := files.Project(p.Name)
	if notExist(err) || err == nil && (rec.WorkingDir == p.WorkingDir || rec.NameFrom != spec.NameFromDirectory) {
		return nil
	}
	if err != nil {
		return err
	}
	was, err := os.Stat(rec.WorkingDir)
	if err != nil || !was.IsDir() {
		return nil //nolint:nilerr // moved, or removed
	}
	now, err := os.Stat(p.WorkingDir)
	if err == nil && (os.SameFile(was, now) || rec.DirInode != 0 && inode(now) == rec.DirInode) {
		return nil // a link to it; or it was moved here, and another stands in its place
	}
	if !slices.ContainsFunc(rec.Files, func(f string) bool { _, err := os.Stat(f); return err == nil }) {
		return nil
	}
	return &api.Error{
		Code:    api.CodeRefused,
		Message: fmt.Sprintf("project %q, which has its name from its directory's, is that of %s and not of %s", p.Name, rec.WorkingDir, p.WorkingDir),
		Hint:    "give one of them a name of its own, with -p NAME or name: in its compose file, or take that project over with --adopt",
	}
}

// inode is a file's number on its file system, 0 if it has none.
func inode(info os.FileInfo) uint64 {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return st.Ino
	}
	return 0
}
