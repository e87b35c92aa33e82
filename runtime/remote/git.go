package remote

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/stackvm/stack/spec"
)

// gitGrace is how long git may take to clean up when it is told to end.
const gitGrace = 5 * time.Second

var commitID = regexp.MustCompile(`^[0-9a-f]{40}$`)

// repository fetches a commit of a repository, unless it is there.
func (f *Files) repository(ctx context.Context, g Git, any bool) (spec.Fetched, error) {
	commit, want := g.Ref, g.Ref
	at := g // what the directory is of is another matter
	at.Dir = ""
	if !commitID.MatchString(g.Ref) && any {
		commit = f.last("git", at.String())
	}
	if !commitID.MatchString(commit) {
		var err error
		if commit, want, err = f.resolve(ctx, g); err != nil {
			return spec.Fetched{}, err
		}
	}
	if !strings.HasPrefix(commit, g.Checksum) {
		return spec.Fetched{}, fmt.Errorf("it is at commit %s, which does not begin with the checksum %s", commit, g.Checksum)
	}
	dir, there := f.kept("git", commit)
	if !there {
		if err := f.keep(g.String(), dir, func(root *os.Root, scratch string) error { return g.fetch(ctx, root, scratch, want, commit) }); err != nil {
			return spec.Fetched{}, err
		}
	}
	if err := f.remember("git", at.String(), commit); err != nil {
		return spec.Fetched{}, err
	}
	file, err := composeFile(dir, g.Dir)
	if err != nil {
		return spec.Fetched{}, err
	}
	return spec.Fetched{File: filepath.Join(dir, filepath.FromSlash(file)), Name: g.title(file)}, nil
}

// resolve asks the repository which commit its ref is now, and for which object
// to ask to get it: of a tag with a message, that is not the commit.
func (f *Files) resolve(ctx context.Context, g Git) (commit, want string, err error) {
	ref := g.Ref
	if ref == "" {
		ref = "HEAD"
	}
	out, err := g.git(ctx, nil, "ls-remote", "--exit-code", "--", g.Remote, ref, ref+"^{}")
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) && exit.ExitCode() == 2 {
		return "", "", fmt.Errorf("repository does not contain ref %s", ref)
	}
	if err != nil {
		return "", "", err
	}
	return chooseRef(string(out), ref)
}

// chooseRef picks the ref from what ls-remote lists: every ref whose name ends
// like the one asked for. The order is git's.
func chooseRef(listed, ref string) (commit, want string, err error) {
	ids := map[string]string{}
	for line := range strings.Lines(listed) {
		if id, name, ok := strings.Cut(strings.TrimSpace(line), "\t"); ok && commitID.MatchString(id) {
			ids[name] = id
		}
	}
	for _, name := range []string{ref, "refs/" + ref, "refs/tags/" + ref, "refs/heads/" + ref} {
		if want, ok := ids[name]; ok {
			if peeled, ok := ids[name+"^{}"]; ok {
				return peeled, want, nil
			}
			return want, want, nil
		}
	}
	return "", "", fmt.Errorf("repository does not contain ref %s", ref)
}

// fetch gets the objects of one commit into a repository of its own, in scratch,
// and writes the files from there.
func (g Git) fetch(ctx context.Context, root *os.Root, scratch, want, commit string) error {
	if _, err := g.git(ctx, nil, "init", "--quiet", "--bare", "--template=", "--object-format=sha1", scratch); err != nil {
		return err
	}
	in := "--git-dir=" + scratch
	if _, err := g.git(ctx, nil, in, "fetch", "--quiet", "--depth=1", "--no-tags", "--no-recurse-submodules", "--", g.Remote, want); err != nil {
		return err
	}
	got, err := g.git(ctx, nil, in, "rev-parse", "--verify", "--quiet", "FETCH_HEAD^{commit}")
	switch {
	case err != nil:
		return fmt.Errorf("object %s is no commit", want)
	case strings.TrimSpace(string(got)) != commit:
		return fmt.Errorf("it sent commit %s instead of %s", bytes.TrimSpace(got), commit)
	}
	var entries []entry
	list := func(r io.Reader) (err error) {
		entries, err = parseTree(r)
		return err
	}
	if _, err := g.git(ctx, &piped{out: list}, in, "ls-tree", "-r", "-z", "--long", "--full-tree", commit); err != nil {
		return err
	}
	var ids strings.Builder
	for _, e := range entries {
		if e.mode != modeSubmodule {
			ids.WriteString(e.id + "\n")
		}
	}
	write := func(r io.Reader) error { return writeTree(root, entries, r) }
	_, err = g.git(ctx, &piped{in: strings.NewReader(ids.String()), out: write}, in, "cat-file", "--batch")
	return err
}

// Modes of git's tree entries.
const (
	modeFile      = "100644"
	modeGroupFile = "100664" // of old repositories
	modeProgram   = "100755"
	modeLink      = "120000"
	modeSubmodule = "160000"
)

