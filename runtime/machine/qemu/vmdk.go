//go:build linux

package qemu

import (
	"fmt"
	"io"
	"strings"

	"github.com/stackvm/stack/runtime/machine"
)

// WriteVMDK writes the text descriptor by which QEMU reads extents as one
// disk. names, one per extent, are what QEMU opens: paths, or /dev/fdset/N for
// descriptors handed over.
//
// QEMU 7.2 counts the first extent twice if a blank line precedes it, knows
// extents only as RW, and reads names of at most 511 bytes between the quotes.
// The disk is attached read-only, so RW promises nothing.
func WriteVMDK(w io.Writer, extents []machine.Extent, names []string) error {
	if len(names) != len(extents) {
		return fmt.Errorf("%d names for %d extents", len(names), len(extents))
	}
	var b strings.Builder
	b.WriteString("# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\ncreateType=\"twoGbMaxExtentFlat\"\n")
	for n, e := range extents {
		if e.Bytes <= 0 || e.Bytes%512 != 0 {
			return fmt.Errorf("extent of %d bytes", e.Bytes)
		}
		if names[n] == "" || len(names[n]) > 511 || strings.ContainsAny(names[n], "\"\r\n\x00") {
			return fmt.Errorf("extent name %q: QEMU could not read it", names[n])
		}
		fmt.Fprintf(&b, "RW %d FLAT \"%s\" 0\n", e.Bytes/512, names[n])
	}
	_, err := io.WriteString(w, b.String())
	return err
}
