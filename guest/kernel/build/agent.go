package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// buildAgent compiles the agent. The result depends on its sources and the Go
// release alone, so the digest of the binary stands for both; Go's own cache
// makes a repetition cheap.
func buildAgent(ctx context.Context, pkg string) ([]byte, error) {
	dir, err := os.MkdirTemp("", "stack-agent-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	out := filepath.Join(dir, "init")
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w -buildid=", "-o", out, pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch.goarch, "GOAMD64=v1", "GOFLAGS=", "GOEXPERIMENT=")
	var complaint bytes.Buffer
	cmd.Stderr = &complaint
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("compiling the agent %s: %w\n%s", pkg, err, complaint.Bytes())
	}
	return os.ReadFile(out)
}
