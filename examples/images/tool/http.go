//go:build linux

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"
)

func serveHTTP(ctx context.Context, args []string) error {
	flags := newFlags("http")
	addr := flags.String("addr", ":80", "address to listen on")
	if err := parse(flags, args, 0, 0); err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, req *http.Request) {
		host, _ := os.Hostname()
		w.Header().Set("Content-Type", "application/json")
		answer := map[string]any{
			"boot_id": bootID(), "hostname": host, "pid": os.Getpid(),
			"client": req.RemoteAddr, "server": fmt.Sprint(req.Context().Value(http.LocalAddrContextKey)),
			"host": req.Host, "path": req.URL.Path, "forwarded": req.Header.Get("X-Forwarded-For"),
		}
		if err := json.NewEncoder(w).Encode(answer); err != nil {
			fmt.Fprintln(os.Stderr, "tool: http:", err)
		}
	})
	mux.HandleFunc("/boot-id", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, bootID()) })
	mux.HandleFunc("/bytes", func(w http.ResponseWriter, req *http.Request) {
		n, err := strconv.ParseInt(req.URL.Query().Get("n"), 10, 64)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Length", strconv.FormatInt(n, 10))
		if _, err := io.CopyN(w, zeroes{}, n); err != nil {
			fmt.Fprintln(os.Stderr, "tool: http:", err)
		}
	})
	mux.HandleFunc("/slow", func(w http.ResponseWriter, req *http.Request) {
		d, err := time.ParseDuration(req.URL.Query().Get("for"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		select {
		case <-time.After(d):
			fmt.Fprintln(w, "done")
		case <-req.Context().Done():
		}
	})
	mux.HandleFunc("/exit", func(_ http.ResponseWriter, req *http.Request) {
		code, err := strconv.Atoi(req.URL.Query().Get("code"))
		if err != nil {
			code = 1
		}
		os.Exit(code)
	})
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "tcp", *addr)
	if err != nil {
		return err
	}
	fmt.Println("listening on", listener.Addr())
	server := &http.Server{Handler: mux}
	defer closeAtEnd(ctx, server)()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

type zeroes struct{}

func (zeroes) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// loadReport is what load found.
type loadReport struct {
	Requests int            `json:"requests"`
	OK       int            `json:"ok"`
	Failures int            `json:"failures"`
	Errors   map[string]int `json:"errors,omitempty"` // by what was said
	MedianMS float64        `json:"median_ms"`        // of those that succeeded
	P99MS    float64        `json:"p99_ms"`
	MaxMS    float64        `json:"max_ms"`
	MaxAt    string         `json:"max_at"`                  // when the slowest began
	First    string         `json:"first_failure,omitempty"` // when
}

func load(ctx context.Context, args []string) error {
	flags := newFlags("load")
	rate := flags.Float64("rate", 20, "requests a second")
	length := flags.Duration("for", 10*time.Second, "how long")
	timeout := flags.Duration("timeout", 3*time.Second, "for each request")
	if err := parse(flags, args, 1, 1); err != nil {
		return err
	}
	target, err := url.Parse(flags.Arg(0))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, *length)
	defer cancel()

	var (
		wg    sync.WaitGroup
		mu    sync.Mutex // guards what follows
		r     = loadReport{Errors: map[string]int{}}
		times []time.Duration
		most  time.Duration
	)
	// A failed request is not told to wait for, nor is a slow one: the rate holds.
	tick := time.NewTicker(time.Duration(float64(time.Second) / *rate))
	defer tick.Stop()
	for ctx.Err() == nil {
		wg.Go(func() {
			started := time.Now()
			err := fetch(target, *timeout)
			took := time.Since(started)
			mu.Lock()
			defer mu.Unlock()
			r.Requests++
			if took > most {
				most, r.MaxAt = took, started.UTC().Format(time.RFC3339Nano)
			}
			if err == nil {
				r.OK++
				times = append(times, took)
				return
			}
			r.Failures++
			r.Errors[cause(err)]++
			if r.First == "" {
				r.First = started.UTC().Format(time.RFC3339Nano)
			}
		})
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
	wg.Wait()
	if slices.Sort(times); len(times) > 0 {
		ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
		r.MedianMS, r.P99MS, r.MaxMS = ms(times[len(times)/2]), ms(times[len(times)*99/100]), ms(times[len(times)-1])
	}
	if err := report(r); err != nil {
		return err
	}
	if r.Failures > 0 || r.Requests == 0 {
		return errFailed
	}
	return nil
}

// cause is the innermost of an error's reasons: without the addresses around it
// equal failures count as one.
func cause(err error) string {
	for inner := errors.Unwrap(err); inner != nil; inner = errors.Unwrap(err) {
		err = inner
	}
	return err.Error()
}

// fetch makes one request by a connection of its own, looking its name up anew.
// It does not end with the load: a request begun is a request counted. It is
// plainer than [http.Client], which an emulated processor feels.
func fetch(target *url.URL, timeout time.Duration) error {
	deadline := time.Now().Add(timeout)
	address := target.Host
	if target.Port() == "" {
		address = net.JoinHostPort(target.Hostname(), "80")
	}
	conn, err := (&net.Dialer{Deadline: deadline}).Dial("tcp", address)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(deadline); err != nil {
		return err
	}
	if _, err := fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", target.RequestURI(), target.Host); err != nil {
		return err
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return err
	}
	if resp.StatusCode >= 400 {
		return errors.New(resp.Status)
	}
	return nil
}
