package cmdline

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/stackvm/stack/guest/kernel"
)

func TestEmulated(t *testing.T) {
	for _, test := range []struct {
		khz  int
		want string
	}{
		{2596123, "no_timer_check lapic_timer_hz=1000000000 tsc_early_khz=2596123 lpj=25961230 tsc=reliable"},
		{0, "no_timer_check lapic_timer_hz=1000000000"},
	} {
		if diff := cmp.Diff(test.want, strings.Join(Emulated(test.khz), " ")); diff != "" {
			t.Errorf("Emulated(%d) (-want +got):\n%s", test.khz, diff)
		}
	}
}

// A kernel of another HZ would take lpj for another speed.
func TestHzIsTheKernels(t *testing.T) {
	text, err := kernel.Fragment("x86_64")
	if err != nil {
		t.Fatal(err)
	}
	config, err := kernel.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	if config[fmt.Sprintf("HZ_%d", guestHz)] != "y" {
		t.Errorf("the kernel's fragment does not ask for CONFIG_HZ_%d", guestHz)
	}
}

func TestFrequency(t *testing.T) {
	at := time.Unix(1000, 0)
	for _, test := range []struct {
		ticks uint64
		after time.Duration
		want  int
	}{
		{2_600_000_000, time.Second, 2_600_000},
		{52_000_000, 20 * time.Millisecond, 2_600_000},
		{26_000_013, 10 * time.Millisecond, 2_600_001},
		{0, time.Second, 0},
		{1, 0, 0},
		{1, -time.Second, 0},
		{math.MaxUint64, time.Second, 0}, // the counter went backwards by one
	} {
		a := reading{1000, at}
		if got := frequency(a, reading{a.tsc + test.ticks, at.Add(test.after)}); got != test.want {
			t.Errorf("%d ticks in %s: %d kHz, want %d", test.ticks, test.after, got, test.want)
		}
	}
}

// Two measurements of one counter agree, wherever this runs.
func TestHostTSCKHz(t *testing.T) {
	got := HostTSCKHz()
	if got == 0 {
		t.Skip("this host keeps no time by a TSC")
	}
	start := read()
	time.Sleep(2 * leastDistance) // what is measured is time passing
	again := frequency(start, read())
	if off := math.Abs(float64(got-again)) / float64(got); off > 1e-3 {
		t.Errorf("measured %d kHz, then %d kHz", got, again)
	}
	t.Logf("%d kHz", got)
}
