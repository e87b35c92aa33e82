package render

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"sync"
)

// prefixColours are the ANSI colours of log prefixes in their order, then the
// same in bold.
var prefixColours = []string{"36", "33", "32", "35", "34", "36;1", "33;1", "32;1", "35;1", "34;1"}

// LogPrinter mixes the lines of several replicas, each behind its padded name.
// Its methods may be called concurrently; a line is never broken by another.
type LogPrinter struct {
	NoPrefix bool
	Colour   bool

	mu      sync.Mutex // guards what follows
	out     io.Writer
	errOut  io.Writer
	width   int
	colours map[string]string
}

// NewLogPrinter writes standard output to out and standard error to errOut.
// The names are known ones, sorted by the caller, so that their colours and the
// width are the same in every run; later names are added as they appear.
func NewLogPrinter(out, errOut io.Writer, names []string) *LogPrinter {
	p := &LogPrinter{out: out, errOut: errOut, colours: map[string]string{}}
	for _, n := range names {
		p.register(n)
	}
	return p
}

func (p *LogPrinter) register(name string) {
	if _, known := p.colours[name]; !known {
		p.colours[name] = prefixColours[len(p.colours)%len(prefixColours)]
		p.width = max(p.width, len(name)+1)
	}
}

// Print writes one record of a replica, which may be several lines; timestamp,
// when not empty, stands behind the prefix.
func (p *LogPrinter) Print(name string, stderr bool, timestamp string, record []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	prefix := p.prefix(name)
	if timestamp != "" {
		prefix += timestamp + " "
	}
	var b bytes.Buffer
	for line := range bytes.Lines(record) {
		b.WriteString(prefix)
		b.Write(bytes.TrimSuffix(line, []byte("\n")))
		b.WriteByte('\n')
	}
	if len(record) == 0 {
		b.WriteString(prefix + "\n")
	}
	w := p.out
	if stderr {
		w = p.errOut
	}
	_, _ = w.Write(b.Bytes()) // a reader that went away ends the command by SIGPIPE
}

// Note writes a line of ours about a replica, like "exited with code 0".
func (p *LogPrinter) Note(name, text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.register(name)
	line := name + " " + text
	if p.Colour {
		line = "\x1b[" + p.colours[name] + "m" + line + "\x1b[0m"
	}
	fmt.Fprintln(p.out, line)
}

func (p *LogPrinter) prefix(name string) string {
	if p.NoPrefix {
		return ""
	}
	p.register(name)
	s := name + strings.Repeat(" ", p.width-len(name)) + " | "
	if p.Colour {
		s = "\x1b[" + p.colours[name] + "m" + s + "\x1b[0m"
	}
	return s
}
