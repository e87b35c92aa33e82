package dockercli

import (
	"cmp"
	"encoding/json"
	"os"
	"path/filepath"
)

// systemPlugins are where docker's packages put plugins on Linux and macOS.
var systemPlugins = []string{
	"/usr/local/lib/docker/cli-plugins", "/usr/local/libexec/docker/cli-plugins",
	"/usr/lib/docker/cli-plugins", "/usr/libexec/docker/cli-plugins",
}

// configDir is where docker keeps what is the user's.
func configDir(getenv func(string) string, home string) string {
	return cmp.Or(getenv("DOCKER_CONFIG"), filepath.Join(home, ".docker"))
}

// PluginDirs are the directories in which docker looks for its plugins, the user's
// own first. A config.json that cannot be read names none.
func PluginDirs(getenv func(string) string) []string {
	home, err := os.UserHomeDir()
	if err != nil {
		return systemPlugins
	}
	config := configDir(getenv, home)
	var named struct {
		Extra []string `json:"cliPluginsExtraDirs"`
	}
	if data, err := os.ReadFile(filepath.Join(config, "config.json")); err == nil {
		_ = json.Unmarshal(data, &named) // docker says so itself
	}
	dirs := append(named.Extra, filepath.Join(config, "cli-plugins"))
	return append(dirs, systemPlugins...)
}
