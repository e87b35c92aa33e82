package dockercli

import (
	"encoding/json"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/pflag"
)

// Name is the program's other name; the plugin's is its second half.
const (
	Name   = "docker-compose"
	plugin = "compose"
)

// What docker sets for the plugins it runs, and the argument with which it asks
// one what it is.
const (
	envOrigin   = "DOCKER_CLI_PLUGIN_ORIGINAL_CLI_COMMAND"
	envSocket   = "DOCKER_CLI_PLUGIN_SOCKET"
	askMetadata = "docker-cli-plugin-metadata"
)

// Call is how the program was called.
type Call struct {
	As       string   // what the user typed: "docker compose", "docker-compose", or "" for stack itself
	Args     []string // without the plugin's name
	Metadata bool     // docker asks what the plugin is
}

// Parse looks at the command line, its first element the program's own name.
func Parse(argv []string, getenv func(string) string) Call {
	if len(argv) == 0 {
		return Call{}
	}
	args := argv[1:]
	if len(args) == 1 && args[0] == askMetadata {
		return Call{As: "docker " + plugin, Metadata: true}
	}
	if strings.TrimSuffix(filepath.Base(argv[0]), ".exe") != Name {
		return Call{Args: args}
	}
	if rest, ok := cutPlugin(args); ok && (getenv(envOrigin) != "" || rest.completion) {
		return Call{As: "docker " + plugin, Args: rest.args}
	}
	return Call{As: Name, Args: args}
}

type pluginArgs struct {
	args       []string
	completion bool
}

// cutPlugin removes the plugin's name, which stands behind docker's own options:
// docker --debug compose up.
func cutPlugin(args []string) (pluginArgs, bool) {
	if len(args) > 1 && strings.HasPrefix(args[0], "__complete") && args[1] == plugin {
		return pluginArgs{append([]string{args[0]}, args[2:]...), true}, true
	}
	f := pflag.NewFlagSet("docker", pflag.ContinueOnError)
	f.SetInterspersed(false)
	f.SetOutput(io.Discard)
	f.BoolP("debug", "D", false, "")
	new(Options).Register(f)
	if err := f.Parse(args); err != nil || f.Arg(0) != plugin {
		return pluginArgs{}, false
	}
	before := len(args) - f.NArg()
	return pluginArgs{append(args[:before:before], args[before+1:]...), false}, true
}

// WriteMetadata answers docker's question.
func WriteMetadata(w io.Writer, version string) error {
	return json.NewEncoder(w).Encode(map[string]string{
		"SchemaVersion":    "0.1.0",
		"Vendor":           "stack",
		"Version":          version,
		"ShortDescription": "Docker Compose, by stack: every service in its own micro-VM",
	})
}

// Attend calls end when docker wants the plugin to end: without a terminal that
// would signal both, docker closes a socket. It returns at once; what it starts
// lasts as long as the process. Children of this process hear nothing of docker.
func Attend(end func()) error {
	addr := os.Getenv(envSocket)
	for _, name := range []string{envSocket, envOrigin} {
		if err := os.Unsetenv(name); err != nil {
			return err
		}
	}
	if addr == "" {
		return nil // docker before version 25
	}
	// Where nobody listens docker has gone or never did: as without a socket.
	if conn, err := net.Dial("unix", addr); err == nil {
		go func() {
			defer conn.Close()
			if _, err := io.Copy(io.Discard, conn); err == nil {
				end()
			}
		}()
	}
	return nil
}
