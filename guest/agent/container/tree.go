//go:build linux

package container

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/stackvm/stack/guest/agent/inroot"
	"github.com/stackvm/stack/guest/agent/mount"
	"github.com/stackvm/stack/guest/wire"
	"golang.org/x/sys/unix"
)

// shmSize is docker's default for /dev/shm, in bytes.
const shmSize = 64 << 20

// tree assembles the container's files below dir: the root from image and
// scratch, every mount, and the files that the engine provides.
func (c *Container) tree(ctx context.Context, dir string) error {
	if err := c.overlay(ctx, dir); err != nil {
		return err
	}
	if err := c.trust(); err != nil {
		return err
	}
	if err := c.shm(dir + "/shm"); err != nil {
		return err
	}
	if err := c.etc(dir + "/etc"); err != nil {
		return err
	}
	if err := c.mounts(ctx, dir); err != nil {
		return err
	}
	if err := c.files(dir + "/files"); err != nil {
		return err
	}
	if c.spec.WorkingDir != "" {
		f, err := c.root.Dir(c.spec.WorkingDir, 0o755)
		if err != nil {
			return fmt.Errorf("working directory: %w", err)
		}
		f.Close()
	}
	return nil
}

// overlay mounts the root: the image below, the scratch disk or a tmpfs above.
func (c *Container) overlay(ctx context.Context, dir string) error {
	image, err := c.set.machine.Disks.Image(ctx, c.spec.Root.Image)
	if err != nil {
		return err
	}
	c.do(release(image))
	upper := dir + "/scratch"
	if c.spec.Root.Scratch != "" {
		scratch, err := c.set.machine.Disks.Writable(ctx, c.spec.Root.Scratch, c.spec.Root.ScratchBytes)
		if err != nil {
			return err
		}
		c.do(release(scratch))
		upper = scratch.Dir
	} else {
		if err := c.mount("tmpfs", upper, unix.MS_NODEV, "mode=0755"); err != nil {
			return err
		}
	}
	for _, name := range []string{"/upper", "/work"} {
		if err := os.Mkdir(upper+name, 0o755); err != nil && !os.IsExist(err) {
			return err
		}
	}
	// The upper directory becomes the root's own: it looks as the image's does.
	if err := likeImage(image.Dir, upper+"/upper"); err != nil {
		return err
	}
	// Redirects and the like would follow attributes that a hostile image set.
	options := "lowerdir=" + image.Dir + ",upperdir=" + upper + "/upper,workdir=" + upper + "/work" +
		",redirect_dir=nofollow,metacopy=off,index=off,xino=off"
	if err := c.mount("overlay", dir+"/root", 0, options); err != nil {
		return fmt.Errorf("mounting the root: %w", err)
	}
	if c.root, err = inroot.Open(dir + "/root"); err != nil {
		return err
	}
	c.do(c.root.Close)
	return nil
}

// mount makes dir and mounts on it, to be undone.
func (c *Container) mount(kind, dir string, flags uintptr, options string) error {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(kind, dir, kind, flags, options); err != nil {
		return err
	}
	c.do(func() error { return unmount(dir) })
	return nil
}

// unmount takes a mount of the agent's tree away, with all mounted below it.
func unmount(dir string) error {
	if err := unix.Unmount(dir, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
		return fmt.Errorf("unmounting %s: %w", dir, err)
	}
	return nil
}

