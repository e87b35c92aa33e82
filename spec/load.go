package spec

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/consts"
	"github.com/compose-spec/compose-go/v2/dotenv"
	"github.com/compose-spec/compose-go/v2/loader"
	"github.com/compose-spec/compose-go/v2/types"
	"github.com/compose-spec/compose-go/v2/utils"
	"github.com/sirupsen/logrus"
	"gopkg.in/yaml.v3"
)

// ErrNoFile: no compose file was named and none was found; docker compose's
// words. Commands that can do without one go on with the project's name.
var ErrNoFile = errors.New("no configuration file provided: not found")

// maxFileBytes bounds a compose file, and the file behind a config or secret.
const maxFileBytes = 16 << 20

// Options say what to load. They mirror docker compose's global flags; the zero
// value loads what it would without any.
type Options struct {
	Files            []string // -f; "-" is standard input
	ProjectName      string   // -p
	ProjectDirectory string   // --project-directory
	Profiles         []string // --profile
	EnvFiles         []string // --env-file
	Compatibility    bool     // --compatibility: replicas are named with "_"
	AllResources     bool     // --all-resources: keep what no service uses

	// Services selects services and, unless NoDependencies, what they depend
	// on; their profiles become active. Empty selects all of active profiles.
	Services       []string
	NoDependencies bool

	// NamesOnly is for commands that make nothing new (ps, logs, stop, down):
	// they must work whatever has become of the file's values and of the files
	// it names. Neither is looked at, and hashes stay empty.
	NamesOnly bool

	Remote Remote // fetches files from elsewhere; nil: every name is a path

	Environ []string  // KEY=VALUE; nil is the process's own
	Stdin   io.Reader // for "-"; nil is the process's own

	// Dir is what file names in messages are relative to; empty is the current
	// directory. Files outside it are named in full.
	Dir string

	// HashKey keys every digest, so that none tells anything about a secret.
	// Hashes compare only under one key.
	HashKey []byte
}

// Warning is something a user should know that does not stop a project.
type Warning struct {
	Pos  Pos    `json:"pos,omitzero"`
	Key  string `json:"key,omitempty"` // dotted path of the key, if about one
	Text string `json:"text"`
}

func (w Warning) String() string {
	if p := w.Pos.String(); p != "" {
		return Printable(p + ": " + w.Text)
	}
	return Printable(w.Text)
}

// Load reads the project's files as docker compose does. Its error holds every
// fault that was found: an *Error, or a *multierror.Error of them; with a
// fault, there is no project.
func Load(ctx context.Context, o Options) (*Project, []Warning, error) {
	l, err := prepare(ctx, o)
	if err != nil {
		return nil, nil, err
	}
	p, err := l.load(ctx, o.Services)
	if err != nil {
		return nil, l.warnings, err
	}
	out, err := l.convert(p)
	slices.SortStableFunc(l.warnings, func(a, b Warning) int { return comparePos(a.Pos, b.Pos) })
	return out, l.warnings, err
}

// loading is one run of Load or Render.
type loading struct {
	opt      Options
	remote   *resources
	dir      string // of the project
	files    []types.ConfigFile
	origin   string // how the files were found, if nobody named them
	env      types.Mapping
	envFiles []string
	profiles []string
	name     string
	named    NameSource
	explicit bool // the name is not only a default

	// How Render asks for less.
	tweak   func(*loader.Options)
	lenient bool // contradictions are not looked for

	mu       sync.Mutex // guards warnings while compose-go runs
	warnings []Warning
	x        *index
}

func newLoading(o Options) *loading {
	return &loading{opt: o, remote: newResources(o.Remote, o.NamesOnly)}
}

