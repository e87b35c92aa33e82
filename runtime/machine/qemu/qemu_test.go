//go:build linux

package qemu_test

import (
	"errors"
	"os"
	"testing"

	"go.uber.org/goleak"

	"github.com/stackvm/stack/guest"
	"github.com/stackvm/stack/runtime/machine/machinetest"
	"github.com/stackvm/stack/runtime/machine/qemu"
	"github.com/stackvm/stack/runtime/sandbox"
	"github.com/stackvm/stack/runtime/share"
)

func TestMain(m *testing.M) {
	sandbox.MaybeRun()
	share.MaybeRun()
	goleak.VerifyTestMain(m)
}

// subject returns the driver with the guest that `make guest` built.
func subject(t testing.TB) machinetest.Subject {
	t.Helper()
	g, err := guest.Find(os.Getenv)
	var none *guest.NotFoundError
	if errors.As(err, &none) {
		t.Skipf("no machine can boot: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	d := qemu.New(qemu.Options{Accel: qemu.Accel(os.Getenv("STACK_ACCEL")), CacheDir: cacheDir(t)})
	if _, err := d.Find(t.Context()); errors.Is(err, qemu.ErrNoQEMU) {
		t.Skip(err)
	}
	return machinetest.Subject{Driver: d, Kernel: g.Kernel, Initramfs: g.Initramfs}
}

// cacheDir keeps the accelerator's verdict for the tests of one run.
func cacheDir(t testing.TB) string {
	dir := os.TempDir() + "/stack-test-accel"
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestConformance(t *testing.T) {
	machinetest.Run(t, func(t *testing.T) machinetest.Subject { return subject(t) })
}
