//go:build linux

package qemu

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// monitorPair returns a client and the other end of its connection.
func monitorPair(t testing.TB, onEvent func(event)) (*monitor, *net.UnixConn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var conns [2]*net.UnixConn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "")
		c, err := net.FileConn(f)
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		conns[i] = c.(*net.UnixConn)
	}
	m := newMonitor(conns[0], onEvent)
	var wg sync.WaitGroup
	wg.Go(m.run)
	t.Cleanup(func() {
		conns[0].Close()
		conns[1].Close()
		wg.Wait()
	})
	return m, conns[1]
}

// serve answers each command with what answer returns for it.
func serve(t testing.TB, c net.Conn, answer func(command, id string) string) {
	var wg sync.WaitGroup
	wg.Go(func() {
		in := bufio.NewScanner(c)
		for in.Scan() {
			var q struct{ Execute, ID string }
			if json.Unmarshal(in.Bytes(), &q) == nil && q.Execute != "" {
				io.WriteString(c, answer(q.Execute, q.ID))
			}
		}
	})
	t.Cleanup(wg.Wait)
	t.Cleanup(func() { c.Close() })
}

func TestMonitor(t *testing.T) {
	events := make(chan event, 10)
	m, other := monitorPair(t, func(e event) { events <- e })
	// What a predecessor left: half a reply, one to its own command, an event.
	io.WriteString(other, `turn": {}, "id": "old-1"}`+"\r\n"+`{"return": {}, "id": "old-2"}`+"\r\n"+`{"event": "STOP", "data": {}, "timestamp": {"seconds": 1}}`+"\r\n")
	serve(t, other, func(command, id string) string {
		switch command {
		case "qmp_capabilities":
			return `{"error": {"class": "GenericError", "desc": "JSON parse error"}}` + "\r\n" +
				fmt.Sprintf(`{"id": %q, "error": {"class": "CommandNotFound", "desc": "Capabilities negotiation is already complete, command ignored"}}`, id) + "\r\n"
		case "fail":
			return fmt.Sprintf(`{"id": %q, "error": {"class": "GenericError", "desc": "no such thing"}}`, id) + "\r\n"
		case "mute":
			return ""
		}
		return fmt.Sprintf(`{"id": %q, "return": {"command": %q}, "unknown": [1, 2]}`, id, command) + "\r\n"
	})
	if err := m.negotiate(t.Context(), true); err != nil {
		t.Fatalf("negotiating on a used connection: %v", err)
	}
	if e := <-events; e.Event != "STOP" {
		t.Errorf("event %+v", e)
	}
	if err := m.negotiate(t.Context(), false); err == nil {
		t.Error("a fresh connection that was negotiated went unnoticed")
	}
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			command := fmt.Sprintf("echo-%d", i)
			reply, err := m.execute(t.Context(), command, nil)
			if err != nil || !strings.Contains(string(reply), command) {
				t.Errorf("execute(%s) = %s, %v", command, reply, err)
			}
		})
	}
	wg.Wait()
	var fault *qmpError
	if _, err := m.execute(t.Context(), "fail", nil); !errors.As(err, &fault) || fault.Desc != "no such thing" {
		t.Errorf("a refused command = %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := m.execute(ctx, "mute", nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a command without an answer = %v", err)
	}
	other.CloseWrite()
	if _, err := m.execute(t.Context(), "mute", nil); err == nil || errors.Is(err, context.Canceled) {
		t.Errorf("a command to an ended QEMU = %v", err)
	}
}

// Nothing that a taken-over QEMU writes makes the client panic, hang or grow.
func FuzzMonitor(f *testing.F) {
	f.Add([]byte(`{"QMP": {"version": {}}}` + "\n"))
	f.Add([]byte(`{"event": "DEVICE_DELETED", "data": {"device": "disk-a"}}` + "\n"))
	f.Add([]byte(`{"return": [], "id": 7}` + "\n{\"id\":\"" + strings.Repeat("x", 9000)))
	f.Add([]byte("\xff\x00\n\n{}\n[]\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		machine := &Machine{leaving: map[string]chan struct{}{}}
		machine.noticesOver = true // nobody listens
		m, other := monitorPair(t, machine.onEvent)
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		done := make(chan error, 1)
		go func() {
			_, err := m.execute(ctx, "query-status", nil)
			done <- err
		}()
		other.SetWriteDeadline(time.Now().Add(10 * time.Second))
		if _, err := other.Write(b); err != nil {
			t.Fatalf("the client stopped reading: %v", err)
		}
		other.CloseWrite()
		if err := <-done; err == nil {
			t.Error("a command was answered by what cannot know its id")
		}
	})
}
