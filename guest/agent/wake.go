//go:build linux

package agent

import (
	"encoding/binary"
	"fmt"
	"os"
	"time"
	"unsafe"

	"github.com/stackvm/stack/guest/wire"
	"golang.org/x/sys/unix"
)

// Random device requests, see random(4).
const (
	rndAddEntropy = 0x40085203
	rndReseedCRNG = 0x5207
)

// leastEntropy is what wire.Hello promises, in bytes.
const leastEntropy = 32

// wake applies what only the host knows, entropy first: a clone of a template
// shares its generator's state with every other clone until then.
func wake(h *wire.Hello) error {
	if len(h.Entropy) < leastEntropy || len(h.Entropy) > 1024 {
		return &wire.Error{Code: wire.CodeInvalid, Message: fmt.Sprintf("hello with %d bytes of entropy", len(h.Entropy))}
	}
	if err := addEntropy(h.Entropy); err != nil {
		return fmt.Errorf("adding entropy: %w", err)
	}
	if !h.Now.IsZero() {
		now := unix.NsecToTimespec(h.Now.UnixNano())
		if err := unix.ClockSettime(unix.CLOCK_REALTIME, &now); err != nil {
			return fmt.Errorf("setting the clock to %s: %w", h.Now.Format(time.RFC3339), err)
		}
	}
	if h.Hostname != "" {
		if err := unix.Sethostname([]byte(h.Hostname)); err != nil {
			return fmt.Errorf("setting the hostname: %w", err)
		}
	}
	return nil
}

func addEntropy(b []byte) error {
	f, err := os.OpenFile("/dev/urandom", os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	// struct rand_pool_info: bits, bytes, then the bytes.
	info := binary.NativeEndian.AppendUint32(nil, uint32(8*len(b)))
	info = binary.NativeEndian.AppendUint32(info, uint32(len(b)))
	info = append(info, b...)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), rndAddEntropy, uintptr(unsafe.Pointer(&info[0]))); errno != 0 {
		return errno
	}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), rndReseedCRNG, 0); errno != 0 {
		return errno
	}
	return nil
}
