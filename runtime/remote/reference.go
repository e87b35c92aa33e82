package remote

import (
	"errors"
	"fmt"
	"net/url"
	"path"
	"regexp"
	"strings"
)

// Git names a file or directory of a git repository at some commit.
type Git struct {
	Remote   string // the repository, as git takes it, without a password
	Ref      string // a branch, a tag, a ref's full name or a commit; empty: the default branch
	Dir      string // the directory or file, slash-separated; empty: the root
	Checksum string // what the commit's id must begin with

	password string // of Remote's user
}

// maxReference bounds a name, in bytes.
const maxReference = 4096

const (
	ociScheme    = "oci://"
	githubPrefix = "github.com/"
)

var (
	scheme    = regexp.MustCompile(`^[a-zA-Z0-9]+://`)
	scpStyle  = regexp.MustCompile(`^([a-zA-Z0-9_-]+)@([a-zA-Z0-9.-]+):([^#?]+)(?:#(.*))?$`)
	shorthand = regexp.MustCompile(`^github\.com/[a-zA-Z0-9_.-]+/[a-zA-Z0-9_.-]+(?:[?#].*)?$`)
	checksum  = regexp.MustCompile(`^[0-9a-f]{4,40}$`)
	// Of what git forbids in a ref, whatever could be taken for something else:
	// a pattern, an option, an expression.
	unfitRef = regexp.MustCompile(`^-|\.\.|[\x00-\x20\x7f~^:?*\[\\]|@\{`)
)

// Accepts tells whether a name is of a file elsewhere, as opposed to a path.
func Accepts(name string) bool {
	switch {
	case strings.HasPrefix(name, "./"), strings.HasPrefix(name, "../"):
		return false
	case scheme.MatchString(name):
		return true
	}
	return scpStyle.MatchString(name) || shorthand.MatchString(name)
}

// ParseGit reads a repository's name as docker compose and BuildKit do:
// URL.git#REF:DIR, USER@HOST:PATH#REF:DIR, or github.com/OWNER/REPOSITORY; of a
// URL, ref, tag, branch, subdir, checksum and commit may also be in its query.
// Beside the schemes git, http, https and ssh, there is file for repositories of
// this host. Its errors do not quote the name, which may hold a password.
func ParseGit(name string) (Git, error) {
	if len(name) > maxReference {
		return Git{}, fmt.Errorf("longer than %d bytes", maxReference)
	}
	if i := strings.IndexFunc(name, func(r rune) bool { return r < ' ' || r == 0x7f }); i >= 0 {
		return Git{}, errors.New("holds a control character")
	}
	var g Git
	if m := scpStyle.FindStringSubmatch(name); m != nil && !scheme.MatchString(name) {
		user, host, repository, fragment := m[1], m[2], m[3], m[4]
		if strings.HasPrefix(user, "-") || strings.HasPrefix(host, "-") || strings.HasPrefix(repository, "-") {
			return Git{}, errors.New("a part of it begins with -, which programs take for an option")
		}
		g.Remote = user + "@" + host + ":" + repository
		g.Ref, g.Dir, _ = strings.Cut(fragment, ":")
		return g.checked()
	}
	if shorthand.MatchString(name) {
		name = "https://" + name
	}
	u, err := url.Parse(name)
	if err != nil {
		return Git{}, errors.New("not a URL")
	}
	u.Scheme = strings.ToLower(u.Scheme)
	switch u.Scheme {
	case "http", "https":
		if !strings.HasSuffix(u.Path, ".git") && !strings.HasPrefix(u.Host+u.Path, githubPrefix) {
			return Git{}, errors.New("not a git repository: its path does not end with .git")
		}
	case "git", "ssh":
	case "file":
		if u.Host != "" {
			return Git{}, errors.New("a file of another host: file:///PATH is one of this host")
		}
	default:
		return Git{}, fmt.Errorf("scheme %q: must be git, http, https, ssh, file or oci", u.Scheme)
	}
	switch {
	case u.Opaque != "" || u.Scheme != "file" && u.Hostname() == "":
		return Git{}, errors.New("names no host")
	case strings.HasPrefix(u.Host, "-") || strings.HasPrefix(u.User.Username(), "-") || strings.HasPrefix(u.Path, "/-"):
		return Git{}, errors.New("a part of it begins with -, which programs take for an option")
	case u.Path == "" || u.Path == "/":
		return Git{}, errors.New("names no repository")
	}
	g.Ref, g.Dir, _ = strings.Cut(u.Fragment, ":")
	if err := g.query(u.RawQuery); err != nil {
		return Git{}, err
	}
	g.password, _ = u.User.Password()
	bare := url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path, RawPath: u.RawPath}
	if user := u.User.Username(); user != "" {
		bare.User = url.User(user)
	}
	g.Remote = bare.String()
	return g.checked()
}

