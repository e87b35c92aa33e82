package apt

import (
	"bytes"
	"os/exec"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseURIs(t *testing.T) {
	got, err := parseURIs([]byte(`'http://deb.example/pool/z/zlib1g_1.2.13.dfsg-1_amd64.deb' zlib1g_1%3a1.2.13.dfsg-1_amd64.deb 86684 MD5Sum:ec42
'http://deb.example/pool/n/nginx-light_1.22.1-9%2bdeb12u11_all.deb' nginx-light_1.22.1-9+deb12u11_all.deb 81844 
`))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]Package{
		{"zlib1g", "1:1.2.13.dfsg-1", "amd64", "zlib1g_1%3a1.2.13.dfsg-1_amd64.deb"},
		{"nginx-light", "1.22.1-9+deb12u11", "all", "nginx-light_1.22.1-9+deb12u11_all.deb"},
	}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for _, bad := range []string{
		"Reading package lists...\n",
		"'http://deb.example/x' ../../x_1_all.deb 1\n",
		"'http://deb.example/x' x.deb 1\n",
		"'http://deb.example/x' x_1_all.deb many\n",
	} {
		if got, err := parseURIs([]byte(bad)); err == nil {
			t.Errorf("parseURIs(%q) = %v", bad, got)
		}
	}
}

func TestWriteStatus(t *testing.T) {
	var got bytes.Buffer
	writeStatus(&got, []byte("Package: a\nVersion: 1\nDepends: b\nProvides: c\nArchitecture: all\nDescription: x\n y\n\nPackage: a\nVersion: 0\n\n"))
	want := "Package: a\nVersion: 1\nProvides: c\nArchitecture: all\nStatus: install ok installed\nMaintainer: none\nDescription: none\n\n"
	if diff := cmp.Diff(want, got.String()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestNewRefusesUnquotableDirectory(t *testing.T) {
	if _, err := exec.LookPath("apt-get"); err != nil {
		t.Skipf("no Debian host: %v", err)
	}
	if _, err := New(t.TempDir()+`/a"b`, "amd64"); err == nil || !strings.Contains(err.Error(), "character") {
		t.Errorf("New = %v", err)
	}
}

// TestResolveNamesWhatIsMissing asks the real apt with empty lists.
func TestResolveNamesWhatIsMissing(t *testing.T) {
	if _, err := exec.LookPath("apt-get"); err != nil {
		t.Skipf("no Debian host: %v", err)
	}
	r, err := New(t.TempDir(), "amd64")
	if err != nil {
		t.Fatal(err)
	}
	_, err = r.Resolve(t.Context(), []string{"no-such-package"}, nil, nil)
	if err == nil || !strings.Contains(err.Error(), "no-such-package") {
		t.Errorf("Resolve = %v", err)
	}
}
