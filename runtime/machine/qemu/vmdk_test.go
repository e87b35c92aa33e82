//go:build linux

package qemu

import (
	"bytes"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/stackvm/stack/runtime/machine"
)

func TestWriteVMDK(t *testing.T) {
	extents := []machine.Extent{{Path: "meta", Bytes: 8192}, {Path: "blob", Bytes: 3 << 30}}
	var b bytes.Buffer
	if err := WriteVMDK(&b, extents, []string{"/dev/fdset/1", "/a b/c"}); err != nil {
		t.Fatal(err)
	}
	want := "# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\ncreateType=\"twoGbMaxExtentFlat\"\n" +
		"RW 16 FLAT \"/dev/fdset/1\" 0\nRW 6291456 FLAT \"/a b/c\" 0\n"
	if diff := cmp.Diff(want, b.String()); diff != "" {
		t.Error(diff)
	}
	for _, names := range [][]string{nil, {"a"}, {"a", ""}, {"a", "b\"c"}, {"a", "b\nc"}, {"a", strings.Repeat("x", 512)}} {
		if err := WriteVMDK(io.Discard, extents, names); err == nil {
			t.Errorf("names %q are accepted", names)
		}
	}
	if err := WriteVMDK(io.Discard, []machine.Extent{{Path: "a", Bytes: 100}}, []string{"a"}); err == nil {
		t.Error("an extent of 100 bytes is accepted")
	}
}
