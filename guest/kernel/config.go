package kernel

import (
	"bytes"
	"embed"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// Config holds the symbols of a .config or of a fragment of one: the name
// without CONFIG_, and the value as it is written there: y, n, m, a number, or a
// string with its quotes.
type Config map[string]string

//go:embed config/*.config
var fragments embed.FS

//go:embed patches/*.patch
var patches embed.FS

// Fragment returns the text of what arch asks of its kernel beyond tinyconfig.
func Fragment(arch string) ([]byte, error) {
	text, err := fragments.ReadFile("config/" + arch + ".config")
	if err != nil {
		return nil, fmt.Errorf("no kernel configuration for architecture %q: %w", arch, err)
	}
	return text, nil
}

// Patches returns what is changed in the kernel's source, as one input of patch(1)
// in the order of the files' names.
func Patches() ([]byte, error) {
	entries, err := patches.ReadDir("patches") // sorted
	if err != nil {
		return nil, err
	}
	var all []byte
	for _, entry := range entries {
		text, err := patches.ReadFile("patches/" + entry.Name())
		if err != nil {
			return nil, err
		}
		all = append(all, text...)
	}
	return all, nil
}

var (
	assigned = regexp.MustCompile(`^CONFIG_(\w+)=(y|n|m|-?[0-9]+|0x[0-9a-fA-F]+|"(?:[^"\\]|\\.)*")$`)
	unset    = regexp.MustCompile(`^# CONFIG_(\w+) is not set$`)
)

// Parse reads a .config or a fragment. A symbol given twice is an error, even
// with one value: the second place is where a later change would be forgotten.
func Parse(text []byte) (Config, error) {
	c := Config{}
	line := 0
	for raw := range bytes.Lines(text) {
		line++
		s := strings.TrimSuffix(string(raw), "\n")
		var name, value string
		if m := assigned.FindStringSubmatch(s); m != nil {
			name, value = m[1], m[2]
		} else if m := unset.FindStringSubmatch(s); m != nil {
			name, value = m[1], "n"
		} else if s == "" || strings.HasPrefix(s, "#") {
			continue
		} else {
			return nil, fmt.Errorf("line %d: %.80q is neither CONFIG_NAME=VALUE nor a comment", line, s)
		}
		if _, ok := c[name]; ok {
			return nil, fmt.Errorf("line %d: CONFIG_%s is given a second time", line, name)
		}
		c[name] = value
	}
	return c, nil
}

// Format writes c as a fragment, sorted by name.
func (c Config) Format() []byte {
	var b bytes.Buffer
	for _, name := range slices.Sorted(maps.Keys(c)) {
		fmt.Fprintf(&b, "CONFIG_%s=%s\n", name, c[name])
	}
	return b.Bytes()
}

// Unmet compares what was asked with the configuration that olddefconfig made
// of it and returns one sentence per symbol that it dropped or changed, in the
// order of their names. A symbol that final does not mention is off.
func (asked Config) Unmet(final Config) []string {
	var faults []string
	for _, name := range slices.Sorted(maps.Keys(asked)) {
		got, ok := final[name]
		if !ok {
			got = "n"
		}
		if got != asked[name] {
			faults = append(faults, fmt.Sprintf("CONFIG_%s: asked for %s, got %s", name, asked[name], got))
		}
	}
	return faults
}
