package config

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
)

// bundles are where hosts keep the authorities they trust: Debian and Alpine,
// Fedora, openSUSE, and macOS.
var bundles = []string{
	"/etc/ssl/certs/ca-certificates.crt",
	"/etc/pki/tls/certs/ca-bundle.crt",
	"/etc/ssl/ca-bundle.pem",
	"/etc/ssl/cert.pem",
}

// maxHostCAs bounds what a container is told to trust, in bytes: some hosts have
// 150 authorities in 220 KiB.
const maxHostCAs = 512 << 10

// HostCAs are the authorities that this host trusts, as PEM with nothing between
// the certificates.
func HostCAs() ([]byte, error) { return hostCAs(bundles) }

func hostCAs(paths []string) ([]byte, error) {
	for _, path := range paths {
		f, err := os.Open(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("reading the host's authorities: %w", err)
		}
		text, err := io.ReadAll(io.LimitReader(f, 4*maxHostCAs)) // comments are left out
		f.Close()
		if err != nil {
			return nil, fmt.Errorf("reading the host's authorities: %w", err)
		}
		var out bytes.Buffer
		for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
			if _, err := x509.ParseCertificate(block.Bytes); block.Type != "CERTIFICATE" || err != nil {
				continue // as those do who read it themselves
			}
			_ = pem.Encode(&out, &pem.Block{Type: block.Type, Bytes: block.Bytes}) // into memory
		}
		switch {
		case out.Len() == 0:
			return nil, fmt.Errorf("%s: no PEM certificate in it", path)
		case out.Len() > maxHostCAs:
			return nil, fmt.Errorf("%s: more than %d KiB of authorities", path, maxHostCAs>>10)
		}
		return out.Bytes(), nil
	}
	return nil, fmt.Errorf("this host has no bundle of authorities: looked for %s", strings.Join(paths, ", "))
}