// prepare finds the files and the environment. The order is docker compose's
// (cmd/compose, toProjectOptions): .env is read twice, because the first may
// name the compose file, whose directory then holds the second.
func prepare(ctx context.Context, o Options) (*loading, error) {
	l := newLoading(o)
	po, err := l.discover()
	if err != nil {
		return nil, &Error{Err: err}
	}
	if len(o.Files) == 0 {
		if _, ok := po.Environment[consts.ComposeFilePath]; ok {
			l.origin = "set by COMPOSE_FILE environment variable"
		} else {
			l.origin = "found by default file discovery"
		}
	}
	if len(po.ConfigPaths) == 0 {
		return nil, &Error{Err: ErrNoFile, Hint: "name one with -f, or run in its directory"}
	}
	l.env, l.envFiles = po.Environment, po.EnvFiles
	if l.dir, err = po.GetWorkingDir(); err != nil {
		return nil, &Error{Err: err}
	}
	l.profiles = o.Profiles
	if len(l.profiles) == 0 {
		for _, s := range strings.Split(l.env[consts.ComposeProfiles], ",") {
			l.profiles = append(l.profiles, strings.TrimSpace(s))
		}
	}
	l.opt.Compatibility = o.Compatibility || utils.StringToBool(l.env["COMPOSE_COMPATIBILITY"])
	main, err := l.read(ctx, po.ConfigPaths)
	if err != nil {
		return nil, err
	}
	if main.File != "" && po.WorkingDir == "" {
		l.dir = filepath.Dir(main.File)
	}
	l.setName(o, main.Name)
	return l, nil
}

// discover finds the files and reads the env files.
func (l *loading) discover() (po *cli.ProjectOptions, err error) {
	o := l.opt
	environ := o.Environ
	if environ == nil {
		environ = os.Environ()
	}
	osEnv := utils.GetAsEqualsMap(environ)
	pre := []cli.ProjectOptionsFn{cli.WithResourceLoader(l.remote), cli.WithWorkingDirectory(o.ProjectDirectory), cli.WithEnv(environ)}
	if _, ok := osEnv["PWD"]; !ok {
		if wd, err := os.Getwd(); err == nil {
			pre = append(pre, cli.WithEnv([]string{"PWD=" + wd}))
		}
	}
	envFiles := o.EnvFiles
	if len(envFiles) == 0 {
		envFiles = strings.FieldsFunc(osEnv["COMPOSE_ENV_FILES"], func(r rune) bool { return r == ',' })
	}
	withEnvFiles := l.envFileOption(envFiles, osEnv)
	err = l.captured(func() (err error) {
		po, err = cli.NewProjectOptions(o.Files, append(pre,
			withEnvFiles, cli.WithDotEnv,
			cli.WithConfigFileEnv, cli.WithDefaultConfigPath,
			withEnvFiles, cli.WithDotEnv,
			cli.WithName(o.ProjectName))...)
		return err
	})
	return po, err
}

// LookupTable returns the variables of the environment, and where it has none those
// of the env files, which may configure the command line as well as the compose
// file. It is empty where something is wrong with the files, which is for Load to
// say.
func LookupTable(o Options) map[string]string {
	po, err := newLoading(o).discover()
	if err != nil {
		return nil
	}
	return po.Environment
}

// envFileOption is cli.WithEnvFiles with the environment taken from Options
// instead of the process.
func (l *loading) envFileOption(files []string, osEnv types.Mapping) cli.ProjectOptionsFn {
	return func(po *cli.ProjectOptions) error {
		if len(files) > 0 {
			po.EnvFiles = files
			return nil
		}
		if v, ok := osEnv[consts.ComposeDisableDefaultEnvFile]; ok {
			off, err := strconv.ParseBool(v)
			if err != nil {
				return fmt.Errorf("%s: %w", consts.ComposeDisableDefaultEnvFile, err)
			}
			if off {
				return nil
			}
		}
		wd, err := po.GetWorkingDir()
		if err != nil {
			return err
		}
		file := filepath.Join(wd, ".env")
		fi, err := os.Stat(file)
		switch {
		case os.IsNotExist(err):
			return nil
		case os.IsPermission(err):
			l.warn(Warning{Text: fmt.Sprintf("cannot access %s, ignoring default env file: %v", file, err)})
			return nil
		case err != nil:
			return err
		case !fi.IsDir():
			po.EnvFiles = []string{file}
		}
		return nil
	}
}

