package docker

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
)

// Volume is a volume of an engine's.
type Volume struct {
	Name    string
	Driver  string
	Labels  map[string]string
	Options map[string]string
}

// Volume describes a volume.
func (e *Engine) Volume(ctx context.Context, name string) (Volume, error) {
	var v Volume
	err := e.get(ctx, "/volumes/"+url.PathEscape(name), nil, &v)
	return v, err
}

// Publisher names the container that has published a port of the host, "" if none
// has. proto is tcp or udp.
func (e *Engine) Publisher(ctx context.Context, port uint16, proto string) (string, error) {
	var containers []struct {
		Names []string
		Ports []struct {
			PublicPort uint16
			Type       string
		}
	}
	if err := e.get(ctx, "/containers/json", nil, &containers); err != nil {
		return "", err
	}
	for _, c := range containers {
		for _, p := range c.Ports {
			if port != 0 && p.PublicPort == port && p.Type == proto && len(c.Names) > 0 {
				return strings.TrimPrefix(c.Names[0], "/"), nil
			}
		}
	}
	return "", nil
}

// readAt is where a container made for it has the volume.
const readAt = "/volume"

// Archive writes all that is in a volume to w as a tar whose entries begin with
// "./". It reads through a container that has the volume, running or not, or else
// through one made of any image and never started, which is removed again.
// Sockets are left out, as docker does.
func (e *Engine) Archive(ctx context.Context, name string, w io.Writer) (err error) {
	id, path, err := e.holder(ctx, name)
	if err != nil {
		return err
	}
	if id == "" {
		if id, err = e.makeReader(ctx, name); err != nil {
			return err
		}
		path = readAt
		defer func() {
			gone := e.call(context.WithoutCancel(ctx), http.MethodDelete, "/containers/"+id, url.Values{"force": {"1"}}, nil, nil)
			err = errors.Join(err, gone)
		}()
	}
	r, err := e.request(ctx, http.MethodGet, "/containers/"+id+"/archive", url.Values{"path": {path + "/."}}, nil)
	if err != nil {
		return err
	}
	defer r.Close()
	if err := rebase(r, w); err != nil {
		return fmt.Errorf("reading docker's volume %s: %w", name, err)
	}
	return nil
}

// holder finds a container that mounts the whole of a volume.
func (e *Engine) holder(ctx context.Context, volume string) (id, path string, err error) {
	var containers []struct {
		ID     string `json:"Id"`
		Mounts []struct{ Type, Name, Source, Destination string }
	}
	query := filter("volume", volume)
	query.Set("all", "1")
	if err := e.get(ctx, "/containers/json", query, &containers); err != nil {
		return "", "", err
	}
	for _, c := range containers {
		for _, m := range c.Mounts {
			// One of a subpath has another source than the engine's own directory.
			if m.Type == "volume" && m.Name == volume && strings.HasSuffix(m.Source, "/_data") {
				return c.ID, m.Destination, nil
			}
		}
	}
	return "", "", nil
}

// makeReader makes a container that mounts a volume and is never started.
func (e *Engine) makeReader(ctx context.Context, volume string) (id string, err error) {
	var images []struct {
		ID string `json:"Id"`
	}
	if err := e.get(ctx, "/images/json", nil, &images); err != nil {
		return "", err
	}
	if len(images) == 0 {
		return "", fmt.Errorf("docker has no container that mounts volume %s, and no image to make one of: docker pull any image first", volume)
	}
	var made struct {
		ID string `json:"Id"`
	}
	err = e.call(ctx, http.MethodPost, "/containers/create", nil, map[string]any{
		"Image": images[0].ID, "Cmd": []string{"never-started"}, "Labels": map[string]string{"stack.import": volume},
		"HostConfig": map[string]any{"Binds": []string{volume + ":" + readAt + ":ro,nocopy"}, "NetworkMode": "none"},
	}, &made)
	return made.ID, err
}

// rebase copies a tar and names its entries from ".": docker's begin with the
// directory's own name where a path was asked for in another way.
func rebase(r io.Reader, w io.Writer) error {
	in, out := tar.NewReader(r), tar.NewWriter(w)
	top := ""
	name := func(full string) (string, bool) {
		full = strings.TrimPrefix(full, "./")
		if top == "." {
			return "./" + full, true
		}
		rest, ok := strings.CutPrefix(full, top)
		return "./" + strings.TrimPrefix(rest, "/"), ok && (rest == "" || rest[0] == '/')
	}
	for {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			return out.Close()
		}
		if err != nil {
			return err
		}
		if top == "" { // the first entry is the directory itself
			if top = strings.TrimSuffix(h.Name, "/"); top == "" || h.Typeflag != tar.TypeDir {
				return fmt.Errorf("its archive begins with %q, not with the volume's directory", h.Name)
			}
			h.Name = "./"
		} else {
			var ok bool
			if h.Name, ok = name(h.Name); !ok {
				return fmt.Errorf("its archive has an entry %q outside of the volume", h.Name)
			}
		}
		if h.Typeflag == tar.TypeLink {
			var ok bool
			if h.Linkname, ok = name(h.Linkname); !ok {
				return fmt.Errorf("its archive links %q outside of the volume", h.Name)
			}
		}
		if h.Typeflag == tar.TypeGNUSparse {
			h.Typeflag = tar.TypeReg
		}
		h.Format = tar.FormatPAX
		if err := out.WriteHeader(h); err != nil {
			return err
		}
		if _, err := io.Copy(out, in); err != nil {
			return err
		}
	}
}
