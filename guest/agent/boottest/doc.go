// Package boottest boots the agent in a real machine, for tests: the guest
// kernel, an initramfs with the agent as it is in this tree, and QEMU under
// emulation. The test talks to it with guest/wire, as a host does.
//
// It needs QEMU, a guest kernel, mkfs.erofs, mke2fs and a static busybox; without
// one of them a test is skipped and says which. Every process and file is gone
// when the test ends.
package boottest
