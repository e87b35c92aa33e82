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

	"github.com/compose-spec/compose-go/v2/format"
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
	empty := len(l.x.sources) > 0
	for _, s := range l.x.sources {
		d.file(s)
		empty = empty && s.err == nil && !slices.ContainsFunc(s.docs, func(doc *yaml.Node) bool { return content(doc) != nil })
	}
	if empty {
		d.faults.add(Pos{File: l.x.sources[0].name, Line: 1}, errors.New("empty compose file"))
		return d.faults.err()
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
		sure := d.faults
		d.faults = nil
		d.consistency(p)
		covered := d.consequences()
		for _, e := range append(d.faults, l.converted(p)...) {
			if !covered[line(e.Pos)] {
				sure = append(sure, e)
			}
		}
		d.faults = sure
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
	// covered are the paths that faults were found at. What is said about the
	// same path afterwards, or about what is around it, follows from those.
	covered [][]string
}

// fault reports what is wrong with the value at a path.
func (d *diagnosis) fault(pos Pos, path []string, err error) {
	d.covered = append(d.covered, slices.Clone(path))
	d.faults.add(pos, err)
}

// again tells whether a fault stands where one is reported that says the same of
// another path: an anchor brings one mistake to many services.
func (d *diagnosis) again(pos Pos, what string) bool {
	return pos.Col > 0 && slices.ContainsFunc(d.faults, func(e *Error) bool {
		return e.Pos == pos && strings.HasSuffix(e.Err.Error(), " "+what)
	})
}

// follows tells whether a fault at a path follows from one that was found.
func (d *diagnosis) follows(path []string) bool {
	return slices.ContainsFunc(d.covered, func(c []string) bool {
		for i := range min(len(path), len(c)) {
			if path[i] != c[i] && path[i] != tree.PathMatchList {
				return false
			}
		}
		return true
	})
}

// consequences returns the places of everything that is or contains what a fault
// was found at, down to one service or one volume.
func (d *diagnosis) consequences() map[Pos]bool {
	out := map[Pos]bool{}
	for _, path := range d.covered {
		for n := 2; n <= len(path); n++ {
			out[line(d.x.find(path[:n]...))] = true
		}
	}
	return out
}

func line(p Pos) Pos { return Pos{File: p.File, Line: p.Line} }

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
		r := &reader{d: d, s: s, casts: casts}
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
	d      *diagnosis
	s      *source
	casts  map[tree.Path]interpolation.Cast
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
	r.places = append(r.places, placed{join(path...), r.d.x.pos(r.s, n), key})
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
			r.d.faults.add(r.d.x.pos(r.s, key), errors.New("a key must be a word"))
			continue
		}
		if line, twice := seen[key.Value]; twice {
			if own {
				r.d.faults.add(r.d.x.pos(r.s, key), fmt.Errorf("mapping key %q already defined at line %d", key.Value, line))
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
			r.d.faults.add(r.d.x.pos(r.s, n.Content[i]), errors.New("map merge requires map or sequence of maps as the value"))
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
		r.d.faults.add(r.d.x.pos(r.s, n), err)
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
		r.d.fault(r.d.x.pos(r.s, n), path, err)
		return s
	}
	pattern := slices.Clone(path)
	for i, part := range pattern {
		if _, err := strconv.Atoi(part); err == nil && i > 0 {
			pattern[i] = tree.PathMatchList
		}
	}
	p := tree.NewPath(pattern...)
	for pattern, cast := range r.casts {
		if !p.Matches(pattern) {
			continue
		}
		v, err := cast(out)
		if err != nil {
			if errors.As(err, new(*strconv.NumError)) {
				err = fmt.Errorf("%q is not a number", out)
			}
			r.d.fault(r.d.x.pos(r.s, n), path, fmt.Errorf("%s: %w", dotted, err))
			return castZero(cast)
		}
		return v
	}
	for pattern, check := range shortForms {
		if !p.Matches(pattern) {
			continue
		}
		if err := check(out); err != nil {
			r.d.fault(r.d.x.pos(r.s, n), path, fmt.Errorf("%s: %w", dotted, err))
		}
	}
	return out
}

