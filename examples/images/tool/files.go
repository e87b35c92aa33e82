//go:build linux

package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

func fill(ctx context.Context, args []string) error {
	flags := newFlags("fill")
	if err := parse(flags, args, 1, 1); err != nil {
		return err
	}
	f, err := os.Create(flags.Arg(0))
	if err != nil {
		return err
	}
	defer f.Close()
	block := bytes.Repeat([]byte("stack"), 1<<20/5)
	var written int64
	for err == nil && ctx.Err() == nil {
		var n int
		n, err = f.Write(block)
		written += int64(n)
	}
	syncErr := f.Sync()
	result := map[string]any{"bytes": written, "full": errors.Is(err, syscall.ENOSPC), "write": fmt.Sprint(err), "sync": fmt.Sprint(syncErr)}
	if err := report(result); err != nil {
		return err
	}
	if !errors.Is(err, syscall.ENOSPC) {
		return errFailed
	}
	return nil
}

func lock(ctx context.Context, args []string) error {
	flags := newFlags("lock")
	try := flags.Bool("try", false, "do not wait, nor hold it")
	whole := flags.Bool("flock", false, "by flock instead of fcntl")
	if err := parse(flags, args, 1, 1); err != nil {
		return err
	}
	f, err := os.OpenFile(flags.Arg(0), os.O_RDWR|os.O_CREATE, 0o666)
	if err != nil {
		return err
	}
	defer f.Close()
	for {
		switch {
		case *whole && *try:
			err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		case *whole:
			err = unix.Flock(int(f.Fd()), unix.LOCK_EX)
		default:
			how := unix.F_SETLKW
			if *try {
				how = unix.F_SETLK
			}
			err = unix.FcntlFlock(f.Fd(), how, &unix.Flock_t{Type: unix.F_WRLCK})
		}
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	switch {
	case *try && (errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES)):
		fmt.Println("kept out")
	case err != nil:
		return err
	case *try:
		fmt.Println("taken")
	default:
		fmt.Println("held")
		<-ctx.Done()
	}
	return nil
}

// inotifyNames are the events watch asks for.
var inotifyNames = []struct {
	bit  uint32
	name string
}{
	{unix.IN_CREATE, "create"},
	{unix.IN_MODIFY, "modify"},
	{unix.IN_ATTRIB, "attrib"},
	{unix.IN_CLOSE_WRITE, "close_write"},
	{unix.IN_MOVED_FROM, "moved_from"},
	{unix.IN_MOVED_TO, "moved_to"},
	{unix.IN_DELETE, "delete"},
	{unix.IN_DELETE_SELF, "delete_self"},
	{unix.IN_MOVE_SELF, "move_self"},
	{unix.IN_Q_OVERFLOW, "overflow"},
}

func watch(ctx context.Context, args []string) error {
	flags := newFlags("watch")
	events := flags.Int("count", 1, "end after that many")
	timeout := flags.Duration("timeout", 10*time.Second, "end after that long, with status 1")
	if err := parse(flags, args, 1, 1); err != nil {
		return err
	}
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), "inotify")
	defer f.Close()
	var mask uint32
	for _, n := range inotifyNames {
		mask |= n.bit
	}
	if _, err := unix.InotifyAddWatch(fd, flags.Arg(0), mask&^unix.IN_Q_OVERFLOW); err != nil {
		return fmt.Errorf("watching %s: %w", flags.Arg(0), err)
	}
	fmt.Println("watching")
	if err := f.SetReadDeadline(time.Now().Add(*timeout)); err != nil {
		return err
	}
	defer closeAtEnd(ctx, f)()
	buf := make([]byte, 1<<16)
	for seen := 0; seen < *events; {
		n, err := f.Read(buf)
		if err != nil {
			return ended(ctx, err)
		}
		// struct inotify_event: wd 4, mask 4, cookie 4, length of the name 4, name
		for b := buf[:n]; len(b) >= unix.SizeofInotifyEvent && seen < *events; seen++ {
			got := binary.NativeEndian.Uint32(b[4:])
			size := unix.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(b[12:]))
			var names []string
			for _, n := range inotifyNames {
				if got&n.bit != 0 {
					names = append(names, n.name)
				}
			}
			name := strings.TrimRight(string(b[unix.SizeofInotifyEvent:size]), "\x00")
			if err := report(map[string]string{"event": strings.Join(names, ","), "name": name}); err != nil {
				return err
			}
			b = b[size:]
		}
	}
	return nil
}