// entry is one file of a tree.
type entry struct {
	mode, id string
	size     int64
	path     string // relative, slash-separated
}

// parseTree reads what ls-tree lists: MODE TYPE ID SIZE, a tab, and the path,
// ended by a NUL. It refuses a tree that is too large, or has a path that leads
// out of it.
func parseTree(r io.Reader) ([]entry, error) {
	in := bufio.NewReaderSize(r, maxPath+256)
	var all []entry
	var total int64
	for {
		line, err := in.ReadSlice(0)
		switch {
		case errors.Is(err, io.EOF) && len(line) == 0:
			return all, nil
		case errors.Is(err, bufio.ErrBufferFull):
			return nil, fmt.Errorf("it has a path of more than %d bytes", maxPath)
		case err != nil:
			return nil, fmt.Errorf("reading git's list of files: %w", err)
		}
		head, name, ok := strings.Cut(string(line[:len(line)-1]), "\t")
		fields := strings.Fields(head)
		if !ok || len(fields) != 4 || !commitID.MatchString(fields[2]) {
			return nil, fmt.Errorf("git lists %q, which is no entry of a tree", line)
		}
		e := entry{mode: fields[0], id: fields[2], path: name}
		if len(name) > maxPath || !filepath.IsLocal(filepath.FromSlash(name)) || strings.ContainsRune(name, 0) {
			return nil, fmt.Errorf("it has a file %q, outside of its directory", name)
		}
		switch e.mode {
		case modeSubmodule:
		case modeFile, modeGroupFile, modeProgram, modeLink:
			if e.size, err = strconv.ParseInt(fields[3], 10, 64); err != nil || e.size < 0 {
				return nil, fmt.Errorf("file %q: git gives %q for its size", name, fields[3])
			}
		default:
			return nil, fmt.Errorf("file %q: it has the mode %s, which is none of git's", name, e.mode)
		}
		if e.mode == modeLink && e.size > maxPath {
			return nil, fmt.Errorf("file %q: a link of %d bytes", name, e.size)
		}
		if total += e.size; total > maxBytes {
			return nil, fmt.Errorf("its files have more than %d MiB", maxBytes>>20)
		}
		if all = append(all, e); len(all) > maxEntries {
			return nil, fmt.Errorf("it has more than %d files", maxEntries)
		}
	}
}

// writeTree writes the entries, whose contents it reads as cat-file prints them
// in the same order. Links come last, so that nothing is written through one, and
// must stay within the tree.
func writeTree(root *os.Root, entries []entry, contents io.Reader) error {
	in := bufio.NewReaderSize(contents, 64<<10)
	links := map[string]string{}
	var order []string
	for _, e := range entries {
		at := filepath.FromSlash(e.path)
		if e.mode == modeSubmodule {
			if err := root.MkdirAll(at, 0o755); err != nil {
				return err
			}
			continue
		}
		header, err := in.ReadString('\n')
		if want := fmt.Sprintf("%s blob %d\n", e.id, e.size); err == nil && header != want {
			err = fmt.Errorf("git answers %q", strings.TrimSpace(header))
		}
		if err != nil {
			return fmt.Errorf("file %q: %w", e.path, err)
		}
		content := io.LimitReader(in, e.size)
		if e.mode == modeLink {
			target, err := io.ReadAll(content)
			if err != nil {
				return fmt.Errorf("file %q: %w", e.path, err)
			}
			links[at], order = string(target), append(order, at)
		} else if err := writeFile(root, at, content, e.size, e.mode == modeProgram); err != nil {
			return fmt.Errorf("file %q: %w", e.path, err)
		}
		if _, err := in.Discard(1); err != nil { // the end of line after each
			return fmt.Errorf("file %q: %w", e.path, err)
		}
	}
	for _, at := range order {
		err := root.MkdirAll(filepath.Dir(at), 0o755)
		if err == nil {
			err = root.Symlink(links[at], at)
		}
		if err != nil {
			return fmt.Errorf("file %q: %w", at, err)
		}
	}
	for _, at := range order {
		// One that leads nowhere, or in circles, harms nobody.
		if _, err := root.Stat(at); err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, syscall.ELOOP) && !errors.Is(err, syscall.ENOTDIR) {
			return fmt.Errorf("link %q leads to %q, outside of the repository", at, links[at])
		}
	}
	return nil
}

