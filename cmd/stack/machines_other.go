//go:build !linux

package main

import (
	"context"
	"errors"
	"log/slog"
	"os"

	"github.com/stackvm/stack/runtime/config"
	"github.com/stackvm/stack/runtime/keeper"
	"github.com/stackvm/stack/runtime/supervisor"
)

var errNoDriver = errors.New("this system has no machine driver yet: run stack on Linux")

func reexecuted() {}

func (a *app) assemble(*keeper.Link, map[string]*os.File, *slog.Logger) (*supervisor.Supervisor, func() error, error) {
	return nil, nil, errNoDriver
}

// probe answers doctor where there is no driver.
type probe struct{}

func probeDriver(config.Dirs, *config.Config) probe { return probe{} }

func (probe) find(context.Context) (string, error) { return "", errNoDriver }

func (probe) accel(context.Context) (accel, reason string, err error) { return "", "", errNoDriver }