// query takes what a URL's query says.
func (g *Git) query(raw string) error {
	values, err := url.ParseQuery(raw)
	if err != nil {
		return errors.New("its query cannot be read")
	}
	set := func(to *string, what, value string) error {
		if *to != "" && *to != value {
			return fmt.Errorf("%s conflicts: %q vs %q", what, *to, value)
		}
		*to = value
		return nil
	}
	for _, key := range []string{"ref", "tag", "branch", "subdir", "checksum", "commit", "submodules", "keep-git-dir"} {
		given, ok := values[key]
		delete(values, key)
		if !ok {
			continue
		}
		if len(given) > 1 {
			return fmt.Errorf("query %q has multiple values", key)
		}
		value := given[0]
		switch key {
		case "submodules", "keep-git-dir":
			if value != "false" && value != "0" {
				return fmt.Errorf("query %q: compose files are fetched without that", key)
			}
			continue
		}
		if value == "" {
			return fmt.Errorf("query %q has no value", key)
		}
		switch key {
		case "ref":
			err = set(&g.Ref, "ref", value)
		case "tag":
			err = set(&g.Ref, "ref", "refs/tags/"+strings.TrimPrefix(value, "refs/tags/"))
		case "branch":
			err = set(&g.Ref, "ref", "refs/heads/"+strings.TrimPrefix(value, "refs/heads/"))
		case "subdir":
			err = set(&g.Dir, "subdir", value)
		case "checksum", "commit":
			err = set(&g.Checksum, "checksum", value)
		}
		if err != nil {
			return err
		}
	}
	for key := range values {
		return fmt.Errorf("unexpected query %q", key)
	}
	return nil
}

// checked completes what was read, or says what is wrong with it.
func (g Git) checked() (Git, error) {
	if g.Checksum != "" && !checksum.MatchString(g.Checksum) {
		return Git{}, fmt.Errorf("checksum %q: must be 4 to 40 hexadecimal digits", g.Checksum)
	}
	if g.Ref == "" && len(g.Checksum) == 40 {
		g.Ref = g.Checksum
	}
	if unfitRef.MatchString(g.Ref) {
		return Git{}, fmt.Errorf("ref %q: not the name of a ref", g.Ref)
	}
	if g.Dir == "" {
		return g, nil
	}
	switch clean := path.Clean(g.Dir); {
	case path.IsAbs(clean), len(clean) > 1 && clean[1] == ':':
		return Git{}, fmt.Errorf("git subdirectory must be relative, got: %s", g.Dir)
	case clean == "..", strings.HasPrefix(clean, "../"), strings.HasPrefix(clean, `..\`):
		return Git{}, fmt.Errorf("git subdirectory path traversal detected: %s", g.Dir)
	case clean == ".":
		g.Dir = ""
	default:
		g.Dir = clean
	}
	return g, nil
}

// String is the name in its shortest form, without a password.
func (g Git) String() string {
	s := g.Remote
	if g.Checksum != "" && g.Checksum != g.Ref {
		s += "?checksum=" + g.Checksum
	}
	if g.Ref == "" && g.Dir == "" {
		return s
	}
	fragment := g.Ref
	if g.Dir != "" {
		fragment += ":" + g.Dir
	}
	if scheme.MatchString(g.Remote) {
		fragment = (&url.URL{Fragment: fragment}).EscapedFragment()
	}
	return s + "#" + fragment
}

// title is a project's name where the file has none: the directory's, or the
// repository's.
func (g Git) title(file string) string {
	if dir := path.Dir(file); dir != "." {
		return path.Base(dir)
	}
	_, repository, _ := strings.Cut(g.Remote, ":")
	return strings.TrimSuffix(path.Base(repository), ".git")
}

// Shown is a name without a password in it, for messages.
func Shown(name string) string {
	if g, err := ParseGit(name); err == nil {
		return g.String()
	}
	before, rest, isURL := strings.Cut(name, "://")
	if _, after, ok := strings.Cut(rest, "@"); isURL && ok && before+"://" != ociScheme {
		return before + "://…@" + after[strings.LastIndex(after, "@")+1:]
	}
	return name
}
