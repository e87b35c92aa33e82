package spec

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestRender covers what the corpus does not: the parts, and the flags.
func TestRender(t *testing.T) {
	dir := write(t, "compose.yaml", `name: shop
services:
  web:
    image: nginx:${TAG:-1}
    depends_on: [app]
    profiles: [front]
    volumes: [vb:/b]
  app:
    build: .
    env_file: app.env
    volumes: ["./src:/src", "va:/a"]
    networks: [back]
    gpus: all
    environment: {PRICE: "5$$", X: "${X:?needed}"}
  db: {image: postgres, profiles: [back, other]}
networks: {back: {}}
volumes: {va: {}, vb: {}, unused: {}}
`, "app.env", "FROM=file\n")
	const env = "TAG=2 X=x"
	tests := []struct {
		name string
		env  string
		opt  Options
		r    RenderOptions
		want string
		err  string
	}{
		{name: "services", r: RenderOptions{Part: Services}, opt: Options{Profiles: []string{"*"}}, want: "app\ndb\nweb\n"},
		{name: "services of no profile", r: RenderOptions{Part: Services}, want: "app\n"},
		{name: "networks", r: RenderOptions{Part: Networks}, want: "back\n"},
		{name: "volumes", r: RenderOptions{Part: Volumes}, want: "va\n"},
		{name: "all volumes", r: RenderOptions{Part: Volumes}, opt: Options{AllResources: true}, want: "unused\nva\nvb\n"},
		{name: "profiles", r: RenderOptions{Part: Profiles}, want: "back\nfront\nother\n"},
		{name: "images", r: RenderOptions{Part: Images}, opt: Options{Profiles: []string{"front"}}, want: "shop-app\nnginx:2\n"},
		{name: "images of a service", r: RenderOptions{Part: Images}, opt: Options{Services: []string{"db"}}, want: "postgres\n"},
		{name: "environment", r: RenderOptions{Part: Environment}, want: "COMPOSE_PROJECT_NAME=shop\nPWD=/\nTAG=2\nX=x\n"},
		{name: "variables", r: RenderOptions{Part: Variables}, env: "TAG=2", want: "NAME                REQUIRED            DEFAULT VALUE       ALTERNATE VALUE\nTAG                 false               1                   \nX                   true                                    \n"},
		{name: "services without interpolation", r: RenderOptions{Part: Services, NoInterpolate: true}, env: "TAG=2", want: "app\ndb\nweb\n"},
		{name: "a variable is needed", env: "TAG=2", err: "compose.yaml:14: error while interpolating services.app.environment.X: required variable X is missing a value: needed"},
		{name: "format", r: RenderOptions{Format: "toml"}, err: `unsupported format "toml"`},
		{name: "hash of nothing", r: RenderOptions{Part: Hashes, Hash: []string{"nope"}}, opt: Options{Services: []string{"db"}}, err: "no such service: nope"},
		{
			name: "model", want: `name: shop
services:
  app:
    environment:
      FROM: file
      PRICE: 5$$
      X: x
    gpus:
      - count: -1
    networks:
      back: null
    volumes:
      - type: bind
        source: $DIR/src
        target: /src
        bind: {}
      - type: volume
        source: va
        target: /a
        volume: {}
    build:
      context: $DIR
      dockerfile: Dockerfile
networks:
  back:
    name: shop_back
volumes:
  va:
    name: shop_va
`,
		},
		{
			name: "as it is written", r: RenderOptions{NoInterpolate: true, NoPathResolution: true, NoNormalize: true, NoEnvResolution: true},
			want: `image: nginx:${TAG:-1}`,
		},
		{
			name: "relative paths, env files", r: RenderOptions{NoPathResolution: true, NoEnvResolution: true},
			want: "    env_file:\n      - path: app.env\n",
		},
		{
			name: "digests", opt: Options{Services: []string{"db"}},
			r: RenderOptions{Digest: func(_ context.Context, ref string) (string, error) {
				if ref != "docker.io/library/postgres:latest" {
					return "", errors.New("asked for " + ref)
				}
				return "sha256:" + strings.Repeat("a", 64), nil
			}},
			want: "    image: docker.io/library/postgres:latest@sha256:aaaa",
		},
		{
			name: "a lock", opt: Options{Services: []string{"db"}},
			r: RenderOptions{Lock: true, Digest: func(context.Context, string) (string, error) {
				return "sha256:" + strings.Repeat("b", 64), nil
			}},
			want: "services:\n  db:\n    image: docker.io/library/postgres:latest@sha256:" + strings.Repeat("b", 64) + "\n",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			o := tt.opt
			o.Files, o.Dir = []string{filepath.Join(dir, "compose.yaml")}, dir
			if tt.env == "" {
				tt.env = env
			}
			o.Environ = append(strings.Fields(tt.env), "PWD=/")
			out, _, err := Render(context.Background(), o, tt.r)
			if tt.err != "" {
				if err == nil || err.Error() != tt.err {
					t.Fatalf("error %v, want %s", err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			got := strings.ReplaceAll(string(out), dir, "$DIR")
			if strings.Contains(tt.name, "model") || tt.r.Part != Model {
				if diff := cmp.Diff(tt.want, got); diff != "" {
					t.Errorf("(-want +got):\n%s", diff)
				}
			} else if !strings.Contains(got, tt.want) {
				t.Errorf("%q is not in\n%s", tt.want, got)
			}
		})
	}
}

// TestRenderHash: config --hash prints what a replica is labelled with.
func TestRenderHash(t *testing.T) {
	dir := write(t, "compose.yaml", "services: {a: {image: x}, b: {image: y, secrets: [s]}}\nsecrets: {s: {environment: S}}\n")
	o := Options{Files: []string{filepath.Join(dir, "compose.yaml")}, ProjectName: "p", Environ: []string{"S=1"}, HashKey: []byte("key")}
	p, _, err := Load(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	for _, names := range [][]string{nil, {"*"}, {"b", "a"}} {
		out, _, err := Render(context.Background(), o, RenderOptions{Part: Hashes, Hash: names})
		if err != nil {
			t.Fatal(err)
		}
		if want := "a " + p.Services["a"].Hash + "\nb " + p.Services["b"].Hash + "\n"; string(out) != want {
			t.Errorf("--hash %v prints %q, want %q", names, out, want)
		}
	}
}
