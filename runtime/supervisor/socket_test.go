package supervisor

import (
	"bufio"
	"context"
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stackvm/stack/guest/wire"
	"github.com/stackvm/stack/runtime/api"
	"github.com/stackvm/stack/spec"
)

// Connections to a container's docker socket reach the host's, as many as may be at
// a time, each way ending by itself; a restarted supervisor takes those to come.
func TestHostDockerSocket(t *testing.T) {
	w := newWorld(t)
	path := filepath.Join(w.dir, "docker.sock")
	web := service("web", "server")
	web.Extension.HostDockerSocket = true
	web.Mounts = []spec.Mount{{Type: spec.MountSocket, Source: path, Target: "/var/run/docker.sock", Pos: spec.Pos{File: "compose.yaml", Line: 5}}}
	p := project("shop", web)
	if _, err := w.apply(api.Apply{Command: api.Up, Name: "shop", Project: p}); err == nil || !strings.Contains(err.Error(), "compose.yaml:5: service \"web\": the host's docker socket: stat "+path) {
		t.Errorf("without docker: %v", err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var open atomic.Int64
	go func() { // an engine: it says what it was told once that has ended
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			open.Add(1)
			go func() {
				defer open.Add(-1)
				defer conn.Close()
				hello := bufio.NewReader(conn)
				line, _ := hello.ReadString('\n')
				_, _ = io.WriteString(conn, "upgraded "+line)
				rest, _ := io.ReadAll(hello)
				_, _ = conn.Write(rest)
			}()
		}
	}()
	w.up(p)
	if c, _ := w.guest("shop-web-1").Container("shop-web-1"); len(c.Mounts) != 1 || c.Mounts[0].Kind != wire.MountSocket || strings.Contains(c.Mounts[0].Source, path) || c.Mounts[0].Mode == 0 {
		t.Errorf("mounts: %+v", c.Mounts)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	dial := func() *net.UnixConn {
		t.Helper()
		conn, err := w.guest("shop-web-1").Dial(ctx, "shop-web-1", "/var/run/docker.sock")
		if err != nil {
			t.Fatal(err)
		}
		return conn
	}
	talk := func(conn *net.UnixConn) {
		t.Helper()
		in := bufio.NewReader(conn)
		_, _ = io.WriteString(conn, "hello\n")
		if line, err := in.ReadString('\n'); line != "upgraded hello\n" {
			t.Fatalf("it says %q, %v", line, err)
		}
		_, _ = io.WriteString(conn, "the rest")
		_ = conn.CloseWrite()
		if rest, err := io.ReadAll(in); string(rest) != "the rest" {
			t.Fatalf("after the end of what it was told it says %q, %v", rest, err)
		}
		conn.Close()
	}
	var held []*net.UnixConn
	for range maxRelayed {
		conn := dial()
		held = append(held, conn)
		_, _ = io.WriteString(conn, "hello\n")
		if line, err := bufio.NewReader(conn).ReadString('\n'); line != "upgraded hello\n" {
			t.Fatalf("it says %q, %v", line, err)
		}
	}
	if n := open.Load(); n != maxRelayed {
		t.Errorf("%d connections are open, want %d", n, maxRelayed)
	}
	one := make(chan *net.UnixConn)
	go func() {
		conn, _ := w.guest("shop-web-1").Dial(ctx, "shop-web-1", "/var/run/docker.sock")
		one <- conn
	}()
	held[0].Close() // one goes, the next comes
	talk(<-one)
	for _, conn := range held[1:] {
		conn.Close()
	}
	w.restart()
	talk(dial())
	w.down(p, false)
	w.nothingLeft()
}

// What another service has of the host's docker is not to be had by the way.
func TestHostDockerSocketBorrowed(t *testing.T) {
	w := newWorld(t)
	path := filepath.Join(w.dir, "docker.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	web, thief := service("web", "server"), dependsOn(service("thief", "server"), "web", spec.ConditionStarted)
	web.Mounts = []spec.Mount{{Type: spec.MountSocket, Source: path, Target: "/var/run/docker.sock"}}
	thief.VolumesFrom = []spec.VolumesFrom{{Service: "web"}}
	m := &spec.Machine{Host: "web", Services: []string{"thief", "web"}}
	web.Machine, thief.Machine = m, m
	p := project("shop", web, thief)
	if _, err := w.apply(api.Apply{Command: api.Up, Name: "shop", Project: p}); err == nil || !strings.Contains(err.Error(), "that has the docker socket of the host") {
		t.Errorf("up: %v", err)
	}
	w.down(p, false)
	w.nothingLeft()
}