// read gets the contents of the root files, once: standard input is also what
// places are taken from. If the first of them lies elsewhere, main is its copy.
func (l *loading) read(ctx context.Context, paths []string) (main Fetched, err error) {
	path := 0 // how many had one
	for _, p := range paths {
		if err := ctx.Err(); err != nil {
			return main, err
		}
		var data []byte
		switch {
		case p == "-":
			in := l.opt.Stdin
			if in == nil {
				in = os.Stdin
			}
			data, err = readBounded(in)
		case l.remote.Accept(p):
			copied, ferr := l.remote.fetch(ctx, p)
			if ferr != nil {
				return main, &Error{Err: ferr}
			}
			if path == 0 {
				main = copied
			}
			p = copied.File
			data, err = readFile(p)
			path++
		default:
			if p, err = filepath.Abs(p); err == nil {
				data, err = readRoot(p)
			}
			path++
		}
		if err != nil {
			return main, &Error{Err: fmt.Errorf("compose file %q %sis invalid: %w", p, spaced(l.origin), err)}
		}
		l.files = append(l.files, types.ConfigFile{Filename: p, Content: data})
	}
	return main, nil
}

func spaced(s string) string {
	if s == "" {
		return ""
	}
	return s + " "
}

func readBounded(r io.Reader) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxFileBytes+1))
	if err == nil && len(data) > maxFileBytes {
		err = fmt.Errorf("larger than %d MiB", maxFileBytes>>20)
	}
	return data, err
}

