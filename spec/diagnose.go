package spec

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/compose-spec/compose-go/v2/interpolation"
	"github.com/compose-spec/compose-go/v2/loader"
	"github.com/compose-spec/compose-go/v2/schema"
	"github.com/compose-spec/compose-go/v2/template"
	"github.com/compose-spec/compose-go/v2/tree"
	"github.com/compose-spec/compose-go/v2/types"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/santhosh-tekuri/jsonschema/v6/kind"
	"golang.org/x/text/language"
	"golang.org/x/text/message"
	"gopkg.in/yaml.v3"
)

// diagnose finds everything that is wrong with files that compose-go refused
// with cause. compose-go stops at the first fault and knows no lines, so each
// file is gone through again: syntax, variables, schema, and references. None of
// this costs anything while files are right.
func (l *loading) diagnose(ctx context.Context, cause error) error {
	d := &diagnosis{loading: l}
	for _, s := range l.x.sources {
		d.file(s)
	}
	// What is wrong in one file should not hide what is wrong with the whole:
	// with the checks off that found it, the rest can often be gone through.
	p, err := l.compose(ctx, func(o *loader.Options) { o.SkipConsistencyCheck = true })
	if err != nil && len(d.faults) > 0 {
		p, err = l.compose(ctx, func(o *loader.Options) { o.SkipConsistencyCheck, o.SkipValidation = true, true })
	}
	switch {
	case l.lenient:
	case err == nil:
		d.consistency(p)
		d.faults = append(d.faults, l.converted(p)...)
	case len(d.faults) > 0:
		d.references()
		d.translate(err)
	}
	if len(d.faults) == 0 {
		d.translate(cause)
	}
	return d.faults.err()
}

type diagnosis struct {
	*loading
	faults faults
}

func (d *diagnosis) file(s *source) {
	if s.err != nil {
		if s.docs != nil || !errors.Is(s.err, os.ErrNotExist) {
			d.syntax(s)
		}
		return // a file that is not there is the loader's to report
	}
	casts := loader.ToOptions(&types.ConfigDetails{}, nil).Interpolate.TypeCastMapping
	for _, doc := range s.docs {
		root := content(doc)
		if root == nil {
			continue
		}
		if root.Kind != yaml.MappingNode {
			d.faults.add(d.x.pos(s, root), errors.New("top-level object must be a mapping"))
			continue
		}
		r := &reader{x: d.x, s: s, casts: casts, faults: &d.faults}
		value, _ := r.read(root, nil, 0)
		if tree, ok := value.(map[string]any); ok && !s.extends {
			d.schema(tree, r)
		}
	}
}

func (d *diagnosis) syntax(s *source) {
	pos, e := Pos{File: s.name}, &Error{Err: s.err}
	if bad := (*badYAML)(nil); errors.As(s.err, &bad) {
		pos.Line, pos.Col = bad.line, bad.col
		if strings.Contains(bad.msg, "cannot start any token") {
			e.Hint = "indent with spaces, not tabs, and quote values that start with @ or `"
		}
	}
	e.Pos = pos
	d.faults = append(d.faults, e)
}

// reader turns a file's nodes into values as compose-go sees them just before
// it validates: interpolated, cast, with places for every path.
type reader struct {
	x      *index
	s      *source
	casts  map[tree.Path]interpolation.Cast
	faults *faults
	visits int
	places []placed
}

// placed is where the value at a path stands.
type placed struct {
	path string
	pos  Pos
	key  bool
}

// read returns a node's value; false if it is not there (!reset).
func (r *reader) read(n *yaml.Node, path []string, depth int) (any, bool) {
	if r.visits++; r.visits > maxVisits || depth > maxDepth {
		return nil, false
	}
	if n.Tag == "!reset" {
		return nil, false
	}
	tag := n.Tag
	if n = content(n); n == nil {
		return nil, true
	}
	if tag == "!override" {
		tag = ""
	} else {
		tag = n.Tag
	}
	switch n.Kind {
	case yaml.MappingNode:
		out := map[string]any{}
		r.mapping(n, path, out, depth, true)
		return out, true
	case yaml.SequenceNode:
		out := []any{}
		for i, item := range n.Content {
			sub := append(path[:len(path):len(path)], strconv.Itoa(i))
			r.place(sub, item, false)
			if v, ok := r.read(item, sub, depth+1); ok {
				out = append(out, v)
			}
		}
		return out, true
	case yaml.ScalarNode:
		return r.scalar(n, tag, path), true
	}
	return nil, true
}

