package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
)

// initramfsFormat is part of the guest's cache key: it changes when
// writeInitramfs writes other bytes for the same agent.
const initramfsFormat = "initramfs 1"

// Modes of the cpio format, as stat(2) has them.
const (
	modeDir  = 0o040000
	modeChar = 0o020000
	modeFile = 0o100000
)

// entry is a file of the initramfs; all belong to root and carry no time, so
// that equal agents make equal archives.
type entry struct {
	name         string
	mode         uint32
	major, minor uint32 // of a device
	data         []byte
}

// writeInitramfs writes the archive that a machine's kernel unpacks as its first
// root: the agent, the directories it mounts on, and the console that the kernel
// opens for it before anything is mounted. It is not compressed: the hypervisor
// copies it into the machine faster than the machine unpacks it.
func writeInitramfs(path string, agent []byte) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	w := bufio.NewWriter(f)
	err = writeCpio(w, []entry{
		{name: "dev", mode: modeDir | 0o755},
		{name: "dev/console", mode: modeChar | 0o600, major: 5, minor: 1},
		{name: "init", mode: modeFile | 0o755, data: agent},
		{name: "proc", mode: modeDir | 0o555},
		{name: "sys", mode: modeDir | 0o555},
	})
	return errors.Join(err, w.Flush(), f.Close())
}

// writeCpio writes the entries in the "newc" format, parents before children.
func writeCpio(w io.Writer, entries []entry) error {
	entries = append(entries[:len(entries):len(entries)], entry{name: "TRAILER!!!"})
	for i, e := range entries {
		if len(e.data) > 0xffffffff {
			return fmt.Errorf("%s: %d bytes are more than a cpio archive can hold", e.name, len(e.data))
		}
		links := 1
		if e.mode&modeDir == modeDir {
			links = 2
		}
		// Magic, then in eight hex digits each: inode, mode, uid, gid, links, time,
		// size, device of the archive (two), device of the node (two), length of the
		// name with its NUL, checksum (unused).
		header := fmt.Sprintf("070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X",
			i+1, e.mode, 0, 0, links, 0, len(e.data), 0, 0, e.major, e.minor, len(e.name)+1, 0)
		name := header + e.name + "\x00"
		if _, err := io.WriteString(w, name+pad(len(name))); err != nil {
			return err
		}
		if _, err := w.Write(e.data); err != nil {
			return err
		}
		if _, err := io.WriteString(w, pad(len(e.data))); err != nil {
			return err
		}
	}
	return nil
}

// pad fills n bytes up to a multiple of four.
func pad(n int) string { return "\x00\x00\x00"[:-n&3] }
