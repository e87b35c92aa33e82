package main

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

// unfinished marks a cluster between initdb and the end of the scripts: a start that died
// there must not pass for one that worked.
const unfinished = "postgres-entrypoint.unfinished"

// scripts is where an image or a bind puts what is to run on a new cluster.
const scripts = "/docker-entrypoint-initdb.d"

// create makes the cluster, its user and database, and runs the scripts on it.
func (s *settings) create(serverArgs []string) (err error) {
	if err := s.checkPassword(); err != nil {
		return err
	}
	if err := s.initdb(); err != nil {
		return err
	}
	mark := filepath.Join(s.data, unfinished)
	if err := os.WriteFile(mark, nil, 0o600); err != nil {
		return err
	}
	if err := s.allowHosts(); err != nil {
		return err
	}
	stop, err := s.startPrivately(serverArgs)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	if s.database != "postgres" {
		create := "CREATE DATABASE " + identifier(s.database) + ";\n"
		if err := s.psql("postgres", strings.NewReader(create)); err != nil {
			return fmt.Errorf("making the database %q: %w", s.database, err)
		}
	}
	if err := s.runScripts(); err != nil {
		return err
	}
	return os.Remove(mark)
}

func (s *settings) initdb() error {
	args := []string{"--username=" + s.user, "--pgdata=" + s.data}
	if s.walDir != "" {
		args = append(args, "--waldir="+s.walDir)
	}
	if s.password != "" {
		// initdb reads it from a file; one without a name cannot be left behind.
		r, w, err := os.Pipe()
		if err != nil {
			return err
		}
		defer r.Close()
		if _, err := w.WriteString(s.password + "\n"); err != nil { // fits any pipe
			return err
		}
		w.Close()
		cmd := command("initdb", append(append(args, "--pwfile=/dev/fd/3"), s.initdbArgs...)...)
		cmd.ExtraFiles = []*os.File{r}
		return named("initdb", cmd.Run())
	}
	return named("initdb", command("initdb", append(args, s.initdbArgs...)...).Run())
}

// allowHosts adds the rule for connections from other hosts to pg_hba.conf.
func (s *settings) allowHosts() error {
	method := s.authMethod
	if method == "" {
		out, err := exec.Command("postgres", "-C", "password_encryption", "-D", s.data).Output()
		if err != nil {
			return named("asking the server for its password encryption", err)
		}
		method = strings.TrimSpace(string(out))
	}
	f, err := os.OpenFile(filepath.Join(s.data, "pg_hba.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	note := ""
	if method == "trust" {
		note = "# This lets anybody in who reaches the port.\n"
	}
	_, err = fmt.Fprintf(f, "\n%shost all all all %s\n", note, method)
	return errors.Join(err, f.Close())
}

// startPrivately starts the server for local connections only, so that nobody takes the
// half-made database for the finished one.
func (s *settings) startPrivately(serverArgs []string) (stop func() error, err error) {
	options := append([]string{"-c", "listen_addresses="}, serverArgs...)
	for i, o := range options {
		options[i] = shellQuote(o)
	}
	start := command("pg_ctl", "-D", s.data, "-w", "-o", strings.Join(options, " "), "start")
	// What POSTGRES_INITDB_ARGS or the user's environment says about hosts and ports is for clients.
	start.Env = append(os.Environ(), "PGUSER="+s.user)
	if err := start.Run(); err != nil {
		return nil, named("starting the server to prepare it", err)
	}
	return func() error {
		return named("stopping the server after preparing it", command("pg_ctl", "-D", s.data, "-m", "fast", "-w", "stop").Run())
	}, nil
}

func (s *settings) psql(database string, input io.Reader) error {
	cmd := command("psql", "-v", "ON_ERROR_STOP=1", "--no-psqlrc", "--username="+s.user, "--no-password", "--dbname="+database)
	cmd.Stdin = input
	// Local connections only: the server listens nowhere else yet.
	cmd.Env = append(os.Environ(), "PGHOST=", "PGHOSTADDR=", "PGPASSWORD="+s.password)
	return cmd.Run()
}

// runScripts runs what is in the directory of scripts, in the order of the names.
func (s *settings) runScripts() error {
	entries, err := os.ReadDir(scripts)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return fmt.Errorf("reading the scripts: %w", err)
	}
	for _, e := range entries {
		name := filepath.Join(scripts, e.Name())
		if err := s.runScript(name); err != nil {
			return fmt.Errorf("running %s: %w", name, err)
		}
	}
	return nil
}

func (s *settings) runScript(name string) error {
	switch {
	case strings.HasSuffix(name, ".sh"):
		fmt.Println("postgres-entrypoint: running", name)
		// One that is no program is read by a shell.
		program := []string{name}
		if syscall.Access(name, 1) != nil { // X_OK
			program = []string{"bash", name}
		}
		cmd := command(program[0], program[1:]...)
		cmd.Env = append(os.Environ(), "POSTGRES_USER="+s.user, "POSTGRES_DB="+s.database, "POSTGRES_PASSWORD="+s.password, "PGPASSWORD="+s.password, "PGDATA="+s.data)
		return cmd.Run()
	case strings.HasSuffix(name, ".sql"), strings.HasSuffix(name, ".sql.gz"):
		fmt.Println("postgres-entrypoint: running", name)
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		defer f.Close()
		input := io.Reader(f)
		if strings.HasSuffix(name, ".gz") {
			if input, err = gzip.NewReader(f); err != nil {
				return err
			}
		}
		return s.psql(s.database, input)
	}
	fmt.Println("postgres-entrypoint: passing over", name)
	return nil
}

// command runs with the streams of this process; its standard input is empty.
func command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(nil), os.Stdout, os.Stderr
	return cmd
}

func named(what string, err error) error {
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

// identifier quotes a name for SQL.
func identifier(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }

// shellQuote quotes a word for the shell that pg_ctl starts the server with.
func shellQuote(word string) string { return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'" }
