package spec

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"github.com/compose-spec/compose-go/v2/dotenv"
	"github.com/compose-spec/compose-go/v2/format"
	"github.com/compose-spec/compose-go/v2/template"
	"github.com/compose-spec/compose-go/v2/types"
	"gopkg.in/yaml.v3"
)

// Bounds on what an index reads: a compose file may come from anywhere, and
// aliases let a few lines stand for millions of nodes. Past them, places are
// coarser; loading itself has compose-go's own bounds.
const (
	maxFiles  = 256
	maxVisits = 1 << 20
	maxDepth  = 100
)

// source is one compose file as it lies there, before anything is merged.
type source struct {
	path    string // absolute, or "-"
	name    string // for messages
	dir     string // what relative paths in it are relative to
	env     types.Mapping
	docs    []*yaml.Node
	err     error // of its syntax, or of reading it
	from    Pos   // where it is named, if it is no root file
	extends bool  // read only because a service extends one of its services
	missing bool  // lies elsewhere, and err is why it could not be fetched
}

// entry is one key or list item of the merged files.
type entry struct {
	pos     Pos
	pattern string // the path with "[]" for list positions, joined by pathSep
	key     bool   // a mapping's key, not a list's item or a name derived from one
	text    string // the value of a scalar, interpolated
}

// index knows where in the files every key of the project stands. Places of
// later files replace those of earlier ones, as their values do.
type index struct {
	display func(path string) string
	fetch   fetchFunc
	sources []*source
	at      map[string]entry // by path, joined by pathSep
	visits  int
	depth   int
}

// fetchFunc returns the local copy of a file that lies elsewhere, or false for a
// path.
type fetchFunc func(name string) (file string, elsewhere bool, err error)

// pathSep joins path parts: names may hold dots, never NUL.
const pathSep = "\x00"

func join(parts ...string) string { return strings.Join(parts, pathSep) }

// newIndex reads the root files' contents and every file they include or
// extend. It never fails: what cannot be read has no places, and the loader
// says why it could not. A nil fetch takes every name for a path.
func newIndex(files []types.ConfigFile, dir string, env types.Mapping, display func(string) string, fetch fetchFunc) *index {
	x := &index{display: display, fetch: fetch, at: map[string]entry{}}
	for _, f := range files {
		x.addFile(x.read(f.Filename, f.Content, dir, env), nil)
	}
	return x
}

// find returns the place of the deepest known part of a path.
func (x *index) find(parts ...string) Pos {
	for n := len(parts); n > 0; n-- {
		if e, ok := x.at[join(parts[:n]...)]; ok {
			return e.pos
		}
	}
	if len(x.sources) > 0 {
		return Pos{File: x.sources[0].name}
	}
	return Pos{}
}

// has tells whether a path is written in any file.
func (x *index) has(parts ...string) bool {
	_, ok := x.at[join(parts...)]
	return ok
}

// under returns the places of everything below a service, by dotted path.
func (x *index) under(parts ...string) map[string]Pos {
	prefix := join(parts...) + pathSep
	out := map[string]Pos{}
	for p, e := range x.at {
		if rest, ok := strings.CutPrefix(p, prefix); ok && !strings.Contains(rest, "@") {
			out[strings.ReplaceAll(rest, pathSep, ".")] = e.pos
		}
	}
	return out
}

func (x *index) read(path string, content []byte, dir string, env types.Mapping) *source {
	for _, s := range x.sources {
		if s.path == path && s.dir == dir {
			return s
		}
	}
	s := &source{path: path, name: x.display(path), dir: dir, env: env}
	x.sources = append(x.sources, s)
	if content == nil {
		if content, s.err = readFile(path); s.err != nil {
			return s
		}
	}
	if s.docs, s.err = parseYAML(content); s.err != nil {
		s.err = syntaxError(content, s.err)
	}
	for _, doc := range s.docs {
		if n := selfAlias(doc, map[*yaml.Node]bool{}); n != nil {
			s.docs, s.err = nil, &badYAML{line: n.Line, col: n.Column, msg: fmt.Sprintf("anchor %q contains itself", n.Value), endless: true}
			break
		}
	}
	return s
}

// selfAlias finds an alias inside of what it stands for, which has no end.
// compose-go notices, after a minute.
func selfAlias(n *yaml.Node, inside map[*yaml.Node]bool) *yaml.Node {
	if n.Kind == yaml.AliasNode {
		if inside[n.Alias] {
			return n
		}
		return nil
	}
	if n.Anchor != "" {
		inside[n] = true
		defer delete(inside, n)
	}
	for _, c := range n.Content {
		if bad := selfAlias(c, inside); bad != nil {
			return bad
		}
	}
	return nil
}

