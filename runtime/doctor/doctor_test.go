package doctor

import (
	"context"
	"errors"
	"io/fs"
	"strings"
	"testing"
	"testing/fstest"
)

// sound is a host on which everything works; each test spoils one thing.
func sound() Host {
	return Host{
		Files:      fstest.MapFS{"proc/cpuinfo": {Data: []byte("flags : fpu vmx\n")}},
		Getenv:     func(string) string { return "" },
		OpenKVM:    func() error { return nil },
		QEMU:       func(context.Context) (string, error) { return "7.2.0", nil },
		Accel:      func(context.Context) (string, string, error) { return "kvm", "", nil },
		Guest:      func() (string, string, error) { return "sha256:0123456789abcdef", "/g", nil },
		FreeBytes:  func() (int64, string, error) { return 100 << 30, "/d", nil },
		Landlock:   func() int { return 4 },
		Registries: []string{"docker.io"},
		Reach:      func(context.Context, string) error { return nil },
		Settings:   func() ([]Setting, error) { return []Setting{{"accel", "auto", "default"}}, nil },
	}
}

func emulated(h *Host, reason string) {
	h.Accel = func(context.Context) (string, string, error) { return "tcg", reason, nil }
}

func TestExamine(t *testing.T) {
	tests := []struct {
		name   string
		spoil  func(*Host)
		check  string
		level  Level
		advice string // a part of it
	}{
		{"sound", func(*Host) {}, "acceleration", OK, ""},
		{"no rights on kvm", func(h *Host) {
			h.OpenKVM = func() error { return fs.ErrPermission }
			emulated(h, "permission denied")
		}, "acceleration", Warning, "usermod -aG kvm"},
		{"kvm that hangs", func(h *Host) { emulated(h, "the kernel did not boot within 10s") }, "acceleration", Warning, "no usable nesting"},
		{"no kvm on bare metal", func(h *Host) {
			h.OpenKVM = func() error { return fs.ErrNotExist }
			emulated(h, "no /dev/kvm")
		}, "acceleration", Warning, "firmware"},
		{"cloud VM without nesting", func(h *Host) {
			h.OpenKVM = func() error { return fs.ErrNotExist }
			h.Files = fstest.MapFS{"proc/cpuinfo": {Data: []byte("flags : fpu hypervisor\n")}, "sys/class/dmi/id/sys_vendor": {Data: []byte("Google\n")}}
			emulated(h, "no /dev/kvm")
		}, "acceleration", Warning, "nested"},
		{"WSL 2", func(h *Host) {
			h.OpenKVM = func() error { return fs.ErrNotExist }
			h.Files = fstest.MapFS{"proc/sys/kernel/osrelease": {Data: []byte("5.15.0-microsoft-standard-WSL2\n")}}
			emulated(h, "no /dev/kvm")
		}, "acceleration", Warning, ".wslconfig"},
		{"in a container", func(h *Host) { h.Files = fstest.MapFS{".dockerenv": {}} }, "host", Note, "--device /dev/kvm"},
		{"CI", func(h *Host) {
			h.OpenKVM = func() error { return fs.ErrNotExist }
			h.Getenv = func(k string) string { return map[string]string{"GITHUB_ACTIONS": "true"}[k] }
			emulated(h, "no /dev/kvm")
		}, "acceleration", Warning, "runner"},
		{"QEMU missing", func(h *Host) {
			h.QEMU = func(context.Context) (string, error) { return "", errors.New("qemu-system-x86_64 not found") }
		}, "qemu", Error, "apt-get install"},
		{"guest missing", func(h *Host) {
			h.Guest = func() (string, string, error) { return "", "", errors.New("no guest") }
		}, "guest", Error, "make guest"},
		{"little disk", func(h *Host) { h.FreeBytes = func() (int64, string, error) { return 1 << 30, "/d", nil } }, "disk", Warning, "free some space"},
		{"registry unreachable", func(h *Host) { h.Reach = func(context.Context, string) error { return errors.New("no route") } }, "registry docker.io", Warning, "mirror"},
		{"bad configuration", func(h *Host) {
			h.Settings = func() ([]Setting, error) { return nil, errors.New("config.yaml:3: unknown key") }
		}, "configuration", Error, "correct the file"},
		{"no Landlock", func(h *Host) { h.Landlock = func() int { return 0 } }, "sandbox", Warning, "5.13"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h := sound()
			tt.spoil(&h)
			r := Examine(t.Context(), h)
			for _, f := range r.Findings {
				if f.Check != tt.check {
					continue
				}
				if f.Level != tt.level || !strings.Contains(f.Advice, tt.advice) {
					t.Errorf("%+v; want level %s and advice with %q", f, tt.level, tt.advice)
				}
				if r.Healthy() == (tt.level == Error) {
					t.Errorf("Healthy() = %t with %+v", r.Healthy(), f)
				}
				return
			}
			t.Errorf("no finding %q in %+v", tt.check, r.Findings)
		})
	}
}