func writeFile(root *os.Root, at string, content io.Reader, size int64, program bool) error {
	if err := root.MkdirAll(filepath.Dir(at), 0o755); err != nil {
		return err
	}
	mode := os.FileMode(0o644)
	if program {
		mode = 0o755
	}
	out, err := root.OpenFile(at, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	n, err := io.Copy(out, content)
	if err == nil && n != size {
		err = io.ErrUnexpectedEOF
	}
	return errors.Join(err, out.Close())
}

// piped is how a run of git is fed and read from.
type piped struct {
	in  io.Reader
	out func(io.Reader) error // an error of it ends git
}

// maxOutput bounds what git prints where a little is expected, in bytes.
const maxOutput = 1 << 20

// git runs git and returns what it prints. Its error is what git says itself.
func (g Git) git(ctx context.Context, p *piped, args ...string) ([]byte, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var said bytes.Buffer
	read := func(r io.Reader) error {
		_, err := io.Copy(&said, io.LimitReader(r, maxOutput))
		return err
	}
	cmd := exec.CommandContext(ctx, "git", append(g.settings(), args...)...)
	cmd.Dir = string(filepath.Separator) // in nobody's repository
	cmd.Env = g.environ(os.Environ())
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = gitGrace
	if p != nil {
		cmd.Stdin, read = p.in, p.out
	}
	complaint := &tail{max: 4 << 10}
	cmd.Stderr = complaint
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		if errors.Is(err, exec.ErrNotFound) {
			return nil, errors.New("reading it needs git, which is not installed: install the package git")
		}
		return nil, err
	}
	// A bound on what a server can fill the disk with, for as far as it reaches: a
	// system that does not let us set it has the others.
	_ = limitFiles(cmd.Process.Pid, maxBytes)
	refused := read(out)
	if refused != nil {
		cancel()
	}
	err = cmd.Wait()
	switch {
	case refused != nil && (p != nil || err == nil):
		return nil, refused
	case err == nil:
		return said.Bytes(), nil
	case complaint.Len() > 0:
		return nil, fmt.Errorf("git: %s%w", complaint.String(), silent{err})
	}
	return nil, fmt.Errorf("git %s: %w", args[0], err)
}

// silent wraps an error that another text already stands for.
type silent struct{ error }

func (silent) Error() string   { return "" }
func (s silent) Unwrap() error { return s.error }

// tail keeps the last bytes of what is written to it.
type tail struct {
	max int
	bytes.Buffer
}

func (t *tail) Write(p []byte) (int, error) {
	t.Buffer.Write(p)
	if extra := t.Len() - t.max; extra > 0 {
		t.Next(extra)
	}
	return len(p), nil
}

func (t *tail) String() string { return spec.Printable(strings.TrimSpace(t.Buffer.String())) }

// settings are the options that keep git from running or asking for what is not
// needed. The user's own configuration holds otherwise: credential helpers,
// proxies, rewritten addresses.
func (g Git) settings() []string {
	pairs := []string{
		"core.hooksPath=/dev/null", "core.fsmonitor=false", "gc.auto=0", "maintenance.auto=false",
		"submodule.recurse=false", "fetch.writeCommitGraph=false", "fetch.parallel=1", "transfer.bundleURI=false",
		"http.lowSpeedLimit=1", "http.lowSpeedTime=60",
	}
	if g.password != "" {
		if u, err := url.Parse(g.Remote); err == nil {
			// Arguments can be read by everybody on this host; git hands a URL on
			// in those of its helpers.
			pairs = append(pairs, "credential."+u.Scheme+"://"+u.Host+`.helper=!f() { test "$1" = get && printf 'password=%s\n' "$STACK_GIT_PASSWORD"; }; f`)
		}
	}
	var out []string
	for _, p := range pairs {
		out = append(out, "-c", p)
	}
	return out
}

// environ is the environment git gets: the user's, without what a git hook that
// runs this program leaves there, and without questions.
func (g Git) environ(environ []string) []string {
	local := []string{
		"GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_COMMON_DIR",
		"GIT_NAMESPACE", "GIT_PREFIX", "GIT_SHALLOW_FILE", "GIT_GRAFT_FILE", "GIT_CONFIG", "GIT_REPLACE_REF_BASE",
		"GIT_DEFAULT_HASH", "GIT_EXTERNAL_DIFF", "GIT_ALLOW_PROTOCOL", "GIT_LITERAL_PATHSPECS",
	}
	set := map[string]bool{}
	out := slices.DeleteFunc(slices.Clone(environ), func(kv string) bool {
		key, value, _ := strings.Cut(kv, "=")
		set[key] = value != ""
		return slices.Contains(local, key)
	})
	// What a server, or a rewritten address, may lead to; file only by name.
	protocols := "git:http:https:ssh"
	if strings.HasPrefix(g.Remote, "file:") {
		protocols = "file"
	}
	out = append(out, "GIT_ALLOW_PROTOCOL="+protocols, "LC_ALL=C")
	if !set["GIT_TERMINAL_PROMPT"] {
		out = append(out, "GIT_TERMINAL_PROMPT=0")
	}
	if !set["GIT_SSH"] && !set["GIT_SSH_COMMAND"] {
		out = append(out, "GIT_SSH_COMMAND=ssh -o ControlMaster=no -o BatchMode=yes")
	}
	if g.password != "" {
		out = append(out, "STACK_GIT_PASSWORD="+g.password)
	}
	return out
}
