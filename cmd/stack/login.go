package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	dockerconfig "github.com/docker/cli/cli/config"
	"github.com/docker/cli/cli/config/configfile"
	dockerlogins "github.com/docker/cli/cli/config/credentials"
	"github.com/docker/cli/cli/config/types"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/spf13/cobra"

	"github.com/stackvm/stack/runtime/config"
	"github.com/stackvm/stack/runtime/image/registry"
)

// hubKey is docker hub's in docker's configuration.
const hubKey = authn.DefaultAuthKey

// maxSecret bounds a password on standard input, in bytes; tokens of clouds have
// some thousands.
const maxSecret = 1 << 20

// loginServer is a registry as requests name it, and its key in docker's
// configuration.
func loginServer(args []string) (host, key string) {
	if len(args) == 0 {
		return config.DockerHub, hubKey
	}
	switch host = strings.ToLower(dockerlogins.ConvertToHostname(args[0])); host {
	case config.DockerHub, "index.docker.io", "registry-1.docker.io":
		return config.DockerHub, hubKey
	}
	return host, host
}

// loginConfig is docker's configuration, to be changed: one that cannot be read
// is left alone.
func loginConfig() (*configfile.ConfigFile, error) {
	c, err := dockerconfig.Load(dockerconfig.Dir())
	if err != nil {
		return nil, fmt.Errorf("reading docker's configuration: %w", err)
	}
	if !c.ContainsAuth() {
		c.CredentialsStore = dockerlogins.DetectDefaultStore(c.CredentialsStore)
	}
	return c, nil
}

// login is a run of the command.
type login struct {
	*app
	user, password string
	stdin          bool
}

func (a *app) login() *cobra.Command {
	l := &login{app: a}
	c := &cobra.Command{
		Use:   "login [SERVER]",
		Short: "Log in to a registry",
		Long: `Log in to a registry; without a name to Docker Hub. The credentials are stored as
docker stores them, in its configuration or with its credential helper, and used
by docker too.`,
		Args: cobra.MaximumNArgs(1),
	}
	f := c.Flags()
	f.StringVarP(&l.user, "username", "u", "", "`name` of the user")
	f.StringVarP(&l.password, "password", "p", "", "`password` or token, or - to read it from standard input")
	f.BoolVar(&l.stdin, "password-stdin", false, "read the password or token from standard input")
	c.PreRunE = func(c *cobra.Command, _ []string) error {
		l.stdin = l.stdin || l.password == "-"
		switch {
		case l.stdin && f.Changed("password") && l.password != "-":
			return errors.New("conflicting options: cannot specify both --password and --password-stdin")
		case l.stdin && !f.Changed("username"):
			return errors.New("the --password-stdin option requires --username to be set")
		case f.Changed("username") && l.user == "":
			return errors.New("username is empty")
		case f.Changed("password") && l.password == "":
			return errors.New("password is empty")
		}
		return nil
	}
	c.RunE = interruptible(func(ctx context.Context, args []string) error { return l.run(ctx, args) })
	return c
}

func (l *login) run(ctx context.Context, args []string) error {
	switch {
	case l.stdin:
		text, err := io.ReadAll(io.LimitReader(l.in, maxSecret))
		if err != nil {
			return fmt.Errorf("reading the password: %w", err)
		}
		l.password = trimEnd(string(text))
		if strings.TrimSpace(l.password) == "" {
			return errors.New("password is empty")
		}
	case l.password != "":
		fmt.Fprintln(l.err, "WARNING! Using --password via the CLI is insecure. Use --password-stdin.")
	}
	_, settings, err := l.settings()
	if err != nil {
		return err
	}
	stored, err := loginConfig()
	if err != nil {
		return err
	}
	host, key := loginServer(args)
	store := stored.GetCredentialsStore(key)
	known, err := store.Get(key)
	if err != nil {
		return fmt.Errorf("looking for the credentials of %s: %w", host, err)
	}
	client := registry.New(registry.Options{Config: settings, Held: l.held})
	defer client.Close()

	if l.user == "" && l.password == "" && (known.Password != "" || known.IdentityToken != "") {
		fmt.Fprintf(l.err, "Authenticating with existing credentials... [Username: %s]\n", known.Username)
		err := client.Login(ctx, host, authn.AuthConfig{Username: known.Username, Password: known.Password, IdentityToken: known.IdentityToken, RegistryToken: known.RegistryToken})
		refused, ok := errors.AsType[*registry.LoginError](err)
		switch {
		case err == nil:
			fmt.Fprintln(l.out, "Login Succeeded")
			return nil
		case !ok || refused.Kind != registry.Unauthorized:
			return err
		}
		fmt.Fprintln(l.err, "Stored credentials invalid or expired")
	}
	if err := l.ask(ctx, host, known.Username); err != nil {
		return err
	}
	if err := client.Login(ctx, host, authn.AuthConfig{Username: l.user, Password: l.password}); err != nil {
		return err
	}
	if err := store.Store(types.AuthConfig{Username: l.user, Password: l.password, ServerAddress: key}); err != nil {
		return fmt.Errorf("storing the credentials of %s: %w", host, err)
	}
	fmt.Fprintln(l.out, "Login Succeeded")
	return nil
}

