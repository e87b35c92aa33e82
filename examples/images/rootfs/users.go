package rootfs

import (
	"fmt"
	"strings"
)

// User adds a user and a group of the same name to /etc/passwd, /etc/group and, where the
// image has one, /etc/shadow; the password is locked.
func (t *Tree) User(name string, uid, gid int, home, shell string) {
	t.Group(name, gid)
	t.Append("/etc/passwd", fmt.Sprintf("%s:x:%d:%d::%s:%s\n", name, uid, gid, home, shell))
	if t.Exists("/etc/shadow") {
		t.Append("/etc/shadow", name+":!:10957::::::\n") // last changed on the day of epoch
	}
}

// Group adds a group to /etc/group unless it has one of that name.
func (t *Tree) Group(name string, gid int) {
	for line := range strings.Lines(t.ReadFile("/etc/group")) {
		if strings.HasPrefix(line, name+":") {
			return
		}
	}
	t.Append("/etc/group", fmt.Sprintf("%s:x:%d:\n", name, gid))
}
