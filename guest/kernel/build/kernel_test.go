package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
		t.Fatal(err)
	}
}

func TestCheckNamesEverySymbol(t *testing.T) {
	b := kernelBuild{source: t.TempDir()}
	write(t, filepath.Join(b.source, "Kconfig"), "config NET\n\tbool\n")
	write(t, filepath.Join(b.source, "drivers/Kconfig.two"), "menuconfig\tPCI\nconfig DROPPED\n  config INDENTED  \n# config COMMENT\n")
	write(t, filepath.Join(b.source, "drivers/driver.c"), "config NOT_KCONFIG\n")

	b.fragment = []byte("CONFIG_NET=y\nCONFIG_PCI=n\nCONFIG_INDENTED=y\n")
	final := []byte("CONFIG_NET=y\nCONFIG_INDENTED=y\n# CONFIG_DROPPED is not set\n")
	if err := b.check(final); err != nil {
		t.Errorf("a configuration as asked for: %v", err)
	}
	b.fragment = []byte("CONFIG_NET=n\nCONFIG_DROPPED=y\nCONFIG_GONE=n\nCONFIG_NOT_KCONFIG=n\n")
	err := b.check(final)
	for _, want := range []string{
		"CONFIG_NET: asked for n, got y",
		"CONFIG_DROPPED: asked for y, got n",
		"CONFIG_GONE: this kernel has no such symbol",
		"CONFIG_NOT_KCONFIG: this kernel has no such symbol",
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("no %q in %v", want, err)
		}
	}
}

func TestStepsKeepTheEnvironmentOutAndTheLogIn(t *testing.T) {
	t.Setenv("KCFLAGS", "-O0")
	dir := t.TempDir()
	b := kernelBuild{objects: dir, logName: filepath.Join(dir, "log")}
	log, err := os.Create(b.logName)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	values := map[string]string{"SOURCE": "/the/source"}
	err = b.steps(t.Context(), log, [][]string{
		{"sh", "-c", "echo from $SOURCE; env; pwd"},
		{"sh", "-c", "echo why it failed >&2; exit 3"},
		{"sh", "-c", "echo never"},
	}, values)
	if err == nil || !strings.Contains(err.Error(), "exit status 3") || !strings.Contains(err.Error(), "why it failed") || !strings.Contains(err.Error(), b.logName) {
		t.Errorf("steps: %v", err)
	}
	text, err := os.ReadFile(b.logName)
	if err != nil {
		t.Fatal(err)
	}
	for want, in := range map[string]bool{"from /the/source": true, "KBUILD_BUILD_USER=stack": true, dir: true, "KCFLAGS": false, "never": false} {
		if strings.Contains(string(text), want) != in {
			t.Errorf("%q in the log: want %t\n%s", want, in, text)
		}
	}
}

func TestStepsEndWithTheContext(t *testing.T) {
	dir := t.TempDir()
	b := kernelBuild{objects: dir, logName: filepath.Join(dir, "log")}
	log, err := os.Create(b.logName)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	// The shell waits for a child of its own, which must end as well.
	err = b.steps(ctx, log, [][]string{{"sh", "-c", "sleep 300; true"}}, nil)
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("steps: %v", err)
	}
}

func TestInputsTellKernelsApart(t *testing.T) {
	source := filepath.Join(t.TempDir(), "linux-source-6.12.tar.xz")
	if _, err := kernelInputs(t.Context(), source, nil, nil); err == nil || !strings.Contains(err.Error(), "apt-get install linux-source-6.12") {
		t.Errorf("without a source: %v", err)
	}
	if err := needTools("gcc", "ld"); err != nil {
		t.Skip(err)
	}
	seen := map[string]string{}
	for name, in := range map[string]struct{ source, patches, fragment string }{
		"as it is":         {"a", "p", "f"},
		"another source":   {"b", "p", "f"},
		"another patch":    {"a", "q", "f"},
		"another fragment": {"a", "p", "g"},
	} {
		write(t, source, in.source)
		inputs, err := kernelInputs(t.Context(), source, []byte(in.patches), []byte(in.fragment))
		if err != nil {
			t.Fatal(err)
		}
		if other, ok := seen[digest(inputs)]; ok {
			t.Errorf("%s and %s have one key", name, other)
		}
		seen[digest(inputs)] = name
		again, err := kernelInputs(t.Context(), source, []byte(in.patches), []byte(in.fragment))
		if err != nil || string(again) != string(inputs) {
			t.Errorf("%s: two keys for one kernel (%v)", name, err)
		}
	}
}

func TestNeedToolsNamesThePackages(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	err := needTools("flex", "mke2fs")
	if err == nil || err.Error() != "flex, mke2fs not found: apt-get install flex e2fsprogs" {
		t.Errorf("needTools: %v", err)
	}
}

func TestEveryToolHasAPackage(t *testing.T) {
	for _, step := range append(configure[:len(configure):len(configure)], compile...) {
		if tool := step[0]; !strings.HasPrefix(tool, "$") && debs[tool] == "" {
			t.Errorf("no Debian package is named for %s", tool)
		}
	}
	text, err := os.ReadFile("../guest.mk")
	if err != nil {
		t.Fatal(err)
	}
	for tool, deb := range debs {
		if deb != "tar" && !strings.Contains(string(text), " "+deb) { // tar is in every Debian
			t.Errorf("guest.mk does not list %s, which has %s", deb, tool)
		}
	}
}
