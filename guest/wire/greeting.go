package wire

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"io"
)

// Key opens every greeting of one machine's ports. It is random, so that no
// bytes a user sends through a session are mistaken for a greeting; it is not a
// secret. The machine learns it from KeyParameter on its kernel command line.
type Key [16]byte

// KeyParameter is the kernel command line parameter that holds the Key, in hex.
const KeyParameter = "stack.key"

// NewKey returns a random key.
func NewKey() Key {
	var k Key
	rand.Read(k[:]) // never fails, see crypto/rand
	return k
}

// ParseKey reads the hexadecimal form that String writes.
func ParseKey(s string) (Key, error) {
	var k Key
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != len(k) {
		return k, fmt.Errorf("greeting key %q: want %d hexadecimal digits", s, 2*len(k))
	}
	copy(k[:], b)
	return k, nil
}

func (k Key) String() string { return hex.EncodeToString(k[:]) }

const nonceLen = 16

// Greet starts a session from the host: it writes a greeting, the key and a
// fresh nonce, and discards what it reads until that greeting comes back. The
// caller bounds the time by closing rw or by a deadline on it.
func Greet(rw io.ReadWriter, key Key) error {
	greeting := make([]byte, len(key)+nonceLen)
	copy(greeting, key[:])
	rand.Read(greeting[len(key):])
	if _, err := rw.Write(greeting); err != nil {
		return fmt.Errorf("greeting the machine: %w", err)
	}
	if err := discardUntil(rw, greeting); err != nil {
		return fmt.Errorf("waiting for the machine's greeting: %w", err)
	}
	return nil
}

// Answer waits in the machine for a greeting, discarding what comes before it,
// and echoes it. A machine in the middle of a session finds the next greeting
// with the reader of its own (see guest/agent).
func Answer(rw io.ReadWriter, key Key) error {
	if err := discardUntil(rw, key[:]); err != nil {
		return err
	}
	return echo(rw, key)
}

// echo reads the nonce behind a key and writes the whole greeting back.
func echo(rw io.ReadWriter, key Key) error {
	greeting := make([]byte, len(key)+nonceLen)
	copy(greeting, key[:])
	if _, err := io.ReadFull(rw, greeting[len(key):]); err != nil {
		return err
	}
	_, err := rw.Write(greeting)
	return err
}

// discardUntil reads byte by byte up to and including want, so that nothing of
// the session that follows is taken.
func discardUntil(r io.Reader, want []byte) error {
	window := make([]byte, 0, 4*len(want))
	var b [1]byte
	for {
		if _, err := io.ReadFull(r, b[:]); err != nil {
			return err
		}
		if len(window) == cap(window) {
			window = append(window[:0], window[len(window)-len(want)+1:]...)
		}
		window = append(window, b[0])
		if bytes.HasSuffix(window, want) {
			return nil
		}
	}
}

// MarshalText writes the hexadecimal form.
func (k Key) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// UnmarshalText reads what MarshalText wrote.
func (k *Key) UnmarshalText(b []byte) error {
	parsed, err := ParseKey(string(b))
	if err == nil {
		*k = parsed
	}
	return err
}
