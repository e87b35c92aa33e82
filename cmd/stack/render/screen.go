package render

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
)

// redraw is how often a terminal's spinners and timers move.
const redraw = 100 * time.Millisecond

// screen paints a model on a terminal, one write per frame, over its own last
// frame.
type screen struct {
	size   func() (width, height int)
	dryRun bool
	stop   chan struct{}
	ended  chan struct{}

	mu    sync.Mutex // guards what follows
	out   io.Writer
	model *model
	lines int // of the frame on the screen
	dirty bool
}

func newScreen(out io.Writer, operation string, dryRun bool, size func() (int, int)) *screen {
	if dryRun {
		operation = dryRunMark + operation
	}
	s := &screen{size: size, dryRun: dryRun, stop: make(chan struct{}), ended: make(chan struct{}), out: out, model: newModel(operation)}
	go s.run()
	return s
}

func (s *screen) run() {
	defer close(s.ended)
	tick := time.NewTicker(redraw)
	defer tick.Stop()
	for {
		select {
		case <-s.stop:
			return
		case now := <-tick.C:
			s.mu.Lock()
			if s.model.done() < len(s.model.objects) || s.dirty {
				s.paint(now)
			}
			s.mu.Unlock()
		}
	}
}

func (s *screen) On(e Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.model.apply(e, time.Now())
	s.dirty = true
}

func (s *screen) Fail(error) {}

// Close paints the last frame, whole, and ends the ticker.
func (s *screen) Close() {
	close(s.stop)
	<-s.ended
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.model.objects) > 0 {
		s.paint(time.Now())
	}
}

func (s *screen) paint(now time.Time) {
	width, height := s.size()
	var b strings.Builder
	b.WriteString("\x1b[?25l") // the cursor would flicker over the frame
	if s.lines > 0 {
		fmt.Fprintf(&b, "\x1b[%dA", s.lines)
	}
	lines := layout(s.model, now, width, height)
	for _, line := range lines {
		b.WriteString("\r\x1b[2K" + colour(line) + "\n")
	}
	b.WriteString("\x1b[0J\x1b[?25h")
	s.lines, s.dirty = len(lines), false
	_, _ = io.WriteString(s.out, b.String()) // a terminal that is gone has nobody to tell
}

// colour tints the icon of an object's line, or the whole header.
func colour(line string) string {
	r := []rune(line)
	if len(r) < 3 || r[0] != ' ' {
		return "\x1b[34m" + line + "\x1b[0m"
	}
	var code string
	switch r[1] {
	case '✔':
		code = "32"
	case '✘':
		code = "31"
	case '!':
		code = "33"
	default:
		code = "36"
	}
	return " \x1b[" + code + "m" + string(r[1]) + "\x1b[0m" + string(r[2:])
}
