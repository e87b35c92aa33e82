//go:build linux

package container

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/stackvm/stack/guest/agent/archive"
	"github.com/stackvm/stack/guest/agent/disk"
	"github.com/stackvm/stack/guest/agent/inroot"
	"github.com/stackvm/stack/guest/wire"
	"golang.org/x/sys/unix"
)

// Volume is a volume's disk, mounted for a copy of all that is in it. Containers
// may use it meanwhile.
type Volume struct {
	disk   *disk.Mount
	parent *os.File // of the files and the markers beside them
	files  *os.File
	root   *inroot.Root // the files
}

// OpenVolume mounts a volume's disk. The caller closes the volume.
func OpenVolume(ctx context.Context, disks *disk.Store, in *wire.Volume) (_ *Volume, err error) {
	m, err := disks.Writable(ctx, in.Serial, in.Bytes)
	if err != nil {
		return nil, err
	}
	v := &Volume{disk: m}
	defer func() {
		if err != nil {
			v.Close()
		}
	}()
	if v.parent, err = os.OpenFile(m.Dir, unix.O_PATH|unix.O_DIRECTORY, 0); err != nil {
		return nil, err
	}
	if v.files, err = volume(m.Dir, &wire.Mount{Kind: wire.MountVolume}); err != nil {
		return nil, err
	}
	v.root, err = inroot.At(v.files)
	return v, err
}

// Get writes what is in the volume to w, a tar; see archive.Tree.
func (v *Volume) Get(w io.Writer) error { return archive.Tree(v.root, w) }

// CanPut refuses a volume that has files, unless force is set.
func (v *Volume) CanPut(force bool) error {
	names, err := list(int(v.parent.Fd()), volumeFiles)
	if err != nil {
		return err
	}
	if len(names) > 0 && !force {
		return &wire.Error{Code: wire.CodeConflict, Message: "the volume is not empty"}
	}
	return nil
}

// Put unpacks a tar into the volume and returns once all is on disk. What came of
// an archive that broke off stays: a container may have written beside it.
func (v *Volume) Put(tar io.Reader) error {
	dir, err := v.root.Open("/", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := archive.Fill(v.root, tar); err != nil {
		return err
	}
	// What the image has at the place of its first mount is not wanted any more.
	if err := mark(int(v.parent.Fd())); err != nil {
		return err
	}
	if err := unix.Syncfs(int(dir.Fd())); err != nil {
		return fmt.Errorf("syncing: %w", err)
	}
	return nil
}

// Close unmounts the disk, if nothing else uses it. The error says that what was
// written may not all have reached it.
func (v *Volume) Close() error {
	if v.root != nil {
		v.root.Close()
	}
	for _, f := range []*os.File{v.files, v.parent} {
		if f != nil {
			f.Close()
		}
	}
	return v.disk.Release()
}
