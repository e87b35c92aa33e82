package fake

import (
	"archive/tar"
	"errors"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"sync"

	"github.com/stackvm/stack/guest/wire"
)

// files are what archives put into a container: regular files, directories and
// links by absolute path.
type files struct {
	mu sync.Mutex
	at map[string]file
}

type file struct {
	header  tar.Header
	content []byte
}

func (f *files) unpack(dir string, in *tar.Reader) error {
	for {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		content, err := io.ReadAll(in)
		if err != nil {
			return err
		}
		f.mu.Lock()
		if f.at == nil {
			f.at = map[string]file{}
		}
		f.at[path.Join("/", dir, h.Name)] = file{*h, content}
		f.mu.Unlock()
	}
}

func (f *files) stat(name string) (wire.ArchiveStat, error) {
	name = path.Join("/", name)
	f.mu.Lock()
	defer f.mu.Unlock()
	e, ok := f.at[name]
	if !ok {
		for p := range f.at {
			if name == "/" || strings.HasPrefix(p, name+"/") { // a directory nobody named
				return wire.ArchiveStat{Name: path.Base(name), Mode: uint32(fs.ModeDir | 0o755)}, nil
			}
		}
		return wire.ArchiveStat{}, fault(wire.CodeNotFound, "%s: no such file or directory", name)
	}
	info := e.header.FileInfo()
	return wire.ArchiveStat{
		Name: path.Base(name), Size: info.Size(), Mode: uint32(info.Mode()),
		ModTime: info.ModTime(), LinkTarget: e.header.Linkname,
	}, nil
}

// pack writes name, and what is below it, under its base name.
func (f *files) pack(name string, w io.Writer) error {
	name = path.Join("/", name)
	f.mu.Lock()
	var paths []string
	for p := range f.at {
		if p == name || name == "/" || strings.HasPrefix(p, name+"/") {
			paths = append(paths, p)
		}
	}
	slices.Sort(paths)
	entries := make([]file, len(paths))
	for i, p := range paths {
		entries[i] = f.at[p]
		entries[i].header.Name = path.Join(path.Base(name), strings.TrimPrefix(p, name))
	}
	f.mu.Unlock()
	out := tar.NewWriter(w)
	for _, e := range entries {
		if err := out.WriteHeader(&e.header); err != nil {
			return err
		}
		if _, err := out.Write(e.content); err != nil {
			return err
		}
	}
	return out.Close()
}
