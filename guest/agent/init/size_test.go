//go:build linux

package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// maxBinary bounds the agent, in bytes: it is in the memory of every machine.
const maxBinary = 5_000_000

func build(t *testing.T, goarch string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "init")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", path, ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+goarch)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return path
}

func TestSize(t *testing.T) {
	for _, goarch := range []string{"amd64", "arm64"} {
		info, err := os.Stat(build(t, goarch))
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: %d bytes", goarch, info.Size())
		if info.Size() > maxBinary {
			t.Errorf("the agent for %s has %d bytes: more than %d", goarch, info.Size(), maxBinary)
		}
	}
}

// The agent's own room stays small: no package that brings templates, HTTP or
// protobuf along, and of ours only the messages.
func TestImports(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", ".").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	const ours = "github.com/stackvm/stack/"
	for dep := range bytes.Lines(out) {
		name := string(bytes.TrimSpace(dep))
		switch name {
		case "net/http", "net/rpc", "text/template", "html/template", "encoding/gob", "google.golang.org/protobuf/proto", "log/slog":
			t.Errorf("the agent depends on %s", name)
		}
		if rest, ok := bytes.CutPrefix([]byte(name), []byte(ours)); ok && !bytes.HasPrefix(rest, []byte("guest/agent")) && string(rest) != "guest/wire" {
			t.Errorf("the agent depends on %s", name)
		}
	}
}
