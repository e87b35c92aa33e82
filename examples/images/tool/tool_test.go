//go:build linux

package main

import (
	"context"
	"errors"
	"flag"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
)

// TestMain lets the test binary be the program.
func TestMain(m *testing.M) {
	if os.Getenv("TOOL_TEST_MAIN") != "" {
		main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// tool runs the program and returns what it printed and its exit status.
func tool(t *testing.T, args ...string) (string, int) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], args...)
	cmd.Env = append(os.Environ(), "TOOL_TEST_MAIN=1")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	var status *exec.ExitError
	if err != nil && !errors.As(err, &status) {
		t.Fatal(err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

func TestCommands(t *testing.T) {
	good := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer good.Close()
	bad := httptest.NewServer(http.NotFoundHandler())
	defer bad.Close()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := listener.Addr().String()
	listener.Close()
	for _, tt := range []struct {
		args, want string
		status     int
	}{
		{"count -rate 1e6 -to 3", "1\n2\n3\n", 0},
		{"exit 7", "", 7},
		{"sleep 1ms", "sleeping\n", 0},
		{"alloc 3", "touched 3 MiB\n", 0},
		{"spin -for 1ms", `"cpus":`, 0},
		{"facts", `"CapEff":`, 0},
		{"load -rate 100 -for 100ms " + good.URL, `"failures":0,`, 0},
		{"load -rate 100 -for 100ms " + bad.URL, `"404 Not Found":`, 1},
		{"load -rate 100 -for 100ms http://" + closed, `"ok":0,`, 1},
		{"connect " + strings.TrimPrefix(good.URL, "http://"), `"connected"`, 0},
		{"connect " + closed, `"refused"`, 1},
		{"lookup localhost", "127.0.0.1", 0},
		{"layers", "", 1},
		{"no-such-command", "", 2},
		{"count -no-such-flag", "", 2},
	} {
		t.Run(strings.Fields(tt.args)[0], func(t *testing.T) {
			out, status := tool(t, strings.Fields(tt.args)...)
			if status != tt.status || !strings.Contains(out, tt.want) {
				t.Errorf("tool %s: status %d, %q; want %d, %q", tt.args, status, out, tt.status, tt.want)
			}
		})
	}
}

// TestSequence counts over an echo, and notices when it ends.
func TestSequence(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	go func() { // ends with the listener
		for n := 0; ; n++ {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			buf := make([]byte, 64)
			for got := 0; n == 0 || got < 3; got++ { // the second connection breaks after three answers
				size, err := conn.Read(buf)
				if err != nil {
					break
				}
				conn.Write(buf[:size])
			}
			conn.Close()
		}
	}()
	addr := listener.Addr().String()
	if out, status := tool(t, "sequence", "-every", "1ms", "-for", "50ms", addr); status != 0 || strings.Contains(out, "error") {
		t.Errorf("status %d, %s", status, out)
	}
	if out, status := tool(t, "sequence", "-every", "1ms", "-for", "1h", addr); status != 1 || !strings.Contains(out, `"received":3`) {
		t.Errorf("broken connection: status %d, %s", status, out)
	}
}

func TestWatch(t *testing.T) {
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "watch", "-timeout", "1m", dir)
	cmd.Env = append(os.Environ(), "TOOL_TEST_MAIN=1")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 256)
	if n, err := out.Read(buf); string(buf[:n]) != "watching\n" {
		t.Fatalf("%q, %v", buf[:n], err)
	}
	if err := os.WriteFile(filepath.Join(dir, "a"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if n, err := out.Read(buf); string(buf[:n]) != `{"event":"create","name":"a"}`+"\n" {
		t.Errorf("%q, %v", buf[:n], err)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

func TestAnswerWith(t *testing.T) {
	question := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: 7},
		Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName("db."), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}},
	}
	packed, err := question.Pack()
	if err != nil {
		t.Fatal(err)
	}
	reply, err := answerWith(netip.MustParseAddr("192.0.2.1"), packed)
	if err != nil {
		t.Fatal(err)
	}
	var m dnsmessage.Message
	if err := m.Unpack(reply); err != nil || m.ID != 7 || len(m.Answers) != 1 || m.Answers[0].Body.(*dnsmessage.AResource).A != [4]byte{192, 0, 2, 1} {
		t.Errorf("%+v, %v", m, err)
	}
	if _, err := answerWith(netip.Addr{}, []byte("x")); err == nil {
		t.Error("a broken question was answered")
	}
}

func TestEndedIsNoError(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	if err := ended(ctx, flag.ErrHelp); !errors.Is(err, flag.ErrHelp) {
		t.Error(err)
	}
	cancel()
	if err := ended(ctx, net.ErrClosed); err != nil {
		t.Error(err)
	}
}
