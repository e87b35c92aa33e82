//go:build linux

package agent_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stackvm/stack/guest/agent/boottest"
	"github.com/stackvm/stack/guest/wire"
)

// Volumes are filled once from the image, tmpfs and files have the modes and
// owners asked for, and a hostile image leads no mount out of its root.
func TestMounts(t *testing.T) {
	image := boottest.Image(t, func(root string) {
		boottest.Write(t, root, "var/lib/data/seed", "from the image", 0o640)
		boottest.Write(t, root, "var/lib/data/deep/file", "x", 0o711|os.ModeSetuid)
		if err := os.Chown(filepath.Join(root, "var/lib/data"), 1000, 2000); err != nil {
			t.Skipf("making an image with owners: %v (run as root)", err)
		}
		os.Symlink("seed", filepath.Join(root, "var/lib/data/link"))
		os.Link(filepath.Join(root, "var/lib/data/seed"), filepath.Join(root, "var/lib/data/hard"))
		boottest.Write(t, root, "etc/pki/tls/certs/ca-bundle.crt", "-----BEGIN CERTIFICATE-----\nAA\n-----END CERTIFICATE-----\n", 0o444)
		boottest.Write(t, root, "etc/ssl/own", "mine", 0o444)
		os.Symlink("../pki/tls/certs/ca-bundle.crt", filepath.Join(root, "etc/ssl/cert.pem"))
		// Links that would lead to the agent's own tree.
		os.Symlink("/run/disks", filepath.Join(root, "escape"))
		os.Symlink("../../../../run", filepath.Join(root, "up"))
		os.Symlink("/run/dangling/resolv.conf", filepath.Join(root, "etc/resolv.conf"))
	})
	volume := boottest.Ext4(t, 16, 128)
	m := boottest.Boot(t, boottest.Options{Disks: []boottest.Disk{{Serial: "img", Path: image, ReadOnly: true}}})
	m.AddDisk(boottest.Disk{Serial: "vol", Path: volume})
	m.AddDisk(boottest.Disk{Serial: "scratch-a", Path: boottest.Ext4(t, 16, 512)})

	c := shell(idA, "trap exit TERM; while :; do sleep 1000 & wait; done")
	c.WorkingDir = "/new/dir"
	c.ShmSize = 8 << 20
	c.Mounts = []wire.Mount{
		{Kind: wire.MountVolume, Source: "vol", Target: "/var/lib/data", Bytes: 64 << 20}, // the other mount of it asks for less
		{Kind: wire.MountTmpfs, Target: "/escape/inside", Bytes: 1 << 20, Mode: 0o750, UID: 1000, GID: 2000},
		{Kind: wire.MountTmpfs, Target: "/up/there"},
		{Kind: wire.MountVolume, Source: "vol", Target: "/up/there/vol", ReadOnly: true},
		{Kind: wire.MountTmpfs, Target: "/dev/extra", Options: []string{"exec"}},
		{Kind: wire.MountImage, Source: "img", Target: "/image", Subpath: "etc"},
	}
	c.Files = []wire.File{
		{Target: "/run/secrets/password", Content: []byte("hunter2"), Mode: 0o400, UID: "app", GID: "extra", Secret: true},
		{Target: "/etc/app.conf", Content: []byte("x = 1\n"), Mode: 0o444},
	}
	c.CAs = []byte("-----BEGIN CERTIFICATE-----\nAA\n-----END CERTIFICATE-----\n-----BEGIN CERTIFICATE-----\nBB\n-----END CERTIFICATE-----\n")
	c.Env = append(c.Env, "CURL_CA_BUNDLE=/mine")
	m.Call(wire.OpCreate, c, nil)
	m.Call(wire.OpStart, wire.ContainerRef{ID: idA}, nil)
	check := func(script, want string) {
		t.Helper()
		if got := strings.TrimSpace(m.Sh(idA, script)); got != want {
			t.Errorf("%s\n got %q\nwant %q", script, got, want)
		}
	}
	check("pwd", "/new/dir")
	check("cd /var/lib/data; cat seed; stat -c ' %a %u:%g' . seed deep/file; ls; readlink link; stat -c %h hard",
		"from the image 755 1000:2000\n 640 0:0\n 4711 0:0\ndeep\nhard\nlink\nseed\nseed\n2")
	check("df -m /var/lib/data | awk 'END{print ($2>50)}'; df -m / | awk 'END{print ($2>200 && $2<260)}'; df -m /dev/shm | awk 'END{print $2}'", "1\n1\n8")
	check("stat -c '%a %u:%g' /run/disks/inside; mount | grep -c ' on /run/there type tmpfs'; mount | grep /dev/extra | grep -c noexec || true", "750 1000:2000\n1\n0")
	check("cat /image/passwd | head -c 4; touch /image/x 2>/dev/null || echo ro", "rootro")
	check("cat /run/secrets/password; stat -c ' %a %u:%g' /run/secrets/password; cat /etc/app.conf; (echo > /etc/app.conf) 2>/dev/null || echo ro", "hunter2 400 1000:2000\nx = 1\nro")
	check("grep -v -e - /etc/ssl/cert.pem; stat -c %a /etc/pki/tls/certs/ca-bundle.crt; ls /etc/ssl; env | grep -e _CERT -e _CA_ | sort",
		"AA\n\nBB\n444\ncert.pem\nown\nCURL_CA_BUNDLE=/mine\nNODE_EXTRA_CA_CERTS=/etc/pki/tls/certs/ca-bundle.crt\nREQUESTS_CA_BUNDLE=/etc/pki/tls/certs/ca-bundle.crt\nSSL_CERT_FILE=/etc/pki/tls/certs/ca-bundle.crt")
	check("readlink /etc/resolv.conf; cat /etc/resolv.conf", "/run/dangling/resolv.conf\noptions ndots:0")
	// A second user who asks for more gets it while the first has the disk.
	d := shell(idB, "trap exit TERM; while :; do sleep 1000 & wait; done")
	d.Root.Scratch, d.CAs = "", c.CAs
	d.Mounts = []wire.Mount{
		{Kind: wire.MountVolume, Source: "vol", Target: "/vol", Bytes: 112 << 20},
		{Kind: wire.MountVolume, Source: "vol", Target: "/part", Subpath: "deep"},
		{Kind: wire.MountVolume, Source: "bare", Target: "/var/lib/data", NoCopy: true},
	}
	m.AddDisk(boottest.Disk{Serial: "bare", Path: boottest.Ext4(t, 16, 128)})
	m.Call(wire.OpCreate, d, nil)
	m.Call(wire.OpStart, wire.ContainerRef{ID: idB}, nil)
	if got := strings.TrimSpace(m.Sh(idB, "df -m /vol | awk 'END{print ($2>90)}'; cat /vol/seed")); got != "1\nfrom the image" {
		t.Errorf("grown by a second user: %q", got)
	}
	if got := strings.TrimSpace(m.Sh(idB, "ls /part; ls /var/lib/data")); got != "file" {
		t.Errorf("a part of a volume, and one that is not filled: %q", got)
	}
	m.Call(wire.OpStop, wire.Stop{ID: idB, Grace: boottest.Patience}, nil)
	m.Call(wire.OpRemove, wire.ContainerRef{ID: idB}, nil)
	// Started again: what is volatile is empty, what lies in a volume, or below a
	// mount in a tmpfs, is not.
	check("touch /dev/shm/x /up/there/x /escape/inside/x; echo kept > /kept", "")
	m.Call(wire.OpStop, wire.Stop{ID: idA, Grace: boottest.Patience}, nil)
	m.Call(wire.OpStart, wire.ContainerRef{ID: idA}, nil)
	check("ls /dev/shm /up/there; ls /escape/inside; cat /kept /run/secrets/password; cat /up/there/vol/seed", "/dev/shm:\n\n/up/there:\nvol\nkept\nhunter2from the image")
	check("echo changed > /var/lib/data/seed; rm /var/lib/data/link; sync", "")
	var status wire.ExitStatus
	m.Call(wire.OpStop, wire.Stop{ID: idA, Grace: boottest.Patience}, &status)
	m.Call(wire.OpRemove, wire.ContainerRef{ID: idA}, nil)

	// Another container: what is in the volume stays.
	m.Call(wire.OpCreate, c, nil)
	m.Call(wire.OpStart, wire.ContainerRef{ID: idA}, nil)
	check("cat /var/lib/data/seed; ls /var/lib/data", "changed\ndeep\nhard\nseed")
	if f := m.Shutdown(boottest.Patience); len(f.Unsynced) > 0 {
		t.Errorf("farewell: %+v", f)
	}
	fsck(t, volume)
}