// parseYAML returns the documents of content. The parser has panicked on
// hostile input before; that is a syntax error like any other.
func parseYAML(content []byte) (docs []*yaml.Node, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("yaml: %v", r)
		}
	}()
	d := yaml.NewDecoder(bytes.NewReader(content))
	for {
		var n yaml.Node
		if err := d.Decode(&n); errors.Is(err, io.EOF) {
			return docs, nil
		} else if err != nil {
			return docs, err
		}
		docs = append(docs, &n)
	}
}

// addFile adds the places of a file, those of the files it includes first.
func (x *index) addFile(s *source, including []string) {
	for _, doc := range s.docs {
		root := content(doc)
		if root == nil || root.Kind != yaml.MappingNode {
			continue
		}
		x.addIncludes(s, lookup(root, "include"), append(including, s.path))
		x.addMapping(s, root, nil, "")
	}
}

func (x *index) addIncludes(s *source, list *yaml.Node, including []string) {
	if list == nil || list.Kind != yaml.SequenceNode {
		return
	}
	for _, item := range list.Content {
		item = content(item)
		var paths, envFiles []string
		var projectDir string
		switch {
		case item == nil:
			continue
		case item.Kind == yaml.ScalarNode:
			paths = []string{s.interpolate(item.Value)}
		case item.Kind == yaml.MappingNode:
			paths = s.strings(lookup(item, "path"))
			envFiles = s.strings(lookup(item, "env_file"))
			if n := lookup(item, "project_directory"); n != nil {
				projectDir = s.interpolate(n.Value)
			}
		}
		reachable := true
		for i, p := range paths {
			var ok bool
			if paths[i], ok = x.resolve(s, item, p); !ok {
				reachable = false
			}
		}
		if len(paths) == 0 || !reachable {
			continue
		}
		dir := filepath.Dir(paths[0])
		if projectDir != "" {
			dir = absolute(s.dir, projectDir)
		}
		env := includeEnv(s.env, s.dir, dir, envFiles)
		for _, p := range paths {
			if len(x.sources) >= maxFiles || contains(including, p) {
				return
			}
			known := len(x.sources)
			f := x.read(p, nil, dir, env)
			if len(x.sources) > known {
				f.from = x.pos(s, item)
			}
			x.addFile(f, including)
		}
	}
}

// resolve returns the path of a file that one names at a node, after fetching it
// if it lies elsewhere. Where that fails, a source without content says why.
func (x *index) resolve(s *source, at *yaml.Node, name string) (string, bool) {
	if x.fetch == nil {
		return absolute(s.dir, name), true
	}
	for _, known := range x.sources {
		if known.missing && known.path == name {
			return "", false
		}
	}
	file, elsewhere, err := x.fetch(name)
	switch {
	case err != nil:
		if len(x.sources) < maxFiles {
			x.sources = append(x.sources, &source{path: name, err: err, from: x.pos(s, at), missing: true})
		}
		return "", false
	case elsewhere:
		return file, true
	}
	return absolute(s.dir, name), true
}

// includeEnv is the environment an included file is interpolated with.
func includeEnv(env types.Mapping, parent, dir string, files []string) types.Mapping {
	if len(files) == 0 {
		if p := filepath.Join(dir, ".env"); isFile(p) {
			files = []string{p}
		}
	} else {
		for i, f := range files {
			files[i] = absolute(parent, f)
		}
	}
	fromFiles, err := dotenv.GetEnvFromFile(env, files)
	if err != nil {
		return env // the loader reports it
	}
	return env.Clone().Merge(fromFiles)
}

// addMapping adds n's keys below path. Merge keys come first: what is written
// beside them wins.
func (x *index) addMapping(s *source, n *yaml.Node, path []string, pattern string) {
	if x.depth >= maxDepth { // an anchor may hold its own alias, a service extend itself
		return
	}
	x.depth++
	defer func() { x.depth-- }()
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Tag != "!!merge" {
			continue
		}
		merged := content(n.Content[i+1])
		switch {
		case merged == nil:
		case merged.Kind == yaml.MappingNode && x.visit():
			x.addMapping(s, merged, path, pattern)
		case merged.Kind == yaml.SequenceNode:
			for j := len(merged.Content) - 1; j >= 0; j-- { // the first one wins
				if m := content(merged.Content[j]); m != nil && m.Kind == yaml.MappingNode && x.visit() {
					x.addMapping(s, m, path, pattern)
				}
			}
		}
	}
	if len(path) == 2 && path[0] == "services" {
		x.addExtends(s, n, path)
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if key.Tag == "!!merge" {
			continue
		}
		sub := append(path[:len(path):len(path)], key.Value)
		subPattern := key.Value
		if pattern != "" {
			subPattern = pattern + pathSep + key.Value
		}
		x.add(s, key, value, sub, subPattern, true)
	}
}

