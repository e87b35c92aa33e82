//go:build linux

package share

import (
	"fmt"
	"path"

	"github.com/stackvm/stack/guest/agent/inroot"
	"github.com/stackvm/stack/guest/wire"
	"golang.org/x/sys/unix"
)

// Changed raises inotify events for files of a share that the host changed. The
// kernel raises them for changes made through it only, so the file gets the mode
// it has once more; what is no longer there has its directory do the same.
// Containers that watch see IN_ATTRIB.
func (c *Client) Changed(name string, paths []string) error {
	dir, ok := c.Dir(name)
	if !ok {
		return &wire.Error{Code: wire.CodeNotFound, Message: fmt.Sprintf("share %q is not mounted", name)}
	}
	root, err := inroot.Open(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	for _, p := range paths {
		for p = path.Clean("/" + p); !touch(root, p) && p != "/"; {
			p = path.Dir(p)
		}
	}
	return nil
}

func touch(root *inroot.Root, name string) bool {
	f, err := root.Open(name, unix.O_PATH|unix.O_NOFOLLOW, 0)
	if err != nil {
		return false
	}
	defer f.Close()
	var st unix.Stat_t
	if unix.Fstat(int(f.Fd()), &st) != nil || st.Mode&unix.S_IFMT == unix.S_IFLNK {
		return false
	}
	return unix.Chmod(inroot.Path(f), st.Mode&0o7777) == nil
}
