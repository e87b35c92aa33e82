package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/stackvm/stack/planner"
	"github.com/stackvm/stack/runtime/api"
	"github.com/stackvm/stack/runtime/docker"
)

// dockerPatience bounds what asking a docker engine may take: it is on this host,
// and nothing depends on its answer.
const dockerPatience = time.Second

// dockerHints asks a docker engine, if one answers, whether it has the volumes that
// a change makes for the first time, while the change goes on.
type dockerHints struct {
	found  chan string // one hint, "" for none; nil before asking
	cancel context.CancelFunc
}

// ask begins to ask, if a plan gives reason to.
func (h *dockerHints) ask(ctx context.Context, plan *planner.Plan) {
	var names []string
	for _, s := range plan.Steps {
		if s.Noun == planner.VolumeNoun && s.Verb == planner.Create {
			names = append(names, s.Name)
		}
	}
	if len(names) == 0 || h.found != nil {
		return
	}
	ctx, h.cancel = context.WithTimeout(ctx, dockerPatience)
	found := make(chan string, 1)
	h.found = found
	go func() { found <- dockerVolumes(ctx, names) }() // ends with close, or after dockerPatience
}

// dockerVolumes is the hint about volumes that an engine has as well.
func dockerVolumes(ctx context.Context, names []string) string {
	engine, err := docker.Find(ctx, docker.Sockets(os.Getenv))
	if err != nil {
		return ""
	}
	var had []string
	for _, name := range names {
		if v, err := engine.Volume(ctx, name); err == nil && v.Name == name {
			had = append(had, name)
		}
	}
	switch len(had) {
	case 0:
		return ""
	case 1:
		return fmt.Sprintf("docker has a volume %s too, this one is new; to begin with docker's data: stack down; stack volume rm %s; stack volume import --from-docker %s; stack up", had[0], had[0], had[0])
	}
	all := strings.Join(had, ", ")
	return fmt.Sprintf("docker has volumes %s too, these are new; to begin with docker's data: stack down; stack volume rm NAME and stack volume import --from-docker NAME for each; stack up", all)
}

// print prints the hint if it has come.
func (h *dockerHints) print(w io.Writer) {
	select {
	case hint := <-h.found:
		h.tell(w, hint)
	default:
	}
}

// wait prints the hint once it has come.
func (h *dockerHints) wait(w io.Writer) {
	if h.cancel != nil {
		h.tell(w, <-h.found)
	}
}

func (h *dockerHints) tell(w io.Writer, hint string) {
	h.close()
	if hint != "" {
		fmt.Fprintln(w, "hint:", hint)
	}
}

// close stops asking. It may be called again.
func (h *dockerHints) close() {
	if h.cancel != nil {
		h.cancel()
		h.cancel = nil
	}
}

// dockerPorts adds to an error about ports which of docker's containers have them,
// if an engine answers.
func dockerPorts(ctx context.Context, err error) error {
	refused, ok := errors.AsType[*api.Error](err)
	if !ok || len(refused.InUse) == 0 {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, dockerPatience)
	defer cancel()
	engine, findErr := docker.Find(ctx, docker.Sockets(os.Getenv))
	if findErr != nil {
		return err
	}
	var hints []string
	for _, port := range refused.InUse {
		text, proto, _ := strings.Cut(port, "/")
		n, _ := strconv.ParseUint(text, 10, 16)
		if name, err := engine.Publisher(ctx, uint16(n), proto); err == nil && name != "" {
			hints = append(hints, fmt.Sprintf("docker's container %s publishes port %s: docker stop %s", name, text, name))
		}
	}
	if len(hints) == 0 {
		return err
	}
	told := *refused
	told.Hint = strings.Join(hints, "; ")
	return &told
}