// add adds one key or item and all below it.
func (x *index) add(s *source, at, value *yaml.Node, path []string, pattern string, key bool) {
	if !x.visit() || len(path) > maxDepth {
		return
	}
	switch value.Tag {
	case "!reset":
		x.drop(path)
		return
	case "!override":
		x.drop(path)
	}
	value = content(value)
	e := entry{pos: x.pos(s, at), pattern: pattern, key: key}
	if value != nil && value.Kind == yaml.ScalarNode {
		e.text = s.interpolate(value.Value)
	}
	x.at[join(path...)] = e
	if value == nil {
		return
	}
	switch value.Kind {
	case yaml.MappingNode:
		x.addMapping(s, value, path, pattern)
	case yaml.SequenceNode:
		for i, item := range value.Content {
			x.add(s, item, item, append(path[:len(path):len(path)], strconv.Itoa(i)), pattern+pathSep+"[]", false)
			for _, name := range s.itemNames(path, content(item)) {
				named := append(path[:len(path):len(path)], name)
				x.at[join(named...)] = entry{pos: x.pos(s, item), pattern: pattern + pathSep + "[]", text: name}
				x.addFields(s, content(item), named)
			}
		}
	}
}

// addFields adds the places of a list item's own keys below a name of the item.
func (x *index) addFields(s *source, item *yaml.Node, path []string) {
	if item.Kind != yaml.MappingNode {
		return
	}
	for i := 0; i+1 < len(item.Content) && x.visit(); i += 2 {
		key := item.Content[i]
		x.at[join(append(path[:len(path):len(path)], key.Value)...)] = entry{pos: x.pos(s, key)}
	}
}

// visit spends one node of the budget.
func (x *index) visit() bool {
	x.visits++
	return x.visits <= maxVisits
}

func (x *index) pos(s *source, n *yaml.Node) Pos {
	return Pos{File: s.name, Line: n.Line, Col: n.Column}
}

func (x *index) drop(path []string) {
	p := join(path...)
	for k := range x.at {
		if k == p || strings.HasPrefix(k, p+pathSep) {
			delete(x.at, k)
		}
	}
}

// addExtends adds the places of the service that a service extends, which its
// own then replace.
func (x *index) addExtends(s *source, service *yaml.Node, path []string) {
	ext := lookup(service, "extends")
	if ext == nil {
		return
	}
	name, from := "", s
	switch ext.Kind {
	case yaml.ScalarNode:
		name = s.interpolate(ext.Value)
	case yaml.MappingNode:
		if n := lookup(ext, "service"); n != nil {
			name = s.interpolate(n.Value)
		}
		if n := lookup(ext, "file"); n != nil {
			if len(x.sources) >= maxFiles {
				return
			}
			file, ok := x.resolve(s, n, s.interpolate(n.Value))
			if !ok {
				return
			}
			known := len(x.sources)
			from = x.read(file, nil, filepath.Dir(file), s.env)
			if len(x.sources) > known {
				from.extends, from.from = true, x.pos(s, n)
			}
		}
	}
	for _, doc := range from.docs {
		base := lookup(lookup(content(doc), "services"), name)
		if base != nil && base.Kind == yaml.MappingNode && base != service && x.visit() {
			x.addMapping(from, base, path, strings.Join(path, pathSep))
		}
	}
}

// itemNames are the names under which a list's item can be found beside its
// number: numbers change when files are merged, names do not.
func (s *source) itemNames(path []string, item *yaml.Node) []string {
	if item == nil || len(path) == 0 {
		return nil
	}
	last := path[len(path)-1]
	if item.Kind == yaml.ScalarNode {
		v := s.interpolate(item.Value)
		switch last {
		case "environment", "labels", "annotations", "sysctls", "args":
			name, _, _ := strings.Cut(v, "=")
			return []string{name}
		case "extra_hosts":
			name, _, _ := strings.Cut(strings.Replace(v, ":", "=", 1), "=")
			return []string{name}
		case "depends_on", "networks":
			return []string{v}
		case "configs", "secrets":
			return []string{"@" + v}
		case "volumes":
			if m, err := format.ParseVolume(v); err == nil {
				return volumeNames(m.Type, m.Source, m.Target)
			}
		case "ports":
			ports, err := types.ParsePortConfig(v)
			if err != nil {
				return nil
			}
			var names []string
			for _, p := range ports {
				names = append(names, portName(p))
			}
			return names
		}
		return nil
	}
	if item.Kind != yaml.MappingNode {
		return nil
	}
	field := func(k string) string {
		if n := lookup(item, k); n != nil {
			return s.interpolate(n.Value)
		}
		return ""
	}
	switch last {
	case "configs", "secrets":
		return []string{"@" + field("source")}
	case "volumes":
		return volumeNames(field("type"), field("source"), field("target"))
	case "ports":
		target, _ := strconv.ParseUint(field("target"), 10, 32)
		protocol := field("protocol")
		if protocol == "" {
			protocol = "tcp"
		}
		return []string{portName(types.ServicePortConfig{
			HostIP: field("host_ip"), Published: field("published"), Target: uint32(target), Protocol: protocol,
		})}
	}
	return nil
}

