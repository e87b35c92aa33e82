//go:build linux

package qemu_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/stackvm/stack/guest/agent/boottest"
	"github.com/stackvm/stack/guest/wire"
	"github.com/stackvm/stack/runtime/machine"
	"github.com/stackvm/stack/runtime/share"
)

// Twenty host folders and files and six volumes in one container, over the one
// port and the one disk controller; what the machine may not reach, its root
// does not reach.
func TestSharesAndVolumes(t *testing.T) {
	host := t.TempDir()
	write := func(name, content string) string {
		path := filepath.Join(host, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	secret := write("outside/secret", "secret")
	var shares []share.Share
	var mounts []wire.Mount
	for i := range 20 {
		name := fmt.Sprintf("share-%d", i)
		m := wire.Mount{Kind: wire.MountShare, Source: name, Target: fmt.Sprintf("/shares/%d", i), ReadOnly: i%3 == 0, File: i%4 == 1}
		path := write(fmt.Sprintf("in/%d/file", i), name)
		if !m.File {
			path = filepath.Dir(path)
			if err := os.Symlink("../../outside/secret", filepath.Join(path, "relative")); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink(secret, filepath.Join(path, "absolute")); err != nil {
				t.Fatal(err)
			}
		}
		shares = append(shares, share.Share{Name: name, Path: path, ReadOnly: m.ReadOnly})
		mounts = append(mounts, m)
	}
	r := newRig(t, boottest.Ext4(t, 64, 64), func(c *machine.Config, box *wire.Container) {
		p, err := share.Start(shares, c.Key, os.Stderr)
		if err != nil {
			t.Fatal(err)
		}
		c.Shares = p.Port
		t.Cleanup(func() { // it ends with the machine, whose cleanup comes first
			p.Port.Close()
			unix.PidfdSendSignal(p.PIDFD, unix.SIGKILL, nil, 0)
			unix.Wait4(p.PID, nil, 0, nil)
			unix.Close(p.PIDFD)
		})
		box.Mounts = append(box.Mounts, mounts...)
		for i := range 5 {
			serial := fmt.Sprintf("volume-%d", i)
			c.Disks = append(c.Disks, writable(t, serial, machine.DiskVolume, boottest.Ext4(t, 16, 16)))
			box.Mounts = append(box.Mounts, wire.Mount{Kind: wire.MountVolume, Source: serial, Target: "/volumes/" + serial})
		}
	})
	for i, m := range mounts {
		file := m.Target
		if !m.File {
			file += "/file"
		}
		if got := r.sh(t, "cat "+file); got != m.Source {
			t.Errorf("%s holds %q", file, got)
		}
		out, code, err := r.try(fmt.Sprintf("echo changed-%d > %s", i, file))
		if err != nil {
			t.Fatal(err)
		}
		onHost, err := os.ReadFile(filepath.Join(host, "in", fmt.Sprint(i), "file"))
		if err != nil {
			t.Fatal(err)
		}
		if want := fmt.Sprintf("changed-%d\n", i); m.ReadOnly {
			if code == 0 || string(onHost) != m.Source {
				t.Errorf("read-only %s was written: %s", file, out)
			}
		} else if code != 0 || string(onHost) != want {
			t.Errorf("writing %s: exit %d, %s; the host has %q", file, code, out, onHost)
		}
		if m.File {
			continue
		}
		// A link is data: it leads to the container's files, not to the host's.
		for _, try := range []string{"/relative", "/absolute", "/../../outside/secret", "/../" + fmt.Sprint(i+1) + "/../../outside/secret"} {
			if out, _, err := r.try("cat " + m.Target + try); err != nil || strings.Contains(out, "secret\n") || out == "secret" {
				t.Errorf("%s%s leads out: %q, %v", m.Target, try, out, err)
			}
		}
		if m.ReadOnly {
			continue
		}
		// An owner that a container gives is seen by containers.
		if got := r.sh(t, fmt.Sprintf("cd %s && mkdir d && touch d/f && chown 1000:2000 d/f && stat -c %%u:%%g d/f && mv d/f d/g && ln d/g h && rm -r d h && ls", m.Target)); got != "1000:2000\nabsolute\nfile\nrelative\n" {
			t.Errorf("%s: %q", m.Target, got)
		}
	}
	for i := range 5 {
		r.sh(t, fmt.Sprintf("echo v%d > /volumes/volume-%d/f && sync && cat /volumes/volume-%d/f", i, i, i))
	}
}
