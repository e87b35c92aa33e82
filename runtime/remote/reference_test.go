package remote

import (
	"strings"
	"testing"
)

const someCommit = "0123456789abcdef0123456789abcdef01234567"

func TestParseGit(t *testing.T) {
	for _, tc := range []struct {
		in   string
		want Git
	}{
		{"https://example.com/shop.git", Git{Remote: "https://example.com/shop.git"}},
		{"https://example.com/a/shop.git#main", Git{Remote: "https://example.com/a/shop.git", Ref: "main"}},
		{"https://example.com/shop.git#v1.2:deploy/prod", Git{Remote: "https://example.com/shop.git", Ref: "v1.2", Dir: "deploy/prod"}},
		{"https://example.com/shop.git#:deploy/./x/../compose.yaml", Git{Remote: "https://example.com/shop.git", Dir: "deploy/compose.yaml"}},
		{"https://example.com/shop.git#feature/x:.", Git{Remote: "https://example.com/shop.git", Ref: "feature/x"}},
		{"https://me:secret@example.com/shop.git", Git{Remote: "https://me@example.com/shop.git", password: "secret"}},
		{"HTTPS://example.com:8443/shop.git", Git{Remote: "https://example.com:8443/shop.git"}},
		{"https://example.com/shop.git?branch=main&subdir=x", Git{Remote: "https://example.com/shop.git", Ref: "refs/heads/main", Dir: "x"}},
		{"https://example.com/shop.git?tag=refs/tags/v1&checksum=0123abcd", Git{Remote: "https://example.com/shop.git", Ref: "refs/tags/v1", Checksum: "0123abcd"}},
		{"https://example.com/shop.git?commit=" + someCommit, Git{Remote: "https://example.com/shop.git", Ref: someCommit, Checksum: someCommit}},
		{"https://example.com/shop.git?ref=main&keep-git-dir=false#main", Git{Remote: "https://example.com/shop.git", Ref: "main"}},
		{"http://example.com/shop.git", Git{Remote: "http://example.com/shop.git"}},
		{"git://example.com/shop", Git{Remote: "git://example.com/shop"}},
		{"ssh://git@example.com:2222/~me/shop.git#main", Git{Remote: "ssh://git@example.com:2222/~me/shop.git", Ref: "main"}},
		{"git@example.com:me/shop.git#main:x", Git{Remote: "git@example.com:me/shop.git", Ref: "main", Dir: "x"}},
		{"github.com/me/shop", Git{Remote: "https://github.com/me/shop"}},
		{"github.com/me/shop.git#main:x", Git{Remote: "https://github.com/me/shop.git", Ref: "main", Dir: "x"}},
		{"file:///srv/shop", Git{Remote: "file:///srv/shop"}},
	} {
		if !Accepts(tc.in) {
			t.Errorf("%s is taken for a path", tc.in)
		}
		if got, err := ParseGit(tc.in); err != nil || got != tc.want {
			t.Errorf("%s: %+v, %v, want %+v", tc.in, got, err, tc.want)
		}
	}
	for in, want := range map[string]string{
		"https://example.com/compose.yaml":                        "does not end with .git",
		"https://example.com/shop.git#-uX":                        "not the name of a ref",
		"https://example.com/shop.git#ma*n":                       "not the name of a ref",
		"https://example.com/shop.git#main^{/x}":                  "not the name of a ref",
		"https://example.com/shop.git#a..b":                       "not the name of a ref",
		"https://example.com/shop.git#main:../x":                  "path traversal",
		"https://example.com/shop.git#main:x/../..":               "path traversal",
		`https://example.com/shop.git#main:..\x`:                  "path traversal",
		"https://example.com/shop.git#main:/etc":                  "must be relative",
		"https://example.com/shop.git#main:C:/x":                  "must be relative",
		"https://example.com/shop.git?access_token=hush":          `unexpected query "access_token"`,
		"https://example.com/shop.git?ref=a#b":                    "conflicts",
		"https://example.com/shop.git?ref=a&ref=a":                "multiple values",
		"https://example.com/shop.git?subdir=":                    "has no value",
		"https://example.com/shop.git?submodules=1":               "fetched without",
		"https://example.com/shop.git?checksum=xyz":               "hexadecimal",
		"https:///shop.git":                                       "no host",
		"https:shop.git":                                          "does not end with .git",
		"https://-oProxyCommand=x/shop.git":                       "begins with -",
		"ssh://-oProxyCommand=x/shop":                             "begins with -",
		"ssh://example.com/-x":                                    "begins with -",
		"git@-oProxyCommand:x":                                    "begins with -",
		"git@example.com:-x":                                      "begins with -",
		"ssh://example.com":                                       "no repository",
		"ext::sh -c whoami":                                       "scheme",
		"ftp://example.com/shop.git":                              `scheme "ftp"`,
		"file://example.com/shop.git":                             "another host",
		"https://example.com/shop\x00.git":                        "control character",
		"https://example.com/" + strings.Repeat("x", 5000) + ".g": "longer than",
	} {
		if got, err := ParseGit(in); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %+v, %v, want an error with %q", in, got, err, want)
		}
	}
	for _, path := range []string{"compose.yaml", "./github.com/me/shop", "github.com/me/shop/compose.yaml", "/srv/a@b:c", "-", "a:b", "../x@y:z", `C:\compose.yaml`} {
		if Accepts(path) {
			t.Errorf("%s is taken for a repository", path)
		}
	}
}

func TestShown(t *testing.T) {
	for in, want := range map[string]string{
		"https://me:hush@example.com/shop.git#main":     "https://me@example.com/shop.git#main",
		"https://me:hush@example.com/shop.git?x=y":      "https://…@example.com/shop.git?x=y",
		"https://me:hu@sh@example.com/shop":             "https://…@example.com/shop",
		"oci://example.com/shop:1@sha256:" + someCommit: "oci://example.com/shop:1@sha256:" + someCommit,
		"git@example.com:me/shop.git":                   "git@example.com:me/shop.git",
	} {
		if got := Shown(in); got != want {
			t.Errorf("%s is shown as %s, want %s", in, got, want)
		}
	}
}

// FuzzParseGit: what is taken for a repository prints as a name that stands for
// the same, and nothing in it is an option, leaves its directory, or is a secret.
func FuzzParseGit(f *testing.F) {
	for _, s := range []string{
		"https://me:secret@example.com/a/shop.git?checksum=0123abcd#v1:deploy", "git@example.com:me/shop.git#main:x", "github.com/me/shop#x%20y:z",
		"file:///srv/a%23b.git#main", "ssh://git@[::1]:22/shop.git?tag=v1&subdir=a", "https://github.com/%2e%2e#a", "a@b:c?d#e", "https://example.com/?ref=x.git",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, in string) {
		g, err := ParseGit(in)
		if err != nil {
			return
		}
		if !Accepts(in) && !strings.Contains(in, ":") {
			t.Errorf("%q parses, and is a path", in)
		}
		if strings.HasPrefix(g.Remote, "-") || strings.HasPrefix(g.Ref, "-") || strings.HasPrefix(g.Dir, "/") || strings.HasPrefix(g.Dir+"/", "../") {
			t.Errorf("%q is %+v", in, g)
		}
		g.password = ""
		if again, err := ParseGit(g.String()); err != nil || again != g {
			t.Errorf("%q is %+v, printed as %q, which is %+v, %v", in, g, g.String(), again, err)
		}
	})
}
