package main

import (
	"errors"
	"fmt"
	"strings"
)

// settings are what the environment says about the cluster.
type settings struct {
	password, user, database string
	initdbArgs               []string
	data, walDir             string
	authMethod               string // "" is what the server's password_encryption says
}

// readSettings reads the environment and the files it names.
func readSettings(lookup func(string) (string, bool), readFile func(string) ([]byte, error)) (*settings, error) {
	var faults []error
	get := func(name, fallback string) string {
		value, set := lookup(name)
		file, fromFile := lookup(name + "_FILE")
		switch {
		case set && fromFile && value != "" && file != "":
			faults = append(faults, fmt.Errorf("both %[1]s and %[1]s_FILE are set: set one of them", name))
		case fromFile && file != "":
			text, err := readFile(file)
			if err != nil {
				faults = append(faults, fmt.Errorf("reading %s_FILE: %w", name, err))
			}
			// As a shell's $(cat FILE) would have it.
			return strings.TrimRight(string(text), "\n")
		case set && value != "":
			return value
		}
		return fallback
	}
	s := &settings{
		password:   get("POSTGRES_PASSWORD", ""),
		user:       get("POSTGRES_USER", "postgres"),
		initdbArgs: strings.Fields(get("POSTGRES_INITDB_ARGS", "")),
		walDir:     get("POSTGRES_INITDB_WALDIR", ""),
	}
	s.database = get("POSTGRES_DB", s.user)
	s.authMethod, _ = lookup("POSTGRES_HOST_AUTH_METHOD")
	if s.data, _ = lookup("PGDATA"); s.data == "" {
		s.data = "/var/lib/postgresql/data"
	}
	for name, value := range map[string]string{"POSTGRES_HOST_AUTH_METHOD": s.authMethod, "POSTGRES_PASSWORD": s.password} {
		if strings.ContainsAny(value, "\n\r\x00") {
			faults = append(faults, fmt.Errorf("%s holds a line break", name))
		}
	}
	return s, errors.Join(faults...)
}

// checkPassword refuses to make a cluster that anybody can enter, unless that was asked for.
func (s *settings) checkPassword() error {
	if s.password == "" && s.authMethod != "trust" {
		return errors.New(`the superuser has no password: set POSTGRES_PASSWORD or POSTGRES_PASSWORD_FILE; ` +
			`POSTGRES_HOST_AUTH_METHOD=trust would let anybody in who reaches the port`)
	}
	return nil
}