// layers checks what the recipe "layers" of examples/images/recipe has made.
func layers(_ context.Context, args []string) error {
	if err := parse(newFlags("layers"), args, 0, 0); err != nil {
		return err
	}
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	const dir = "/layers/"
	for name, want := range map[string]string{
		"kept": "lower kept", "replaced": "upper", "opaque/seen": "upper", "turned": "a file now",
		"first-name": "linked", "second-name": "linked", "link": "lower kept", "empty": "", "name with space and ünïcode": "",
	} {
		got, err := os.ReadFile(dir + name)
		if err != nil || string(got) != want {
			fault("%s holds %q, want %q: %v", name, got, want, err)
		}
	}
	for _, name := range []string{"removed", "removed-dir", "opaque/hidden", ".wh.removed", ".wh.removed-dir", "opaque/.wh..wh..opq"} {
		if _, err := os.Lstat(dir + name); !errors.Is(err, fs.ErrNotExist) {
			fault("%s is there: %v", name, err)
		}
	}
	for name, want := range map[string]struct {
		mode     uint32
		uid, gid uint32
		links    uint64
	}{
		"kept":        {unix.S_IFREG | 0o644, 0, 0, 1},
		"replaced":    {unix.S_IFREG | 0o604, 0, 0, 1},
		"owned":       {unix.S_IFREG | 0o640, 1234, 50, 1},
		"huge-owner":  {unix.S_IFREG | 0o600, 2000000, 2000001, 1},
		"setuid":      {unix.S_IFREG | 0o4755, 0, 0, 1},
		"sticky":      {unix.S_IFDIR | 0o1777, 0, 0, 0},
		"opaque":      {unix.S_IFDIR | 0o755, 0, 0, 0},
		"first-name":  {unix.S_IFREG | 0o644, 0, 0, 2},
		"second-name": {unix.S_IFREG | 0o644, 0, 0, 2},
		"link":        {unix.S_IFLNK | 0o777, 0, 0, 1},
		"dangling":    {unix.S_IFLNK | 0o777, 0, 0, 1},
		"null":        {unix.S_IFCHR | 0o666, 0, 0, 1},
		"fifo":        {unix.S_IFIFO | 0o644, 0, 0, 1},
	} {
		var st unix.Stat_t
		if err := unix.Lstat(dir+name, &st); err != nil {
			fault("%s: %v", name, err)
			continue
		}
		if st.Mode != want.mode || st.Uid != want.uid || st.Gid != want.gid || want.links != 0 && st.Nlink != want.links {
			fault("%s is mode %o of %d:%d with %d links, want %o of %d:%d with %d", name, st.Mode, st.Uid, st.Gid, st.Nlink, want.mode, want.uid, want.gid, want.links)
		}
		if name == "null" && st.Rdev != unix.Mkdev(1, 3) {
			fault("null is device %d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
		}
	}
	var first, second unix.Stat_t
	if err := errors.Join(unix.Lstat(dir+"first-name", &first), unix.Lstat(dir+"second-name", &second)); err != nil || first.Ino != second.Ino {
		fault("first-name and second-name are inodes %d and %d: %v", first.Ino, second.Ino, err)
	}
	if target, err := os.Readlink(dir + "dangling"); target != "/nowhere/at/all" {
		fault("dangling points to %q: %v", target, err)
	}
	for name, want := range map[string]string{
		"user.note":           "hello",
		"security.capability": "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
	} {
		value := make([]byte, 256)
		n, err := unix.Lgetxattr(dir+"attributes", name, value)
		if err != nil || string(value[:n]) != want {
			fault("attribute %s is %q, want %q: %v", name, value[:max(n, 0)], want, err)
		}
	}
	if len(faults) > 0 {
		return errors.Join(faults...)
	}
	fmt.Println("all files are as they should be")
	return nil
}
