package state

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// HashKeyBytes is the length of the key, that of the digest it keys.
const HashKeyBytes = 32

const hashKeyFile = "hash.key"

// HashKey returns the random key of this home's service hashes, making it at
// the first call: hashes of secrets and environments, which are stored and
// shown, tell nothing without it. Any process of the user may call it.
func (s *Store) HashKey() ([]byte, error) {
	key, err := s.FindHashKey()
	if !errors.Is(err, fs.ErrNotExist) {
		return key, err
	}
	if err := s.makeHashKey(filepath.Join(s.dir, hashKeyFile)); err != nil {
		return nil, fmt.Errorf("making the key of service hashes: %w", err)
	}
	return s.FindHashKey()
}

// FindHashKey is HashKey for what must change nothing: fs.ErrNotExist where
// nothing was ever hashed.
func (s *Store) FindHashKey() ([]byte, error) {
	path := filepath.Join(s.dir, hashKeyFile)
	key, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading the key of service hashes: %w", err)
	}
	if len(key) != HashKeyBytes {
		return nil, fmt.Errorf("reading the key of service hashes: %s is damaged: remove it; the next up then recreates containers", path)
	}
	return key, nil
}

// makeHashKey writes a key under a name of its own and links it into place, so
// that of two processes one wins and both read the same, whole key.
func (s *Store) makeHashKey(path string) error {
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(s.dir, ".hash-*") // 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	key := make([]byte, HashKeyBytes)
	rand.Read(key) // never fails, see crypto/rand
	_, err = f.Write(key)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Link(f.Name(), path); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return syncDir(s.dir)
}