func likeImage(image, upper string) error {
	var st unix.Stat_t
	if err := unix.Stat(image, &st); err != nil {
		return err
	}
	if err := unix.Chown(upper, int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	return unix.Chmod(upper, st.Mode&0o7777)
}

// shm mounts what will be /dev/shm; containers that share IPC share it.
func (c *Container) shm(dir string) error {
	if c.spec.JoinIPC != "" {
		return nil
	}
	size := c.spec.ShmSize
	if size <= 0 {
		size = shmSize
	}
	if err := c.mount("tmpfs", dir, unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=1777,size="+strconv.FormatInt(size, 10)); err != nil {
		return err
	}
	f, err := os.OpenFile(dir, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	c.volatile = append(c.volatile, f)
	c.do(f.Close)
	return nil
}

// empty empties what docker makes anew for each start: /dev/shm and every tmpfs.
// A stale pid file in one would keep a restarted service from coming up.
func (c *Container) empty() error {
	for _, other := range c.set.All() {
		if other.spec.JoinIPC == c.spec.ID && other.running() != nil {
			return nil // it uses them still
		}
	}
	for _, f := range c.volatile {
		var st unix.Stat_t
		fd, err := unix.Openat(int(f.Fd()), ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err == nil {
			if err = unix.Fstat(fd, &st); err == nil {
				err = clear(fd, st.Dev)
			}
			unix.Close(fd)
		}
		if err != nil {
			return fmt.Errorf("emptying a tmpfs: %w", err)
		}
	}
	return nil
}

// openShm returns a detached mount for /dev/shm.
func (c *Container) openShm() (*os.File, error) {
	id := c.spec.ID
	if c.spec.JoinIPC != "" {
		id = c.spec.JoinIPC
	}
	dir, err := os.OpenFile(Dir+"/"+id+"/shm", unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	return mount.Clone(dir, 0)
}

// etc writes hosts, hostname and resolv.conf and binds them over the image's.
// Containers that share a network share these too.
func (c *Container) etc(dir string) error {
	if c.spec.JoinNetwork != "" {
		dir = Dir + "/" + c.spec.JoinNetwork + "/etc"
	} else {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
		if err := c.writeEtc(dir, etcFiles...); err != nil {
			return err
		}
	}
	for _, name := range etcFiles {
		target := "/etc/" + name
		if c.mountsOn(target) {
			continue // the user brings a file of their own
		}
		if err := c.bindFile(dir+"/"+name, target, 0); err != nil {
			return err
		}
	}
	return nil
}

// etcFiles are what the engine provides in every container's /etc.
var etcFiles = []string{"hostname", "hosts", "resolv.conf"}

// writeEtc writes files of etcFiles in place, since they are mounted by their
// inodes, and never empties one that somebody may be reading.
func (c *Container) writeEtc(dir string, names ...string) error {
	for _, name := range names {
		var text string
		switch name {
		case "hostname":
			text = c.hostname() + "\n"
		case "hosts":
			text = c.hosts(c.spec.Hosts)
		case "resolv.conf":
			text = c.resolvConf()
		}
		f, err := os.OpenFile(dir+"/"+name, os.O_WRONLY|os.O_CREATE, 0o644)
		if err != nil {
			return err
		}
		_, err = f.WriteString(text)
		if err == nil {
			err = f.Truncate(int64(len(text)))
		}
		if err := errors.Join(err, f.Close()); err != nil {
			return err
		}
	}
	return nil
}

// rewriteEtc is writeEtc in the container as it is.
func (c *Container) rewriteEtc(names ...string) error {
	return c.writeEtc(Dir+"/"+c.spec.ID+"/etc", names...)
}

func (c *Container) mountsOn(target string) bool {
	for _, m := range c.spec.Mounts {
		if m.Target == target {
			return true
		}
	}
	return false
}

// bindFile binds a file of the agent's tree on target inside the container.
func (c *Container) bindFile(source, target string, attrs int) error {
	from, err := os.OpenFile(source, unix.O_PATH, 0)
	if err != nil {
		return err
	}
	defer from.Close()
	on, err := c.root.File(target, 0o644)
	if err != nil {
		return err
	}
	defer on.Close()
	if err := mount.Bind(from, on, attrs); err != nil {
		return fmt.Errorf("mounting on %s: %w", target, err)
	}
	return nil
}

// hostname is the short name, docker's rule: the first twelve digits of the id
// where none is given.
func (c *Container) hostname() string {
	if c.spec.Hostname != "" {
		return c.spec.Hostname
	}
	return c.spec.ID[:min(12, len(c.spec.ID))]
}

// hosts is the text of /etc/hosts.
func (c *Container) hosts(extra []wire.Host) string {
	var b strings.Builder
	b.WriteString("127.0.0.1\tlocalhost\n" +
		"::1\tlocalhost ip6-localhost ip6-loopback\n" +
		"fe00::\tip6-localnet\n" +
		"ff00::\tip6-mcastprefix\n" +
		"ff02::1\tip6-allnodes\n" +
		"ff02::2\tip6-allrouters\n")
	for _, h := range extra {
		b.WriteString(h.Addr + "\t" + strings.Join(h.Names, " ") + "\n")
	}
	// The container's own name, on every network it has.
	own := c.hostname()
	if c.spec.Domainname != "" {
		own = own + "." + c.spec.Domainname + " " + own
	}
	for _, i := range c.plugs {
		for _, cidr := range i.Addrs {
			addr, _, _ := strings.Cut(cidr, "/")
			b.WriteString(addr + "\t" + own + "\n")
		}
	}
	return b.String()
}

// resolvConf is the text of /etc/resolv.conf. The stub answers on every network;
// without any, nothing does.
func (c *Container) resolvConf() string {
	var b strings.Builder
	if len(c.plugs) > 0 {
		b.WriteString("nameserver 127.0.0.11\n")
	}
	if search := c.spec.DNS.Search; len(search) > 0 && !(len(search) == 1 && search[0] == ".") {
		b.WriteString("search " + strings.Join(search, " ") + "\n")
	}
	options := c.spec.DNS.Options
	hasDots := false
	for _, o := range options {
		hasDots = hasDots || strings.HasPrefix(o, "ndots:")
	}
	if !hasDots {
		options = append([]string{"ndots:0"}, options...) // docker's: names of services have no dot
	}
	b.WriteString("options " + strings.Join(options, " ") + "\n")
	return b.String()
}

// SetHosts replaces the extra lines of /etc/hosts.
func (c *Container) SetHosts(extra []wire.Host) error {
	c.changing.Lock()
	defer c.changing.Unlock()
	c.spec.Hosts = extra
	return c.rewriteEtc("hosts")
}
