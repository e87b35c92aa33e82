package machine

import (
	"context"
	"errors"
	"net"
	"os"
	"time"

	"github.com/stackvm/stack/guest/wire"
)

// Driver makes machines with one hypervisor.
type Driver interface {
	// Name is what configuration and doctor call the driver: "qemu", "vz".
	Name() string

	// Start makes a machine from c and starts it. It returns when the machine's
	// process runs, not when its agent answers. On error nothing is left behind.
	Start(ctx context.Context, c Config) (Machine, error)

	// Adopt finds the running machine that r describes, by pid, start time and
	// boot id, and takes over its handles, which it owns from then on. It
	// returns ErrGone when that process no longer exists.
	Adopt(ctx context.Context, r Record, handles Handles) (Machine, error)
}

// Machine is a running virtual machine. Its methods may be called concurrently.
type Machine interface {
	// Record is all that Adopt needs beside the handles. It is small, holds no
	// secret, and does not change while the machine runs.
	Record() Record

	// Handles are the host's ends of the machine's streams, for the keeper to
	// duplicate. They stay the machine's.
	Handles() Handles

	// Control and Logs are byte streams to the machine's ports (the
	// names in guest/wire). There is one of each; no greeting has been sent.
	Control() net.Conn
	Logs() net.Conn

	// Wait returns when the machine's process has ended, or ctx has.
	Wait(ctx context.Context) (Exit, error)

	// Kill ends the machine at once, without a word to its agent, and returns
	// when its process has gone. Killing a machine that has ended is no error.
	Kill(ctx context.Context) error

	// AddDisk attaches a disk; the guest finds it by its serial within
	// milliseconds. RemoveDisk detaches it and returns when nothing of the host
	// is open any more; the guest must have unmounted it.
	AddDisk(ctx context.Context, d Disk) error
	RemoveDisk(ctx context.Context, serial string) error

	// Pause freezes the machine's processors, Resume lets them run.
	Pause(ctx context.Context) error
	Resume(ctx context.Context) error

	// Notices reports what the hypervisor says unasked, a host disk that is full
	// first of all. The channel closes when the machine ends.
	Notices() <-chan Notice

	// ConsoleTail returns the kernel's last lines, at most 64 KiB.
	ConsoleTail() string

	// Close lets go of the machine without ending it: goroutines end, files
	// close. The machine can be adopted again by whoever has its handles.
	Close() error
}

// Errors that callers branch on.
var (
	// ErrGone: the process of the record to be adopted no longer exists.
	ErrGone = errors.New("machine is gone")
	// ErrDiskBusy: another machine holds the disk's lock.
	ErrDiskBusy = errors.New("disk is in use by another machine")
)

// Config is what a machine is made from.
type Config struct {
	ID   string // 64-hex
	Name string // for people: the replica's

	// Dir is the machine's own directory, 0700 and empty; the driver keeps its
	// files there (console log, descriptors). The caller removes it when the
	// machine has ended.
	Dir string

	VCPUs     int
	MemoryMiB int

	Kernel    string // paths of the guest artefact
	Initramfs string
	Cmdline   []string // appended to the driver's own
	Key       wire.Key // of the greetings

	Disks []Disk
	MAC   net.HardwareAddr // of the trunk
	MTU   int              // of the trunk, in bytes

	// Shares is the machine's end of the shares port when a share server holds
	// the other; nil leaves the port unconnected. Start duplicates it.
	Shares *os.File
}

// DiskKind decides how writes are cached.
type DiskKind string

// Kinds of disks.
const (
	DiskImage   DiskKind = "image"   // read-only, shared by machines
	DiskScratch DiskKind = "scratch" // writes need not survive the host
	DiskVolume  DiskKind = "volume"  // flushes reach the host's disk
)

// Disk is a block device of a machine.
type Disk struct {
	Serial string   `json:"serial"` // how the guest finds it: at most 20 of [a-z0-9-]
	Kind   DiskKind `json:"kind"`

	// Extents are raw files joined in order; writable disks have exactly one.
	// Each is a multiple of 512 bytes long.
	Extents []Extent `json:"extents"`

	// Lock, for volumes, is an open file whose exclusive flock the caller took:
	// the machine's process inherits it and so holds it exactly as long as it
	// lives or the disk is attached. The driver duplicates it.
	Lock *os.File `json:"-"`
}

// Extent is a part of a disk.
type Extent struct {
	Path  string `json:"path"`
	Bytes int64  `json:"bytes"`
}

// Handles are named files: "control", "logs", "monitor", "trunk" and whatever
// else a driver needs. The names are the driver's, except "trunk", the host's
// end of the NIC, which the switch reads.
type Handles map[string]*os.File

// HandleTrunk names the host's end of the machine's network card.
const HandleTrunk = "trunk"

// Record identifies a running machine's process.
type Record struct {
	Driver    string    `json:"driver"`
	ID        string    `json:"id"`
	Name      string    `json:"name"`
	Dir       string    `json:"dir"`
	PID       int       `json:"pid"`
	StartTime uint64    `json:"startTime"` // field 22 of /proc/PID/stat, in clock ticks since boot
	HostBoot  string    `json:"hostBoot"`  // boot id of the host
	Started   time.Time `json:"started"`
	Key       wire.Key  `json:"key"`
	Accel     string    `json:"accel"`
	Disks     []Disk    `json:"disks"` // as attached at start
}

// Exit is how a machine's process ended.
type Exit struct {
	// Known is false for a machine that was adopted: only a parent learns an
	// exit status.
	Known  bool
	Code   int
	Signal string // "" unless a signal ended it
}

// NoticeKind says what a Notice reports.
type NoticeKind string

// Kinds of notices.
const (
	NoticeDiskFull  NoticeKind = "disk-full"  // paused: the host has no space for a disk
	NoticeDiskError NoticeKind = "disk-error" // an I/O error on the host
	NoticePaused    NoticeKind = "paused"
	NoticeResumed   NoticeKind = "resumed"
)

// Notice is something the hypervisor reported.
type Notice struct {
	Kind   NoticeKind
	Serial string // of the disk, where there is one
	Text   string
}
