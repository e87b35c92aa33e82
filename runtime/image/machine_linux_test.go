package image

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/stackvm/stack/guest"
	"github.com/stackvm/stack/runtime/image/erofstest"
	"github.com/stackvm/stack/runtime/machine"
	"github.com/stackvm/stack/runtime/machine/qemu"
)

// kernel is the guest's kernel, or that of STACK_TEST_KERNEL.
func kernel(t *testing.T) string {
	if k := os.Getenv("STACK_TEST_KERNEL"); k != "" {
		return k
	}
	g, err := guest.Find(os.Getenv)
	if err != nil {
		t.Skipf("no kernel to mount the disk with: %v", err)
	}
	return g.Kernel
}

// TestDiskInAMachine boots the guest's kernel with a disk as QEMU gets it, the
// extents joined by a VMDK descriptor, and compares what that kernel reads there
// with what go-erofs reads in the same bytes.
func TestDiskInAMachine(t *testing.T) {
	vmlinux := kernel(t)
	program, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		t.Skipf("no machine to mount the disk in: %v", err)
	}
	dir := t.TempDir()
	init := filepath.Join(dir, "init")
	build := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", init, "./testdata/init")
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	binary, err := os.ReadFile(init)
	if err != nil {
		t.Fatal(err)
	}
	initramfs := filepath.Join(dir, "initramfs")
	if err := os.WriteFile(initramfs, cpio("init", binary), 0o600); err != nil {
		t.Fatal(err)
	}

	// A hundred layers over the two that matter.
	layers := []v1.Layer{tarLayer(t, "a", "old", "gone", "x", "big", strings.Repeat("0123456789", 50000)), everything(t), tarLayer(t, "a", "new", ".wh.gone", "")}
	for n := range 100 {
		layers = append(layers, tarLayer(t, fmt.Sprintf("many/%d", n), strings.Repeat(fmt.Sprint(n), n*40)))
	}
	s := open(t, nil)
	img, err := s.Import(t.Context(), makeImage(t, v1.Config{}, layers...), "machine")
	if err != nil {
		t.Fatal(err)
	}
	d, err := s.Disk(img)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	var extents []machine.Extent
	flat, err := os.Create(filepath.Join(dir, "flat"))
	if err != nil {
		t.Fatal(err)
	}
	defer flat.Close()
	for _, e := range d.Extents {
		names, extents = append(names, e.Path), append(extents, machine.Extent(e))
		b, err := os.ReadFile(e.Path)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := flat.Write(b); err != nil {
			t.Fatal(err)
		}
	}
	var vmdk bytes.Buffer
	if err := qemu.WriteVMDK(&vmdk, extents, names); err != nil {
		t.Fatal(err)
	}
	descriptor := filepath.Join(dir, "disk.vmdk")
	if err := os.WriteFile(descriptor, vmdk.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	files, err := erofstest.List(flat)
	if err != nil {
		t.Fatal(err)
	}

	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute) // of emulation, on a busy host
	defer cancel()
	out, err := exec.CommandContext(ctx, program,
		"-M", "microvm,acpi=off,rtc=on", "-accel", "tcg", "-cpu", "max", "-m", "256", "-no-reboot", "-nodefaults", "-no-user-config",
		"-display", "none", "-serial", "stdio", "-kernel", vmlinux, "-initrd", initramfs,
		"-append", "console=ttyS0 quiet reboot=t panic=-1",
		"-blockdev", "driver=file,filename="+descriptor+",node-name=text,read-only=on",
		"-blockdev", "driver=vmdk,file=text,node-name=disk,read-only=on",
		"-device", "virtio-blk-device,drive=disk").CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("END")) {
		t.Fatalf("%v\n%s", err, out)
	}
	var got []string
	for line := range strings.Lines(string(out)) {
		if quoted, ok := strings.CutPrefix(strings.TrimSpace(line), "FILE "); ok {
			text, err := strconv.Unquote(quoted)
			if err != nil {
				t.Fatalf("%q: %v", quoted, err)
			}
			got = append(got, text)
		}
	}
	for n := range got { // what go-erofs does not report
		for _, bits := range [][2]string{{" ugrwx", " -rwx"}, {" urwx", " -rwx"}, {" grwx", " -rwx"}, {" dtrwx", " drwx"}} {
			got[n] = strings.Replace(got[n], bits[0], bits[1], 1)
		}
	}
	if diff := cmp.Diff(erofstest.Lines(files), got); diff != "" {
		t.Errorf("go-erofs (-) and the guest's kernel (+):\n%s", diff)
	}
}

// cpio is an initramfs with one executable file.
func cpio(name string, content []byte) []byte {
	var b bytes.Buffer
	entry := func(name string, mode int, content []byte) {
		fmt.Fprintf(&b, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00",
			1, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name)+1, 0, name)
		b.Write(make([]byte, -b.Len()&3))
		b.Write(content)
		b.Write(make([]byte, -b.Len()&3))
	}
	entry(name, 0o100755, content)
	entry("TRAILER!!!", 0, nil)
	return b.Bytes()
}
