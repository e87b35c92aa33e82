//go:build linux

package container

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"

	"github.com/moby/sys/user"
	"github.com/stackvm/stack/guest/agent/launch"
	"github.com/stackvm/stack/guest/wire"
	"golang.org/x/sys/unix"
)

// defaultPath is docker's.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

const defaultUmask = 0o022

// maxUserFile bounds what is read of /etc/passwd and /etc/group.
const maxUserFile = 4 << 20

// workload fills in what the container's command and an exec in it have in common.
func (c *Container) workload(args, env []string, dir, name string, groups []string, tty bool) (*launch.Spec, error) {
	u, err := c.user(name)
	if err != nil {
		return nil, err
	}
	more, err := c.groups(groups)
	if err != nil {
		return nil, err
	}
	spec := &launch.Spec{
		Args: args, Dir: dir,
		UID: u.Uid, GID: u.Gid, Groups: dedupe(append(append([]int{u.Gid}, u.Sgids...), more...)),
		NoNewPrivs: c.spec.NoNewPrivs,
		OOMScore:   c.spec.OOMScoreAdj,
		Umask:      defaultUmask,
		TTY:        tty,
		Fds:        launch.Fds{Net: -1, IPC: -1, Shm: -1, Join: -1},
	}
	if c.spec.Umask != nil {
		spec.Umask = int(*c.spec.Umask)
	}
	defaults := []string{"PATH=" + defaultPath, "HOSTNAME=" + c.hostname()}
	if tty {
		defaults = append(defaults, "TERM=xterm")
	}
	defaults = append(defaults, "HOME="+u.Home)
	spec.Env = mergeEnv(defaults, c.spec.Env, env)
	if spec.Rlimits, err = rlimits(c.spec.Rlimits); err != nil {
		return nil, err
	}
	return spec, nil
}

// user resolves a user as image configs name them, in the container's files.
func (c *Container) user(name string) (*user.ExecUser, error) {
	u, err := user.GetExecUser(name, &user.ExecUser{Home: "/"},
		bytes.NewReader(c.userFile("/etc/passwd")), bytes.NewReader(c.userFile("/etc/group")))
	if err != nil {
		return nil, &wire.Error{Code: wire.CodeCannotExec, Message: err.Error()}
	}
	if u.Home == "" {
		u.Home = "/"
	}
	return u, nil
}

func (c *Container) groups(names []string) ([]int, error) {
	if len(names) == 0 {
		return nil, nil
	}
	gids, err := user.GetAdditionalGroups(names, bytes.NewReader(c.userFile("/etc/group")))
	if err != nil {
		return nil, &wire.Error{Code: wire.CodeCannotExec, Message: err.Error()}
	}
	return gids, nil
}

// userFile reads a file of users; an image without one has none.
func (c *Container) userFile(path string) []byte {
	text, _ := c.root.ReadFile(path, maxUserFile)
	return text
}

func dedupe(ids []int) []int {
	seen := make(map[int]bool, len(ids))
	out := ids[:0]
	for _, id := range ids {
		if !seen[id] {
			seen[id] = true
			out = append(out, id)
		}
	}
	return out
}

// mergeEnv joins lists of KEY=VALUE; a later value takes the place of an earlier.
func mergeEnv(lists ...[]string) []string {
	var out []string
	at := make(map[string]int)
	for _, list := range lists {
		for _, e := range list {
			key, _, ok := strings.Cut(e, "=")
			if !ok || key == "" || strings.IndexByte(e, 0) >= 0 {
				continue
			}
			if i, ok := at[key]; ok {
				out[i] = e
				continue
			}
			at[key] = len(out)
			out = append(out, e)
		}
	}
	return out
}

var resources = map[string]int{
	"as": unix.RLIMIT_AS, "core": unix.RLIMIT_CORE, "cpu": unix.RLIMIT_CPU, "data": unix.RLIMIT_DATA,
	"fsize": unix.RLIMIT_FSIZE, "locks": unix.RLIMIT_LOCKS, "memlock": unix.RLIMIT_MEMLOCK,
	"msgqueue": unix.RLIMIT_MSGQUEUE, "nice": unix.RLIMIT_NICE, "nofile": unix.RLIMIT_NOFILE,
	"nproc": unix.RLIMIT_NPROC, "rss": unix.RLIMIT_RSS, "rtprio": unix.RLIMIT_RTPRIO,
	"rttime": unix.RLIMIT_RTTIME, "sigpending": unix.RLIMIT_SIGPENDING, "stack": unix.RLIMIT_STACK,
}

// rlimits adds to docker's defaults what the container asks for.
func rlimits(asked []wire.Rlimit) ([]launch.Rlimit, error) {
	const unlimited = ^uint64(0)
	limits := []launch.Rlimit{
		{Resource: unix.RLIMIT_NOFILE, Soft: 1 << 20, Hard: 1 << 20},
		{Resource: unix.RLIMIT_NPROC, Soft: unlimited, Hard: unlimited},
		{Resource: unix.RLIMIT_CORE, Soft: 0, Hard: unlimited}, // no core files in a scratch disk unless asked for
	}
	value := func(n int64) uint64 {
		if n < 0 {
			return unlimited
		}
		return uint64(n)
	}
next:
	for _, r := range asked {
		resource, ok := resources[r.Name]
		if !ok {
			return nil, &wire.Error{Code: wire.CodeInvalid, Message: fmt.Sprintf("resource limit %q: no such limit", r.Name)}
		}
		limit := launch.Rlimit{Resource: resource, Soft: value(r.Soft), Hard: value(r.Hard)}
		for i := range limits {
			if limits[i].Resource == resource {
				limits[i] = limit
				continue next
			}
		}
		limits = append(limits, limit)
	}
	return limits, nil
}

// sysctls turns names with dots into paths. A name with slashes already is one.
func sysctls(asked map[string]string) []launch.Sysctl {
	out := make([]launch.Sysctl, 0, len(asked))
	for key, value := range asked {
		if !strings.Contains(key, "/") {
			key = strings.ReplaceAll(key, ".", "/")
		}
		out = append(out, launch.Sysctl{Key: key, Value: value})
	}
	return out
}

// parseSignal reads a signal's name, with or without SIG, or its number.
func parseSignal(name string) (unix.Signal, error) {
	if n, err := strconv.Atoi(name); err == nil && n > 0 && n <= 64 {
		return unix.Signal(n), nil
	}
	upper := strings.ToUpper(name)
	if !strings.HasPrefix(upper, "SIG") {
		upper = "SIG" + upper
	}
	if sig := unix.SignalNum(upper); sig != 0 {
		return sig, nil
	}
	// Real-time signals count from 34, as in every C library.
	if n, ok := strings.CutPrefix(upper, "SIGRTMIN"); ok {
		if plus, err := strconv.Atoi(strings.TrimPrefix(n, "+")); n == "" || (err == nil && plus >= 0 && plus <= 30) {
			return unix.Signal(34 + plus), nil
		}
	}
	if n, ok := strings.CutPrefix(upper, "SIGRTMAX"); ok {
		if minus, err := strconv.Atoi(n); n == "" || (err == nil && minus <= 0 && minus >= -30) {
			return unix.Signal(64 + minus), nil
		}
	}
	return 0, &wire.Error{Code: wire.CodeInvalid, Message: fmt.Sprintf("signal %q: no such signal", name)}
}