// held tells of a pause that the registry asks for.
func (a *app) held(h registry.Hold) {
	if h.For > 0 {
		fmt.Fprintf(a.err, "%s answers %d: waiting\n", h.Host, h.Status)
	}
}

// ask puts the questions that the flags have not answered; the password is not
// shown as it is typed.
func (l *login) ask(ctx context.Context, host, user string) error {
	if l.user != "" && l.password != "" {
		return nil
	}
	if !isTerminal(l.in) {
		return errors.New("error: cannot perform an interactive login from a non-TTY device")
	}
	if l.user == "" {
		prompt := "Username: "
		if user != "" {
			prompt = fmt.Sprintf("Username (%s): ", user)
		}
		line, err := l.answer(ctx, prompt)
		if err != nil {
			return err
		}
		if l.user = strings.TrimSpace(line); l.user == "" {
			l.user = user
		}
		if l.user == "" {
			return errors.New("username is empty")
		}
	}
	if l.password == "" {
		// Hidden before the question is seen: an answer may come at once.
		restore, err := hideTyping(int(l.in.Fd()))
		if err != nil {
			return err
		}
		line, err := l.answer(ctx, fmt.Sprintf("Password for %s at %s: ", l.user, host))
		fmt.Fprintln(l.err)
		if err := errors.Join(err, restore()); err != nil {
			return err
		}
		if l.password = trimEnd(line); l.password == "" {
			return errors.New("password is empty")
		}
	}
	return nil
}

// answer puts a question and reads a line from the terminal, until ctx ends.
func (l *login) answer(ctx context.Context, question string) (string, error) {
	fmt.Fprint(l.err, question)
	type result struct {
		line string
		err  error
	}
	got := make(chan result, 1)
	go func() { // a blocked read of a terminal cannot be cancelled: it ends with the program
		line, err := bufio.NewReader(l.in).ReadString('\n')
		got <- result{line, err}
	}()
	select {
	case r := <-got:
		if r.err != nil {
			return "", fmt.Errorf("reading from the terminal: %w", r.err)
		}
		return r.line, nil
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

// trimEnd takes one end of line away: the rest may belong to a password.
func trimEnd(s string) string {
	for _, end := range []string{"\r\n", "\n", "\r"} {
		if cut, ok := strings.CutSuffix(s, end); ok {
			return cut
		}
	}
	return s
}

func (a *app) logout() *cobra.Command {
	return &cobra.Command{
		Use:   "logout [SERVER]",
		Short: "Log out from a registry",
		Long:  "Log out from a registry; without a name from Docker Hub. docker is logged out too.",
		Args:  cobra.MaximumNArgs(1),
		RunE: interruptible(func(_ context.Context, args []string) error {
			stored, err := loginConfig()
			if err != nil {
				return err
			}
			host, key := loginServer(args)
			keys := []string{key}
			if key != hubKey { // as docker may have stored it
				keys = append(keys, "http://"+host, "https://"+host)
				if args[0] != key {
					keys = append(keys, args[0])
				}
			}
			fmt.Fprintln(a.out, "Removing login credentials for", key)
			var faults []error
			for _, key := range keys {
				if err := stored.GetCredentialsStore(key).Erase(key); err != nil {
					faults = append(faults, fmt.Errorf("%s: %w", key, err))
				}
			}
			if len(faults) == len(keys) {
				return fmt.Errorf("erasing credentials: %w", errors.Join(faults...))
			}
			return nil
		}),
	}
}
