package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/docker/go-units"
)

// Level says how bad a finding is.
type Level string

// Levels.
const (
	OK      Level = "ok"
	Note    Level = "note"    // worth knowing, nothing to cure
	Warning Level = "warning" // works, but not well
	Error   Level = "error"   // stack cannot work
)

// Finding is the result of one check.
type Finding struct {
	Check   string `json:"check"`
	Level   Level  `json:"level"`
	Message string `json:"message"`
	Advice  string `json:"advice,omitempty"` // the cure, where there is one
}

// Setting is one effective value of the configuration.
type Setting struct {
	Key    string `json:"key"`
	Value  string `json:"value"`
	Origin string `json:"origin"` // default, environment, or file:line
}

// Report is all that doctor has to say.
type Report struct {
	Findings []Finding `json:"findings"`
	Settings []Setting `json:"settings"`
}

// Healthy reports whether no finding is an error.
func (r Report) Healthy() bool {
	for _, f := range r.Findings {
		if f.Level == Error {
			return false
		}
	}
	return true
}

// Host is what the checks ask. Every field must be set.
type Host struct {
	Files  fs.FS // the root file system: proc, sys, etc
	Getenv func(string) string
	// OpenKVM opens and closes /dev/kvm for reading and writing.
	OpenKVM func() error
	// QEMU returns the version of the QEMU that would be used; its error says
	// what to install.
	QEMU func(context.Context) (string, error)
	// Accel returns the accelerator that machines get, "kvm" or "tcg", and why.
	Accel func(context.Context) (name, reason string, err error)
	// Guest returns the identity of the guest artefact and where it lies.
	Guest func() (digest, dir string, err error)
	// FreeBytes returns the space left where data is kept, and that directory.
	FreeBytes func() (free int64, dir string, err error)
	// Landlock returns the ABI version of the kernel's Landlock, 0 for none.
	Landlock func() int
	// Registries are the registries to reach: those configured, docker.io first.
	Registries []string
	// Reach asks a registry for its API version.
	Reach func(ctx context.Context, registry string) error
	// Settings returns the effective configuration.
	Settings func() ([]Setting, error)
}

// minFree is the space below which images and volumes will not fit for long; up
// warns at the same number.
const minFree = 2 << 30

// Examine runs every check.
func Examine(ctx context.Context, h Host) Report {
	var r Report
	add := func(f Finding) { r.Findings = append(r.Findings, f) }

	settings, err := h.Settings()
	if err != nil {
		add(Finding{"configuration", Error, err.Error(), "correct the file, or remove it to use the defaults"})
	} else {
		add(Finding{Check: "configuration", Level: OK, Message: "valid"})
		r.Settings = settings
	}

	version, qemuErr := h.QEMU(ctx)
	if qemuErr != nil {
		add(Finding{"qemu", Error, qemuErr.Error(), "Debian and Ubuntu: sudo apt-get install --no-install-recommends qemu-system-x86"})
	} else {
		add(Finding{Check: "qemu", Level: OK, Message: "version " + version})
	}

	digest, dir, guestErr := h.Guest()
	if guestErr != nil {
		add(Finding{"guest", Error, guestErr.Error(), "run make guest in a checkout, or install a release, which brings it along"})
	} else {
		add(Finding{Check: "guest", Level: OK, Message: shorten(digest) + " in " + dir})
	}

	place := whereami(h)
	add(place.finding())
	add(acceleration(ctx, h, place, qemuErr == nil && guestErr == nil))

	if abi := h.Landlock(); abi == 0 {
		add(Finding{"sandbox", Warning, "the kernel has no Landlock: a machine that breaks out of QEMU could read your files", "use a kernel of 5.13 or newer with landlock in its lsm= list"})
	} else {
		add(Finding{Check: "sandbox", Level: OK, Message: fmt.Sprintf("Landlock ABI %d", abi)})
	}

	add(space(h))
	for _, name := range h.Registries {
		if err := h.Reach(ctx, name); err != nil {
			add(Finding{"registry " + name, Warning, err.Error(), "images already pulled go on working; set a proxy or a mirror in config.yaml"})
		} else {
			add(Finding{Check: "registry " + name, Level: OK, Message: "answers"})
		}
	}
	return r
}

func space(h Host) Finding {
	free, dir, err := h.FreeBytes()
	switch {
	case err != nil:
		return Finding{"disk", Error, err.Error(), "make the directory readable, or choose another with STACK_HOME"}
	case free < minFree:
		return Finding{"disk", Warning, fmt.Sprintf("%s free in %s", units.BytesSize(float64(free)), dir), "free some space: machines pause when the disk is full"}
	}
	return Finding{Check: "disk", Level: OK, Message: fmt.Sprintf("%s free in %s", units.BytesSize(float64(free)), dir)}
}

