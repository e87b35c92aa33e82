package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/docker/go-units"
	"github.com/hashicorp/go-multierror"
	"github.com/spf13/cobra"

	"github.com/stackvm/stack/examples/images/recipe"
	"github.com/stackvm/stack/examples/images/registry"
	"github.com/stackvm/stack/examples/images/store"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := command().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "images:", err)
		os.Exit(1)
	}
}

func command() *cobra.Command {
	var cache string
	root := &cobra.Command{
		Use: "images", Short: "Make OCI images from Debian packages and serve them",
		SilenceUsage: true, SilenceErrors: true, Args: cobra.NoArgs,
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
	}
	root.PersistentFlags().StringVar(&cache, "cache", "", "directory of images and packages (default ${XDG_CACHE_HOME:-~/.cache}/stack/images)")
	open := func() (*store.Store, string, error) {
		if cache == "" {
			dir, err := os.UserCacheDir()
			if err != nil {
				return nil, "", fmt.Errorf("finding the cache directory: %w: give --cache", err)
			}
			cache = filepath.Join(dir, "stack", "images")
		}
		s, err := store.Open(filepath.Join(cache, "layout"))
		return s, cache, err
	}
	root.AddCommand(buildCommand(open), serveCommand(open), listCommand(open))
	return root
}

type opener func() (s *store.Store, cache string, err error)

func buildCommand(open opener) *cobra.Command {
	var source string
	var update bool
	cmd := &cobra.Command{
		Use: "build [NAME…]", Short: "Make images that are missing or out of date; without a name, the usual ones",
		ValidArgs: recipe.Names(),
	}
	cmd.Flags().StringVar(&source, "source", "", "root of this repository (default: the one around the current directory)")
	cmd.Flags().BoolVar(&update, "update", false, "fetch the lists of Debian packages first, however young they are")
	cmd.RunE = func(cmd *cobra.Command, names []string) error {
		if len(names) == 0 {
			names = recipe.Usual()
		}
		var recipes []*recipe.Recipe
		var faults *multierror.Error
		for _, name := range names {
			r, err := recipe.Find(name)
			recipes, faults = append(recipes, r), multierror.Append(faults, err)
		}
		if err := faults.ErrorOrNil(); err != nil {
			return err
		}
		s, cache, err := open()
		if err != nil {
			return err
		}
		if source == "" {
			source = findSource()
		}
		unlock, err := s.Lock(cmd.Context())
		if err != nil {
			return err
		}
		defer unlock()
		kitchen := &recipe.Kitchen{
			Store: s, Cache: cache, Root: source, Update: update,
			Say: func(format string, args ...any) { fmt.Fprintf(cmd.ErrOrStderr(), "images: "+format+"\n", args...) },
		}
		for _, r := range recipes {
			img, err := kitchen.Make(cmd.Context(), r)
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s@%s\n", short(img.Name), img.Descriptor.Digest)
		}
		return s.Prune(time.Now())
	}
	return cmd
}

// findSource returns the root of this repository around the current directory, "" if there
// is none.
func findSource() string {
	dir, err := os.Getwd()
	if err != nil {
		return ""
	}
	for ; ; dir = filepath.Dir(dir) {
		text, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil && strings.HasPrefix(string(text), "module github.com/stackvm/stack\n") {
			return dir
		}
		if dir == filepath.Dir(dir) {
			return ""
		}
	}
}

func serveCommand(open opener) *cobra.Command {
	var addr, ready string
	var verbose bool
	cmd := &cobra.Command{Use: "serve", Short: "Serve the images by HTTP until a signal ends it", Args: cobra.NoArgs}
	cmd.Flags().StringVar(&addr, "addr", "127.0.0.1:5000", "address to listen on; port 0 takes a free one")
	cmd.Flags().StringVar(&ready, "ready-file", "", "file that gets the URL once the registry answers")
	cmd.Flags().BoolVarP(&verbose, "verbose", "v", false, "log each request")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		s, _, err := open()
		if err != nil {
			return err
		}
		var requests *log.Logger
		if verbose {
			requests = log.New(cmd.ErrOrStderr(), "", log.LstdFlags)
		}
		listener, err := net.Listen("tcp", addr)
		if err != nil {
			return fmt.Errorf("serving images: %w", err)
		}
		url := "http://" + listener.Addr().String()
		fmt.Fprintln(cmd.OutOrStdout(), url)
		if ready != "" {
			// Renamed into place: whoever sees the file sees all of it.
			if err := os.WriteFile(ready+".new", []byte(url+"\n"), 0o644); err != nil {
				return err
			}
			if err := os.Rename(ready+".new", ready); err != nil {
				return err
			}
		}
		return serve(cmd.Context(), listener, registry.New(s, requests))
	}
	return cmd
}

// serve answers requests until ctx ends, and returns when the last has been answered.
func serve(ctx context.Context, listener net.Listener, handler http.Handler) error {
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 30 * time.Second}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(listener) }() // ends with Shutdown, below
	select {
	case err := <-ended:
		return fmt.Errorf("serving images: %w", err)
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if err := server.Shutdown(grace); err != nil {
		// A download that outlasts the grace is broken off; its client resumes it elsewhere or later.
		err = server.Close()
		if err != nil {
			return fmt.Errorf("serving images: %w", err)
		}
	}
	if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving images: %w", err)
	}
	return nil
}

func listCommand(open opener) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "Show the images, and what could be made", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, _, err := open()
			if err != nil {
				return err
			}
			images, err := s.Images()
			if err != nil {
				return err
			}
			stored := map[string]store.Image{}
			for _, img := range images {
				stored[img.Name] = img
			}
			table := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 4, 3, ' ', 0)
			fmt.Fprintln(table, "NAME\tIMAGE\tDIGEST\tSIZE\tABOUT")
			for _, name := range recipe.Names() {
				r, err := recipe.Find(name)
				if err != nil {
					return err
				}
				digest, size := "not made yet", ""
				if img, ok := stored[r.Tags[0]]; ok {
					bytes, err := s.Size(img)
					if err != nil {
						return err
					}
					digest, size = img.Descriptor.Digest.Hex[:12], units.HumanSize(float64(bytes))
				}
				fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\n", r.Name, short(r.Tags[0]), digest, size, r.About)
			}
			return table.Flush()
		},
	}
}

// short is the name of an image as compose files have it.
func short(name string) string { return strings.TrimPrefix(name, "library/") }
