package remote

import (
	"os"

	"golang.org/x/sys/unix"
)

// flush waits until the file system of a directory is on its disk: one wait for
// all files of a copy.
func flush(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return os.NewSyscallError("syncfs", unix.Syncfs(int(d.Fd())))
}

// limitFiles has no file of a process, nor of those it will start, grow beyond
// max bytes.
func limitFiles(pid int, max uint64) error {
	return os.NewSyscallError("prlimit", unix.Prlimit(pid, unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: max, Max: max}, nil))
}