// place is the kind of host this is, as far as it limits virtualisation.
type place struct {
	kind   placeKind
	detail string
}

type placeKind int

const (
	bareMetal placeKind = iota
	virtualMachine
	wsl2
	container
	ciRunner
)

func (p place) finding() Finding {
	f := Finding{Check: "host", Level: OK}
	switch p.kind {
	case bareMetal:
		f.Message = "no hypervisor below"
	case virtualMachine:
		f.Message = "a virtual machine (" + p.detail + ")"
	case wsl2:
		f.Message = "WSL 2"
	case container:
		f.Level, f.Message, f.Advice = Note, "inside a container ("+p.detail+")", "give the container /dev/kvm (docker run --device /dev/kvm)"
	case ciRunner:
		f.Message = "a CI runner (" + p.detail + ")"
	}
	return f
}

// whereami tells what the host is from files that any user may read.
func whereami(h Host) place {
	read := func(name string) string {
		b, err := fs.ReadFile(h.Files, name)
		if err != nil {
			return "" // an absent file is what most hosts answer with
		}
		return strings.TrimSpace(string(b))
	}
	if release := read("proc/sys/kernel/osrelease"); strings.Contains(strings.ToLower(release), "microsoft") {
		return place{wsl2, release}
	}
	for _, marker := range []struct{ file, name string }{{".dockerenv", "docker"}, {"run/.containerenv", "podman"}} {
		if _, err := fs.Stat(h.Files, marker.file); err == nil {
			return place{container, marker.name}
		}
	}
	for _, ci := range []struct{ env, name string }{{"GITHUB_ACTIONS", "GitHub Actions"}, {"GITLAB_CI", "GitLab"}, {"CI", "CI is set"}} {
		if h.Getenv(ci.env) != "" {
			return place{ciRunner, ci.name}
		}
	}
	// Flags of the first processor: "hypervisor" is CPUID.1:ECX[31].
	if strings.Contains(read("proc/cpuinfo"), " hypervisor") {
		vendor := read("sys/class/dmi/id/sys_vendor")
		if vendor == "" {
			vendor = "unknown hypervisor"
		}
		return place{virtualMachine, vendor}
	}
	return place{kind: bareMetal}
}

// acceleration says whether machines run on the processor or by emulation, and
// when by emulation, what would change that here.
func acceleration(ctx context.Context, h Host, p place, bootable bool) Finding {
	f := Finding{Check: "acceleration"}
	kvmErr := h.OpenKVM()
	if bootable {
		name, reason, err := h.Accel(ctx)
		switch {
		case err != nil:
			return Finding{f.Check, Error, err.Error(), "STACK_ACCEL=tcg runs machines by emulation"}
		case name == "kvm":
			return Finding{Check: f.Check, Level: OK, Message: "kvm"}
		}
		f.Level, f.Message = Warning, "emulation (tcg), slow and no security boundary: "+reason
	} else if kvmErr == nil {
		return Finding{f.Check, Note, "/dev/kvm opens; whether a kernel boots with it is tried once QEMU and the guest are there", ""}
	} else {
		f.Level, f.Message = Warning, "/dev/kvm: "+kvmErr.Error()
	}

	switch {
	case errors.Is(kvmErr, fs.ErrPermission):
		f.Advice = "join the group that owns /dev/kvm, then log in again: sudo usermod -aG kvm $USER"
	case errors.Is(kvmErr, fs.ErrNotExist):
		f.Advice = map[placeKind]string{
			bareMetal:      "switch virtualisation (VT-x or AMD-V) on in the firmware, then: sudo modprobe kvm_intel (or kvm_amd)",
			virtualMachine: "this machine is itself virtual and offers no nested virtualisation: ask for it (GCP: --enable-nested-virtualization; Azure: a v3 or newer size; AWS: a .metal instance; Proxmox, libvirt: cpu host-passthrough)",
			wsl2:           "set nestedVirtualization=true under [wsl2] in %UserProfile%\\.wslconfig, then: wsl --shutdown",
			container:      "give the container the device: docker run --device /dev/kvm",
			ciRunner:       "choose a runner with KVM (GitHub: the Linux runners of 4 cores and more have it; add the udev rule that opens /dev/kvm)",
		}[p.kind]
	case kvmErr == nil:
		f.Advice = "/dev/kvm opens, but a kernel does not boot with it: the hypervisor below has no usable nesting; STACK_ACCEL=kvm tries it all the same"
	}
	return f
}

func shorten(digest string) string {
	digest = strings.TrimPrefix(digest, "sha256:")
	return digest[:min(len(digest), 12)]
}
