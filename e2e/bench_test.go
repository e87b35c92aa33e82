package e2e

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Benchmarks of whole commands, for benchstat. Where docker compose and an
// engine are there, each has a twin with peer=docker that does the same work in
// the same run; the images it needs must be in that engine.

// peer is a way to run compose commands.
type peer struct {
	name    string
	command func(args ...string) *exec.Cmd
}

// peers are stack and, where it works, docker compose.
func peers(b *testing.B) (*home, []peer) {
	h := newHome(b)
	all := []peer{{"stack", h.command}}
	if exec.Command("docker", "compose", "version").Run() == nil && exec.Command("docker", "info").Run() == nil {
		all = append(all, peer{"docker", func(args ...string) *exec.Cmd {
			cmd := exec.Command("docker", append([]string{"compose"}, args...)...)
			cmd.Dir = h.dir
			return cmd
		}})
	}
	return h, all
}

// services writes a compose file of n services that only wait.
func (h *home) services(n int) (file string) {
	var s strings.Builder
	s.WriteString("services:\n")
	for i := range n {
		fmt.Fprintf(&s, "  s%d: {image: busybox, command: [sleep, \"36000\"], init: true}\n", i)
	}
	file = fmt.Sprintf("services%d.yaml", n)
	h.write(file, s.String())
	return filepath.Join(h.dir, file)
}

// must runs a command that has to succeed.
func must(b *testing.B, cmd *exec.Cmd) {
	b.Helper()
	if out, err := cmd.CombinedOutput(); err != nil {
		b.Fatalf("%s: %v\n%s", strings.Join(cmd.Args, " "), err, out)
	}
}

func BenchmarkUpDown(b *testing.B) {
	h, all := peers(b)
	for _, n := range []int{1, 3, 10} {
		file := h.services(n)
		project := fmt.Sprintf("bench%d", n)
		for _, p := range all {
			run := func(args ...string) { must(b, p.command(append([]string{"-p", project, "-f", file}, args...)...)) }
			run("up", "-d")
			run("down", "-t", "0")
			b.Run(fmt.Sprintf("up/services=%d/peer=%s", n, p.name), func(b *testing.B) {
				for b.Loop() {
					run("up", "-d")
					b.StopTimer()
					run("down", "-t", "0")
					b.StartTimer()
				}
			})
			b.Run(fmt.Sprintf("down/services=%d/peer=%s", n, p.name), func(b *testing.B) {
				for b.Loop() {
					b.StopTimer()
					run("up", "-d")
					b.StartTimer()
					run("down")
				}
			})
		}
	}
}

func BenchmarkRunning(b *testing.B) {
	h, all := peers(b)
	file := h.services(3)
	for _, p := range all {
		run := func(args ...string) {
			must(b, p.command(append([]string{"-p", "benchrunning", "-f", file}, args...)...))
		}
		run("up", "-d")
		for name, args := range map[string][]string{
			"up-noop": {"up", "-d"}, "ps": {"ps"}, "exec": {"exec", "-T", "s0", "true"}, "logs": {"logs"}, "plan": {"plan"},
		} {
			if name == "plan" && p.name != "stack" {
				continue
			}
			b.Run(fmt.Sprintf("%s/peer=%s", name, p.name), func(b *testing.B) {
				for b.Loop() {
					run(args...)
				}
			})
		}
		b.Run("run/peer="+p.name, func(b *testing.B) {
			for b.Loop() {
				run("run", "--rm", "-T", "s0", "true")
			}
		})
		run("down", "-t", "0")
	}
}
