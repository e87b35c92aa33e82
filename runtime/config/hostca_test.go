package config

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The first bundle there is counts, its certificates and nothing else of it.
func TestHostCAs(t *testing.T) {
	_, dir, err := loadText(t, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	one, err := readBounded(filepath.Join(dir, "ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	noted := write("noted.pem", "# a comment\n"+string(one)+"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
	empty := write("empty.pem", "nothing\n")
	large := write("large.pem", strings.Repeat(string(one), maxHostCAs/len(one)+1))
	none := filepath.Join(dir, "none.pem")
	for _, tt := range []struct {
		paths []string
		want  []byte
		fault string
	}{
		{[]string{none, noted, empty}, one, ""},
		{[]string{empty, noted}, nil, "no PEM certificate in it"},
		{[]string{large}, nil, "more than 512 KiB"},
		{[]string{none}, nil, "no bundle of authorities"},
	} {
		got, err := hostCAs(tt.paths)
		if !bytes.Equal(got, tt.want) || (err != nil) != (tt.fault != "") || err != nil && !strings.Contains(err.Error(), tt.fault) {
			t.Errorf("%v: %q, %v", tt.paths, got, err)
		}
	}
}
