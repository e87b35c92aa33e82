package archive

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/stackvm/stack/guest/wire"
	"github.com/stackvm/stack/runtime/api"
)

// Replica is what copying asks of a supervisor.
type Replica interface {
	Stat(ctx context.Context, a api.Archive) (wire.ArchiveStat, error)
	Get(ctx context.Context, a api.Archive) (wire.ArchiveStat, io.ReadCloser, error)
	Put(ctx context.Context, a api.Archive, tar io.Reader) error
}

// FromReplica copies source out of the replica that at selects to target on the
// host; "-" writes the tar stream to out.
func FromReplica(ctx context.Context, r Replica, at api.Archive, source, target string, out io.Writer) error {
	at.Path = source
	st, stream, err := r.Get(ctx, at)
	if err != nil {
		return err
	}
	defer stream.Close()
	if target == "-" {
		_, err := io.Copy(out, stream)
		return err
	}
	dir, rename, err := hostTarget(target, source, st)
	if err != nil {
		return err
	}
	return extract(stream, dir, st.Name, rename)
}

// hostTarget decides where a copy lands: the directory to extract into and the
// name that the copied path gets there; empty copies a directory's content.
func hostTarget(target, source string, st wire.ArchiveStat) (dir, name string, err error) {
	isDir := fs.FileMode(st.Mode).IsDir()
	info, err := os.Stat(target)
	switch {
	case err == nil && info.IsDir():
		if isDir && contentOnly(source) {
			return target, "", nil
		}
		return target, st.Name, nil
	case err == nil && isDir:
		return "", "", fmt.Errorf("cannot copy a directory to the file %s", target)
	case err == nil:
		return filepath.Dir(target), filepath.Base(target), nil
	case !errors.Is(err, fs.ErrNotExist):
		return "", "", err
	case !isDir && strings.HasSuffix(target, "/"):
		return "", "", fmt.Errorf("no such directory: %s", target)
	case isDir:
		if err := os.Mkdir(target, 0o755); err != nil {
			return "", "", err
		}
		return target, "", nil
	}
	return filepath.Dir(target), filepath.Base(target), nil
}

// contentOnly reports whether a source names a directory's content: SRC/. .
func contentOnly(source string) bool { return source == "." || strings.HasSuffix(source, "/.") }

// extract writes a tar stream below dir. Entries start with the path component
// top, which becomes name.
func extract(r io.Reader, dir, top, name string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("reading the files from the container: %w", err)
		}
		rel := path.Clean(strings.TrimPrefix(h.Name, "/"))
		rest, ok := cutTop(rel, top)
		if !ok {
			return fmt.Errorf("the container sent %q, which was not asked for", h.Name)
		}
		at := path.Join(name, rest)
		if at == "" || at == "." {
			continue
		}
		if !filepath.IsLocal(at) {
			return fmt.Errorf("the container sent %q, which leads out of the destination", h.Name)
		}
		if err := extractEntry(root, at, h, tr); err != nil {
			return fmt.Errorf("writing %s: %w", filepath.Join(dir, at), err)
		}
	}
}

func cutTop(rel, top string) (rest string, ok bool) {
	if top == "/" || top == "." || top == "" {
		return rel, true
	}
	if rel == top {
		return "", true
	}
	return strings.CutPrefix(rel, top+"/")
}

