package render

import (
	"encoding/json"
	"fmt"
	"io"
	"sync"
	"time"
)

// Status is how far one object's work is.
type Status string

// Statuses, with the words of the JSON form.
const (
	Working Status = "Working"
	Done    Status = "Done"
	Warning Status = "Warning"
	Error   Status = "Error"
)

// Event is a change of one object: "Container shop-web-1" is "Starting".
type Event struct {
	ID      string
	Parent  string // of a layer: the image's ID
	Status  Status
	Text    string // Creating, Created, Pulling …
	Details string
	Current int64 // bytes, of layers
	Total   int64
}

// Mode is a way to show progress.
type Mode string

// Modes of --progress.
const (
	ModeAuto  Mode = "auto"
	ModeTTY   Mode = "tty"
	ModePlain Mode = "plain"
	ModeJSON  Mode = "json"
	ModeQuiet Mode = "quiet"
)

// ParseMode reads the argument of --progress.
func ParseMode(s string) (Mode, error) {
	switch m := Mode(s); m {
	case ModeAuto, ModeTTY, ModePlain, ModeJSON, ModeQuiet:
		return m, nil
	case "":
		return ModeAuto, nil
	case "none":
		return ModeQuiet, nil
	}
	return "", fmt.Errorf("unsupported --progress value %q: use auto, tty, plain, json or quiet", s)
}

// Progress shows events. Its methods may be called concurrently.
type Progress interface {
	On(Event)
	// Fail reports the error that ended the operation.
	Fail(error)
	// Close draws the last frame and gives the terminal back.
	Close()
}

// NewProgress returns a Progress in a mode that is not ModeAuto; operation names
// the work in a terminal's header.
func NewProgress(mode Mode, out io.Writer, operation string, dryRun bool, size func() (width, height int)) Progress {
	switch mode {
	case ModeTTY:
		return newScreen(out, operation, dryRun, size)
	case ModeJSON:
		return &jsonProgress{out: out, dryRun: dryRun}
	case ModeQuiet:
		return quiet{}
	default:
		return &plainProgress{out: out, dryRun: dryRun}
	}
}

type quiet struct{}

func (quiet) On(Event)   {}
func (quiet) Fail(error) {}
func (quiet) Close()     {}

// dryRunMark stands before every line of a run that changes nothing.
const dryRunMark = "DRY-RUN MODE - "

type plainProgress struct {
	dryRun bool

	mu   sync.Mutex // guards out and last
	out  io.Writer
	last map[string]string
}

// On prints one line per change. Byte counts alone are no change, or a pull
// would print thousands of lines.
func (p *plainProgress) On(e Event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.last == nil {
		p.last = map[string]string{}
	}
	key, line := e.Parent+"\x00"+e.ID, e.Text+" "+e.Details
	if e.Total > 0 {
		line = e.Text
	}
	if p.last[key] == line {
		return
	}
	p.last[key] = line
	prefix := ""
	if p.dryRun {
		prefix = dryRunMark
	}
	fmt.Fprintln(p.out, prefix, e.ID, e.Text, e.Details)
}

func (p *plainProgress) Fail(error) {}
func (p *plainProgress) Close()     {}

type jsonProgress struct {
	dryRun bool

	mu  sync.Mutex // guards out
	out io.Writer
}

func (p *jsonProgress) write(v any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	line, err := json.Marshal(v)
	if err != nil {
		panic(err) // plain strings and numbers
	}
	fmt.Fprintf(p.out, "%s\n", line)
}

func (p *jsonProgress) On(e Event) {
	percent := 0
	if e.Total > 0 {
		percent = int(e.Current * 100 / e.Total)
	}
	p.write(struct {
		DryRun   bool   `json:"dry-run,omitempty"`
		ID       string `json:"id,omitempty"`
		ParentID string `json:"parent_id,omitempty"`
		Status   Status `json:"status,omitempty"`
		Text     string `json:"text,omitempty"`
		Details  string `json:"details,omitempty"`
		Current  int64  `json:"current,omitempty"`
		Total    int64  `json:"total,omitempty"`
		Percent  int    `json:"percent,omitempty"`
	}{p.dryRun, e.ID, e.Parent, e.Status, e.Text, e.Details, e.Current, e.Total, percent})
}

func (p *jsonProgress) Fail(err error) {
	p.write(struct {
		Error   bool   `json:"error"`
		Message string `json:"message"`
	}{true, err.Error()})
}

func (p *jsonProgress) Close() {}

// model is what a terminal shows: objects in the order they appeared, each with
// its layers. It is a reducer: events in, no drawing.
type model struct {
	operation string
	objects   []*object
	byID      map[string]*object
}

type object struct {
	event   Event
	began   time.Time
	ended   time.Time // zero while working
	layers  []*object
	layerAt map[string]*object
}

func newModel(operation string) *model {
	return &model{operation: operation, byID: map[string]*object{}}
}

func (m *model) apply(e Event, now time.Time) {
	if e.Parent != "" {
		parent := m.byID[e.Parent]
		if parent == nil {
			m.apply(Event{ID: e.Parent, Status: Working, Text: "Pulling"}, now)
			parent = m.byID[e.Parent]
		}
		if parent.layerAt == nil {
			parent.layerAt = map[string]*object{}
		}
		layer := parent.layerAt[e.ID]
		if layer == nil {
			layer = &object{began: now}
			parent.layerAt[e.ID] = layer
			parent.layers = append(parent.layers, layer)
		}
		layer.update(e, now)
		return
	}
	o := m.byID[e.ID]
	if o == nil {
		o = &object{began: now}
		m.byID[e.ID] = o
		m.objects = append(m.objects, o)
	}
	o.update(e, now)
}

func (o *object) update(e Event, now time.Time) {
	if !o.ended.IsZero() && e.Status == Working { // a second piece of work on the same object
		o.began, o.ended = now, time.Time{}
	}
	o.event = e
	if e.Status != Working && o.ended.IsZero() {
		o.ended = now
	}
}

func (m *model) done() int {
	n := 0
	for _, o := range m.objects {
		if !o.ended.IsZero() {
			n++
		}
	}
	return n
}