func (r *reader) place(path []string, n *yaml.Node, key bool) {
	r.places = append(r.places, placed{join(path...), r.x.pos(r.s, n), key})
}

// mapping reads a mapping's keys into out; those of merged mappings only where
// out has none.
func (r *reader) mapping(n *yaml.Node, path []string, out map[string]any, depth int, own bool) {
	if depth > maxDepth {
		return
	}
	seen := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if key.Tag == "!!merge" {
			continue
		}
		if key.Kind != yaml.ScalarNode {
			r.faults.add(r.x.pos(r.s, key), errors.New("a key must be a word"))
			continue
		}
		if line, twice := seen[key.Value]; twice {
			if own {
				r.faults.add(r.x.pos(r.s, key), fmt.Errorf("mapping key %q already defined at line %d", key.Value, line))
			}
			continue
		}
		seen[key.Value] = key.Line
		if _, ok := out[key.Value]; ok && !own {
			continue
		}
		sub := append(path[:len(path):len(path)], key.Value)
		r.place(sub, key, true)
		if v, ok := r.read(value, sub, depth+1); ok {
			out[key.Value] = v
		}
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Tag != "!!merge" {
			continue
		}
		switch m := content(n.Content[i+1]); {
		case m == nil:
		case m.Kind == yaml.MappingNode:
			r.mapping(m, path, out, depth+1, false)
		case m.Kind == yaml.SequenceNode:
			for _, item := range m.Content {
				if item = content(item); item != nil && item.Kind == yaml.MappingNode {
					r.mapping(item, path, out, depth+1, false)
				}
			}
		default:
			r.faults.add(r.x.pos(r.s, n.Content[i]), errors.New("map merge requires map or sequence of maps as the value"))
		}
	}
}

func (r *reader) scalar(n *yaml.Node, tag string, path []string) any {
	var v any
	plain := *n
	plain.Tag = tag
	if strings.HasPrefix(tag, "!") && !strings.HasPrefix(tag, "!!") {
		plain.Tag = ""
	}
	if err := plain.Decode(&v); err != nil {
		r.faults.add(r.x.pos(r.s, n), err)
		return nil
	}
	s, ok := v.(string)
	if !ok {
		return v
	}
	out, err := template.SubstituteWithOptions(s, r.s.env.Resolve, template.WithoutLogging)
	dotted := strings.Join(path, ".")
	if err != nil {
		if bad := (*template.InvalidTemplateError)(nil); errors.As(err, &bad) {
			err = fmt.Errorf("invalid interpolation format for %s: %q. You may need to escape any $ with another $", dotted, bad.Template)
		} else {
			err = fmt.Errorf("error while interpolating %s: %w", dotted, err)
		}
		r.faults.add(r.x.pos(r.s, n), err)
		return s
	}
	for i, part := range path {
		if _, err := strconv.Atoi(part); err == nil && i > 0 {
			path = slices.Clone(path)
			path[i] = tree.PathMatchList
		}
	}
	p := tree.NewPath(path...)
	for pattern, cast := range r.casts {
		if !p.Matches(pattern) {
			continue
		}
		v, err := cast(out)
		if err != nil {
			if errors.As(err, new(*strconv.NumError)) {
				err = fmt.Errorf("%q is not a number", out)
			}
			r.faults.add(r.x.pos(r.s, n), fmt.Errorf("%s: %w", dotted, err))
			return castZero(cast)
		}
		return v
	}
	return out
}

// castZero is a value of the type that was wanted, so that the schema does not
// find the same fault again.
func castZero(cast interpolation.Cast) any {
	for _, s := range []string{"1", "true"} {
		if v, err := cast(s); err == nil {
			return v
		}
	}
	return nil
}

// compiledSchema is compose-go's schema, which it compiles for itself only.
var compiledSchema = sync.OnceValues(func() (*jsonschema.Schema, error) {
	c := jsonschema.NewCompiler()
	doc, err := jsonschema.UnmarshalJSON(strings.NewReader(schema.Schema))
	if err != nil {
		return nil, err
	}
	if err := c.AddResource("compose-spec.json", doc); err != nil {
		return nil, err
	}
	return c.Compile("compose-spec.json")
})

