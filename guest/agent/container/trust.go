//go:build linux

package container

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"golang.org/x/sys/unix"
)

// trustBundles are where images keep the authorities they trust: Debian and
// Alpine, Fedora, openSUSE. Where an image has none, the first is made.
var trustBundles = []string{
	"/etc/ssl/certs/ca-certificates.crt",
	"/etc/pki/tls/certs/ca-bundle.crt",
	"/etc/ssl/ca-bundle.pem",
	"/etc/ssl/cert.pem",
}

// trustVariables name a bundle to those who bring their own instead: OpenSSL and
// Go where they are built for other places, curl, Python's requests, Node.
var trustVariables = []string{"SSL_CERT_FILE", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "NODE_EXTRA_CA_CERTS"}

// maxBundle is how much of an image's bundle is looked at, in bytes.
const maxBundle = 4 << 20

// trust adds authorities to the bundles of the container's root, before anything
// is mounted there: a bundle that the user mounts is left alone. They go behind
// what is there, once.
func (c *Container) trust() error {
	cas := c.spec.CAs
	c.spec.CAs = nil
	if len(cas) == 0 {
		return nil
	}
	bundle := ""
	for _, path := range trustBundles {
		have, err := c.root.ReadFile(path, maxBundle)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			err = c.append(path, missing(have, cas))
		}
		if err != nil {
			return fmt.Errorf("adding authorities to %s: %w", path, err)
		}
		if bundle == "" {
			bundle = path
		}
	}
	if bundle == "" {
		bundle = trustBundles[0]
		f, err := c.root.File(bundle, 0o644)
		if err != nil {
			return fmt.Errorf("adding authorities: %w", err)
		}
		f.Close()
		if err := c.append(bundle, cas); err != nil {
			return fmt.Errorf("adding authorities to %s: %w", bundle, err)
		}
	}
	for _, name := range trustVariables {
		set := false
		for _, kv := range c.spec.Env {
			set = set || strings.HasPrefix(kv, name+"=")
		}
		if !set {
			c.spec.Env = append(c.spec.Env, name+"="+bundle)
		}
	}
	return nil
}

// append writes behind what a file of the root has.
func (c *Container) append(path string, text []byte) error {
	if len(text) == 0 {
		return nil
	}
	f, err := c.root.Open(path, unix.O_WRONLY|unix.O_APPEND|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return errors.New("not a regular file")
	}
	_, err = f.Write(text)
	return err
}

const (
	certificateBegin = "-----BEGIN CERTIFICATE-----"
	certificateEnd   = "-----END CERTIFICATE-----"
)

// certificates calls each with every PEM certificate of text: its base64 without
// white space, and as it is written.
func certificates(text []byte, each func(content string, written []byte)) {
	for {
		end := bytes.Index(text, []byte(certificateEnd))
		if end < 0 {
			return
		}
		// The last beginning: an earlier one is of a certificate that breaks off.
		if begin := bytes.LastIndex(text[:end], []byte(certificateBegin)); begin >= 0 {
			content := text[begin+len(certificateBegin) : end]
			each(strings.Join(strings.Fields(string(content)), ""), text[begin:end+len(certificateEnd)])
		}
		text = text[end+len(certificateEnd):]
	}
}

// missing is what is to be written behind have, so that it has every certificate
// of cas.
func missing(have, cas []byte) []byte {
	known := make(map[string]bool)
	certificates(have, func(content string, _ []byte) { known[content] = true })
	var out []byte
	certificates(cas, func(content string, written []byte) {
		if known[content] {
			return
		}
		known[content] = true
		if len(out) == 0 {
			out = append(out, '\n') // have may lack it
		}
		out = append(append(out, written...), '\n')
	})
	return out
}
