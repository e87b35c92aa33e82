package kernel

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/stackvm/stack/guest"
)

func TestParse(t *testing.T) {
	for _, test := range []struct {
		in   string
		want Config
		err  string
	}{
		{in: "", want: Config{}},
		{in: "# a comment\n\nCONFIG_NET=y\n", want: Config{"NET": "y"}},
		{in: "# CONFIG_NET is not set\nCONFIG_PCI=n", want: Config{"NET": "n", "PCI": "n"}},
		{in: "CONFIG_9P_FS=y\nCONFIG_NR_CPUS=32\nCONFIG_PANIC_TIMEOUT=-1\nCONFIG_PHYSICAL_START=0x1000000\n", want: Config{"9P_FS": "y", "NR_CPUS": "32", "PANIC_TIMEOUT": "-1", "PHYSICAL_START": "0x1000000"}},
		{in: `CONFIG_LSM="landlock, \"x\" # y"`, want: Config{"LSM": `"landlock, \"x\" # y"`}},
		{in: "CONFIG_NET=y\nCONFIG_NET=y\n", err: "line 2: CONFIG_NET is given a second time"},
		{in: "CONFIG_NET=y\n# CONFIG_NET is not set\n", err: "line 2: CONFIG_NET is given a second time"},
		{in: "\nNET=y\n", err: `line 2: "NET=y" is neither`},
		{in: "CONFIG_NET=yes\n", err: "line 1"},
		{in: "CONFIG_NET=y # why\n", err: "line 1"},
		{in: `CONFIG_LSM="landlock`, err: "line 1"},
	} {
		got, err := Parse([]byte(test.in))
		if test.err != "" {
			if err == nil || !strings.Contains(err.Error(), test.err) {
				t.Errorf("Parse(%q): %v; want %q in it", test.in, err, test.err)
			}
			continue
		}
		if err != nil {
			t.Errorf("Parse(%q): %v", test.in, err)
		}
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("Parse(%q) (-want +got):\n%s", test.in, diff)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("CONFIG_NET=y\n# CONFIG_PCI is not set\n\n# c\nCONFIG_LSM=\"a\\\"b\"\nCONFIG_X=0x1f\n"))
	f.Add([]byte("CONFIG_NET=y\r\n"))
	f.Add([]byte("CONFIG_A=\"\\\n\""))
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := Parse(text)
		if err != nil {
			return
		}
		again, err := Parse(c.Format())
		if err != nil || cmp.Diff(c, again) != "" {
			t.Errorf("%q is read as %v, formatted and read again as %v, %v", text, c, again, err)
		}
		if faults := c.Unmet(again); faults != nil {
			t.Errorf("%q does not meet itself: %v", text, faults)
		}
	})
}

func TestUnmet(t *testing.T) {
	asked := Config{"KEPT": "y", "OFF": "n", "ABSENT": "n", "DROPPED": "y", "FORCED": "n", "NUMBER": "32", "STRING": `"a"`, "MODULE": "y"}
	final := Config{"KEPT": "y", "OFF": "n", "FORCED": "y", "NUMBER": "64", "STRING": `""`, "MODULE": "m", "OTHER": "y"}
	want := []string{
		"CONFIG_DROPPED: asked for y, got n",
		"CONFIG_FORCED: asked for n, got y",
		"CONFIG_MODULE: asked for y, got m",
		"CONFIG_NUMBER: asked for 32, got 64",
		`CONFIG_STRING: asked for "a", got ""`,
	}
	if diff := cmp.Diff(want, asked.Unmet(final)); diff != "" {
		t.Errorf("Unmet (-want +got):\n%s", diff)
	}
}

func TestFragments(t *testing.T) {
	entries, err := fragments.ReadDir("config")
	if err != nil || len(entries) == 0 {
		t.Fatalf("fragments: %v, %v", entries, err)
	}
	for _, entry := range entries {
		arch := strings.TrimSuffix(entry.Name(), ".config")
		text, err := Fragment(arch)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Parse(text); err != nil {
			t.Errorf("%s: %v", entry.Name(), err)
		}
	}
	if _, err := Fragment("pdp11"); err == nil || !strings.Contains(err.Error(), "pdp11") {
		t.Errorf("fragment of an unknown architecture: %v", err)
	}
}

// The build refuses a kernel that lacks a requested symbol; this is the same
// question asked of the guest that machines here will boot.
func TestBuiltKernelHasEverySymbol(t *testing.T) {
	g, err := guest.Find(os.Getenv)
	var missing *guest.NotFoundError
	if errors.As(err, &missing) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	text, err := Fragment(g.Manifest.Arch)
	if err != nil {
		t.Fatal(err)
	}
	if sum := sha256.Sum256(text); hex.EncodeToString(sum[:]) != g.Manifest.Fragment {
		t.Skipf("the guest in %s was built from another fragment: run `make guest`", g.Dir)
	}
	asked, err := Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	text, err = os.ReadFile(filepath.Join(g.Dir, guest.ConfigFile))
	if err != nil {
		t.Fatal(err)
	}
	final, err := Parse(text)
	if err != nil {
		t.Fatalf("%s: %v", filepath.Join(g.Dir, guest.ConfigFile), err)
	}
	if len(final) < len(asked) {
		t.Errorf("the final configuration has %d symbols, fewer than the %d asked for", len(final), len(asked))
	}
	for _, fault := range asked.Unmet(final) {
		t.Error(fault)
	}
}
