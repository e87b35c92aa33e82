package image

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// Image is one image of the store, for one platform.
type Image struct {
	ID       string   `json:"id"`     // digest of the configuration, 64 hex digits
	Digest   string   `json:"digest"` // of the manifest, sha256:…
	Index    string   `json:"index,omitempty"`
	Tags     []string `json:"-"` // names that lead here, as docker shows them, sorted
	Platform Platform `json:"platform"`

	Created time.Time `json:"created,omitzero"` // by whoever built it
	Pulled  time.Time `json:"pulled"`           // into this store
	Size    int64     `json:"size"`             // bytes of its layers' data

	Config Config  `json:"config"`
	Layers []Layer `json:"layers"` // lowest first
}

// Layer is one layer of an image.
type Layer struct {
	DiffID string `json:"diff_id"` // digest of the tar stream, sha256:…
	Digest string `json:"digest"`  // of the blob in the registry
	Size   int64  `json:"size"`    // of that blob, bytes
	Blocks uint64 `json:"blocks"`  // of its data here, 4 KiB each
}

// Config is what an image says about running it.
type Config struct {
	Entrypoint   []string          `json:"entrypoint,omitempty"`
	Cmd          []string          `json:"cmd,omitempty"`
	Env          []string          `json:"env,omitempty"` // NAME=VALUE
	User         string            `json:"user,omitempty"`
	WorkingDir   string            `json:"working_dir,omitempty"`
	ExposedPorts []string          `json:"exposed_ports,omitempty"` // as 80/tcp, sorted
	Volumes      []string          `json:"volumes,omitempty"`       // paths, sorted
	StopSignal   string            `json:"stop_signal,omitempty"`
	Healthcheck  *Healthcheck      `json:"healthcheck,omitempty"`
	Labels       map[string]string `json:"labels,omitempty"`
	Shell        []string          `json:"shell,omitempty"`
}

// Healthcheck is an image's own. Zero fields take defaults.
type Healthcheck struct {
	Test          []string      `json:"test,omitempty"` // NONE, CMD ARGS… or CMD-SHELL COMMAND
	Interval      time.Duration `json:"interval,omitempty"`
	Timeout       time.Duration `json:"timeout,omitempty"`
	StartPeriod   time.Duration `json:"start_period,omitempty"`
	StartInterval time.Duration `json:"start_interval,omitempty"`
	Retries       int           `json:"retries,omitempty"`
}

const (
	maxConfig = 8 << 20 // bytes of an image's configuration
	maxLayers = 1000    // docker's own limit is 125, an overlay's 500
)

// parseConfig reads an image's configuration: what it says about running, its
// platform and the diff-ids of its layers.
func parseConfig(b []byte) (*Image, error) {
	if len(b) > maxConfig {
		return nil, fmt.Errorf("image configuration of %d bytes, at most %d are possible", len(b), maxConfig)
	}
	var f struct {
		OS           string     `json:"os"`
		Architecture string     `json:"architecture"`
		Variant      string     `json:"variant"`
		Created      *time.Time `json:"created"`
		Config       struct {
			User         string
			ExposedPorts map[string]struct{}
			Env          []string
			Entrypoint   []string
			Cmd          []string
			Volumes      map[string]struct{}
			WorkingDir   string
			Labels       map[string]string
			StopSignal   string
			Healthcheck  *struct {
				Test                                          []string
				Interval, Timeout, StartPeriod, StartInterval time.Duration
				Retries                                       int
			}
			Shell []string
		} `json:"config"`
		RootFS struct {
			Type    string   `json:"type"`
			DiffIDs []string `json:"diff_ids"`
		} `json:"rootfs"`
	}
	if err := json.Unmarshal(b, &f); err != nil {
		return nil, fmt.Errorf("image configuration: %w", err)
	}
	if f.OS == "" || f.Architecture == "" {
		return nil, errors.New("image configuration: names no platform: not a container image")
	}
	if f.RootFS.Type != "layers" && len(f.RootFS.DiffIDs) > 0 {
		return nil, fmt.Errorf("image configuration: root file system of type %q", f.RootFS.Type)
	}
	if len(f.RootFS.DiffIDs) > maxLayers {
		return nil, fmt.Errorf("image of %d layers, at most %d are possible", len(f.RootFS.DiffIDs), maxLayers)
	}
	c := f.Config
	img := &Image{
		Platform: Platform{f.OS, f.Architecture, f.Variant}.normal(),
		Config: Config{
			Entrypoint: c.Entrypoint, Cmd: c.Cmd, Env: c.Env, User: c.User, WorkingDir: c.WorkingDir,
			ExposedPorts: slices.Sorted(maps.Keys(c.ExposedPorts)), Volumes: slices.Sorted(maps.Keys(c.Volumes)),
			StopSignal: c.StopSignal, Labels: c.Labels, Shell: c.Shell,
		},
	}
	if f.Created != nil {
		img.Created = *f.Created
	}
	if h := c.Healthcheck; h != nil {
		img.Config.Healthcheck = &Healthcheck{h.Test, h.Interval, h.Timeout, h.StartPeriod, h.StartInterval, h.Retries}
		if h.Interval < 0 || h.Timeout < 0 || h.StartPeriod < 0 || h.StartInterval < 0 || h.Retries < 0 {
			return nil, errors.New("image configuration: health check with a negative number")
		}
	}
	for _, s := range slices.Concat(c.Entrypoint, c.Cmd, c.Env, c.Shell, img.Config.Volumes, []string{c.User, c.WorkingDir}) {
		if strings.Contains(s, "\x00") {
			return nil, errors.New("image configuration: a NUL byte in what a process would be given")
		}
	}
	for _, id := range f.RootFS.DiffIDs {
		if !isDigest(id) {
			return nil, fmt.Errorf("image configuration: layer %.80q: not a sha256 digest", id)
		}
		img.Layers = append(img.Layers, Layer{DiffID: id})
	}
	return img, nil
}
