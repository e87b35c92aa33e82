package main

import (
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"
)

// key is what somebody at the terminal of an attached up asked for.
type key byte

// Keys.
const (
	keyDetach  key = 'd'
	keyNewline key = '\n'
	keyHangUp  key = 0 // the terminal went away
)

// menu takes single keys from a terminal; the zero menu takes none. Ctrl-C stays
// a signal. The terminal gets its settings back with close, and after everything
// that ends this program but SIGKILL.
type menu struct {
	pressed chan key
	restore func()
}

// openMenu starts taking keys, if this program is in front of a terminal.
func (a *app) openMenu() menu {
	if !isTerminal(a.in) || !isTerminal(a.out) || !inForeground(a.in) {
		return menu{}
	}
	// First: Ctrl-Z must not find the terminal taken and nobody to give it back.
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGHUP, syscall.SIGTSTP, syscall.SIGCONT)
	restore, err := takeKeys(a.in)
	if err != nil {
		signal.Stop(signals)
		fmt.Fprintln(a.err, "warning: taking keys from the terminal:", err)
		return menu{}
	}
	const shown = "d: detach, the containers keep running; Ctrl+C: stop them"
	fmt.Fprintln(a.err, shown)
	m := menu{pressed: make(chan key)}
	done := make(chan struct{})
	go func() {
		for {
			select {
			case s := <-signals:
				switch s {
				case syscall.SIGTSTP: // Ctrl-Z: the shell finds its terminal as it was
					restore()
					_ = syscall.Kill(os.Getpid(), syscall.SIGSTOP)
				case syscall.SIGCONT: // whoever had the terminal meanwhile has its own settings
					if inForeground(a.in) {
						_, _ = takeKeys(a.in)
						fmt.Fprintln(a.err, shown)
					}
				default:
					m.press(keyHangUp, done)
				}
			case <-done:
				return
			}
		}
	}()
	go func() { // ends with the program: a read of a terminal cannot be cancelled
		buf := make([]byte, 1)
		for {
			if n, err := a.in.Read(buf); err != nil || n == 0 {
				return
			}
			switch k := key(buf[0]); k {
			case 'd', 'D':
				m.press(keyDetach, done)
			case keyNewline:
				m.press(k, done)
			}
		}
	}()
	m.restore = sync.OnceFunc(func() {
		signal.Stop(signals)
		close(done)
		restore()
	})
	return m
}

func (m *menu) press(k key, done <-chan struct{}) {
	select {
	case m.pressed <- k:
	case <-done:
	}
}

func (m *menu) open() bool { return m.restore != nil }

func (m *menu) close() {
	if m.open() {
		m.restore()
	}
}
