package provider

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/stackvm/stack/spec"
)

// Command is what a provider is asked to do.
type Command string

// Commands.
const (
	Up   Command = "up"
	Down Command = "down"
	Stop Command = "stop" // only those that say so have it
)

// words are docker compose's for what failed.
var words = map[Command]string{Up: "create", Down: "remove", Stop: "stop"}

// Bounds on what a program may say.
const (
	maxMessage   = 1 << 20 // bytes of an object
	maxOutput    = 64 << 20
	maxVariables = 4096
	maxQuestions = 16
	maxQuoted    = 1 << 10 // bytes of its standard error in ours
)

// killDelay is how long a program that is cancelled may take to end by itself.
const killDelay = 5 * time.Second

// Variables are what a provider gives to the services that depend on its own.
type Variables struct {
	Prefixed map[string]string // to be named SERVICE_KEY
	Raw      map[string]string // as they are
}

// Call is one call of a provider.
type Call struct {
	Path string   // of the program
	Env  []string // all of its environment
	Dir  string

	Project string
	Service string
	Type    string
	Options map[string][]string
	Config  []byte // of the service, as JSON, for whoever asks

	Info, Debug func(text string) // one line at a time; may be nil
}

// Run has the provider do something and returns the variables it gives. A provider
// that has no stop has nothing to do for it. Cancelling ctx ends the program.
func (c Call) Run(ctx context.Context, command Command) (Variables, error) {
	meta := c.metadata(ctx)
	parameters := meta.Up.Parameters
	switch {
	case command == Down:
		parameters = meta.Down.Parameters
	case command == Stop && meta.Stop == nil:
		return Variables{}, nil
	case command == Stop:
		parameters = meta.Stop.Parameters
	}
	args := []string{"compose", "--project-name=" + c.Project, string(command)}
	if !meta.empty() {
		for _, p := range parameters {
			if _, given := c.Options[p.Name]; p.Required && !given {
				return Variables{}, fmt.Errorf("required parameter %q is missing from provider %q definition", p.Name, c.Type)
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(c.Options)) {
		if !meta.empty() && !slices.ContainsFunc(parameters, func(p parameter) bool { return p.Name == name }) {
			continue
		}
		for _, value := range c.Options[name] {
			args = append(args, "--"+name+"="+value)
		}
	}
	return c.converse(ctx, command, append(args, c.Service))
}

// metadata is what a provider says of itself.
type metadata struct {
	Description string             `json:"description"`
	Up          commandParameters  `json:"up"`
	Down        commandParameters  `json:"down"`
	Stop        *commandParameters `json:"stop"`
}

type commandParameters struct {
	Parameters []parameter `json:"parameters"`
}

type parameter struct {
	Name     string `json:"name"`
	Required bool   `json:"required"`
}

// empty tells that a provider says nothing of its parameters: it gets all options.
func (m metadata) empty() bool {
	return m.Description == "" && m.Up.Parameters == nil && m.Down.Parameters == nil
}

// metadata asks for it; a provider need not know the question.
func (c Call) metadata(ctx context.Context) metadata {
	var out limited
	cmd := c.command(ctx, "compose", "metadata")
	cmd.Stdout = &out
	var m metadata
	if cmd.Run() != nil || json.Unmarshal(out.b, &m) != nil {
		return metadata{}
	}
	return m
}

func (c Call) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, c.Path, args...)
	cmd.Env, cmd.Dir, cmd.WaitDelay = c.Env, c.Dir, killDelay
	inGroup(cmd)
	return cmd
}

