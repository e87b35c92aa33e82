package dockercli

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/pflag"
)

// DefaultHost is the engine that docker talks to when nobody says otherwise.
const DefaultHost = "unix:///var/run/docker.sock"

// Options are docker's global options, without --debug, which stack has itself.
// All but the configuration's directory are about an engine.
type Options struct {
	config, context, logLevel      string
	hosts                          []string
	tls, tlsVerify                 bool
	tlsCACert, tlsCert, tlsKeyFile string
}

// Register adds the options to a flag set, hidden.
func (o *Options) Register(f *pflag.FlagSet) {
	f.StringVar(&o.config, "config", "", "`directory` of docker's configuration")
	f.StringVarP(&o.context, "context", "c", "", "refused: a `context` of docker")
	f.StringArrayVarP(&o.hosts, "host", "H", nil, "refused: a docker `engine`")
	f.StringVarP(&o.logLevel, "log-level", "l", "", "`level`: debug, info, warn, error, fatal")
	f.BoolVar(&o.tls, "tls", false, "refused: how to reach an engine")
	f.BoolVar(&o.tlsVerify, "tlsverify", false, "refused: how to reach an engine")
	f.StringVar(&o.tlsCACert, "tlscacert", "", "refused: how to reach an engine")
	f.StringVar(&o.tlsCert, "tlscert", "", "refused: how to reach an engine")
	f.StringVar(&o.tlsKeyFile, "tlskey", "", "refused: how to reach an engine")
	for _, name := range []string{"config", "context", "host", "log-level", "tls", "tlsverify", "tlscacert", "tlscert", "tlskey"} {
		f.Lookup(name).Hidden = true
	}
}

// Apply refuses, by name, whatever would have docker compose work on another
// machine than this one; the rest it makes so. debug is whether the options ask
// for messages of the program itself.
func (o *Options) Apply(getenv func(string) string) (debug bool, err error) {
	const where = "stack runs everything on this machine and talks to no docker engine: "
	refuse := func(name, value, cure string) error {
		return fmt.Errorf("%s %q: %s%s", name, value, where, cure)
	}
	for _, h := range o.hosts {
		if h != DefaultHost {
			return false, refuse("--host", h, "leave -H out")
		}
	}
	for _, tls := range []struct {
		name  string
		given bool
	}{{"--tls", o.tls}, {"--tlsverify", o.tlsVerify}, {"--tlscacert", o.tlsCACert != ""}, {"--tlscert", o.tlsCert != ""}, {"--tlskey", o.tlsKeyFile != ""}} {
		if tls.given {
			return false, fmt.Errorf("%s: %sleave it out", tls.name, where)
		}
	}
	if o.context != "" && o.context != "default" {
		return false, refuse("--context", o.context, "leave it out")
	}
	if v := getenv("DOCKER_HOST"); v != "" && v != DefaultHost && len(o.hosts) == 0 {
		return false, refuse("DOCKER_HOST", v, "unset DOCKER_HOST")
	}
	if o.config != "" {
		if err := os.Setenv("DOCKER_CONFIG", o.config); err != nil {
			return false, err
		}
		getenv = os.Getenv
	}
	switch v := getenv("DOCKER_CONTEXT"); {
	case o.context != "" || len(o.hosts) > 0: // said, and the default
	case v != "" && v != "default":
		return false, refuse("DOCKER_CONTEXT", v, "unset DOCKER_CONTEXT")
	case v == "":
		name, host, err := currentContext(getenv)
		if err != nil {
			return false, fmt.Errorf("reading docker's configuration: %w", err)
		}
		if host != "" && !strings.HasPrefix(host, "unix://") && !strings.HasPrefix(host, "npipe://") {
			return false, refuse("docker's current context", name, "it leads to "+host+": docker context use default, or DOCKER_CONTEXT=default for this command")
		}
	}
	levels := []string{"", "debug", "info", "warn", "error", "fatal"}
	if !slices.Contains(levels, o.logLevel) {
		return false, fmt.Errorf("--log-level %q: use %s", o.logLevel, strings.Join(levels[1:], ", "))
	}
	return o.logLevel == "debug", nil
}

// currentContext is what "docker context use" chose, and where its engine is;
// both empty for the default.
func currentContext(getenv func(string) string) (name, host string, err error) {
	dir := getenv("DOCKER_CONFIG")
	if dir == "" {
		home := getenv("HOME")
		if home == "" {
			return "", "", nil
		}
		dir = filepath.Join(home, ".docker")
	}
	var config struct {
		CurrentContext string `json:"currentContext"`
	}
	if err := readJSON(filepath.Join(dir, "config.json"), &config); err != nil {
		return "", "", err
	}
	if name = config.CurrentContext; name == "" || name == "default" {
		return "", "", nil
	}
	// docker keeps a context in a directory named by its name's digest.
	sum := sha256.Sum256([]byte(name))
	var meta struct {
		Endpoints map[string]struct{ Host string }
	}
	if err := readJSON(filepath.Join(dir, "contexts", "meta", hex.EncodeToString(sum[:]), "meta.json"), &meta); err != nil {
		return "", "", err
	}
	return name, meta.Endpoints["docker"].Host, nil
}

// readJSON leaves v as it is when there is no such file.
func readJSON(path string, v any) error {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = json.Unmarshal(b, v)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}
