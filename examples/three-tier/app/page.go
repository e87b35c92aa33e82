package main

import (
	"context"
	"encoding/json"
	"fmt"
	"html/template"
	"io"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"time"
)

// stores is what the page asks of PostgreSQL and Redis.
type stores interface {
	Visit(context.Context) (Visit, error)
	Ping(context.Context) error
}

// page answers all requests.
type page struct {
	stores stores
	webURL string // of nginx, asked for its boot id; "" if there is none
	bootID string // of this kernel
	client *http.Client
}

// Answer is what a visit is told.
type Answer struct {
	Visit
	BootIDs  map[string]string `json:"boot_ids"` // by service
	Kernels  int               `json:"kernels"`  // different ones among BootIDs
	ServedIn string            `json:"served_in"`
}

func newPage(s stores, webURL string) http.Handler {
	p := &page{
		stores: s, webURL: webURL, client: &http.Client{Timeout: 2 * time.Second},
		bootID: "unknown",
	}
	if id, err := os.ReadFile("/proc/sys/kernel/random/boot_id"); err == nil {
		p.bootID = strings.TrimSpace(string(id))
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", p.html)
	mux.HandleFunc("GET /api", p.json)
	mux.HandleFunc("GET /healthz", p.health)
	return mux
}

func (p *page) health(w http.ResponseWriter, req *http.Request) {
	if err := p.stores.Ping(req.Context()); err != nil {
		slog.Warn("unhealthy", "error", err)
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	fmt.Fprintln(w, "ok")
}

func (p *page) html(w http.ResponseWriter, req *http.Request) {
	if a, ok := p.visit(w, req); ok {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		if err := layout.Execute(w, a); err != nil {
			slog.Warn("writing the page", "error", err)
		}
	}
}

func (p *page) json(w http.ResponseWriter, req *http.Request) {
	if a, ok := p.visit(w, req); ok {
		w.Header().Set("Content-Type", "application/json")
		if err := json.NewEncoder(w).Encode(a); err != nil {
			slog.Warn("writing the answer", "error", err)
		}
	}
}

// visit records a visit; ok is false if the answer has been an error.
func (p *page) visit(w http.ResponseWriter, req *http.Request) (a Answer, ok bool) {
	started := time.Now()
	visit, err := p.stores.Visit(req.Context())
	if err != nil {
		slog.Warn("visit", "error", err)
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return a, false
	}
	a = Answer{Visit: visit, BootIDs: map[string]string{
		"app": p.bootID, "db": visit.DBBootID, "cache": visit.CacheBootID, "web": p.askWeb(req.Context()),
	}}
	different := map[string]bool{}
	for _, id := range a.BootIDs {
		different[id] = id != ""
	}
	for _, known := range different {
		if known {
			a.Kernels++
		}
	}
	a.ServedIn = time.Since(started).Round(10 * time.Microsecond).String()
	return a, true
}

// askWeb returns the boot id of nginx, "" if it does not tell.
func (p *page) askWeb(ctx context.Context) string {
	if p.webURL == "" {
		return ""
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.webURL+"/boot-id", nil)
	if err != nil {
		return ""
	}
	resp, err := p.client.Do(req)
	if err != nil {
		return ""
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 100))
	if err != nil || resp.StatusCode != http.StatusOK {
		return ""
	}
	return strings.TrimSpace(string(text))
}

var layout = template.Must(template.New("page").Parse(`<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<title>three tiers, {{.Kernels}} kernels</title>
<style>
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 46rem; margin: 3rem auto; padding: 0 1rem }
table { border-collapse: collapse } td, th { text-align: left; padding: .2rem 1.5rem .2rem 0 } code { font-size: .9rem }
</style>
<h1>Visit {{.Rows}}</h1>
<p>PostgreSQL has {{.Rows}} rows of visits, Redis has counted {{.Counter}}. Served in {{.ServedIn}}.</p>
<h2>{{.Kernels}} kernels</h2>
<table>
<tr><th>service<th>boot id of its kernel
{{range $service, $id := .BootIDs}}<tr><td>{{$service}}<td><code>{{or $id "not known"}}</code>
{{end}}</table>
</html>
`))
