package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/stackvm/stack/runtime/config"
	"github.com/stackvm/stack/runtime/keeper"
)

func (a *app) systemPurge() *cobra.Command {
	return &cobra.Command{
		Use:   "purge",
		Short: "Remove images, caches, logs and records; volumes and the configuration stay",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			dirs, err := a.dirs()
			if err != nil {
				return err
			}
			return keeper.WithNone(c.Context(), dirs, func() error {
				projects, err := a.projects(true)
				if err != nil {
					return err
				}
				var names []string
				for _, p := range projects {
					names = append(names, p.Name)
				}
				if len(names) > 0 {
					return fmt.Errorf("containers exist of %s: take each project down first, with stack -p NAME down", strings.Join(names, ", "))
				}
				return purge(dirs)
			})
		},
	}
}

// purge removes what can be had again.
func purge(dirs config.Dirs) error {
	run, err := config.RuntimeDir(dirs)
	if err != nil {
		return err
	}
	entries, err := os.ReadDir(dirs.Data)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	gone := []string{dirs.State, run}
	for _, e := range entries {
		if path := filepath.Join(dirs.Data, e.Name()); path != volumesDir(dirs) {
			gone = append(gone, path)
		}
	}
	for _, path := range gone {
		if err := os.RemoveAll(path); err != nil {
			return err
		}
	}
	for _, dir := range []string{volumesDir(dirs), dirs.Data} {
		_ = os.Remove(dir) // unless something is in it
	}
	return nil
}
