package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/klauspost/compress/zstd"

	"github.com/stackvm/stack/guest"
)

// ext4Size is the template's size in bytes before the agent grows it. Small: the
// host expands it whole, and growing costs 3 ms per GiB under emulation anyway.
const ext4Size = 256 << 20

// ext4Config replaces the host's mke2fs.conf, so that equal releases of mke2fs
// make equal templates everywhere.
//
//   - meta_bg keeps the descriptors of each 8 GiB in that part: a file system
//     grown to 1 TiB takes 5 MB, with resize_inode 62 MB. sparse_super2 could not
//     grow while mounted.
//   - metadata_csum_seed lets a copy get a UUID of its own by rewriting only the
//     superblock.
//   - no orphan_file: the e2fsck of older releases refuses to open it.
const ext4Config = `[defaults]
	base_features = none,has_journal,ext_attr,dir_index,filetype,extent,64bit,flex_bg,meta_bg,sparse_super,large_file,huge_file,dir_nlink,extra_isize,metadata_csum,metadata_csum_seed
	default_mntopts = acl,user_xattr
	enable_periodic_fsck = 0
[fs_types]
	ext4 = {
	}
	volume = {
	}
`

// ext4Args are the numbers:
//
//   - flex_bg groups of 32 GiB (-G) halve the time of growing;
//   - the journal is at most what a volume's own writing takes on the host's disk;
//   - nothing is reserved for root, who is every second container's user;
//   - the inode tables count as zeroed, or the kernel would write them out in the
//     background after the first mount, into a file that has no data there.
var ext4Args = []string{
	"-q", "-F", "-t", "ext4", "-T", "volume",
	"-b", "4096", "-I", "256", "-i", "16384", "-G", "256", "-m", "0", "-J", "size=32",
	"-U", "00000000-0000-4000-8000-000000000000",
	"-E", "hash_seed=00000000-0000-4000-8000-000000000001,lazy_itable_init=0,lazy_journal_init=1,nodiscard,root_owner=0:0",
}

// ext4Template returns the cached directory with the compressed file system that
// scratch disks and volumes begin as.
func ext4Template(ctx context.Context, c cache) (string, error) {
	if err := needTools("mke2fs"); err != nil {
		return "", err
	}
	version, err := exec.CommandContext(ctx, "mke2fs", "-V").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("asking mke2fs for its version: %w", err)
	}
	inputs := fmt.Sprintf("%s\n%s\n%q\n%d\n", version, ext4Config, ext4Args, ext4Size)
	return c.once(ctx, "ext4-"+digest([]byte(inputs)), func(dir string) error {
		image, err := makeExt4(ctx, dir)
		if err != nil {
			return err
		}
		// One thread: the result must not depend on how the work was cut up.
		enc, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedBestCompression))
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(dir, guest.Ext4File), enc.EncodeAll(image, nil), 0o644)
	})
}

// makeExt4 returns the bytes of a new file system, made in dir, where nothing of
// it stays.
func makeExt4(ctx context.Context, dir string) ([]byte, error) {
	config, image := filepath.Join(dir, "mke2fs.conf"), filepath.Join(dir, "ext4.img")
	defer os.Remove(config)
	defer os.Remove(image)
	if err := os.WriteFile(config, []byte(ext4Config), 0o644); err != nil {
		return nil, err
	}
	if err := os.WriteFile(image, nil, 0o644); err != nil {
		return nil, err
	}
	if err := os.Truncate(image, ext4Size); err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, "mke2fs", append(ext4Args[:len(ext4Args):len(ext4Args)], image)...)
	cmd.Env = []string{"MKE2FS_CONFIG=" + config, "E2FSPROGS_FAKE_TIME=1", "LC_ALL=C"}
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("making the ext4 template: mke2fs: %w: %s", err, strings.TrimSpace(string(out)))
	}
	return os.ReadFile(image)
}
