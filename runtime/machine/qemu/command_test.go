//go:build linux

package qemu

import (
	"flag"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/stackvm/stack/guest/wire"
	"github.com/stackvm/stack/runtime/machine"
)

var update = flag.Bool("update", false, "rewrite testdata from what the code says")

// The whole command line, an option a line.
func TestCommandLine(t *testing.T) {
	c := machine.Config{
		ID: strings.Repeat("ab", 32), Name: "shop-web-1, the first", Dir: "/state/machines/ab",
		VCPUs: 2, MemoryMiB: 1024, Kernel: "/guest/vmlinux", Initramfs: "/guest/initramfs",
		Cmdline: []string{"stack.example=1"}, Key: wire.Key{0xde, 0xad, 15: 0xff},
		MAC: net.HardwareAddr{0x52, 0x54, 0, 1, 2, 3}, MTU: 65520,
		// Disks leave no trace: they are added through the monitor.
		Disks: []machine.Disk{{Serial: "image", Kind: machine.DiskImage}},
	}
	for name, args := range map[string][]string{
		"kvm":           commandLine(c, KVM, true, 2_600_000),
		"tcg":           commandLine(c, TCG, true, 2_600_000),
		"tcg-no-shares": commandLine(c, TCG, false, 0),
	} {
		t.Run(name, func(t *testing.T) {
			var b strings.Builder
			for i, a := range args {
				switch {
				case i == 0:
				case strings.HasPrefix(a, "-"):
					b.WriteByte('\n')
				default:
					b.WriteByte(' ')
				}
				b.WriteString(a)
			}
			b.WriteByte('\n')
			golden := filepath.Join("testdata", name+".txt")
			if *update {
				if err := os.WriteFile(golden, []byte(b.String()), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), b.String()); diff != "" {
				t.Errorf("command line (-want +got):\n%s", diff)
			}
		})
	}
}

func TestParseVersion(t *testing.T) {
	for _, test := range []struct{ out, version, fault string }{
		{"QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7)\nCopyright", "7.2.22", ""},
		{"QEMU emulator version 10.0.2\n", "10.0.2", ""},
		{"QEMU emulator version 8.0\n", "8.0", ""},
		{"QEMU emulator version 7.1.0\n", "", "version 7.1.0 is too old: 7.2 is the least"},
		{"QEMU emulator version 6.2.0 (Debian 1:6.2+dfsg-2ubuntu6)\n", "", "version 6.2.0 is too old: 7.2 is the least"},
		{"bash: qemu: not found\n", "", "its --version is not QEMU's"},
		{"", "", "its --version is not QEMU's"},
	} {
		version, err := parseVersion(test.out)
		fault := ""
		if err != nil {
			fault = err.Error()
		}
		if version != test.version || fault != test.fault {
			t.Errorf("parseVersion(%q) = %q, %q; want %q, %q", test.out, version, fault, test.version, test.fault)
		}
	}
}

func TestNoQEMU(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	_, err := New(Options{}).Find(t.Context())
	if err == nil || !strings.Contains(err.Error(), "qemu-system-x86 (Debian") {
		t.Errorf("Find without QEMU = %v, want the package's name", err)
	}
}
