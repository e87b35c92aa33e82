//go:build linux

package launch

import (
	"io"
	"os"
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"
)

// TestReap: whoever waits for the channel to close and then stops the container
// reaches the workload, however early that is.
func TestReap(t *testing.T) {
	if os.Getenv("STACK_TEST_REAPER") != "" {
		Reap([]string{"/bin/sleep", "sleep", "60"})
	}
	for range 20 {
		ours, theirs, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(os.Args[0], "-test.run=^TestReap$")
		cmd.Env = append(os.Environ(), "STACK_TEST_REAPER=1")
		cmd.ExtraFiles = []*os.File{theirs} // the first is channelFd
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		theirs.Close()
		_, err = io.ReadAll(ours) // which ends when nobody has the other end
		ours.Close()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Process.Signal(unix.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if _ = cmd.Wait(); cmd.ProcessState.ExitCode() != 128+int(unix.SIGTERM) {
			t.Fatalf("the reaper ended with %v, want exit status 143", cmd.ProcessState)
		}
	}
}