func extractEntry(root *os.Root, at string, h *tar.Header, content io.Reader) error {
	mode := h.FileInfo().Mode()
	switch h.Typeflag {
	case tar.TypeDir:
		err := root.Mkdir(at, 0o755)
		if errors.Is(err, fs.ErrExist) {
			info, statErr := root.Lstat(at)
			if statErr == nil && info.IsDir() {
				err = nil
			}
		}
		if err != nil {
			return err
		}
		return root.Chmod(at, mode.Perm())
	case tar.TypeReg:
		// A link that stands there is replaced, not followed.
		if err := root.Remove(at); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		f, err := root.OpenFile(at, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		_, err = io.Copy(f, content)
		err = errors.Join(err, f.Chmod(mode.Perm()), f.Close())
		if err != nil {
			return err
		}
		return root.Chtimes(at, h.ModTime, h.ModTime)
	case tar.TypeSymlink:
		if err := root.Remove(at); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return root.Symlink(h.Linkname, at)
	}
	return fmt.Errorf("a %q entry cannot be made on the host", string(h.Typeflag))
}

// ToReplica copies source of the host into the replica that at selects; "-"
// reads a tar stream from in, which is extracted into target.
func ToReplica(ctx context.Context, r Replica, at api.Archive, source, target string, in io.Reader) error {
	if source == "-" {
		at.Path = target
		return r.Put(ctx, at, in)
	}
	info, err := os.Lstat(source)
	if err == nil && at.FollowLink {
		info, err = os.Stat(source)
	}
	if err != nil {
		return err
	}
	dir, name, err := replicaTarget(ctx, r, at, source, target, info.IsDir())
	if err != nil {
		return err
	}
	at.Path = dir
	pr, pw := io.Pipe()
	go func() { pw.CloseWithError(pack(pw, source, name, at.FollowLink, at.CopyUIDGID)) }()
	defer pr.Close() // ends the writer when the replica took no more
	return r.Put(ctx, at, pr)
}

// replicaTarget is hostTarget's twin on the other side.
func replicaTarget(ctx context.Context, r Replica, at api.Archive, source, target string, isDir bool) (dir, name string, err error) {
	base := filepath.Base(filepath.Clean(source))
	if abs, err := filepath.Abs(source); err == nil {
		base = filepath.Base(abs)
	}
	probe := at
	probe.Path, probe.FollowLink = target, true
	st, err := r.Stat(ctx, probe)
	var notFound *api.Error
	switch {
	case err == nil && fs.FileMode(st.Mode).IsDir():
		if isDir && contentOnly(source) {
			return target, "", nil
		}
		return target, base, nil
	case err == nil && isDir:
		return "", "", fmt.Errorf("cannot copy a directory to the file %s", target)
	case err == nil:
		return path.Dir(target), path.Base(target), nil
	case !errors.As(err, &notFound) || notFound.Code != api.CodeNotFound:
		return "", "", err
	case !isDir && strings.HasSuffix(target, "/"):
		return "", "", fmt.Errorf("no such directory in the container: %s", target)
	}
	return path.Dir(path.Clean(target)), path.Base(path.Clean(target)), nil
}

// pack writes source as a tar stream whose entries start with name.
func pack(w io.Writer, source, name string, follow, owners bool) error {
	tw := tar.NewWriter(w)
	root := source
	if follow {
		resolved, err := filepath.EvalSymlinks(source)
		if err != nil {
			return err
		}
		root = resolved
	}
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, p)
		if err != nil {
			return err
		}
		at := path.Join(name, filepath.ToSlash(rel))
		if at == "." {
			return nil
		}
		return packEntry(tw, p, at, d, owners)
	})
	if err != nil {
		return err
	}
	return tw.Close()
}

func packEntry(tw *tar.Writer, p, at string, d fs.DirEntry, owners bool) error {
	info, err := d.Info()
	if err != nil {
		return err
	}
	link := ""
	if info.Mode()&fs.ModeSymlink != 0 {
		if link, err = os.Readlink(p); err != nil {
			return err
		}
	}
	if info.Mode()&(fs.ModeSocket|fs.ModeNamedPipe|fs.ModeDevice) != 0 {
		return fmt.Errorf("%s is neither a file, a directory nor a link", p)
	}
	h, err := tar.FileInfoHeader(info, link)
	if err != nil {
		return err
	}
	h.Name = at
	if d.IsDir() {
		h.Name += "/"
	}
	if !owners {
		h.Uid, h.Gid, h.Uname, h.Gname = 0, 0, "", ""
	}
	if err := tw.WriteHeader(h); err != nil || !info.Mode().IsRegular() {
		return err
	}
	f, err := os.Open(p)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.CopyN(tw, f, info.Size())
	if errors.Is(err, io.EOF) {
		err = fmt.Errorf("%s shrank while it was copied", p)
	}
	return err
}
