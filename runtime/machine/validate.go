package machine

import (
	"errors"
	"fmt"
	"strings"

	"github.com/stackvm/stack/guest/wire"
)

const (
	maxSerial = 20 // bytes; virtio's limit, kept for every driver
	sector    = 512
	minMTU    = 576
	maxMTU    = 65535
)

// Validate reports what no driver could make a machine from.
func (c Config) Validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if len(c.ID) != 64 || strings.Trim(c.ID, "0123456789abcdef") != "" {
		bad("id %q: want 64 hexadecimal digits", c.ID)
	}
	if c.Name == "" {
		bad("no name")
	}
	if c.VCPUs < 1 {
		bad("%d vCPUs", c.VCPUs)
	}
	if c.MemoryMiB < 64 {
		bad("%d MiB of memory", c.MemoryMiB)
	}
	if c.Key == (wire.Key{}) {
		bad("no key for greetings")
	}
	if len(c.MAC) != 6 || c.MAC[0]&1 != 0 {
		bad("MAC %q: want a unicast address of 6 bytes", c.MAC)
	}
	if c.MTU < minMTU || c.MTU > maxMTU {
		bad("MTU %d: want %d to %d", c.MTU, minMTU, maxMTU)
	}
	seen := map[string]bool{}
	for _, d := range c.Disks {
		if err := d.Validate(); err != nil {
			errs = append(errs, err)
		}
		if seen[d.Serial] {
			bad("two disks with serial %q", d.Serial)
		}
		seen[d.Serial] = true
	}
	if len(errs) > 0 {
		return fmt.Errorf("machine %q: %w", c.Name, errors.Join(errs...))
	}
	return nil
}

// Validate reports what no driver could attach.
func (d Disk) Validate() error {
	switch {
	case d.Serial == "" || len(d.Serial) > maxSerial || strings.Trim(d.Serial, "abcdefghijklmnopqrstuvwxyz0123456789-") != "":
		return fmt.Errorf("disk serial %q: want 1 to %d of a-z, 0-9 and -", d.Serial, maxSerial)
	case d.Kind != DiskImage && d.Kind != DiskScratch && d.Kind != DiskVolume:
		return fmt.Errorf("disk %q: unknown kind %q", d.Serial, d.Kind)
	case len(d.Extents) == 0:
		return fmt.Errorf("disk %q: no extents", d.Serial)
	case d.Kind != DiskImage && len(d.Extents) > 1:
		return fmt.Errorf("disk %q: a writable disk has one extent, this has %d", d.Serial, len(d.Extents))
	}
	for _, e := range d.Extents {
		if e.Bytes <= 0 || e.Bytes%sector != 0 {
			return fmt.Errorf("disk %q: extent %s has %d bytes, want a multiple of %d", d.Serial, e.Path, e.Bytes, sector)
		}
	}
	return nil
}
