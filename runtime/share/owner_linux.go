package share

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// ownerAttribute keeps the owner that a container gave a file: "UID:GID". The
// user namespace of attributes is the only one open to every user, and only
// regular files and directories have it (xattr(7)).
const ownerAttribute = "user.stack.owner"

// owner returns the ids that containers see.
func owner(fd int, st *unix.Stat_t) (uid, gid uint32) {
	uid, gid = st.Uid, st.Gid
	if !canOwn(st) {
		return uid, gid
	}
	var buf [32]byte
	n, err := unix.Getxattr(procPath(fd), ownerAttribute, buf[:])
	if err != nil {
		return uid, gid // none was given
	}
	var u, g uint32
	if k, err := fmt.Sscanf(string(buf[:n]), "%d:%d", &u, &g); err != nil || k != 2 {
		return uid, gid
	}
	return u, g
}

func canOwn(st *unix.Stat_t) bool {
	kind := st.Mode & unix.S_IFMT
	return kind == unix.S_IFREG || kind == unix.S_IFDIR
}

// setOwner gives a file to a container's user. A link's owner decides nothing,
// so that chown -R may pass it by.
func setOwner(fd int, st *unix.Stat_t, uid, gid uint32) error {
	if st.Mode&unix.S_IFMT == unix.S_IFLNK {
		return nil
	}
	if u, g := owner(fd, st); u == uid && g == gid {
		return nil
	}
	if !canOwn(st) {
		return unix.EPERM
	}
	if uid == st.Uid && gid == st.Gid {
		err := unix.Removexattr(procPath(fd), ownerAttribute)
		if err == unix.ENODATA { //nolint:errorlint // a bare errno
			err = nil
		}
		return err
	}
	err := unix.Setxattr(procPath(fd), ownerAttribute, fmt.Appendf(nil, "%d:%d", uid, gid), 0)
	if err == unix.EOPNOTSUPP { //nolint:errorlint // a bare errno
		err = unix.EPERM // the host's file system has no attributes to keep it in
	}
	return err
}

// made gives a new file to its maker. Where the file system cannot keep an
// owner, it stays the host user's.
func made(fd int, uid, gid uint32) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if err := setOwner(fd, &st, uid, gid); err != nil && err != unix.EPERM { //nolint:errorlint // a bare errno
		return os.NewSyscallError("setxattr", err)
	}
	return nil
}
