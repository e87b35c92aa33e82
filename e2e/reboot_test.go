package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/stackvm/stack/runtime/config"
)

// reboot is "reboot": all of the home's processes are killed at once, the
// sockets are gone, and what was recorded of processes is of another boot.
func reboot(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 0 {
		ts.Fatalf("usage: reboot")
	}
	home := ts.Getenv("STACK_HOME")
	// The keeper first: it would start the supervisor again.
	for _, part := range []string{"system keeper", "system supervisor", ""} {
		for _, p := range processes(home) {
			if strings.Contains(p.command, part) {
				_ = syscall.Kill(p.pid, syscall.SIGKILL)
			}
		}
	}
	for _, p := range awaitNoProcess(home) {
		ts.Fatalf("process %d is left: %s", p.pid, p.command)
	}
	run, err := config.RuntimeDir(config.Dirs{Config: filepath.Join(home, "config"), Data: filepath.Join(home, "data"), State: filepath.Join(home, "state")})
	ts.Check(err)
	ts.Check(os.RemoveAll(run))
	records, err := filepath.Glob(filepath.Join(home, "state", "machines", "*", "machine.json"))
	ts.Check(err)
	if len(records) == 0 {
		ts.Fatalf("no machine is recorded")
	}
	for _, path := range records {
		text, err := os.ReadFile(path)
		ts.Check(err)
		var record map[string]any
		ts.Check(json.Unmarshal(text, &record))
		inner, ok := record["record"].(map[string]any)
		if !ok || inner["hostBoot"] == nil {
			ts.Fatalf("%s has no hostBoot: %s", path, text)
		}
		inner["hostBoot"] = "00000000-0000-0000-0000-000000000000"
		text, err = json.Marshal(record)
		ts.Check(err)
		ts.Check(os.WriteFile(path, text, 0o600))
	}
}
