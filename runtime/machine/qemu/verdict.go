//go:build linux

package qemu

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stackvm/stack/guest/wire"
	"github.com/stackvm/stack/runtime/machine"
	"github.com/stackvm/stack/runtime/machine/control"
)

const (
	kvmDevice = "/dev/kvm"

	probeDeadline = 10 * time.Second // of a boot to the agent, which takes well under one
	retryAfter    = 24 * time.Hour   // of a "no"; a reboot is a new host too
)

// Verdict is which accelerator works on this host, for this user.
type Verdict struct {
	Accel  Accel     `json:"accel"`
	Reason string    `json:"reason,omitempty"` // why not KVM
	Hint   string    `json:"hint,omitempty"`   // what would change that
	At     time.Time `json:"at"`
}

// Verdict says which accelerator Start uses, and why. That /dev/kvm opens proves
// nothing: there are hosts where firmware runs under it and a kernel hangs for
// ever. So a machine with this kernel is booted up to its agent's answer, under
// a deadline, and the outcome kept per host, user, QEMU and kernel. An accelerator
// that Options ask for is not tried, only looked at.
func (d *Driver) Verdict(ctx context.Context, kernel, initramfs string) (Verdict, error) {
	switch d.opt.Accel {
	case TCG:
		return Verdict{Accel: TCG, Reason: "STACK_ACCEL asks for it"}, nil
	case KVM:
		if reason, hint := openKVM(); reason != "" {
			return Verdict{}, fmt.Errorf("STACK_ACCEL asks for kvm: %s: %s", reason, hint)
		}
		return Verdict{Accel: KVM}, nil
	case "":
	default:
		return Verdict{}, fmt.Errorf("STACK_ACCEL is %q: want kvm or tcg", d.opt.Accel)
	}
	if reason, hint := openKVM(); reason != "" {
		return Verdict{Accel: TCG, Reason: reason, Hint: hint, At: time.Now()}, nil
	}
	binary, err := d.Find(ctx)
	if err != nil {
		return Verdict{}, err
	}
	key, err := hostKey(binary, kernel, initramfs)
	if err != nil {
		return Verdict{}, err
	}
	d.probing.Lock() // one probe: the others wait for its outcome
	defer d.probing.Unlock()
	if v, ok := d.verdicts[key]; ok {
		return v, nil
	}
	v, ok := d.cached(key)
	if !ok {
		if v, err = d.probe(ctx, kernel, initramfs); err != nil {
			return Verdict{}, err
		}
		d.cache(key, v)
	}
	d.verdicts[key] = v
	return v, nil
}

// openKVM says why /dev/kvm cannot be used, and what helps.
func openKVM() (reason, hint string) {
	f, err := os.OpenFile(kvmDevice, os.O_RDWR|unix.O_CLOEXEC, 0)
	switch {
	case err == nil:
		f.Close()
		return "", ""
	case errors.Is(err, fs.ErrNotExist):
		return kvmDevice + " does not exist",
			"enable virtualisation in the firmware, load the kvm_intel or kvm_amd module, or in a cloud choose a size with nested virtualisation"
	case errors.Is(err, fs.ErrPermission):
		name := "$USER"
		if u, err := user.Current(); err == nil {
			name = u.Username
		}
		return kvmDevice + ": permission denied",
			"join the kvm group (sudo usermod -aG kvm " + name + ") and log in again"
	}
	return fmt.Sprintf("%s: %v", kvmDevice, errors.Unwrap(err)), "another hypervisor may hold it"
}