// schema validates one file's tree and reports every violation in it.
func (d *diagnosis) schema(tree map[string]any, r *reader) {
	sch, err := compiledSchema()
	if err != nil {
		d.faults.add(Pos{}, err)
		return
	}
	data, err := json.Marshal(tree)
	if err != nil {
		return // a NaN; compose-go says so
	}
	var plain any
	if json.Unmarshal(data, &plain) != nil {
		return
	}
	var bad *jsonschema.ValidationError
	if !errors.As(sch.Validate(plain), &bad) {
		return
	}
	places := map[string]placed{}
	for _, p := range r.places {
		places[p.path] = p
	}
	find := func(path []string) Pos {
		for n := len(path); n > 0; n-- {
			if p, ok := places[join(path[:n]...)]; ok {
				return p.pos
			}
		}
		return Pos{File: r.s.name}
	}
	for _, leaf := range leaves(bad) {
		at := leaf.InstanceLocation
		unknown := func(parent []string, name string) {
			known := knownKeys(parent)
			if slices.Contains(known, name) || strings.HasPrefix(name, "x-") {
				return // said of all keys of a mapping when one of them is wrong
			}
			d.faults = append(d.faults, &Error{
				Pos:  find(append(slices.Clone(parent), name)),
				Err:  errors.New(strings.TrimSpace(fmt.Sprintf("%s additional properties '%s' not allowed", strings.Join(parent, "."), name))),
				Hint: suggest(name, known),
			})
		}
		switch k := leaf.ErrorKind.(type) {
		case *kind.AdditionalProperties:
			for _, name := range k.Properties {
				unknown(at, name)
			}
		case *kind.FalseSchema:
			if n := len(at) - 1; n >= 0 {
				unknown(at[:n], at[n])
			}
		default:
			d.faults.add(find(at), errors.New(strings.TrimSpace(strings.Join(at, ".")+" "+violation(k))))
		}
	}
}

// leaves returns the violations below e that say something: where one of
// several forms had to match, those of the form that came nearest.
func leaves(e *jsonschema.ValidationError) []*jsonschema.ValidationError {
	if len(e.Causes) == 0 {
		return []*jsonschema.ValidationError{e}
	}
	var out []*jsonschema.ValidationError
	switch e.ErrorKind.(type) {
	case *kind.OneOf, *kind.AnyOf:
		best := -1
		var wants []string
		for _, c := range e.Causes {
			found := leaves(c)
			deep := 0
			for _, f := range found {
				n := len(f.InstanceLocation)
				if _, ok := f.ErrorKind.(*kind.AdditionalProperties); ok {
					n++
				}
				deep = max(deep, n)
			}
			if t, ok := found[0].ErrorKind.(*kind.Type); ok && len(found) == 1 && len(found[0].InstanceLocation) == len(e.InstanceLocation) {
				wants = append(wants, t.Want...)
			}
			if deep > best {
				best, out = deep, found
			}
		}
		if t, ok := out[0].ErrorKind.(*kind.Type); ok && len(out) == 1 && len(wants) > 1 {
			slices.Sort(wants)
			all := *out[0]
			all.ErrorKind = &kind.Type{Got: t.Got, Want: slices.Compact(wants)}
			out = []*jsonschema.ValidationError{&all}
		}
	default:
		for _, c := range e.Causes {
			out = append(out, leaves(c)...)
		}
	}
	return out
}

// violation is what docker compose says of one.
func violation(k jsonschema.ErrorKind) string {
	switch k := k.(type) {
	case *kind.Type:
		var want []string
		for _, w := range k.Want {
			if w == "object" {
				w = "mapping"
			}
			want = append(want, w)
		}
		if len(want) == 1 {
			return "must be a " + want[0]
		}
		return "must be a " + strings.Join(want[:len(want)-1], ", ") + " or " + want[len(want)-1]
	case *kind.Minimum:
		return "must be greater than or equal to " + k.Want.Num().String()
	case *kind.Maximum:
		return "must be less than or equal to " + k.Want.Num().String()
	}
	return k.LocalizedString(message.NewPrinter(language.English))
}

// knownKeys are the keys that the schema allows below a path.
func knownKeys(path []string) []string {
	var out []string
	for _, p := range schema.AttributePaths() {
		parts := p.Parts()
		if len(parts) != len(path)+1 || parts[len(path)] == tree.PathMatchAll {
			continue
		}
		match := true
		for i, want := range parts[:len(path)] {
			_, err := strconv.Atoi(path[i])
			if want != path[i] && want != tree.PathMatchAll && !(want == tree.PathMatchList && err == nil) {
				match = false
				break
			}
		}
		if match {
			out = append(out, parts[len(path)])
		}
	}
	return out
}

