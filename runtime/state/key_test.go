package state

import (
	"bytes"
	"os"
	"path/filepath"
	"sync"
	"testing"
)

func TestHashKeyIsOneForAllProcesses(t *testing.T) {
	s := Open(filepath.Join(t.TempDir(), "state"))
	keys := make([][]byte, 8)
	var wg sync.WaitGroup
	for i := range keys {
		wg.Go(func() {
			var err error
			if keys[i], err = s.HashKey(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for _, k := range keys {
		if len(k) != HashKeyBytes || !bytes.Equal(k, keys[0]) {
			t.Fatalf("keys differ: %x and %x", keys[0], k)
		}
	}
	path := filepath.Join(s.Dir(), "hash.key")
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("key file: %v, %v; want mode 0600", info.Mode(), err)
	}
	if err := os.WriteFile(path, []byte("short"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.HashKey(); err == nil {
		t.Error("a damaged key was taken")
	}
	if left, err := filepath.Glob(filepath.Join(s.Dir(), ".hash-*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
}
