package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"

	"github.com/stackvm/stack/cmd/stack/render"
	"github.com/stackvm/stack/planner"
	"github.com/stackvm/stack/runtime/api"
)

// nouns are compose's words for the plan's nouns.
var nouns = map[planner.Noun]string{
	planner.ImageNoun:    "Image",
	planner.NetworkNoun:  "Network",
	planner.VolumeNoun:   "Volume",
	planner.StorageNoun:  "Storage machine",
	planner.ReplicaNoun:  "Container",
	planner.HookNoun:     "Container",
	planner.ProviderNoun: "Provider",
}

// follow shows the events of a change until it is done. observe, which may be
// nil, sees each event first; it returns false to have it not shown.
func (a *app) follow(p render.Progress, events iter.Seq2[api.Event, error], observe func(api.Event) bool) error {
	queued := false
	for e, err := range events {
		if err != nil {
			var refused *api.Error
			if !errors.As(err, &refused) || refused.Code != api.CodeConfirm { // which is a question
				p.Fail(err)
			}
			return err
		}
		if observe != nil && !observe(e) {
			continue
		}
		switch e.Kind {
		case api.EventQueued:
			queued = true
			p.On(render.Event{ID: "Project", Status: render.Working, Text: "Queued", Details: e.Text})
		case api.EventWarning:
			fmt.Fprintln(a.err, "warning:", e.Text)
		case api.EventStep:
			p.On(stepEvent(e.Step))
		case api.EventProgress:
			p.On(pullEvent(e.Progress))
		case api.EventPlan:
			if queued {
				p.On(render.Event{ID: "Project", Status: render.Done, Text: "Ready"})
			}
		case api.EventDebug:
			if a.debug {
				fmt.Fprintln(a.err, "debug:", e.Text)
			}
		case api.EventOutput: // for who is attached
		case api.EventCreated, api.EventDone:
		}
	}
	return nil
}

func stepEvent(s *api.StepEvent) render.Event {
	e := render.Event{ID: nouns[s.Noun] + " " + s.Name, Text: s.Text, Status: render.Working}
	switch s.State {
	case api.StepStarted:
	case api.StepDone:
		e.Status = render.Done
	case api.StepFailed:
		e.Status, e.Text, e.Details = render.Error, "Error", firstLine(s.Error)
	case api.StepSkipped:
		e.Status, e.Text, e.Details = render.Warning, "Skipped", firstLine(s.Error)
	}
	return e
}

func pullEvent(p *api.Progress) render.Event {
	e := render.Event{ID: "Image " + p.Image, Status: render.Working, Text: p.Text, Details: p.Details, Current: p.Current, Total: p.Total}
	if p.Layer != "" {
		e.ID, e.Parent = p.Layer, e.ID
	}
	switch p.Text {
	case "Pulled", "Pull complete", "Already exists", "Skipped":
		e.Status = render.Done
	}
	return e
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}

// apply carries a change out and shows it. A plan with destructive steps is put
// to the user first, unless the change already has the consent.
func (a *app) apply(ctx context.Context, c *api.Client, change api.Apply, observe func(api.Event) bool) error {
	if a.dryRun {
		return a.rehearse(ctx, c, change)
	}
	p, err := a.newProgress(string(change.Command), false)
	if err != nil {
		return err
	}
	defer p.Close()
	return a.applyTo(ctx, c, change, p, observe)
}

// applyTo is apply with a progress of the caller's. A plan that makes volumes
// anew is put to the user first, volume by volume; what else destroys data was
// asked for by a flag.
func (a *app) applyTo(ctx context.Context, c *api.Client, change api.Apply, p render.Progress, observe func(api.Event) bool) error {
	change.Parallel, change.Adopt = a.parallel, a.adopt
	agreed := map[string]bool{}
	var hints dockerHints
	defer hints.close()
	for {
		var plan *planner.Plan
		var digest string
		err := a.follow(p, c.Apply(ctx, change), func(e api.Event) bool {
			hints.print(a.err)
			if e.Kind == api.EventPlan {
				plan, digest = e.Plan, e.Digest
				hints.ask(ctx, e.Plan)
				if a.debug {
					fmt.Fprintf(a.err, "debug: plan:\n%s", plan)
				}
			}
			return observe == nil || observe(e)
		})
		var refused *api.Error
		if !errors.As(err, &refused) || refused.Code != api.CodeConfirm || plan == nil {
			if err == nil {
				hints.wait(a.err)
			}
			return dockerPorts(ctx, err)
		}
		change.Confirm = digest
		for _, s := range plan.Steps {
			if s.Noun != planner.VolumeNoun || s.Verb != planner.Recreate || agreed[s.Name] {
				continue
			}
			yes, err := a.ask(ctx, fmt.Sprintf("Volume %q exists but doesn't match configuration in compose file. Recreate (data will be lost)?", s.Name), false)
			if err != nil {
				return err
			}
			if agreed[s.Name] = yes; !yes {
				change.Options.KeepVolumes = append(change.Options.KeepVolumes, s.Name)
			}
		}
	}
}

// ask puts a yes-or-no question. Somebody who only presses Enter at a terminal
// says preset; where nobody answers, it is no.
func (a *app) ask(ctx context.Context, question string, preset bool) (bool, error) {
	choice := "[y/N]"
	if preset {
		choice = "[Y/n]"
	}
	fmt.Fprintf(a.err, "%s %s ", question, choice)
	answer := make(chan string, 1)
	go func() { // a blocked read of a terminal cannot be cancelled: it ends with the program
		var line string
		if _, err := fmt.Fscanln(a.in, &line); line == "" && preset && err != nil && !errors.Is(err, io.EOF) && isTerminal(a.in) {
			line = "y" // an empty one is "unexpected newline"
		}
		answer <- line
	}()
	select {
	case <-ctx.Done():
		return false, ctx.Err()
	case line := <-answer:
		line = strings.ToLower(strings.TrimSpace(line))
		return line == "y" || line == "yes", nil
	}
}
