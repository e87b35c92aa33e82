package render

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var start = time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)

func TestLayout(t *testing.T) {
	m := newModel("up")
	at := func(ms int) time.Time { return start.Add(time.Duration(ms) * time.Millisecond) }
	m.apply(Event{ID: "Network shop_default", Status: Working, Text: "Creating"}, at(0))
	m.apply(Event{ID: "Network shop_default", Status: Done, Text: "Created"}, at(100))
	m.apply(Event{ID: "Container shop-db-1", Status: Working, Text: "Starting"}, at(100))
	m.apply(Event{ID: "Container shop-web-1", Status: Error, Text: "Error", Details: "port 80"}, at(200))
	want := []string{
		"[+] up 2/3",
		" ✔ Network shop_default Created       0.1s",
		" ⠙ Container shop-db-1 Starting       0.1s",
		" ✘ Container shop-web-1 Error   port… 0.0s",
	}
	if diff := cmp.Diff(want, layout(m, at(200), 42, 24)); diff != "" {
		t.Errorf("layout (-want +got):\n%s", diff)
	}
}

func TestLayoutKeepsWhatHappensNow(t *testing.T) {
	m := newModel("up")
	for i := range 10 {
		st := Done
		if i == 9 {
			st = Working
		}
		m.apply(Event{ID: strings.Repeat("x", i+1), Status: st, Text: "t"}, start)
	}
	lines := layout(m, start, 40, 6)
	if len(lines) > 6 {
		t.Fatalf("%d lines on a screen of 6", len(lines))
	}
	all := strings.Join(lines, "\n")
	if !strings.Contains(all, "xxxxxxxxxx t") || !strings.Contains(all, "… 7 more") {
		t.Errorf("the working object or the count of the rest is missing:\n%s", all)
	}
}

func TestLayoutPullBar(t *testing.T) {
	m := newModel("pull")
	m.apply(Event{ID: "a", Parent: "Image x", Status: Working, Current: 6_000_000, Total: 12_000_000}, start)
	m.apply(Event{ID: "b", Parent: "Image x", Status: Done, Current: 18_000_000, Total: 18_000_000}, start)
	want := " ⠋ Image x [⣤⣿] 24MB / 30MB Pulling"
	if got := layout(m, start, 60, 10)[1]; !strings.HasPrefix(got, want) {
		t.Errorf("got  %q\nwant %q…", got, want)
	}
}

func TestPlain(t *testing.T) {
	var out bytes.Buffer
	p := NewProgress(ModePlain, &out, "up", false, nil)
	p.On(Event{ID: "Container p-web-1", Status: Working, Text: "Creating"})
	p.On(Event{ID: "Container p-web-1", Status: Done, Text: "Created"})
	p.On(Event{ID: "l", Parent: "Image x", Text: "Downloading", Current: 1, Total: 9})
	p.On(Event{ID: "l", Parent: "Image x", Text: "Downloading", Current: 2, Total: 9})
	want := " Container p-web-1 Creating \n Container p-web-1 Created \n l Downloading \n"
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("plain (-want +got):\n%s", diff)
	}
}

func TestJSON(t *testing.T) {
	var out bytes.Buffer
	p := NewProgress(ModeJSON, &out, "up", false, nil)
	p.On(Event{ID: "l", Parent: "Image x", Status: Working, Text: "Downloading", Current: 1, Total: 4})
	p.Fail(errors.New("no"))
	want := `{"id":"l","parent_id":"Image x","status":"Working","text":"Downloading","current":1,"total":4,"percent":25}
{"error":true,"message":"no"}
`
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("json (-want +got):\n%s", diff)
	}
}

func TestScreenLeavesCursorShown(t *testing.T) {
	var out bytes.Buffer
	p := NewProgress(ModeTTY, &out, "up", false, func() (int, int) { return 80, 24 })
	p.On(Event{ID: "a", Status: Done, Text: "b"})
	p.Close()
	s := out.String()
	if !strings.Contains(s, "✔") || strings.LastIndex(s, "\x1b[?25h") < strings.LastIndex(s, "\x1b[?25l") {
		t.Errorf("last frame missing, or cursor left hidden: %q", s)
	}
}

func TestLogPrinter(t *testing.T) {
	var out, errOut bytes.Buffer
	p := NewLogPrinter(&out, &errOut, []string{"db-1", "frontend-1"})
	p.Print("db-1", false, "", []byte("ready"))
	p.Print("frontend-1", true, "2030-01-01T00:00:00Z", []byte("a\nb"))
	p.Note("db-1", "exited with code 0")
	if diff := cmp.Diff("db-1        | ready\ndb-1 exited with code 0\n", out.String()); diff != "" {
		t.Errorf("stdout (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff("frontend-1  | 2030-01-01T00:00:00Z a\nfrontend-1  | 2030-01-01T00:00:00Z b\n", errOut.String()); diff != "" {
		t.Errorf("stderr (-want +got):\n%s", diff)
	}
}

func TestTable(t *testing.T) {
	var out bytes.Buffer
	if err := Table(&out, []string{"NAME", "STATUS"}, [][]string{{"shop-web-1", "a\tb"}}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff("NAME         STATUS\nshop-web-1   a b\n", out.String()); diff != "" {
		t.Errorf("table (-want +got):\n%s", diff)
	}
}
