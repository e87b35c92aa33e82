package main

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"github.com/stackvm/stack/guest"
)

// arch is the one architecture released so far, as Go and Debian name it.
const arch = "amd64"

func main() {
	version := flag.String("version", "dev", "what the program says of itself")
	out := flag.String("out", "bin/release", "`directory` for tarball, package and checksums")
	tree := flag.String("tree", "", "write the files below this `prefix` instead")
	flag.Parse()
	if flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}
	if err := release(*version, *out, *tree); err != nil {
		fmt.Fprintln(os.Stderr, "release:", err)
		os.Exit(1)
	}
}

func release(version, out, tree string) (err error) {
	when, err := sourceDate(os.Getenv)
	if err != nil {
		return err
	}
	g, err := guest.Find(os.Getenv)
	if err != nil {
		return err
	}
	if err := g.Verify(); err != nil {
		return err
	}
	work, err := os.MkdirTemp("", "stack-release-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	files, err := collect(work, version, when, g)
	if err != nil {
		return err
	}
	if tree != "" {
		return install(files, tree)
	}

	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	name := "stack-" + version + "-linux-" + arch + ".tar.gz"
	deb := "stack_" + debianVersion(version, when) + "_" + arch + ".deb"
	tarball, err := tarGz(files, "stack-"+version+"/", when)
	if err != nil {
		return err
	}
	pkg, err := debian(files, debianVersion(version, when), when)
	if err != nil {
		return err
	}
	return writeSums(out, []artefact{{name, tarball}, {deb, pkg}})
}

// sourceDate is the one time in everything made: SOURCE_DATE_EPOCH, or that of
// the last commit.
func sourceDate(getenv func(string) string) (time.Time, error) {
	text := getenv("SOURCE_DATE_EPOCH")
	if text == "" {
		out, err := exec.Command("git", "log", "-1", "--format=%ct").Output()
		if err != nil {
			return time.Time{}, fmt.Errorf("finding the time of the last commit: %w: set SOURCE_DATE_EPOCH to a time in seconds", err)
		}
		text = string(out[:max(0, len(out)-1)])
	}
	seconds, err := strconv.ParseInt(text, 10, 64)
	if err != nil || seconds < 0 {
		return time.Time{}, fmt.Errorf("SOURCE_DATE_EPOCH %q is not a time in seconds since 1970", text)
	}
	return time.Unix(seconds, 0).UTC(), nil
}

// build compiles the program as it is released.
func build(to, version string) error {
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false",
		"-ldflags", "-s -w -X github.com/stackvm/stack/cmd/stack/version.Version="+version, "-o", to, "github.com/stackvm/stack/cmd/stack")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch, "GOAMD64=v1", "GOFLAGS=", "GOEXPERIMENT=")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("compiling stack: %w\n%s", err, out)
	}
	return nil
}

// ask runs the program that was built and returns what it prints. It is to see
// nothing of this user's environment but the time.
func ask(program string, when time.Time, args ...string) ([]byte, error) {
	cmd := exec.Command(program, args...)
	cmd.Env = []string{"SOURCE_DATE_EPOCH=" + strconv.FormatInt(when.Unix(), 10), "HOME=" + filepath.Dir(program)}
	out, err := cmd.Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		err = fmt.Errorf("stack %v: %w: %s", args, err, exit.Stderr)
	}
	return out, err
}

// byPath orders files.
func byPath(a, b file) int { return cmp.Compare(a.path, b.path) }
