package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// port is where the server listens; the container has it to itself.
const port = "8000"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	command := serve
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "healthcheck":
			command = healthcheck
		default:
			fmt.Fprintf(os.Stderr, "app: unknown command %q: there is healthcheck, or nothing to serve\n", os.Args[1])
			os.Exit(2)
		}
	}
	if err := command(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "app:", err)
		os.Exit(1)
	}
}

func serve(ctx context.Context) error {
	stores, err := openStores(ctx, os.Getenv)
	if err != nil {
		return err
	}
	defer stores.Close()
	server := &http.Server{
		Addr:              ":" + port,
		Handler:           newPage(stores, os.Getenv("WEB_URL")),
		ReadHeaderTimeout: 10 * time.Second,
	}
	ended := make(chan error, 1)
	go func() { ended <- server.ListenAndServe() }() // ends with Shutdown, below
	slog.Info("serving", "port", port)
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), 8*time.Second)
	defer cancel()
	err = server.Shutdown(grace)
	if ended := <-ended; !errors.Is(ended, http.ErrServerClosed) {
		err = errors.Join(err, ended)
	}
	return err
}

func healthcheck(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 4*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://127.0.0.1:"+port+"/healthz", nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("the server answers %s", resp.Status)
	}
	return nil
}