func volumeNames(kind, source, target string) []string {
	names := []string{"@" + filepath.Clean(target)}
	if kind == types.VolumeTypeVolume && source != "" {
		names = append(names, "@volume="+source)
	}
	return names
}

func portName(p types.ServicePortConfig) string {
	return fmt.Sprintf("@%s|%s|%d|%s", p.HostIP, p.Published, p.Target, p.Protocol)
}

// interpolate is for paths and names only: what fails stays as it is written,
// and the loader reports it.
func (s *source) interpolate(v string) string {
	if !strings.Contains(v, "$") {
		return v
	}
	out, err := template.SubstituteWithOptions(v, s.env.Resolve, template.WithoutLogging)
	if err != nil {
		return v
	}
	return out
}

func (s *source) strings(n *yaml.Node) []string {
	switch {
	case n == nil:
		return nil
	case n.Kind == yaml.ScalarNode:
		return []string{s.interpolate(n.Value)}
	}
	var out []string
	for _, item := range n.Content {
		if item = content(item); item != nil && item.Kind == yaml.ScalarNode {
			out = append(out, s.interpolate(item.Value))
		}
	}
	return out
}

// content resolves aliases and the document around a root node.
func content(n *yaml.Node) *yaml.Node {
	for range 32 { // an alias to an alias cannot be written, a cycle neither
		switch {
		case n == nil:
			return nil
		case n.Kind == yaml.AliasNode:
			n = n.Alias
		case n.Kind == yaml.DocumentNode && len(n.Content) > 0:
			n = n.Content[0]
		case n.Kind == yaml.DocumentNode:
			return nil
		default:
			return n
		}
	}
	return nil
}

// lookup returns the value of a mapping's key, merge keys included.
func lookup(n *yaml.Node, key string) *yaml.Node {
	if n = content(n); n == nil || n.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key && n.Content[i].Tag != "!!merge" {
			return content(n.Content[i+1])
		}
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Tag != "!!merge" {
			continue
		}
		m := content(n.Content[i+1])
		if m == nil || m == n {
			continue
		}
		if m.Kind == yaml.MappingNode {
			if v := lookupPlain(m, key); v != nil {
				return v
			}
		}
		if m.Kind == yaml.SequenceNode {
			for _, item := range m.Content {
				if v := lookupPlain(content(item), key); v != nil {
					return v
				}
			}
		}
	}
	return nil
}

func lookupPlain(n *yaml.Node, key string) *yaml.Node {
	if n == nil || n.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return content(n.Content[i+1])
		}
	}
	return nil
}

// variableUse returns the first place where a variable is used.
func (x *index) variableUse(name string) Pos {
	re := regexp.MustCompile(`(^|[^$])(\$\$)*\$\{?` + regexp.QuoteMeta(name) + `([^A-Za-z0-9_]|$)`)
	for _, s := range x.sources {
		for _, doc := range s.docs {
			if n := findScalar(doc, re); n != nil {
				return x.pos(s, n)
			}
		}
	}
	return Pos{}
}

func findScalar(n *yaml.Node, re *regexp.Regexp) *yaml.Node {
	if n.Kind == yaml.ScalarNode && re.MatchString(n.Value) {
		return n
	}
	for _, c := range n.Content {
		if f := findScalar(c, re); f != nil {
			return f
		}
	}
	return nil
}

func absolute(dir, p string) string {
	if !filepath.IsAbs(p) {
		p = filepath.Join(dir, p)
	}
	return filepath.Clean(p)
}

func isFile(p string) bool {
	fi, err := os.Stat(p)
	return err == nil && !fi.IsDir()
}

func contains(list []string, s string) bool {
	for _, v := range list {
		if v == s {
			return true
		}
	}
	return false
}
