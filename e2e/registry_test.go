package e2e

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// serveImages makes the usual example images, and those of more recipes, if they
// are not made yet, and serves them with the image tool, as the demo does. It
// returns the registry's address.
func serveImages(more []string) (addr string, stop func(), err error) {
	dir, err := os.MkdirTemp("", "stack-e2e-images-")
	if err != nil {
		return "", nil, err
	}
	tool := filepath.Join(dir, "images")
	defer func() {
		if err != nil {
			os.RemoveAll(dir)
		}
	}()
	steps := [][]string{{"go", "build", "-o", tool, "../examples/images"}, {tool, "build", "--source", ".."}}
	if len(more) > 0 {
		steps = append(steps, append(slices.Clone(steps[1]), more...))
	}
	for _, args := range steps {
		cmd := exec.Command(args[0], args[1:]...)
		if out, err := cmd.CombinedOutput(); err != nil {
			return "", nil, fmt.Errorf("%s: %w\n%s", strings.Join(args, " "), err, out)
		}
	}
	serve := exec.Command(tool, "serve", "--addr", "127.0.0.1:0")
	serve.Stderr = os.Stderr
	serve.SysProcAttr = endsWithUs()
	out, err := serve.StdoutPipe()
	if err != nil {
		return "", nil, err
	}
	if err := serve.Start(); err != nil {
		return "", nil, err
	}
	url, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		return "", nil, fmt.Errorf("waiting for the registry: %w", err)
	}
	stop = func() {
		_ = serve.Process.Signal(syscall.SIGTERM)
		_ = serve.Wait()
		os.RemoveAll(dir)
	}
	return strings.TrimPrefix(strings.TrimSpace(url), "http://"), stop, nil
}
