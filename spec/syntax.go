package spec

import (
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"
)

// badYAML is a syntax error with its place.
type badYAML struct {
	line, col int
	msg       string
	endless   bool // no loader must see it
}

func (b *badYAML) Error() string { return "yaml: " + b.msg }

var yamlPlace = regexp.MustCompile(`line (\d+)(?:, column (\d+))?`)

// syntaxError says where content is no YAML, in the words of the parser that
// compose-go uses: yaml.v3 often names the line where the enclosing mapping
// began. err is what yaml.v3 said.
func syntaxError(content []byte, err error) error {
	better := func() (err error) {
		defer func() {
			if recover() != nil {
				err = nil
			}
		}()
		d := yaml.NewDecoder(strings.NewReader(string(content)))
		for {
			var v yaml.Node
			if err := d.Decode(&v); errors.Is(err, io.EOF) {
				return nil
			} else if err != nil {
				return err
			}
		}
	}()
	if better != nil {
		err = better
	}
	msg := strings.TrimPrefix(err.Error(), "yaml: ")
	bad := &badYAML{msg: msg}
	places := yamlPlace.FindAllStringSubmatch(msg, -1)
	if len(places) == 0 {
		return bad
	}
	at, shift := places[0], 0 // where a token begins that does not end
	switch {
	case strings.HasPrefix(msg, "while parsing a flow"): // where the bracket is that does not end
		shift = 1 // the parser counts lines from 0, the scanner from 1
	case strings.HasPrefix(msg, "while parsing"):
		at, shift = places[len(places)-1], 1
	}
	line, _ := strconv.Atoi(at[1])
	bad.line = line + shift
	bad.col, _ = strconv.Atoi(at[2])
	if i := strings.LastIndex(msg, ": "); i >= 0 {
		bad.msg = msg[i+2:]
	}
	if begin := openQuote(content, bad.line); begin > 0 && begin < bad.line {
		bad.msg = fmt.Sprintf("a quote is opened here and not closed in its line (%s in line %d)", bad.msg, bad.line)
		bad.line, bad.col = begin, 0
	}
	return bad
}

// openQuote returns the line of a quote that is still open where the line before
// an error begins, or 0: the parser stops only where the next quote, which it
// took for the end of that one, leads to nonsense.
func openQuote(content []byte, until int) int {
	var open byte
	begin, line := 0, 1
	for i := 0; i < len(content) && line < until-1 || open != 0 && i < len(content) && line <= until; i++ {
		switch c := content[i]; {
		case c == '\n':
			line++
		case open == '"' && c == '\\':
			i++
		case open != 0 && c == open:
			if begin < line && line >= until-1 {
				return begin
			}
			open = 0
		case open != 0:
		case (c == '"' || c == '\'') && i > 0 && strings.IndexByte(" \t[{,", content[i-1]) >= 0:
			open, begin = c, line
		case c == '#' && (i == 0 || content[i-1] == ' ' || content[i-1] == '\n'):
			for i+1 < len(content) && content[i+1] != '\n' {
				i++
			}
		}
	}
	if open != 0 {
		return begin
	}
	return 0
}