// readRoot reads a file that the user names, which may be a pipe.
func readRoot(path string) ([]byte, error) {
	fi, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if fi.IsDir() {
		return nil, fmt.Errorf("%s is a directory", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readBounded(f)
}

// unfit says why what a compose file names as a file must not be read: it would
// never end, or is none.
type unfit string

func (u unfit) Error() string { return string(u) }

// fit checks that a file that a compose file names can be read at once: no
// device, pipe or directory, and not larger than any such file should be.
func fit(path string) error {
	fi, err := os.Stat(path)
	switch {
	case err != nil:
		return err
	case path == os.DevNull:
	case fi.IsDir():
		return unfit(path + " is a directory")
	case !fi.Mode().IsRegular():
		return unfit(path + " is not a regular file")
	case fi.Size() > maxFileBytes:
		return unfit(fmt.Sprintf("%s is larger than %d MiB", path, maxFileBytes>>20))
	}
	return nil
}

func readFile(path string) ([]byte, error) {
	if err := fit(path); err != nil {
		return nil, err
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readBounded(f)
}

// setName applies docker compose's precedence: -p, COMPOSE_PROJECT_NAME, the
// last file's name, the directory's name. A copy's directory is called by a
// digest that changes with every commit, so what it was copied from has the say.
func (l *loading) setName(o Options, remote string) {
	switch {
	case o.ProjectName != "":
		l.name, l.named, l.explicit = o.ProjectName, NameFromFlag, true
	case l.env[consts.ComposeProjectName] != "":
		l.name, l.named, l.explicit = l.env[consts.ComposeProjectName], NameFromEnv, true
	case l.namedInFile():
		l.named = NameFromFile
	case remote != "" && o.ProjectDirectory == "":
		l.name, l.named = loader.NormalizeProjectName(remote), NameFromRemote
	default:
		base := filepath.Base(l.dir)
		if real, err := filepath.EvalSymlinks(l.dir); err == nil && filepath.Base(real) != base {
			l.warn(Warning{Text: fmt.Sprintf("project has been loaded without an explicit name from a symlink. Using name %q", base)})
		}
		l.name, l.named = loader.NormalizeProjectName(base), NameFromDirectory
	}
}

func (l *loading) namedInFile() bool {
	for _, f := range l.files {
		docs, _ := parseYAML(f.Content)
		for _, d := range docs {
			if n := lookup(d, "name"); n != nil && n.Kind == yaml.ScalarNode && n.Value != "" {
				return true
			}
		}
	}
	return false
}

// load runs compose-go. Its errors come back rewritten: every fault of every
// file, each with its place.
func (l *loading) load(ctx context.Context, services []string) (*types.Project, error) {
	if err := l.index(ctx); err != nil {
		return nil, err
	}
	p, err := l.compose(ctx, nil)
	l.placeWarnings()
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, l.diagnose(ctx, err)
	}
	if p, err = l.selectServices(p, services); err != nil {
		return nil, err
	}
	if l.opt.NamesOnly {
		return p, nil
	}
	if err := l.fitFiles(p); err != nil {
		return nil, err
	}
	if p, err = p.WithServicesLabelsResolved(false); err != nil {
		return nil, &Error{Err: err}
	}
	return p, nil
}

// fitFiles checks the files that services name, which compose-go reads whole.
func (l *loading) fitFiles(p *types.Project) error {
	var found faults
	for _, name := range sortedKeys(p.Services) {
		s := p.Services[name]
		for i, f := range s.EnvFiles {
			if err := fit(f.Path); errors.As(err, new(unfit)) {
				found.add(l.x.find("services", name, "env_file", strconv.Itoa(i)), fmt.Errorf("service %q: env_file: %w", name, err))
			}
		}
		for i, f := range s.LabelFiles {
			if err := fit(f); err != nil {
				found.add(l.x.find("services", name, "label_file", strconv.Itoa(i)), fmt.Errorf("service %q: label_file: %w", name, err))
			}
		}
	}
	return found.err()
}

// compose is one run of compose-go over the prepared files.
func (l *loading) compose(ctx context.Context, tweak func(*loader.Options)) (p *types.Project, err error) {
	err = l.captured(func() (err error) {
		// compose-go asserts types where the schema does not promise them.
		defer func() {
			if r := recover(); r != nil {
				err = fmt.Errorf("the compose file cannot be read: %v", r)
			}
		}()
		p, err = loader.LoadWithContext(ctx, types.ConfigDetails{
			ConfigFiles: slices.Clone(l.files), WorkingDir: l.dir, Environment: l.env,
		}, l.loaderOptions(tweak)...)
		return err
	})
	if err != nil {
		return nil, err
	}
	for _, f := range l.files {
		p.ComposeFiles = append(p.ComposeFiles, f.Filename)
	}
	return p, nil
}

func (l *loading) loaderOptions(tweak func(*loader.Options)) []func(*loader.Options) {
	return []func(*loader.Options){func(o *loader.Options) {
		o.ResourceLoaders = []loader.ResourceLoader{l.remote}
		o.Profiles = l.profiles
		o.SkipResolveEnvironment = true // of selected services only, later
		o.SkipResolveLabels = true
		// Compiling the schema is most of the time of loading a small file.
		o.SkipValidation, o.SkipConsistencyCheck = l.opt.NamesOnly, l.opt.NamesOnly
		if l.named != NameFromFile {
			o.SetProjectName(l.name, l.explicit)
		}
		if l.tweak != nil {
			l.tweak(o)
		}
		if tweak != nil {
			tweak(o)
		}
		if o.ResolvePaths {
			o.ConvertWindowsPaths = utils.StringToBool(l.env["COMPOSE_CONVERT_WINDOWS_PATHS"])
		}
	}}
}

// selectServices does what docker compose does between loading and using a
// project (pkg/compose, postProcessProject).
func (l *loading) selectServices(p *types.Project, services []string) (*types.Project, error) {
	if p.Name == "" {
		return nil, &Error{Err: errors.New("project name must not be empty"), Hint: "name it with -p, or with name: in the compose file"}
	}
	p, err := p.WithServicesEnabled(services...)
	if err != nil {
		return nil, &Error{Err: err}
	}
	deps := types.IncludeDependencies
	if l.opt.NoDependencies {
		deps = types.IgnoreDependencies
	}
	if p, err = p.WithSelectedServices(services, deps); err != nil {
		return nil, &Error{Err: err}
	}
	if !l.opt.AllResources {
		all := p
		p = p.WithoutUnnecessaryResources()
		keepForHooks(p, all)
	}
	return p, nil
}

// index learns where everything stands, and refuses files that must not be
// read.
func (l *loading) index(ctx context.Context) error {
	fetch := func(name string) (string, bool, error) {
		if !l.remote.Accept(name) {
			return "", false, nil
		}
		file, err := l.remote.Load(ctx, name)
		return file, true, err
	}
	l.x = newIndex(l.files, l.dir, l.env, l.display, fetch)
	if err := ctx.Err(); err != nil {
		return err
	}
	var found faults
	for _, s := range l.x.sources {
		if s.missing {
			found.add(s.from, s.err)
		}
		if bad := (*badYAML)(nil); errors.As(s.err, &bad) && bad.endless {
			found.add(Pos{File: s.name, Line: bad.line, Col: bad.col}, bad)
		}
		if errors.As(s.err, new(unfit)) {
			found.add(s.from, s.err)
		}
	}
	return found.err()
}

// display is how a file is named in messages.
func (l *loading) display(path string) string {
	if path == "-" {
		return "<stdin>"
	}
	dir := l.opt.Dir
	if dir == "" {
		dir, _ = os.Getwd()
	}
	if rel, err := filepath.Rel(dir, path); err == nil && filepath.IsLocal(rel) {
		return rel
	}
	return path
}

func (l *loading) warn(w Warning) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, o := range l.warnings {
		if o.Pos == w.Pos && o.Text == w.Text {
			return // an anchor brings one place to many services
		}
	}
	l.warnings = append(l.warnings, w)
}

// unsetVariable is the start of compose-go's warning about one.
const unsetVariable = "The \""

// placeWarnings gives compose-go's warnings the places it does not know.
func (l *loading) placeWarnings() {
	for i, w := range l.warnings {
		if name, ok := strings.CutPrefix(w.Text, unsetVariable); ok && w.Pos == (Pos{}) {
			name, _, _ = strings.Cut(name, "\"")
			l.warnings[i].Pos = l.x.variableUse(name)
		} else if path := pathIn(w.Text); path != nil && w.Pos == (Pos{}) {
			l.warnings[i].Pos = l.x.find(path...)
		}
	}
}

// composeLog guards the standard logger of logrus, through which compose-go
// warns and which nothing else here uses.
var composeLog sync.Mutex

// captured runs fn with compose-go's log turned into warnings.
func (l *loading) captured(fn func() error) error {
	composeLog.Lock()
	defer composeLog.Unlock()
	log := logrus.StandardLogger()
	out := log.Out
	hooks := log.ReplaceHooks(logrus.LevelHooks{})
	log.SetOutput(io.Discard)
	log.AddHook(logHook{l})
	defer func() {
		log.SetOutput(out)
		log.ReplaceHooks(hooks)
	}()
	return fn()
}

type logHook struct{ l *loading }

func (logHook) Levels() []logrus.Level {
	return []logrus.Level{logrus.PanicLevel, logrus.FatalLevel, logrus.ErrorLevel, logrus.WarnLevel}
}

func (h logHook) Fire(e *logrus.Entry) error {
	if strings.Contains(e.Message, "the attribute `version` is obsolete") {
		return nil // said once per process there; ours says it of every load, with its line
	}
	h.l.warn(Warning{Text: e.Message})
	return nil
}

func init() {
	// env_file entries of format raw are read as `docker run --env-file` does.
	dotenv.RegisterFormat("raw", rawEnv)
}

// rawEnv reads KEY=VALUE lines as they stand: no quotes, no expansion. A KEY
// alone takes its value from the environment, or is left out.
func rawEnv(r io.Reader, name string, vars map[string]string, get func(string) (string, bool)) error {
	data, err := readBounded(r)
	if err != nil {
		return fmt.Errorf("env file %s: %w", name, err)
	}
	for i, line := range strings.Split(strings.TrimPrefix(string(data), "\ufeff"), "\n") {
		line = strings.TrimLeft(strings.TrimSuffix(line, "\r"), " \t")
		if line == "" || line[0] == '#' {
			continue
		}
		key, value, ok := strings.Cut(line, "=")
		if key == "" || strings.ContainsAny(key, " \t") {
			return fmt.Errorf("env file %s: line %d: variable %q is not a name", name, i+1, key)
		}
		if !ok {
			if value, ok = get(key); !ok {
				continue
			}
		}
		vars[key] = value
	}
	return nil
}

// sortedKeys returns a map's keys in order.
func sortedKeys[V any](m map[string]V) []string {
	return slices.Sorted(maps.Keys(m))
}
