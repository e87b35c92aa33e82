//go:build linux

package launch

import "github.com/stackvm/stack/guest/wire"

// Spec is what the second stage needs to become a workload. All names are
// resolved.
type Spec struct {
	Args []string
	Env  []string
	Dir  string // working directory, "" for /

	UID, GID int
	Groups   []int

	// Bounding are the capabilities the workload can ever have; with uid 0 it
	// has them all from the start. Bit n is capability n.
	Bounding   uint64
	NoNewPrivs bool
	Filter     []byte // seccomp program, 8 bytes an instruction; empty: none
	Rlimits    []Rlimit
	OOMScore   int
	Umask      int

	TTY  bool
	Size wire.WindowSize
	Init bool // under a reaper

	// Enter is what only a container's first process has; nil joins the
	// namespaces of the process behind the descriptor Join.
	Enter *Enter
	Fds   Fds
}

// Enter describes the mount, UTS and cgroup namespaces to make.
type Enter struct {
	Root       string // the container's root in the agent's tree, a mount point
	Hostname   string
	Domainname string
	Sysctls    []Sysctl
	ReadOnly   bool // the root
	Privileged bool
	Devices    []Node

	HostCgroup      bool // no cgroup namespace of its own
	WritableCgroups bool
	Unmasked        bool    // nothing below /proc and /sys is hidden
	Mounts          []Mount // below /dev, /proc and /sys, after those
}

// Sysctl is one kernel setting, its key with slashes.
type Sysctl struct{ Key, Value string }

// Rlimit is one resource limit by its number.
type Rlimit struct {
	Resource   int
	Soft, Hard uint64
}

// Node is a device node to make.
type Node struct {
	Path     string // below /dev or elsewhere in the container
	Mode     uint32 // type and permissions
	Dev      uint64
	UID, GID int
}

// Mount is a detached mount to attach.
type Mount struct {
	Fd     int // index into the files passed to Start
	Target string
	File   bool
}

// Fds are indexes into the files passed to Start; -1 is absent.
type Fds struct {
	Net, IPC int // namespaces to enter
	Shm      int // a detached tmpfs for /dev/shm
	Join     int // pidfd whose mount, UTS, IPC, net and cgroup namespaces to enter
}

// firstFd is the number of the first passed file in the second stage: 0 to 2 are
// the workload's, 3 is the channel to the agent.
const (
	channelFd = 3
	firstFd   = 4
)

// fault is the second stage's last word when it could not become the workload.
type fault struct {
	Code    wire.ErrorCode
	Message string
}
