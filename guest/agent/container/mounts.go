//go:build linux

package container

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"strconv"
	"strings"

	"github.com/stackvm/stack/guest/agent/inroot"
	"github.com/stackvm/stack/guest/agent/launch"
	"github.com/stackvm/stack/guest/agent/mount"
	"github.com/stackvm/stack/guest/wire"
	"golang.org/x/sys/unix"
)

// heldMount is a mount below what only the running container has: the agent
// holds it in its own tree and passes it on at each start.
type heldMount struct {
	dir    string // or a file
	target string
	file   bool
}

// mounts makes the container's mounts in order.
func (c *Container) mounts(ctx context.Context, dir string) error {
	held := 0
	for i := range c.spec.Mounts {
		m := &c.spec.Mounts[i]
		if err := c.mountOne(ctx, m, fmt.Sprintf("%s/mount%d", dir, i), &held); err != nil {
			return fmt.Errorf("mounting on %s: %w", m.Target, err)
		}
	}
	return nil
}

func (c *Container) mountOne(ctx context.Context, m *wire.Mount, hold string, held *int) error {
	source, err := c.source(ctx, m)
	if err != nil {
		return err
	}
	defer source.Close()
	attrs, err := attributes(m)
	if err != nil {
		return err
	}
	kernel := ofKernel(m.Target)
	var on *os.File
	switch {
	case kernel && m.File:
		if err := os.WriteFile(hold, nil, 0o600); err != nil {
			return err
		}
		on, err = os.OpenFile(hold, unix.O_PATH, 0)
	case kernel:
		if err := os.Mkdir(hold, 0o700); err != nil {
			return err
		}
		on, err = os.OpenFile(hold, unix.O_PATH|unix.O_DIRECTORY, 0)
	case m.File:
		on, err = c.root.File(m.Target, 0o644)
	default:
		on, err = c.root.Dir(m.Target, 0o755)
	}
	if err != nil {
		return err
	}
	defer on.Close()
	if fills(m) && !kernel {
		if err := fill(on, source, m.Kind == wire.MountShared); err != nil {
			return fmt.Errorf("filling the volume with the image's files: %w", err)
		}
	}
	if m.Kind == wire.MountTmpfs {
		// It is attached nowhere yet, and so cannot be cloned.
		if err = mount.Attach(source, on); err == nil {
			var keep *os.File
			if keep, err = duplicate(source); err == nil {
				c.volatile = append(c.volatile, keep)
				c.do(keep.Close)
			}
		}
	} else {
		err = mount.Bind(source, on, attrs)
	}
	if err != nil {
		return err
	}
	if kernel {
		c.held = append(c.held, heldMount{dir: hold, target: m.Target, file: m.File})
		c.do(func() error { return unmount(hold) })
	}
	return nil
}

// fills reports whether a mount's first use copies the image's files. What another
// machine serves for reading only cannot be filled.
func fills(m *wire.Mount) bool {
	return !m.NoCopy && (m.Kind == wire.MountVolume || m.Kind == wire.MountShared && !m.ReadOnly)
}

// ofKernel reports whether target lies in a file system that each start makes
// anew.
func ofKernel(target string) bool {
	clean := path.Clean(target)
	for _, dir := range []string{"/dev", "/proc", "/sys"} {
		if clean == dir || strings.HasPrefix(clean, dir+"/") {
			return true
		}
	}
	return false
}

// source opens what is to be mounted.
func (c *Container) source(ctx context.Context, m *wire.Mount) (*os.File, error) {
	switch m.Kind {
	case wire.MountTmpfs:
		return tmpfs(m)
	case wire.MountVolume:
		disk, err := c.set.machine.Disks.Writable(ctx, m.Source, m.Bytes)
		if err != nil {
			return nil, err
		}
		c.do(release(disk))
		return volume(disk.Dir, m)
	case wire.MountShared:
		if c.spec.Storage == nil {
			return nil, &wire.Error{Code: wire.CodeInvalid, Message: "a shared volume, and no storage machine"}
		}
		dir, done, err := c.set.machine.Storage.Mount(ctx, c.spec.Storage, m.Source)
		if err != nil {
			return nil, err
		}
		c.do(done)
		return volume(dir, m)
	case wire.MountSocket:
		return c.socket(m)
	case wire.MountImage:
		disk, err := c.set.machine.Disks.Image(ctx, m.Source)
		if err != nil {
			return nil, err
		}
		c.do(release(disk))
		return below(disk.Dir, m)
	case wire.MountShare:
		dir, done, err := c.set.machine.Shares.Mount(ctx, m.Source)
		if err != nil {
			return nil, err
		}
		c.do(done)
		if m.File { // served as a directory with this one entry
			return below(dir, &wire.Mount{Subpath: "file", File: true})
		}
		return below(dir, m)
	}
	return nil, &wire.Error{Code: wire.CodeInvalid, Message: fmt.Sprintf("mount kind %q: unknown", m.Kind)}
}

