package image

import (
	"fmt"
	goruntime "runtime"
	"strings"

	"github.com/distribution/reference"

	"github.com/stackvm/stack/runtime/image/registry"
)

// Ref is an image's name in full, as docker completes it: "nginx" is
// docker.io/library/nginx:latest. Of a name with tag and digest only the digest
// counts.
type Ref struct {
	Repo   registry.Repository
	Tag    string // or
	Digest string // sha256:…
}

// ParseRef completes a name as people write it.
func ParseRef(s string) (Ref, error) {
	named, err := reference.ParseDockerRef(s)
	if err != nil {
		return Ref{}, fmt.Errorf("image %q: not an image name: %w", s, err)
	}
	r := Ref{Repo: registry.Repository{Host: reference.Domain(named), Path: reference.Path(named)}}
	switch n := named.(type) {
	case reference.Digested:
		r.Digest = n.Digest().String()
		if !isDigest(r.Digest) {
			return Ref{}, fmt.Errorf("image %q: digests are sha256 here", s)
		}
	case reference.Tagged:
		r.Tag = n.Tag()
	}
	return r, nil
}

// String is the name in full.
func (r Ref) String() string {
	if r.Digest != "" {
		return r.Repo.String() + "@" + r.Digest
	}
	return r.Repo.String() + ":" + r.Tag
}

// Familiar is the name as docker shows it, without what it would complete.
func (r Ref) Familiar() string {
	s := strings.TrimPrefix(r.String(), "docker.io/")
	if s != r.String() {
		s = strings.TrimPrefix(s, "library/")
	}
	return s
}

// name is what the registry is asked for.
func (r Ref) name() string {
	if r.Digest != "" {
		return r.Digest
	}
	return r.Tag
}

func isDigest(s string) bool {
	h, ok := strings.CutPrefix(s, "sha256:")
	return ok && isHex(h) && len(h) == 64
}

func isHex(s string) bool { return strings.Trim(s, "0123456789abcdef") == "" }

// Platform is what an image was made for.
type Platform struct{ OS, Arch, Variant string }

// HostPlatform is what machines of this host run.
func HostPlatform() Platform {
	return Platform{OS: "linux", Arch: goruntime.GOARCH}.normal()
}

// ParsePlatform reads os/arch or os/arch/variant; "" is the host's.
func ParsePlatform(s string) (Platform, error) {
	if s == "" {
		return HostPlatform(), nil
	}
	parts := strings.Split(s, "/")
	if len(parts) < 2 || len(parts) > 3 || parts[0] == "" || parts[1] == "" {
		return Platform{}, fmt.Errorf("platform %q: must be like linux/amd64 or linux/arm/v7", s)
	}
	p := Platform{OS: parts[0], Arch: parts[1]}
	if len(parts) == 3 {
		p.Variant = parts[2]
	}
	return p.normal(), nil
}

func (p Platform) String() string {
	s := p.OS + "/" + p.Arch
	if p.Variant != "" {
		s += "/" + p.Variant
	}
	return s
}

// normal gives the spellings of one platform one form.
func (p Platform) normal() Platform {
	p.OS, p.Arch, p.Variant = strings.ToLower(p.OS), strings.ToLower(p.Arch), strings.ToLower(p.Variant)
	switch p.Arch {
	case "x86_64", "x86-64":
		p.Arch = "amd64"
	case "aarch64":
		p.Arch = "arm64"
	case "armhf":
		p.Arch = "arm"
	}
	switch {
	case p.Arch == "arm64" && p.Variant == "v8", p.Arch == "amd64" && p.Variant == "v1":
		p.Variant = ""
	case p.Arch == "arm" && p.Variant == "":
		p.Variant = "v7"
	}
	return p
}

// runs ranks an image's platform for a machine of platform p: the higher the
// better, 0 not at all. Older variants of an architecture run on newer ones.
func (p Platform) runs(image Platform) int {
	p, image = p.normal(), image.normal()
	switch {
	case p.OS != image.OS || p.Arch != image.Arch:
		return 0
	case p.Variant == image.Variant:
		return 100
	case image.Variant == "":
		return 1 // the architecture's base
	case p.Variant != "" && len(image.Variant) == len(p.Variant) && image.Variant < p.Variant:
		return 2 + int(image.Variant[len(image.Variant)-1]-'0')
	}
	return 0
}
