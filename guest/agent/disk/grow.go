//go:build linux

package disk

import (
	"encoding/binary"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ioctlResize is EXT4_IOC_RESIZE_FS, _IOW('f', 16, __u64): the new size in blocks.
const ioctlResize = 0x40086610

// grow makes the ext4 file system of device, mounted at dir, size bytes large or
// as large as the device. It never shrinks one.
func grow(device, dir string, size int64) error {
	if size <= 0 {
		return nil
	}
	have, blockSize, bytes, err := extent(device)
	if err != nil {
		return fmt.Errorf("reading its size: %w", err)
	}
	blocks := min(uint64(size), bytes) / blockSize
	if blocks <= have {
		return nil
	}
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), ioctlResize, uintptr(unsafe.Pointer(&blocks))); errno != 0 {
		return fmt.Errorf("growing to %d bytes: %w", size, errno)
	}
	return nil
}

// extent reads from the superblock how many blocks the file system has and how
// large they are, and how many bytes the device has. statfs(2) will not do: its
// count leaves out what the file system itself occupies.
func extent(device string) (blocks, blockSize, bytes uint64, err error) {
	fd, err := unix.Open(device, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, 0, 0, err
	}
	defer unix.Close(fd)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.BLKGETSIZE64, uintptr(unsafe.Pointer(&bytes))); errno != 0 {
		return 0, 0, 0, errno
	}
	var sb [1024]byte // at byte 1024 of every ext4
	if n, err := unix.Pread(fd, sb[:], 1024); err != nil || n != len(sb) {
		return 0, 0, 0, fmt.Errorf("superblock: %d bytes: %w", n, err)
	}
	logSize := binary.LittleEndian.Uint32(sb[0x18:])
	if binary.LittleEndian.Uint16(sb[0x38:]) != 0xEF53 || logSize > 6 {
		return 0, 0, 0, fmt.Errorf("no ext4 superblock")
	}
	blocks = uint64(binary.LittleEndian.Uint32(sb[4:]))
	if binary.LittleEndian.Uint32(sb[0x60:])&0x80 != 0 { // INCOMPAT_64BIT
		blocks |= uint64(binary.LittleEndian.Uint32(sb[0x150:])) << 32
	}
	return blocks, 1024 << logSize, bytes, nil
}