// hostKey identifies everything that a verdict depends on.
func hostKey(b Binary, kernel, initramfs string) (string, error) {
	h := sha256.New()
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return "", err
	}
	boot, err := hostBoot()
	if err != nil {
		return "", err
	}
	cpu, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return "", err
	}
	fmt.Fprintf(h, "%s\n%s\n%s\n%d\n%s\n%s\n", uts.Release[:], uts.Version[:], cpuModel(cpu), os.Getuid(), b.Version, boot)
	for _, path := range []string{b.Path, kernel, initramfs, kvmDevice} {
		var st unix.Stat_t
		if err := unix.Stat(path, &st); err != nil {
			return "", &fs.PathError{Op: "stat", Path: path, Err: err}
		}
		fmt.Fprintf(h, "%s %d %d %d %d %d %o\n", path, st.Size, st.Mtim.Nano(), st.Rdev, st.Uid, st.Gid, st.Mode)
	}
	return hex.EncodeToString(h.Sum(nil)[:16]), nil
}

func cpuModel(cpuinfo []byte) string {
	for line := range bytes.Lines(cpuinfo) {
		if bytes.HasPrefix(line, []byte("model name")) {
			return string(line)
		}
	}
	return ""
}

func (d *Driver) cacheFile(key string) string {
	return filepath.Join(d.opt.CacheDir, "accel-"+key+".json")
}

func (d *Driver) cached(key string) (v Verdict, ok bool) {
	if d.opt.CacheDir == "" {
		return v, false
	}
	b, err := os.ReadFile(d.cacheFile(key))
	if err != nil || json.Unmarshal(b, &v) != nil || (v.Accel != KVM && v.Accel != TCG) {
		return v, false
	}
	return v, v.Accel == KVM || (time.Since(v.At) < retryAfter && time.Since(v.At) >= 0)
}

// cache keeps a verdict; without it the next start only takes longer.
func (d *Driver) cache(key string, v Verdict) {
	if d.opt.CacheDir == "" {
		return
	}
	b, err := json.Marshal(v)
	if err == nil {
		if err = os.MkdirAll(d.opt.CacheDir, 0o700); err == nil {
			tmp := d.cacheFile(key) + "." + rand.Text()
			if err = os.WriteFile(tmp, b, 0o600); err == nil {
				err = os.Rename(tmp, d.cacheFile(key))
			}
		}
	}
	if err != nil {
		d.log.Warn("keeping the accelerator's verdict", "err", err)
	}
}

// probe boots a machine under KVM until its agent answers.
func (d *Driver) probe(ctx context.Context, kernel, initramfs string) (Verdict, error) {
	dir, err := os.MkdirTemp("", "stack-probe-")
	if err != nil {
		return Verdict{}, fmt.Errorf("trying KVM: %w", err)
	}
	defer os.RemoveAll(dir)
	within, cancel := context.WithTimeout(ctx, probeDeadline)
	defer cancel()
	started := time.Now()
	c := machine.Config{
		ID: strings.Repeat("0", 64), Name: "probe", Dir: dir, VCPUs: 1, MemoryMiB: 256,
		Kernel: kernel, Initramfs: initramfs, Key: wire.NewKey(),
		MAC: net.HardwareAddr{0x52, 0x54, 0, 0, 0, 1}, MTU: 1500,
	}
	m, err := d.start(within, c, KVM)
	if err == nil {
		var client *control.Client
		if client, _, err = control.Open(within, m.Control(), c.Key, wire.Hello{}); err == nil {
			client.Close()
		}
		m.Kill(context.WithoutCancel(ctx))
		m.Close()
	}
	if ctx.Err() != nil {
		return Verdict{}, context.Cause(ctx) // the caller gave up: no verdict
	}
	v := Verdict{Accel: KVM, At: time.Now()}
	if err != nil {
		v.Accel, v.Hint = TCG, "STACK_ACCEL=kvm insists"
		v.Reason = fmt.Sprintf("%s opens, but a machine under it failed: %v", kvmDevice, err)
		if errors.Is(err, context.DeadlineExceeded) {
			v.Reason = fmt.Sprintf("%s opens, but a kernel under it hangs (no answer within %s)", kvmDevice, probeDeadline)
		}
	}
	d.log.Info("tried KVM", "accel", v.Accel, "reason", v.Reason, "took", time.Since(started))
	return v, nil
}
