package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func testCache(t *testing.T) cache { return cache{root: t.TempDir(), log: io.Discard} }

// Each caller takes the lock through a file of its own, as processes do.
func TestOnceOfManyBuilds(t *testing.T) {
	c := testCache(t)
	var fills atomic.Int32
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			dir, err := c.once(t.Context(), "kind-1", func(dir string) error {
				fills.Add(1)
				return os.WriteFile(filepath.Join(dir, "result"), []byte("whole"), 0o644)
			})
			if err != nil {
				t.Error(err)
				return
			}
			if text, err := os.ReadFile(filepath.Join(dir, "result")); err != nil || string(text) != "whole" {
				t.Errorf("result %q, %v", text, err)
			}
		})
	}
	wg.Wait()
	if n := fills.Load(); n != 1 {
		t.Errorf("built %d times, want once", n)
	}
}

func TestOnceAfterAFailureAndAKill(t *testing.T) {
	c := testCache(t)
	broken := errors.New("broken")
	if _, err := c.once(t.Context(), "kind-1", func(dir string) error {
		return errors.Join(os.WriteFile(filepath.Join(dir, "half"), nil, 0o644), broken)
	}); !errors.Is(err, broken) {
		t.Fatalf("a failing fill: %v", err)
	}
	for _, name := range []string{"kind-1", "kind-1.work"} {
		if _, err := os.Stat(filepath.Join(c.root, name)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s after a failure: %v", name, err)
		}
	}
	// What a killed build left behind is not part of the next.
	if err := os.MkdirAll(filepath.Join(c.root, "kind-1.work", "half"), 0o755); err != nil {
		t.Fatal(err)
	}
	dir, err := c.once(t.Context(), "kind-1", func(dir string) error {
		entries, err := os.ReadDir(dir)
		if err == nil && len(entries) > 0 {
			err = fmt.Errorf("it is given a directory holding %v", entries)
		}
		return err
	})
	if err != nil || dir != filepath.Join(c.root, "kind-1") {
		t.Errorf("building again: %q, %v", dir, err)
	}
}

func TestWaitingForALockEndsWithTheContext(t *testing.T) {
	c := testCache(t)
	unlock, err := c.lock(t.Context(), "kind-1")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	told := notice{cancel}
	c.log = told
	_, err = c.once(ctx, "kind-1", func(string) error { return nil })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("waiting with a cancelled context: %v", err)
	}
	unlock() // the waiter's goroutine gets the lock and ends; goleak would see it
}

// notice calls a function when something is written to it.
type notice struct{ call func() }

func (n notice) Write(p []byte) (int, error) { n.call(); return len(p), nil }

func TestPointReplacesTheLink(t *testing.T) {
	c := testCache(t)
	for _, dir := range []string{"guest-1", "guest-2", "guest-2"} {
		if err := c.point("current", filepath.Join(c.root, dir)); err != nil {
			t.Fatal(err)
		}
		if to, err := os.Readlink(filepath.Join(c.root, "current")); err != nil || to != dir {
			t.Errorf("current leads to %q, %v; want %s", to, err, dir)
		}
	}
	entries, err := os.ReadDir(c.root)
	if err != nil || len(entries) != 1 {
		t.Errorf("left over: %v, %v", entries, err)
	}
}

func TestPruneKeepsWhatIsRecentOrAmongTheLast(t *testing.T) {
	c := testCache(t)
	result := func(name string, age time.Duration) {
		t.Helper()
		dir, when := filepath.Join(c.root, name), time.Now().Add(-age)
		if err := errors.Join(os.Mkdir(dir, 0o755), os.Chtimes(dir, when, when)); err != nil {
			t.Fatal(err)
		}
	}
	const day = 24 * time.Hour
	for i := range keepResults - 2 {
		result(fmt.Sprintf("guest-new%d", i), time.Duration(i)*time.Hour)
	}
	result("guest-old1", 10*day)
	result("guest-old2", 11*day)
	result("guest-old3", 12*day) // the ninth
	result("kernel-old", 300*day)
	result("guest-busy.work", 300*day)
	if err := os.WriteFile(filepath.Join(c.root, "guest-old3.lock"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := c.prune(); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(c.root)
	if err != nil {
		t.Fatal(err)
	}
	var left []string
	for _, e := range entries {
		left = append(left, e.Name())
	}
	if len(left) != keepResults+3 || slices.Contains(left, "guest-old3") || !slices.Contains(left, "guest-old2") {
		t.Errorf("left: %v", left)
	}
	// Being asked for makes a result young again.
	if dir, err := c.once(t.Context(), "kernel-old", nil); err != nil {
		t.Errorf("%s: %v", dir, err)
	} else if info, err := os.Stat(dir); err != nil || time.Since(info.ModTime()) > day {
		t.Errorf("not marked as used: %v, %v", info, err)
	}
}
