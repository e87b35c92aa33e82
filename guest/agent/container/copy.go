//go:build linux

package container

import (
	"errors"
	"fmt"
	"io"

	"github.com/stackvm/stack/guest/agent/archive"
	"github.com/stackvm/stack/guest/wire"
)

// Stat describes a path of the container.
func (c *Container) Stat(a *wire.Archive) (*wire.ArchiveStat, error) {
	stat, err := archive.Stat(c.root, a.Path, a.FollowLink)
	return stat, c.inContainer(err)
}

// Get writes a path of the container to w as a tar, after ready.
func (c *Container) Get(a *wire.Archive, ready func(*wire.ArchiveStat) error, w io.Writer) error {
	if a.Whole {
		return c.inContainer(archive.Whole(c.root, ready, w))
	}
	return c.inContainer(archive.Get(c.root, a.Path, a.FollowLink, ready, w))
}

// CanPut reports why nothing can be put into a directory of the container.
func (c *Container) CanPut(a *wire.Archive) error {
	dev, err := archive.Directory(c.root, a.Path)
	if err != nil {
		return c.inContainer(err)
	}
	root, err := c.root.Stat("/")
	if err != nil {
		return err
	}
	if c.spec.ReadOnlyRoot && dev == root.Dev {
		return &wire.Error{Code: wire.CodeConflict, Message: fmt.Sprintf("container %s: its root is read-only", c.spec.Name)}
	}
	return nil
}

// Put unpacks a tar into a directory of the container.
func (c *Container) Put(a *wire.Archive, r io.Reader) error {
	var owner *archive.Owner
	if a.CopyUIDGID && c.spec.User != "" {
		u, err := c.user(c.spec.User)
		if err != nil {
			return err
		}
		owner = &archive.Owner{UID: u.Uid, GID: u.Gid}
	}
	return archive.Put(c.root, a.Path, owner, r)
}

// inContainer completes docker's words for a path that is not there.
func (c *Container) inContainer(err error) error {
	var coded *wire.Error
	if errors.As(err, &coded) && coded.Code == wire.CodeNotFound {
		return &wire.Error{Code: coded.Code, Message: coded.Message + " in container " + c.spec.Name}
	}
	return err
}
