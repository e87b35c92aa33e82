package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/stackvm/stack/cmd/stack/render"
	"github.com/stackvm/stack/runtime/api"
)

func (a *app) export() *cobra.Command {
	var index int
	var output string
	c := &cobra.Command{
		Use:   "export SERVICE",
		Short: "Write the files of a running container as a tar archive",
		Args:  cobra.ExactArgs(1),
		RunE: interruptible(func(ctx context.Context, args []string) error {
			r, err := a.replica(ctx, args[0], index)
			if err != nil {
				return err
			}
			if output == "" && isTerminal(a.out) {
				return errors.New("output option is required when exporting to terminal")
			}
			c, err := a.connect(ctx)
			if err != nil {
				return err
			}
			_, files, err := c.Get(ctx, api.Archive{Select: api.Select{Replica: r.ID}, Path: "/", Whole: true})
			if err != nil {
				return err
			}
			defer files.Close()
			if output == "" {
				_, err := io.Copy(a.out, files)
				return err
			}
			progress, err := a.newProgress("export", false)
			if err != nil {
				return err
			}
			defer progress.Close()
			e := render.Event{ID: r.Name, Status: render.Working, Text: "Exporting", Details: "export " + r.Name + " to " + output}
			progress.On(e)
			if err := writeWhole(output, files); err != nil {
				progress.Fail(err)
				return fmt.Errorf("exporting %s: %w", r.Name, err)
			}
			e.Status, e.Text = render.Done, "Exported"
			progress.On(e)
			return nil
		}),
	}
	c.Flags().StringVarP(&output, "output", "o", "", "write to a `file` instead of standard output")
	c.Flags().IntVar(&index, "index", 0, indexHelp)
	return c
}

// writeWhole writes a file that is there only once all of it is.
func writeWhole(path string, r io.Reader) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	_, err = io.Copy(f, r)
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
