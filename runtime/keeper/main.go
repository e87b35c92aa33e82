package keeper

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/stackvm/stack/runtime/config"
)

// Main is the process that Connect starts: it reports on file 3 and is the
// keeper until there is nothing left to keep. supervisor are the arguments with
// which this binary becomes the supervisor.
func Main(dirs config.Dirs, supervisor []string) error {
	unix.Umask(0o077)
	log := slog.New(slog.NewTextHandler(os.Stderr, nil)).With("process", "keeper", "pid", os.Getpid())
	var report *os.File
	if os.Getenv(envInherited) == "" {
		unix.CloseOnExec(3)
		report = os.NewFile(3, "ready")
	}
	tell := func(text string) {
		if report != nil {
			fmt.Fprintln(report, text)
			report.Close()
			report = nil
		}
	}
	run, err := config.RuntimeDir(dirs)
	if err == nil {
		err = os.Chdir("/")
	}
	if err == nil {
		err = Run(Config{RuntimeDir: run, LogFile: filepath.Join(dirs.State, LogName), Supervisor: supervisor}, log, func(another bool) {
			if another {
				tell("another")
			} else {
				tell("ready")
			}
		})
	}
	if err != nil {
		tell("error " + strings.ReplaceAll(err.Error(), "\n", "; "))
		log.Error("ending", "err", err)
	}
	return err
}
