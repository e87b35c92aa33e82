package spec

import (
	"errors"
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
	if strings.HasPrefix(msg, "while parsing") {
		at, shift = places[len(places)-1], 1 // the parser counts lines from 0, the scanner from 1
	}
	line, _ := strconv.Atoi(at[1])
	bad.line = line + shift
	bad.col, _ = strconv.Atoi(at[2])
	if i := strings.LastIndex(msg, ": "); i >= 0 {
		bad.msg = msg[i+2:]
	}
	return bad
}