// references reports names that are used and nowhere declared, in files that
// cannot be merged because of other faults.
func (d *diagnosis) references() {
	declared := func(kind, name string) bool { return name == "" || d.x.has(kind, name) }
	for _, p := range sortedKeys(d.x.at) {
		path := strings.Split(p, pathSep)
		if len(path) != 4 || path[0] != "services" || d.x.has("services", path[1], "profiles") {
			continue
		}
		e := d.x.at[p]
		name := path[3]
		if path[2] == "configs" || path[2] == "secrets" {
			var ok bool
			if name, ok = strings.CutPrefix(name, "@"); !ok {
				continue
			}
		}
		if _, err := strconv.Atoi(name); err == nil {
			continue // a list's item; it is there under its name too
		}
		service := path[1]
		switch path[2] {
		case "networks":
			if name != "default" && !declared("networks", name) {
				d.faults.add(e.pos, undefined(service, "network", name))
			}
		case "volumes":
			if name, ok := strings.CutPrefix(name, "@volume="); ok && !declared("volumes", name) {
				d.faults.add(e.pos, undefined(service, "volume", name))
			}
		case "configs", "secrets":
			if !declared(path[2], name) {
				d.faults.add(e.pos, undefined(service, strings.TrimSuffix(path[2], "s"), name))
			}
		case "depends_on":
			if !declared("services", name) {
				d.faults.add(e.pos, fmt.Errorf("service %q depends on undefined service %q", service, name))
			}
		}
	}
}

func undefined(service, what, name string) error {
	return fmt.Errorf("service %q refers to undefined %s %s", service, what, name)
}

var (
	errorPath    = regexp.MustCompile(`\b(services|networks|volumes|configs|secrets|include|jobs|models)((?:\.[^\s:'"\x60,]+)+|\b)`)
	errorService = regexp.MustCompile(`service "?([A-Za-z0-9][A-Za-z0-9._-]*)"?`)
	errorQuoted  = regexp.MustCompile(`(?:secret|config|volume|network) "([^"]+)"`)
)

func isPathMark(r rune) bool { return r == '.' || r == '[' || r == ']' }

// translate gives an error of compose-go the place of the path or the service
// that it names.
func (d *diagnosis) translate(err error) {
	if bad := d.x.badInclude(); bad != nil {
		d.faults.add(bad.Pos, err)
		return
	}
	msg := strings.TrimSuffix(err.Error(), ": invalid compose project")
	pos := Pos{}
	if m := errorPath.FindStringSubmatch(msg); m != nil {
		pos = d.x.find(append([]string{m[1]}, strings.FieldsFunc(m[2], isPathMark)...)...)
	}
	if m := errorService.FindStringSubmatch(msg); pos.Line == 0 && m != nil && d.x.has("services", m[1]) {
		pos = d.x.find("services", m[1])
	}
	if m := errorQuoted.FindStringSubmatch(msg); pos.Line == 0 && m != nil {
		for _, kind := range []string{"secrets", "configs", "volumes", "networks"} {
			if d.x.has(kind, m[1]) {
				pos = d.x.find(kind, m[1])
			}
		}
	}
	if pos.Line == 0 {
		pos = d.x.mentioned(msg, pos)
	}
	if slices.ContainsFunc(d.faults, func(e *Error) bool { return pos.Line == 0 || e.Pos.File == pos.File && e.Pos.Line == pos.Line }) {
		return // said already, in other words
	}
	d.faults.add(pos, errors.New(msg))
}

// badInclude returns the place of an included or extended file that could not
// be read.
func (x *index) badInclude() *Error {
	for _, s := range x.sources {
		if s.err != nil && s.from.Line > 0 {
			return &Error{Pos: s.from, Err: s.err}
		}
	}
	return nil
}

// mentioned finds the one value that an error quotes.
func (x *index) mentioned(msg string, or Pos) Pos {
	best, length := or, 2 // what is shorter is in everything
	for _, p := range sortedKeys(x.at) {
		if e := x.at[p]; len(e.text) > length && strings.Contains(msg, e.text) {
			best, length = e.pos, len(e.text)
		}
	}
	return best
}
