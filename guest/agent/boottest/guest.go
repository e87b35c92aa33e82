//go:build linux

package boottest

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// Kernel and Cmdline are what machines boot; TestMain sets them. Without a kernel
// tests are skipped, and NoKernel says why.
var (
	Kernel   string
	Cmdline  []string
	NoKernel error
)

// need returns the guest kernel, or skips the test.
func need(t testing.TB) string {
	t.Helper()
	if testing.Short() {
		t.Skip("boots a machine: not with -short")
	}
	if _, err := exec.LookPath("qemu-system-x86_64"); err != nil {
		t.Skip("QEMU is not installed: apt install qemu-system-x86")
	}
	if Kernel == "" {
		t.Skip(NoKernel)
	}
	return Kernel
}

// build makes the initramfs once per test binary.
var build = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "boottest")
	if err != nil {
		return "", err
	}
	built = dir
	binary := filepath.Join(dir, "init")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", binary, "github.com/stackvm/stack/guest/agent/init")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building the agent: %w\n%s", err, out)
	}
	content, err := os.ReadFile(binary)
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "initramfs")
	return path, os.WriteFile(path, cpio(content), 0o600)
})

// Main runs the tests and removes what they built.
func Main(m *testing.M) int {
	code := m.Run()
	if built != "" {
		os.RemoveAll(built)
	}
	return code
}

// built is the directory that build made.
var built string

func initramfs(t testing.TB) string {
	t.Helper()
	path, err := build()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// cpio returns an archive in the kernel's format ("newc") that holds what the
// kernel opens before the agent runs, and the agent.
func cpio(binary []byte) []byte {
	var b bytes.Buffer
	entry := func(name string, mode uint32, dev uint64, content []byte) {
		fmt.Fprintf(&b, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x", 0, mode, 0, 0, 1, 0, len(content),
			0, 0, unix.Major(dev), unix.Minor(dev), len(name)+1, 0)
		pad := func() {
			for b.Len()%4 != 0 {
				b.WriteByte(0)
			}
		}
		b.WriteString(name + "\x00")
		pad()
		b.Write(content)
		pad()
	}
	entry("dev", unix.S_IFDIR|0o755, 0, nil)
	entry("dev/console", unix.S_IFCHR|0o600, unix.Mkdev(5, 1), nil)
	entry("init", unix.S_IFREG|0o755, 0, binary)
	entry("TRAILER!!!", 0, 0, nil)
	return b.Bytes()
}

// Image makes an EROFS disk of busybox and what extra adds to the tree.
func Image(t testing.TB, extra func(root string)) string {
	t.Helper()
	need(t)
	for _, tool := range []string{"mkfs.erofs", "mke2fs", "busybox"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%s is not installed: apt install erofs-utils e2fsprogs busybox-static", tool)
		}
	}
	busybox, _ := exec.LookPath("busybox")
	root := t.TempDir()
	for _, dir := range []string{"bin", "etc", "tmp", "root", "home/app", "var/lib/data"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	content, err := os.ReadFile(busybox)
	if err != nil {
		t.Fatal(err)
	}
	Write(t, root, "bin/busybox", string(content), 0o755)
	applets, err := exec.Command(busybox, "--list").Output()
	if err != nil {
		t.Skipf("busybox --list: %v (a static busybox is needed)", err)
	}
	for _, applet := range bytes.Fields(applets) {
		if string(applet) != "busybox" {
			if err := os.Symlink("busybox", filepath.Join(root, "bin", string(applet))); err != nil {
				t.Fatal(err)
			}
		}
	}
	Write(t, root, "etc/passwd", "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000:app:/home/app:/bin/sh\n", 0o644)
	Write(t, root, "etc/group", "root:x:0:\napp:x:1000:\nextra:x:2000:app\nmore:x:3000:\n", 0o644)
	if extra != nil {
		extra(root)
	}
	path := filepath.Join(t.TempDir(), "image.erofs")
	if out, err := exec.Command("mkfs.erofs", path, root).CombinedOutput(); err != nil {
		t.Fatalf("mkfs.erofs: %v\n%s", err, out)
	}
	return path
}

// Write puts a file into an image's tree.
func Write(t testing.TB, root, name, content string, mode os.FileMode) {
	t.Helper()
	path := filepath.Join(root, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}

// Ext4 makes a disk with a file system of fsMiB on a device of diskMiB.
func Ext4(t testing.TB, fsMiB, diskMiB int) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk.ext4")
	out, err := exec.Command("mke2fs", "-q", "-t", "ext4", "-m", "0", "-O", "metadata_csum_seed,resize_inode",
		"-E", "lazy_itable_init=1,lazy_journal_init=1,resize=16777216", path, fmt.Sprintf("%dM", fsMiB)).CombinedOutput()
	if err != nil {
		t.Fatalf("mke2fs: %v\n%s", err, out)
	}
	if err := os.Truncate(path, int64(diskMiB)<<20); err != nil {
		t.Fatal(err)
	}
	return path
}
