package api

import (
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// maxToken bounds what is read of a token file, in bytes.
const maxToken = 256

// MakeToken returns the token in path, making the file, 0600, when there is
// none. It is the supervisor's half of ReadToken.
func MakeToken(path string) (string, error) {
	if token, err := ReadToken(path); !errors.Is(err, fs.ErrNotExist) {
		return token, err
	}
	token := rand.Text() + rand.Text()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return "", fmt.Errorf("making the supervisor's token: %w", err)
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".token-*") // 0600
	if err != nil {
		return "", fmt.Errorf("making the supervisor's token: %w", err)
	}
	defer os.Remove(f.Name())
	_, err = f.WriteString(token)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Link(f.Name(), path) // another process's token wins
	}
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return "", fmt.Errorf("making the supervisor's token: %w", err)
	}
	return ReadToken(path)
}

// ReadToken reads a token that only this user can have written or read.
func ReadToken(path string) (string, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return "", fmt.Errorf("reading the supervisor's token: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", fmt.Errorf("reading the supervisor's token: %w", err)
	}
	if st, ok := info.Sys().(*syscall.Stat_t); !info.Mode().IsRegular() || info.Mode().Perm()&0o077 != 0 || !ok || int(st.Uid) != os.Getuid() {
		return "", fmt.Errorf("reading the supervisor's token: %s is not a file of mode 0600 of this user: remove it", path)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxToken))
	if err != nil {
		return "", fmt.Errorf("reading the supervisor's token: %w", err)
	}
	token := strings.TrimSpace(string(text))
	if len(token) < 32 {
		return "", fmt.Errorf("reading the supervisor's token: %s is damaged: remove it", path)
	}
	return token, nil
}

// RequireToken passes on requests that carry token and answers the rest 401.
func RequireToken(token string, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		if !ok || subtle.ConstantTimeCompare([]byte(got), []byte(token)) != 1 {
			WriteError(w, http.StatusUnauthorized, &Error{Code: CodeAuth, Message: "the request lacks the supervisor's token"})
			return
		}
		next.ServeHTTP(w, r)
	})
}

// Listener accepts connections of this user's processes only.
type Listener struct{ *net.UnixListener }

// Accept returns the next connection of this user; others are closed.
func (l Listener) Accept() (net.Conn, error) {
	for {
		c, err := l.AcceptUnix()
		if err != nil {
			return nil, err
		}
		if err := checkPeer(c); err != nil {
			c.Close()
			continue
		}
		return c, nil
	}
}

// checkPeer fails unless the process at the other end runs as this user.
func checkPeer(c *net.UnixConn) error {
	uid, err := peerUID(c)
	if err != nil {
		return fmt.Errorf("asking who is at the other end of the socket: %w", err)
	}
	if uid != os.Getuid() {
		return fmt.Errorf("the process at the other end of the socket belongs to user %d", uid)
	}
	return nil
}

type peerKey struct{}
