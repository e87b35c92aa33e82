package recipe

import (
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/stackvm/stack/examples/images/rootfs"
)

// The three applications of the voting example are stand-ins of our own for the images of
// those names: the same part in the stack, on the same ports, with the same names of what
// they talk to, list and table.
var (
	votingVote = &Recipe{
		Name: "voting-vote", Tags: []string{"dockersamples/examplevotingapp_vote:latest"},
		About:    "a stand-in for the voting example's page: Flask and gunicorn, votes go to redis",
		Base:     "python",
		Packages: []string{"python3-flask", "gunicorn", "python3-redis"},
		Assumed:  maintenance,
		OnDemand: true,
		Config: v1.Config{
			WorkingDir: "/app", ExposedPorts: map[string]struct{}{"80/tcp": {}},
			Cmd: []string{"gunicorn", "app:app", "-b", "0.0.0.0:80", "--log-file", "-", "--access-logfile", "-", "--workers", "2", "--keep-alive", "0"},
		},
		Layers: []func(*Kitchen, *rootfs.Tree) error{unpack, oneFile("/app/app.py", "voting/vote.py")},
	}
	votingWorker = &Recipe{
		Name: "voting-worker", Tags: []string{"dockersamples/examplevotingapp_worker:latest"},
		About:    "a stand-in for the voting example's worker: from redis to postgres",
		Base:     "python",
		Packages: []string{"python3-redis", "python3-psycopg2"},
		Assumed:  maintenance,
		OnDemand: true,
		Config:   v1.Config{WorkingDir: "/app", Cmd: []string{"python3", "worker.py"}},
		Layers:   []func(*Kitchen, *rootfs.Tree) error{unpack, oneFile("/app/worker.py", "voting/worker.py")},
	}
	votingResult = &Recipe{
		Name: "voting-result", Tags: []string{"dockersamples/examplevotingapp_result:latest"},
		About:    "a stand-in for the voting example's result: node and pg, the counts as JSON",
		Base:     "node",
		Packages: []string{"node-pg"},
		Assumed:  maintenance,
		OnDemand: true,
		Config: v1.Config{
			Env: []string{"PORT=80"}, WorkingDir: "/usr/local/app", ExposedPorts: map[string]struct{}{"80/tcp": {}},
			Cmd: []string{"node", "server.js"},
		},
		Layers: []func(*Kitchen, *rootfs.Tree) error{unpack, oneFile("/usr/local/app/server.js", "voting/result.js")},
	}
)

// oneFile makes a layer of one embedded file.
func oneFile(path, name string) func(*Kitchen, *rootfs.Tree) error {
	return func(_ *Kitchen, t *rootfs.Tree) error {
		t.File(path, file(name), plain)
		return t.Err()
	}
}
