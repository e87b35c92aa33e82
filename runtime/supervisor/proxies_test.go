package supervisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/stackvm/stack/runtime/api"
)

// A user's proxies are in the environment of containers as they are made, one-offs
// too, and nowhere else; another proxy is no reason to make them anew, as with
// docker.
func TestProxies(t *testing.T) {
	w := newWorld(t)
	c := w.serve()
	web := service("web", "server")
	web.Environment = map[string]string{"NO_PROXY": "mine"}
	p := project("shop", web)
	const secret = "s3cret"
	up := api.Apply{Command: api.Up, Name: "shop", Project: p, Proxies: api.Proxies{"HTTP_PROXY": "http://user:" + secret + "@proxy:3128", "NO_PROXY": "theirs"}}
	for _, text := range []string{fmt.Sprint(up), fmt.Sprintf("%+v", up), fmt.Sprintf("%#v", up.Proxies)} {
		if strings.Contains(text, secret) {
			t.Errorf("printed, it says %s", text)
		}
	}
	events, err := w.apply(up)
	if err != nil {
		t.Fatal(err)
	}
	check := func(name string, env []string) {
		t.Helper()
		if !slices.Contains(env, "HTTP_PROXY="+up.Proxies["HTTP_PROXY"]) || !slices.Contains(env, "NO_PROXY=mine") {
			t.Errorf("%s has %q", name, env)
		}
	}
	before := w.rec("shop-web-1")
	inside, _ := w.guest("shop-web-1").Container("shop-web-1")
	check("the service", inside.Env)
	for _, v := range []any{before, events} {
		if text, err := json.Marshal(v); err != nil || strings.Contains(string(text), secret) {
			t.Errorf("%v: %s", err, text)
		}
	}

	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var id string
	for e, err := range c.Run(ctx, api.Run{Project: p, Service: "web", Set: web, Name: "once", Proxies: up.Proxies}) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Replica != nil {
			id = e.Replica.ID
		}
	}
	once, err := w.s.opt.State.Resolved(id)
	if err != nil {
		t.Fatal(err)
	}
	check("the one-off", once.Container.Env)

	up.Proxies = api.Proxies{"HTTP_PROXY": "http://other:3128"}
	if _, err := w.apply(up); err != nil {
		t.Fatal(err)
	}
	if after := w.rec("shop-web-1"); after.ID != before.ID {
		t.Error("another proxy made the container anew")
	}
}

// With ca: host, what the host trusts is told to the agent as a container is made;
// other authorities later make none anew.
func TestHostCA(t *testing.T) {
	w := newWorld(t)
	up := api.Apply{Command: api.Up, Name: "shop", Project: project("shop", service("web", "server")), HostCA: true}
	if _, err := w.apply(up); err != nil {
		t.Fatal(err)
	}
	before := w.rec("shop-web-1")
	if c, _ := w.guest("shop-web-1").Container("shop-web-1"); string(c.CAs) != "authorities" {
		t.Errorf("it trusts %q", c.CAs)
	}
	up.HostCA = false
	if _, err := w.apply(up); err != nil {
		t.Fatal(err)
	}
	if after := w.rec("shop-web-1"); after.ID != before.ID {
		t.Error("the container was made anew")
	}
	w.s.opt.HostCAs = func() ([]byte, error) { return nil, errors.New("no bundle") }
	fails := api.Apply{Command: api.Up, Name: "more", Project: project("more", service("web", "server")), HostCA: true}
	if _, err := w.apply(fails); err == nil || !strings.Contains(err.Error(), `service "web": ca: host of config.yaml: no bundle`) {
		t.Errorf("without authorities: %v", err)
	}
}
