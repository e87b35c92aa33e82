//go:build linux

package agent_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stackvm/stack/guest/agent/boottest"
	"github.com/stackvm/stack/guest/wire"
)

const storageVLAN = 4094

func storageInterface(n int) wire.Interface {
	return wire.Interface{VLAN: storageVLAN, MAC: fmt.Sprintf("02:00:00:00:40:%02x", n), MTU: 1500, Addrs: []string{fmt.Sprintf("169.254.0.%d/16", n)}}
}

// A volume of a storage machine, in two machines at once: filled once, with its
// owners; what one does the other sees; a lock of one keeps the other out, also
// after the storage machine was killed and is there again, and goes with its
// machine. A volume of others is not there, one to be read cannot be written.
func TestStorage(t *testing.T) {
	image := boottest.Image(t, func(root string) {
		build := exec.Command("go", "build", "-trimpath", "-o", filepath.Join(root, "bin/tool"), "github.com/stackvm/stack/examples/images/tool")
		build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64")
		if out, err := build.CombinedOutput(); err != nil {
			t.Fatalf("building the tool: %v\n%s", err, out)
		}
		boottest.Write(t, root, "data/seed", "from the image", 0o640)
		if err := os.Chown(filepath.Join(root, "data"), 1000, 2000); err != nil {
			t.Skipf("making an image with owners: %v (run as root)", err)
		}
	})
	disks := []boottest.Disk{
		{Serial: "records", Path: boottest.Ext4(t, 16, 64)},
		{Serial: "vol", Path: boottest.Ext4(t, 16, 256)},
		{Serial: "looked-at", Path: boottest.Ext4(t, 16, 64)},
		{Serial: "foreign", Path: boottest.Ext4(t, 16, 64)},
	}
	hub := boottest.NewHub(t)
	clients := []wire.StorageClient{
		{ID: strings.Repeat("a1", 16), Addr: "169.254.0.3", Volumes: map[string]bool{"vol": false, "looked-at": true}},
		{ID: strings.Repeat("b2", 16), Addr: "169.254.0.4", Volumes: map[string]bool{"vol": false, "looked-at": false}},
	}
	serve := wire.Serve{
		Interface: storageInterface(2), Records: "records", Clients: clients,
		Volumes: []wire.ServedVolume{{Serial: "vol", FSID: 1}, {Serial: "looked-at", FSID: 2}, {Serial: "foreign", FSID: 3}},
	}
	start := func() *boottest.Machine {
		m := boottest.Boot(t, boottest.Options{Disks: disks, MemoryMiB: 256})
		hub.Plug(m)
		m.Call(wire.OpServe, serve, nil)
		return m
	}
	server := start()
	user := func(id string, n int) (*boottest.Machine, wire.Container) {
		m := boottest.Boot(t, boottest.Options{Disks: []boottest.Disk{{Serial: "img", Path: image, ReadOnly: true}}, MemoryMiB: 256})
		hub.Plug(m)
		c := shell(id, "trap exit TERM; while :; do sleep 1000 & wait; done")
		c.Root.Scratch = ""
		c.Storage = &wire.Storage{Interface: storageInterface(n + 3), Server: "169.254.0.2", Client: clients[n].ID}
		return m, c
	}
	a, inA := user(idA, 0)
	inA.Mounts = []wire.Mount{{Kind: wire.MountShared, Source: "vol", Target: "/data"}, {Kind: wire.MountShared, Source: "looked-at", Target: "/looked", ReadOnly: true}}
	a.Call(wire.OpCreate, inA, nil)
	a.Call(wire.OpStart, wire.ContainerRef{ID: idA}, nil)
	b, inB := user(idB, 1)
	inB.Mounts = []wire.Mount{{Kind: wire.MountShared, Source: "vol", Target: "/data"}, {Kind: wire.MountShared, Source: "looked-at", Target: "/looked"}}
	b.Call(wire.OpCreate, inB, nil)
	b.Call(wire.OpStart, wire.ContainerRef{ID: idB}, nil)
	check := func(m *boottest.Machine, id, script, want string) {
		t.Helper()
		if got := strings.TrimSpace(m.Sh(id, script)); got != want {
			t.Errorf("%s\n got %q\nwant %q", script, got, want)
		}
	}
	check(a, idA, "cd /data; stat -c '%u:%g' .; cat seed; stat -c ' %a' seed", "1000:2000\nfrom the image 640")
	check(b, idB, "cd /data; echo b > made; chown 33:44 made; chmod 4711 made; ln made hard; ln -s made soft; mkfifo pipe; stat -c '%u:%g %a %h' made", "33:44 4711 2")
	check(a, idA, "cd /data; stat -c '%u:%g %a %h' made; readlink soft; cat hard; test -p pipe && echo pipe", "33:44 4711 2\nmade\nb\npipe")
	check(a, idA, "cd /data; exec 3< made; echo new > other; mv other made; cat <&3; cat made", "b\nnew")
	check(b, idB, "echo written > /looked/file", "")
	check(a, idA, "cat /looked/file; (echo x > /looked/file) 2>/dev/null || echo refused; ip link | grep -c stack-storage || true", "written\nrefused\n0")

	// Not its own, so not there: neither by its name nor on its machine's word.
	foreign := inB
	foreign.ID, foreign.Mounts = strings.Repeat("c", 64), []wire.Mount{{Kind: wire.MountShared, Source: "foreign", Target: "/data"}}
	refused := b.Send(wire.OpCreate, foreign)
	defer refused.Close()

	// A held lock outlives its server, and who writes meanwhile just waits.
	stream, err := a.Open(wire.OpExec, wire.Exec{ID: idA, Args: []string{"tool", "lock", "/data/locked"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	var buf []byte
	if _, p, err := wire.ReadFrame(stream, &buf); err != nil || string(p) != "held\n" {
		t.Fatalf("taking a lock: %q, %v", p, err)
	}
	const try = "tool lock -try /data/locked; tool lock -try -flock /data/locked"
	const keptOut = "kept out\nkept out"
	check(b, idB, try, keptOut)
	writing := a.Send(wire.OpExec, wire.Exec{ID: idA, Args: []string{"sh", "-c", "echo begun; for i in $(seq 200); do echo $i >> /data/log || exit 1; sync /data/log || exit 1; done; echo done"}})
	defer writing.Close()
	if err := boottest.ReadReply(writing, nil); err != nil {
		t.Fatal(err)
	}
	if _, p, err := wire.ReadFrame(writing, &buf); err != nil || string(p) != "begun\n" {
		t.Fatalf("writing: %q, %v", p, err)
	}
	server.Kill()
	server = start()
	check(b, idB, try, keptOut)
	r, err := boottest.Collect(writing)
	if err != nil || r.Code != 0 || !strings.HasSuffix(r.Stdout, "done\n") {
		t.Errorf("writing across the server's death: %+v, %v", r, err)
	}
	check(b, idB, "wc -l < /data/log; tail -n 1 /data/log", "200\n200")

	// It goes with its machine, as soon as the host says that this is gone.
	a.Kill()
	serve.Clients = clients[1:]
	server.Call(wire.OpServe, serve, nil)
	check(b, idB, try, "taken\ntaken")

	var fault *wire.Error
	if err := boottest.ReadReply(refused, nil); !errors.As(err, &fault) {
		t.Errorf("mounting a foreign volume: %v; want a refusal", err)
	}
	b.Call(wire.OpStop, wire.Stop{ID: idB, Grace: boottest.Patience}, nil)
	if f := b.Shutdown(boottest.Patience); len(f.Unsynced) > 0 {
		t.Errorf("farewell: %+v", f)
	}
	serve.Volumes, serve.Clients = serve.Volumes[:1], nil
	server.Call(wire.OpServe, serve, nil)
	if f := server.Shutdown(boottest.Patience); len(f.Unsynced) > 0 {
		t.Errorf("farewell of the storage machine: %+v", f)
	}
	for _, d := range disks {
		fsck(t, d.Path)
	}
}
