//go:build linux

package qemu

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stackvm/stack/guest"
)

// On any host the driver comes to a verdict, gives a reason against KVM, and
// does not try twice.
func TestVerdict(t *testing.T) {
	g, err := guest.Find(os.Getenv)
	var none *guest.NotFoundError
	if errors.As(err, &none) {
		t.Skipf("no machine can boot: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	cache := t.TempDir()
	d := New(Options{CacheDir: cache})
	if _, err := d.Find(t.Context()); errors.Is(err, ErrNoQEMU) {
		t.Skip(err)
	}
	v, err := d.Verdict(t.Context(), g.Kernel, g.Initramfs)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("verdict of this host: %+v", v)
	if v.Accel != KVM && v.Accel != TCG || (v.Accel == TCG) != (v.Reason != "") {
		t.Errorf("verdict %+v: want kvm, or tcg with a reason", v)
	}
	if reason, _ := openKVM(); reason != "" {
		return // nothing was tried
	}
	again, err := d.Verdict(t.Context(), g.Kernel, g.Initramfs)
	if err != nil || again != v {
		t.Errorf("second verdict %+v, %v; want the same %+v", again, err, v)
	}
	files, err := filepath.Glob(filepath.Join(cache, "accel-*.json"))
	if err != nil || len(files) != 1 {
		t.Fatalf("cached verdicts %q, %v; want one", files, err)
	}

	// Another process believes the file, whatever it says.
	lie := Verdict{Accel: KVM, At: time.Now()}
	if v.Accel == KVM {
		lie = Verdict{Accel: TCG, Reason: "lie", At: time.Now()}
	}
	write := func(v Verdict) {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(files[0], b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(lie)
	if got, err := New(Options{CacheDir: cache}).Verdict(t.Context(), g.Kernel, g.Initramfs); err != nil || got.Accel != lie.Accel {
		t.Errorf("verdict from the cache %+v, %v; want %s", got, err, lie.Accel)
	}
}

func TestCachedVerdict(t *testing.T) {
	d := New(Options{CacheDir: t.TempDir()})
	for name, test := range map[string]struct {
		content string
		ok      bool
	}{
		"yes":        {`{"accel":"kvm","at":"2001-01-01T00:00:00Z"}`, true},
		"recent no":  {`{"accel":"tcg","at":"` + time.Now().Format(time.RFC3339) + `"}`, true},
		"old no":     {`{"accel":"tcg","at":"2001-01-01T00:00:00Z"}`, false},
		"future no":  {`{"accel":"tcg","at":"2901-01-01T00:00:00Z"}`, false},
		"unknown":    {`{"accel":"magic"}`, false},
		"half a one": {`{"accel":"k`, false},
		"empty":      {``, false},
	} {
		if err := os.WriteFile(d.cacheFile("x"), []byte(test.content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, ok := d.cached("x"); ok != test.ok {
			t.Errorf("%s: taken %v, want %v", name, ok, test.ok)
		}
	}
}

func TestAccelAskedFor(t *testing.T) {
	if v, err := New(Options{Accel: TCG}).Verdict(t.Context(), "none", "none"); err != nil || v.Accel != TCG || v.Reason == "" {
		t.Errorf("tcg: %+v, %v", v, err)
	}
	if _, err := New(Options{Accel: "xen"}).Verdict(t.Context(), "none", "none"); err == nil {
		t.Error("an unknown accelerator was taken")
	}
}
