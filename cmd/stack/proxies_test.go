package main

import (
	"testing"

	dockerconfig "github.com/docker/cli/cli/config"
	"github.com/google/go-cmp/cmp"

	"github.com/stackvm/stack/runtime/api"
)

// The proxies of docker's configuration are those of the engine that docker
// would ask, by both spellings, or else the default ones.
func TestProxies(t *testing.T) {
	dir := writeFiles(t, map[string]string{"config.json": `{"proxies": {
		"default": {"httpProxy": "http://d:1", "noProxy": "a,b"},
		"unix:///var/run/docker.sock": {"httpsProxy": "http://s:1", "ftpProxy": "http://f:1"},
		"tcp://elsewhere:1": {"allProxy": "socks5://x:1"}}}`})
	before := dockerconfig.Dir()
	t.Cleanup(func() { dockerconfig.SetDir(before) })
	dockerconfig.SetDir(dir)
	for engine, want := range map[string]api.Proxies{
		"":                  {"HTTPS_PROXY": "http://s:1", "https_proxy": "http://s:1", "FTP_PROXY": "http://f:1", "ftp_proxy": "http://f:1"},
		"tcp://elsewhere:1": {"ALL_PROXY": "socks5://x:1", "all_proxy": "socks5://x:1"},
		"tcp://third:1":     {"HTTP_PROXY": "http://d:1", "http_proxy": "http://d:1", "NO_PROXY": "a,b", "no_proxy": "a,b"},
	} {
		t.Setenv("DOCKER_HOST", engine)
		if diff := cmp.Diff(want, proxies()); diff != "" {
			t.Errorf("engine %q: %s", engine, diff)
		}
	}
	dockerconfig.SetDir(t.TempDir())
	if got := proxies(); len(got) > 0 {
		t.Errorf("without a configuration: %#v", map[string]string(got))
	}
}