// below opens the part of a mounted tree that is asked for.
func below(dir string, m *wire.Mount) (*os.File, error) {
	root, err := inroot.Open(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	flags := unix.O_PATH
	if !m.File {
		flags |= unix.O_DIRECTORY
	}
	return root.Open("/"+m.Subpath, flags, 0)
}

// attributes are what a mount's options make of it.
func attributes(m *wire.Mount) (int, error) {
	attrs := 0
	if m.ReadOnly {
		attrs |= mount.ReadOnly
	}
	for _, o := range m.Options {
		switch o {
		case "ro":
			attrs |= mount.ReadOnly
		case "nosuid":
			attrs |= mount.NoSuid
		case "nodev":
			attrs |= mount.NoDev
		case "noexec":
			attrs |= mount.NoExec
		case "rw":
			attrs &^= mount.ReadOnly
		case "suid":
			attrs &^= mount.NoSuid
		case "dev":
			attrs &^= mount.NoDev
		case "exec":
			attrs &^= mount.NoExec
		case "noatime":
			attrs |= unix.MOUNT_ATTR_NOATIME
		case "nodiratime":
			attrs |= unix.MOUNT_ATTR_NODIRATIME
		case "private", "rprivate", "slave", "rslave", "shared", "rshared", "bind", "rbind", "z", "Z", "cached",
			"delegated", "consistent", "relatime", "async", "nocopy":
			// Propagation reaches no other mount namespace of a machine, and
			// labels and consistency mean nothing here.
		default:
			if key, _, ok := strings.Cut(o, "="); ok && m.Kind == wire.MountTmpfs && tmpfsOptions[key] {
				continue
			}
			return 0, &wire.Error{Code: wire.CodeInvalid, Message: fmt.Sprintf("mount option %q: unknown", o)}
		}
	}
	return attrs, nil
}

var tmpfsOptions = map[string]bool{"size": true, "mode": true, "uid": true, "gid": true, "nr_inodes": true, "nr_blocks": true, "huge": true}

// tmpfs makes a tmpfs, with docker's defaults: nosuid, nodev, noexec, mode 1777.
func tmpfs(m *wire.Mount) (*os.File, error) {
	defaults := *m
	defaults.Options = append([]string{"nosuid", "nodev", "noexec"}, m.Options...)
	attrs, err := attributes(&defaults)
	if err != nil {
		return nil, err
	}
	mode := m.Mode
	if mode == 0 {
		mode = 0o1777
	}
	options := []mount.Option{{Key: "mode", Value: strconv.FormatUint(uint64(mode&0o7777), 8)}}
	if m.Bytes > 0 {
		options = append(options, mount.Option{Key: "size", Value: strconv.FormatInt(m.Bytes, 10)})
	}
	if m.UID != 0 || m.GID != 0 {
		options = append(options, mount.Option{Key: "uid", Value: strconv.Itoa(m.UID)}, mount.Option{Key: "gid", Value: strconv.Itoa(m.GID)})
	}
	for _, o := range m.Options {
		if key, value, ok := strings.Cut(o, "="); ok {
			options = append(options, mount.Option{Key: key, Value: value})
		}
	}
	return mount.New("tmpfs", attrs, options...)
}

// files puts configs and secrets on a tmpfs and mounts each, read-only, at its
// target.
func (c *Container) files(dir string) error {
	if len(c.spec.Files) == 0 {
		return nil
	}
	if err := c.mount("tmpfs", dir, unix.MS_NOSUID|unix.MS_NODEV, "mode=0700"); err != nil {
		return err
	}
	for i := range c.spec.Files {
		f := &c.spec.Files[i]
		if err := c.file(f, fmt.Sprintf("%s/%d", dir, i)); err != nil {
			return fmt.Errorf("file %s: %w", f.Target, err)
		}
		f.Content = nil // it is in the file; the agent's memory need not hold it too
	}
	return nil
}

func (c *Container) file(f *wire.File, source string) error {
	if !strings.HasPrefix(f.Target, "/") {
		return errors.New("target is not absolute")
	}
	name := f.UID
	if name == "" {
		name = "0"
	}
	if f.GID != "" {
		name += ":" + f.GID
	}
	owner, err := c.user(name)
	if err != nil {
		return err
	}
	if f.GID == "" {
		owner.Gid = 0
	}
	if err := os.WriteFile(source, f.Content, 0o600); err != nil {
		return err
	}
	if err := os.Chown(source, owner.Uid, owner.Gid); err != nil {
		return err
	}
	if err := unix.Chmod(source, f.Mode&0o7777); err != nil {
		return err
	}
	if ofKernel(f.Target) {
		c.held = append(c.held, heldMount{dir: source, target: f.Target, file: true})
		return nil
	}
	return c.bindFile(source, f.Target, mount.ReadOnly)
}

// special passes on the mounts that belong below what only the running
// container has.
func (c *Container) special(spec *launch.Spec, pass func(*os.File) int) error {
	for _, h := range c.held {
		f, err := os.OpenFile(h.dir, unix.O_PATH, 0)
		if err != nil {
			return err
		}
		m, err := mount.Clone(f, 0)
		f.Close()
		if err != nil {
			return fmt.Errorf("mounting on %s: %w", h.target, err)
		}
		spec.Enter.Mounts = append(spec.Enter.Mounts, launch.Mount{Fd: pass(m), Target: h.target, File: h.file})
	}
	return nil
}
