package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/stackvm/stack/runtime/keeper"
)

func (a *app) system() *cobra.Command {
	c := &cobra.Command{
		Use:   "system",
		Short: "Look at stack itself",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	c.AddCommand(a.systemUsage(), a.systemLogs(), a.systemCompose(), a.systemPurge(), a.man(), a.keeperProcess(), a.supervisorProcess())
	return c
}

func (a *app) systemLogs() *cobra.Command {
	return &cobra.Command{
		Use:   "logs",
		Short: "Print what the supervisor wrote down",
		Args:  cobra.NoArgs,
		RunE: interruptible(func(context.Context, []string) error {
			dirs, err := a.dirs()
			if err != nil {
				return err
			}
			// The older file first; either may not be there.
			for _, name := range []string{keeper.LogName + ".1", keeper.LogName} {
				f, err := os.Open(filepath.Join(dirs.State, name))
				if os.IsNotExist(err) {
					continue
				}
				if err != nil {
					return fmt.Errorf("reading the supervisor's log: %w", err)
				}
				_, err = io.Copy(a.out, bufio.NewReader(f))
				f.Close()
				if err != nil {
					return err
				}
			}
			return nil
		}),
	}
}