// shortForms are the values that compose-go takes apart before it validates, and
// whose faults it reports without saying whose they are.
var shortForms = map[tree.Path]func(string) error{
	"services.*.ports.[]":       func(v string) error { _, err := types.ParsePortConfig(v); return err },
	"services.*.volumes.[]":     func(v string) error { _, err := format.ParseVolume(v); return err },
	"services.*.extra_hosts.[]": func(v string) error { _, err := types.NewHostsList([]string{v}); return err },
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
	found := leaves(bad)
	slices.SortStableFunc(found, func(a, b *jsonschema.ValidationError) int {
		return slices.Compare(a.InstanceLocation, b.InstanceLocation)
	})
	for _, leaf := range found {
		at := leaf.InstanceLocation
		unknown := func(parent []string, name string) {
			known := knownKeys(parent)
			if slices.Contains(known, name) || strings.HasPrefix(name, "x-") {
				return // said of all keys of a mapping when one of them is wrong
			}
			path := append(slices.Clone(parent), name)
			d.covered = append(d.covered, path)
			what := fmt.Sprintf("additional properties '%s' not allowed", name)
			if pos := find(path); !d.again(pos, what) {
				d.faults = append(d.faults, &Error{Pos: pos, Err: errors.New(strings.TrimSpace(strings.Join(parent, ".") + " " + what)), Hint: suggest(name, known)})
			}
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
		case *kind.Required:
			if !misspelt(found, at, k.Missing) {
				d.fault(find(at), at, fmt.Errorf("%s %s", strings.Join(at, "."), violation(k)))
			}
		case *kind.UniqueItems:
			d.fault(find(append(slices.Clone(at), strconv.Itoa(k.Duplicates[1]))), at, fmt.Errorf("%s %s", strings.Join(at, "."), violation(k)))
		default:
			if pos := find(at); !d.again(pos, violation(k)) {
				d.fault(pos, at, errors.New(strings.TrimSpace(strings.Join(at, ".")+" "+violation(k))))
			}
		}
	}
}

// misspelt tells whether all properties that are missing at a place are there
// with a mistake in their names, which is reported.
func misspelt(found []*jsonschema.ValidationError, at, missing []string) bool {
	return !slices.ContainsFunc(missing, func(name string) bool {
		return !slices.ContainsFunc(found, func(e *jsonschema.ValidationError) bool {
			k, ok := e.ErrorKind.(*kind.AdditionalProperties)
			return ok && slices.Equal(e.InstanceLocation, at) && slices.ContainsFunc(k.Properties, func(p string) bool {
				return suggest(p, []string{name, ""}) == fmt.Sprintf("did you mean %q?", name)
			})
		})
	})
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
	errorPart    = regexp.MustCompile(`\[\]|[^.\[\]]+`)
	errorService = regexp.MustCompile(`service "?([A-Za-z0-9][A-Za-z0-9._-]*)"?`)
	errorQuoted  = regexp.MustCompile(`(?:secret|config|volume|network) "([^"]+)"`)
	errorDecode  = regexp.MustCompile(`(?m)^'([^']+)' (.+)$`)
	decodeNoise  = regexp.MustCompile(`^(time: |strconv\.\w+: |cannot parse value as '\w+': )`)
)

// pathIn returns the path that an error of compose-go begins with or speaks of.
func pathIn(msg string) []string {
	m := errorPath.FindStringSubmatch(msg)
	if m == nil {
		return nil
	}
	return append([]string{m[1]}, errorPart.FindAllString(m[2], -1)...)
}

// translate gives an error of compose-go the place of the path or the service
// that it names.
func (d *diagnosis) translate(err error) {
	if bad := d.x.badInclude(); bad != nil {
		d.faults.add(bad.Pos, err)
		return
	}
	msg := strings.TrimSuffix(err.Error(), ": invalid compose project")
	if strings.HasPrefix(msg, "decoding failed due to") {
		for _, m := range errorDecode.FindAllStringSubmatch(msg, -1) {
			path := errorPart.FindAllString(m[1], -1)
			if !d.follows(path) {
				d.fault(d.x.find(path...), path, fmt.Errorf("%s: %s", strings.Join(path, "."), decodeNoise.ReplaceAllString(m[2], "")))
			}
		}
		if len(d.faults) > 0 {
			return
		}
	}
	msg, pos := d.x.extending(msg)
	if path := pathIn(msg); pos.Line == 0 && path != nil {
		if d.follows(path) {
			return
		}
		pos = d.x.find(path...)
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
	if len(d.faults) > 0 && (pos.Line == 0 || d.consequences()[line(pos)]) ||
		slices.ContainsFunc(d.faults, func(e *Error) bool { return line(e.Pos) == line(pos) }) {
		return // said already, in other words
	}
	d.faults.add(pos, errors.New(msg))
}

var (
	badExtends = regexp.MustCompile(`^cannot extend service "([^"]+)"`)
	circleLink = regexp.MustCompile(`(?m)(\S+) in .*$`)
)

// extending returns the place where the service is extended that an error of
// compose-go speaks of. Circles begin anywhere there; here with their first name.
func (x *index) extending(msg string) (string, Pos) {
	var service string
	if m := badExtends.FindStringSubmatch(msg); m != nil {
		service = m[1]
	} else if strings.HasPrefix(msg, "Circular reference:") {
		var circle []string
		for _, m := range circleLink.FindAllStringSubmatch(msg, -1) {
			circle = append(circle, m[1])
		}
		if len(circle) < 2 {
			return msg, Pos{}
		}
		circle = circle[1:]
		i := slices.Index(circle, slices.Min(circle))
		circle = slices.Concat(circle[i:], circle[:i+1])
		service, msg = circle[0], "Circular reference: "+strings.Join(circle, " extends ")
	}
	if service == "" || !x.has("services", service, "extends") {
		return msg, Pos{}
	}
	return msg, x.find("services", service, "extends", "service")
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
