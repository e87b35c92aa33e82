package render

import (
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/docker/go-units"
)

var spinner = []rune("⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏")

// barCells is the width of a pull's bar, one cell per layer when they fit.
const barCells = 20

// layout returns m as lines of at most width columns, at most height of them:
// what happens now is kept, finished objects give way first.
func layout(m *model, now time.Time, width, height int) []string {
	header := fmt.Sprintf("[+] %s %d/%d", m.operation, m.done(), len(m.objects))
	shown, hidden := m.objects, 0
	if room := height - 2; room > 0 && len(shown) > room {
		shown, hidden = choose(shown, room-1), len(shown)-(room-1)
	}
	lines := []string{clip(header, width)}
	names := 0
	for _, o := range shown {
		names = max(names, utf8.RuneCountInString(label(o)))
	}
	for _, o := range shown {
		lines = append(lines, objectLine(o, now, names, width))
	}
	if hidden > 0 {
		lines = append(lines, clip(fmt.Sprintf(" … %d more", hidden), width))
	}
	return lines
}

// choose keeps n objects in their order, working ones first.
func choose(objects []*object, n int) []*object {
	keep := map[*object]bool{}
	for _, working := range []bool{true, false} {
		for _, o := range objects {
			if len(keep) < n && o.ended.IsZero() == working {
				keep[o] = true
			}
		}
	}
	var kept []*object
	for _, o := range objects {
		if keep[o] {
			kept = append(kept, o)
		}
	}
	return kept
}

func label(o *object) string {
	return strings.TrimSpace(o.event.ID + " " + bar(o) + o.event.Text)
}

func objectLine(o *object, now time.Time, names, width int) string {
	icon := string(spinner[int(now.Sub(o.began)/(100*time.Millisecond))%len(spinner)])
	switch o.event.Status {
	case Done:
		icon = "✔"
	case Warning:
		icon = "!"
	case Error:
		icon = "✘"
	case Working:
	}
	end := o.ended
	if end.IsZero() {
		end = now
	}
	timer := fmt.Sprintf("%.1fs", end.Sub(o.began).Seconds())
	text := label(o)
	left := " " + icon + " " + text + strings.Repeat(" ", names-utf8.RuneCountInString(text))
	if o.event.Details != "" {
		left += " " + o.event.Details
	}
	room := width - utf8.RuneCountInString(timer) - 1
	left = clip(left, room)
	return left + strings.Repeat(" ", max(0, room-utf8.RuneCountInString(left))) + " " + timer
}

// bar draws one cell per layer, filled as far as it is pulled, and the bytes.
func bar(o *object) string {
	if len(o.layers) == 0 || !o.ended.IsZero() {
		return ""
	}
	steps := []rune("⠀⡀⣀⣄⣤⣦⣶⣷⣿")
	var current, total int64
	var cells []rune
	for _, l := range o.layers {
		current += l.event.Current
		total += l.event.Total
		step := 0
		switch {
		case !l.ended.IsZero():
			step = len(steps) - 1
		case l.event.Total > 0:
			step = int(l.event.Current * int64(len(steps)-1) / l.event.Total)
		}
		if len(cells) < barCells {
			cells = append(cells, steps[min(max(step, 0), len(steps)-1)])
		}
	}
	return fmt.Sprintf("[%s] %s / %s ", string(cells), units.HumanSize(float64(current)), units.HumanSize(float64(total)))
}

// clip cuts s to width columns; every rune drawn here is one column wide.
func clip(s string, width int) string {
	if width <= 0 || utf8.RuneCountInString(s) <= width {
		return s
	}
	r := []rune(s)
	return string(r[:max(0, width-1)]) + "…"
}