// converse runs the program and answers it.
func (c Call) converse(ctx context.Context, command Command, args []string) (Variables, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	cmd := c.command(ctx, args...)
	var stderr limited
	cmd.Stderr = &stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return Variables{}, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return Variables{}, err
	}
	if err := cmd.Start(); err != nil {
		return Variables{}, fmt.Errorf("provider %q: %w", c.Type, err)
	}
	// Answers have a goroutine of their own: a program may say more before it reads.
	asked := make(chan struct{}, maxQuestions)
	var answering sync.WaitGroup
	answering.Go(func() {
		defer stdin.Close()
		for range asked {
			if _, err := stdin.Write(append(slices.Clone(c.Config), '\n')); err != nil {
				for range asked { // it reads no more
				}
			}
		}
	})
	variables, said := c.read(stdout, func() error {
		select {
		case asked <- struct{}{}:
			return nil
		default:
			return errors.New("it asks and does not read the answers")
		}
	})
	if said != nil {
		cancel() // what it says after that is not listened to
	}
	close(asked)
	ended := cmd.Wait() // closes stdin, and so ends a blocked answer
	answering.Wait()
	switch {
	case said != nil:
		return Variables{}, said
	case ctx.Err() != nil:
		return Variables{}, context.Cause(ctx)
	case ended != nil:
		text := strings.TrimSpace(spec.Printable(string(stderr.b[max(0, len(stderr.b)-maxQuoted):])))
		if text != "" {
			text = ": " + text
		}
		return Variables{}, fmt.Errorf("failed to %s service provider: %w%s", words[command], ended, text)
	}
	return variables, nil
}

// read listens to the program until it closes its output, or says what ends the
// conversation.
func (c Call) read(r io.Reader, asked func() error) (Variables, error) {
	v := Variables{Prefixed: map[string]string{}, Raw: map[string]string{}}
	in := &bounded{r: r, left: maxMessage, all: maxOutput}
	decoder := json.NewDecoder(in)
	for {
		var msg struct {
			Type    string `json:"type"`
			Message string `json:"message"`
		}
		in.left = maxMessage
		err := decoder.Decode(&msg)
		switch {
		case errors.Is(err, io.EOF):
			return v, nil
		case err != nil:
			return v, fmt.Errorf("provider %q: invalid response: %w", c.Type, err)
		}
		switch msg.Type {
		case "error":
			return v, errors.New(spec.Printable(msg.Message))
		case "info":
			tell(c.Info, msg.Message)
		case "debug":
			tell(c.Debug, msg.Message)
		case "setenv", "rawsetenv":
			to := v.Prefixed
			if msg.Type == "rawsetenv" {
				to = v.Raw
			}
			key, value, ok := strings.Cut(msg.Message, "=")
			if !ok || key == "" || strings.Contains(msg.Message, "\x00") {
				return v, fmt.Errorf("provider %q: invalid response: %s without KEY=VALUE", c.Type, msg.Type) // which may be secret
			}
			if to[key] = value; len(v.Prefixed)+len(v.Raw) > maxVariables {
				return v, fmt.Errorf("provider %q: it sets more than %d variables", c.Type, maxVariables)
			}
		case "get-service-config":
			if err := asked(); err != nil {
				return v, fmt.Errorf("provider %q: %w", c.Type, err)
			}
		default:
			return v, fmt.Errorf("provider %q: invalid response of type %q", c.Type, spec.Printable(msg.Type))
		}
	}
}

// tell passes on the first line of a message.
func tell(to func(string), text string) {
	if to != nil {
		line, _, _ := strings.Cut(strings.TrimRight(text, "\n"), "\n")
		to(spec.Printable(line))
	}
}

// bounded reads at most left bytes until somebody sets that again, and all bytes
// together.
type bounded struct {
	r         io.Reader
	left, all int
}

var errTooMuch = errors.New("it says too much")

func (b *bounded) Read(p []byte) (int, error) {
	most := min(b.left, b.all)
	if most <= 0 {
		return 0, errTooMuch
	}
	n, err := b.r.Read(p[:min(len(p), most)])
	b.left, b.all = b.left-n, b.all-n
	return n, err
}

// limited keeps the beginning of what is written to it.
type limited struct{ b []byte }

func (l *limited) Write(p []byte) (int, error) {
	most := maxMessage - len(l.b)
	l.b = append(l.b, bytes.Clone(p[:min(len(p), most)])...)
	return len(p), nil
}
