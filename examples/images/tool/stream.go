//go:build linux

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func echo(ctx context.Context, args []string) error {
	flags := newFlags("echo")
	addr := flags.String("addr", ":7000", "address to listen on")
	udp := flags.Bool("udp", false, "by UDP")
	if err := parse(flags, args, 0, 0); err != nil {
		return err
	}
	var config net.ListenConfig
	if *udp {
		conn, err := config.ListenPacket(ctx, "udp", *addr)
		if err != nil {
			return err
		}
		defer closeAtEnd(ctx, conn)()
		fmt.Println("listening on", conn.LocalAddr())
		buf := make([]byte, 1<<16)
		for {
			n, from, err := conn.ReadFrom(buf)
			if err != nil {
				return ended(ctx, err)
			}
			if _, err := conn.WriteTo(buf[:n], from); err != nil {
				fmt.Fprintln(os.Stderr, "tool: echo:", err)
			}
		}
	}
	listener, err := config.Listen(ctx, "tcp", *addr)
	if err != nil {
		return err
	}
	defer closeAtEnd(ctx, listener)()
	fmt.Println("listening on", listener.Addr())
	for {
		conn, err := listener.Accept()
		if err != nil {
			return ended(ctx, err)
		}
		go func() {
			defer conn.Close()
			if _, err := io.Copy(conn, conn); err != nil {
				fmt.Fprintln(os.Stderr, "tool: echo:", err)
			}
		}()
	}
}

// closeAtEnd closes c when ctx ends, which wakes whoever waits on it.
func closeAtEnd(ctx context.Context, c io.Closer) (stop func() bool) {
	return context.AfterFunc(ctx, func() { c.Close() })
}

// ended is the error of an endless command: none if it was told to end.
func ended(ctx context.Context, err error) error {
	if ctx.Err() == nil {
		return err
	}
	return nil
}

// sequenceReport is what sequence found.
type sequenceReport struct {
	Sent     int64   `json:"sent"`
	Received int64   `json:"received"`
	MaxMS    float64 `json:"max_ms"` // longest wait for an answer
	Local    string  `json:"local"`  // of the one connection
	Error    string  `json:"error,omitempty"`
}

func sequence(ctx context.Context, args []string) error {
	flags := newFlags("sequence")
	every := flags.Duration("every", 20*time.Millisecond, "between numbers")
	length := flags.Duration("for", 0, "how long (until a signal)")
	if err := parse(flags, args, 1, 1); err != nil {
		return err
	}
	if *length > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, *length)
		defer cancel()
	}
	asked := make(chan os.Signal, 1)
	signal.Notify(asked, syscall.SIGUSR1)
	conn, err := net.Dial("tcp", flags.Arg(0))
	if err != nil {
		return err
	}
	defer conn.Close()
	fmt.Println("connected to", conn.RemoteAddr())

	r := sequenceReport{Local: conn.LocalAddr().String()}
	answers := bufio.NewReader(conn)
	tick := time.NewTicker(*every)
	defer tick.Stop()
	var failure error
	for failure == nil && ctx.Err() == nil {
		failure = func() error {
			started := time.Now()
			r.Sent++
			if _, err := fmt.Fprintln(conn, r.Sent); err != nil {
				return err
			}
			var got int64
			if _, err := fmt.Fscanln(answers, &got); err != nil {
				return err
			}
			if got != r.Sent {
				return fmt.Errorf("sent %d, got %d", r.Sent, got)
			}
			r.Received++
			r.MaxMS = max(r.MaxMS, float64(time.Since(started).Microseconds())/1000)
			return nil
		}()
		select {
		case <-tick.C:
		case <-ctx.Done():
		case <-asked:
			if err := report(r); err != nil {
				return err
			}
		}
	}
	if failure != nil {
		r.Error = failure.Error()
	}
	if err := report(r); err != nil {
		return err
	}
	if failure != nil {
		return errFailed
	}
	return nil
}

func connect(ctx context.Context, args []string) error {
	flags := newFlags("connect")
	udp := flags.Bool("udp", false, "by UDP, expecting an echo")
	timeout := flags.Duration("timeout", 3*time.Second, "how long to try")
	if err := parse(flags, args, 1, 1); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, *timeout)
	defer cancel()
	network := "tcp"
	if *udp {
		network = "udp"
	}
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, network, flags.Arg(0))
	if err == nil {
		defer conn.Close()
		if *udp {
			deadline, _ := ctx.Deadline()
			err = errors.Join(conn.SetDeadline(deadline), roundTrip(conn))
		}
	}
	result := map[string]string{"result": "connected"}
	if err != nil {
		result["result"], result["error"] = outcome(err), err.Error()
	} else {
		result["local"], result["remote"] = conn.LocalAddr().String(), conn.RemoteAddr().String()
	}
	if err := report(result); err != nil {
		return err
	}
	if err != nil {
		return errFailed
	}
	return nil
}

func roundTrip(conn net.Conn) error {
	if _, err := conn.Write([]byte("hello")); err != nil {
		return err
	}
	_, err := conn.Read(make([]byte, 16))
	return err
}

// outcome sorts the ways in which a connection is refused.
func outcome(err error) string {
	var dns *net.DNSError
	var timeout net.Error
	switch {
	case errors.As(err, &dns):
		return "no such name"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "refused"
	case errors.Is(err, syscall.ECONNRESET):
		return "reset"
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM):
		return "unreachable"
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return "timeout"
	}
	return "failed"
}

// pipe joins the standard streams with a unix socket, either way until its end.
func pipe(ctx context.Context, args []string) error {
	flags := newFlags("pipe")
	if err := parse(flags, args, 1, 1); err != nil {
		return err
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", flags.Arg(0))
	if err != nil {
		return err
	}
	defer closeAtEnd(ctx, conn)()
	sent := make(chan error, 1)
	go func() {
		_, err := io.Copy(conn, os.Stdin)
		sent <- errors.Join(err, conn.(*net.UnixConn).CloseWrite())
	}()
	_, err = io.Copy(os.Stdout, conn)
	return errors.Join(err, <-sent)
}
