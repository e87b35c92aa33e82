// Command build makes the guest artefact that package guest finds, or finds in
// its cache that nothing has changed:
//
//	go run ./guest/kernel/build [-agent PACKAGE] [-source TARBALL]
//
// Kernel, disk template and guest are directories of the cache, each named by a
// digest of what it is made from, each complete or absent. It needs the Debian
// packages of guest.mk, no network and no privilege.
package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/stackvm/stack/guest"
	"github.com/stackvm/stack/guest/kernel"
)

// arch is the one architecture built so far, as package guest names it, with
// the names that the kernel's make and the Go toolchain have for it.
var arch = struct{ name, kernel, goarch string }{"x86_64", "x86_64", "amd64"}

// agentPackage is the program that a machine runs as /init.
const agentPackage = "github.com/stackvm/stack/guest/agent/init"

func main() {
	agent := flag.String("agent", agentPackage, "Go `package` to build as the machine's /init")
	source := flag.String("source", "/usr/src/"+sourcePackage+".tar.xz", "kernel source `tarball`")
	flag.Parse()
	if flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := build(ctx, *agent, *source); err != nil {
		fmt.Fprintln(os.Stderr, "building the guest:", err)
		stop()
		os.Exit(1)
	}
}

func build(ctx context.Context, agentPackage, source string) error {
	// mke2fs is in /sbin, which is not in a Debian user's PATH.
	if err := os.Setenv("PATH", os.Getenv("PATH")+":/usr/sbin:/sbin"); err != nil {
		return err
	}
	root, err := guest.CacheDir(os.Getenv)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(root, 0o755); err != nil {
		return err
	}
	c := cache{root: root, log: os.Stderr}
	fragment, err := kernel.Fragment(arch.name)
	if err != nil {
		return err
	}

	agent, err := buildAgent(ctx, agentPackage)
	if err != nil {
		return err
	}
	ext4Dir, err := ext4Template(ctx, c)
	if err != nil {
		return err
	}
	kernelDir, err := buildKernel(ctx, c, source, fragment)
	if err != nil {
		return err
	}
	release, err := os.ReadFile(filepath.Join(kernelDir, releaseFile))
	if err != nil {
		return err
	}
	m := guest.Manifest{
		Arch:     arch.name,
		Kernel:   string(release),
		Fragment: digest(fragment),
		Agent:    digest(agent),
		Ext4Size: ext4Size,
	}
	dir, err := c.once(ctx, "guest-"+digest([]byte(filepath.Base(kernelDir)+filepath.Base(ext4Dir)+m.Agent+initramfsFormat)), func(dir string) error {
		for _, from := range []string{
			filepath.Join(kernelDir, guest.KernelFile),
			filepath.Join(kernelDir, guest.ConfigFile),
			filepath.Join(ext4Dir, guest.Ext4File),
		} {
			if err := os.Link(from, filepath.Join(dir, filepath.Base(from))); err != nil {
				return err
			}
		}
		if err := writeInitramfs(filepath.Join(dir, guest.InitramfsFile), agent); err != nil {
			return err
		}
		return m.Write(dir)
	})
	if err != nil {
		return err
	}
	if err := c.point("current", dir); err != nil {
		return err
	}
	if err := c.prune(); err != nil {
		return err
	}
	g, err := guest.Open(dir)
	if err != nil {
		return err
	}
	fmt.Printf("guest %.12s %s %s: %s\n", g.Digest, g.Manifest.Arch, g.Manifest.Kernel, g.Dir)
	return nil
}

// digest is the hex SHA-256 of b.
func digest(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}
