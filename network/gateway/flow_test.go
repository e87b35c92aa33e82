package gateway

import (
	"net"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestIdle(t *testing.T) {
	for _, tc := range []struct {
		name     string
		answered bool
		touches  []time.Duration // after the start
		want     time.Duration   // the end
	}{
		{"silent from the start", false, nil, udpIdle},
		{"unanswered", false, []time.Duration{10 * time.Second, 25 * time.Second}, 25*time.Second + udpIdle},
		{"answered", true, []time.Duration{10 * time.Second}, 10*time.Second + udpIdleAnswered},
		{"kept alive", true, []time.Duration{100 * time.Second, 200 * time.Second}, 200*time.Second + udpIdleAnswered},
	} {
		synctest.Test(t, func(t *testing.T) {
			start := time.Now()
			ended := make(chan time.Duration, 1)
			i := newIdle(func() { ended <- time.Since(start) })
			if tc.answered {
				i.touch(true)
			}
			for _, at := range tc.touches {
				time.Sleep(at - time.Since(start))
				i.touch(tc.answered)
			}
			if got := <-ended; got != tc.want {
				t.Errorf("%s: ended after %s, want %s", tc.name, got, tc.want)
			}
			i.stop()
		})
	}
	synctest.Test(t, func(t *testing.T) {
		i := newIdle(func() { t.Error("ended after stop") })
		i.stop()
		time.Sleep(time.Hour)
	})
}

func TestFlows(t *testing.T) {
	var f flows
	var wg sync.WaitGroup
	a := netip.MustParseAddr("10.0.0.2")
	if _, ok := f.add(&wg, a, nil); ok {
		t.Error("a flow with a machine that is not there")
	}
	f.allow(a, net.HardwareAddr{2, 0, 0, 0, 0, 2})
	aborted := 0
	var dones []func()
	for range maxDialling {
		done, ok := f.dial(&wg, a, func() { aborted++ })
		if !ok {
			t.Fatal("refused")
		}
		dones = append(dones, done)
	}
	if _, ok := f.dial(&wg, a, nil); ok {
		t.Error("one machine dials more than its share")
	}
	done, ok := f.add(&wg, a, func() { aborted++ })
	if !ok {
		t.Error("dialling keeps a flow from being added")
	}
	dones[0]()
	if again, ok := f.dial(&wg, a, func() { aborted++ }); !ok {
		t.Error("no room after one has ended")
	} else {
		dones[0] = again
	}
	f.abort(a)
	if aborted != maxDialling+1 {
		t.Errorf("%d aborted", aborted)
	}
	for _, d := range append(dones, done) {
		d()
	}
	wg.Wait()
	f.allow(a, net.HardwareAddr{2, 0, 0, 0, 0, 2})
	f.close()
	if _, ok := f.add(&wg, a, nil); ok {
		t.Error("a flow after close")
	}
}
