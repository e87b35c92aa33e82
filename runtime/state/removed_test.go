package state

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// The logs of removed replicas stay within their budget: the oldest file of the
// first removed replica goes first, the newest lines stay.
func TestRemovedLogs(t *testing.T) {
	s := Open(t.TempDir())
	remove := func(project, name string, second int64, sizes ...int) string {
		t.Helper()
		r := &Replica{ID: NewID(), Name: name, Project: project, Service: "web", Number: 1, Phase: Made}
		if err := s.PutReplica(r); err != nil {
			t.Fatal(err)
		}
		for i, size := range sizes { // the oldest first
			path := s.LogPath(r.ID)
			if n := len(sizes) - 1 - i; n > 0 {
				path += "." + string(rune('0'+n))
			}
			if err := os.WriteFile(path, []byte(strings.Repeat("x", size)), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		for range 2 { // the second finds it done
			if err := s.KeepLog(r, time.Unix(second, 0)); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.DeleteReplica(r.ID); err != nil {
			t.Fatal(err)
		}
		return r.ID
	}
	first := remove("shop", "shop-web-1", 1, 100, 200, 50)
	remove("other", "other-web-1", 2, 100)
	second := remove("shop", "shop-web-1", 3, 10)
	remove("shop", "shop-quiet-1", 4, 0)
	remove("shop", "shop-none-1", 5)
	left := func() (names []string) {
		t.Helper()
		for _, project := range []string{"shop", "other"} {
			all, err := s.Removed(project)
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range all {
				files, err := logFiles(filepath.Dir(s.RemovedLogPath(r.ID)))
				if err != nil {
					t.Fatal(err)
				}
				names = append(names, r.Name+":"+strings.Join(files, ","))
			}
		}
		return names
	}
	for _, tt := range []struct {
		budget int64
		want   string
	}{
		{1000, "shop-web-1:log.json.2,log.json.1,log.json shop-web-1:log.json other-web-1:log.json"},
		{460, "shop-web-1:log.json.2,log.json.1,log.json shop-web-1:log.json other-web-1:log.json"},
		{459, "shop-web-1:log.json.1,log.json shop-web-1:log.json other-web-1:log.json"},
		{160, "shop-web-1:log.json shop-web-1:log.json other-web-1:log.json"},
		{110, "shop-web-1:log.json other-web-1:log.json"},
		{0, ""},
	} {
		if err := s.PruneLogs(tt.budget); err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(left(), " "); got != tt.want {
			t.Errorf("budget %d leaves %q, want %q", tt.budget, got, tt.want)
		}
	}
	for _, id := range []string{first, second} {
		if _, err := os.Stat(s.removedDir(id)); !os.IsNotExist(err) {
			t.Errorf("the directory of %s is left: %v", id, err)
		}
	}
}
