package console

import (
	"fmt"
	"math"
	"net/netip"
	"testing"
	"time"
)

// TestAttempts: ten logins in a minute fail, and however many networks somebody has, what is counted stays small.
func TestAttempts(t *testing.T) {
	var a attempts
	victim := origin("192.0.2.1:1000")
	for range maxFailures {
		if !a.begin(victim) {
			t.Fatal("held up too early")
		}
	}
	if a.begin(victim) {
		t.Error("the eleventh is tried")
	}
	a.forgive(victim)
	if !a.begin(victim) || a.begin(victim) {
		t.Error("what is taken back counts")
	}
	for i := range 5 * maxOrigins {
		if !a.begin(origin(fmt.Sprintf("[2001:db8:0:%x::1]:1", i))) {
			t.Fatal("a network that never failed is held up")
		}
	}
	if len(a.made) > maxOrigins {
		t.Errorf("%d are counted", len(a.made))
	}
	a.made[victim] = &attempt{failures: maxFailures, ends: time.Now().Add(-time.Second)}
	if !a.begin(victim) {
		t.Error("the minute does not end")
	}
}

// TestOrigin: a host is one origin, by whichever of its addresses it comes.
func TestOrigin(t *testing.T) {
	for remote, want := range map[string]string{
		"192.0.2.1:5": "192.0.2.1/32", "[::ffff:192.0.2.1]:5": "192.0.2.1/32", "[2001:db8:1:2:3:4:5:6]:5": "2001:db8:1:2::/64", "[fe80::1%eth0]:5": "fe80::/64",
	} {
		if got := origin(remote); got != netip.MustParsePrefix(want) {
			t.Errorf("%s: %s, want %s", remote, got, want)
		}
	}
}

// TestCurve: every point is within the axes, the higher the loss the higher up, on either scale.
func TestCurve(t *testing.T) {
	falling := func(n int, factor float64) (losses []loss) {
		for i := range n {
			losses = append(losses, loss{Epoch: i + 1, Value: math.Pow(factor, float64(i))})
		}
		return losses
	}
	for name, c := range map[string]struct {
		losses      []loss
		logarithmic bool
		lowest, top string
	}{
		"flat":        {falling(20, 0.99), false, "0", "1"},
		"deep":        {falling(20, 0.5), true, "1e-06", "1"},
		"one":         {falling(1, 1), false, "0", "1"},
		"nothing":     {[]loss{{1, 0}, {2, 0}}, false, "0", "1"},
		"down to 0":   {[]loss{{1, 1}, {2, 0}}, false, "0", "1"},
		"huge":        {[]loss{{1, 3e9}, {2, 2e9}}, false, "0", "3e+09"},
		"not numbers": {[]loss{{1, math.NaN()}, {2, 0.7}, {3, math.Inf(1)}, {4, 0.3}}, false, "0", "0.8"},
		"no start":    {[]loss{{300, 0.7}, {600, 0.3}}, false, "0", "0.8"},
	} {
		got := newCurve(c.losses)
		if got.Logarithmic != c.logarithmic || got.YTicks[0].Text != c.lowest || got.YTicks[len(got.YTicks)-1].Text != c.top {
			t.Errorf("%s: logarithmic %v, ticks %v", name, got.Logarithmic, got.YTicks)
		}
		if n := len(got.XTicks); n < 1 || n > 12 || len(got.YTicks) > 12 {
			t.Errorf("%s: %d and %d ticks", name, n, len(got.YTicks))
		}
		for i, d := range got.Dots {
			if d.X < got.Left || d.X > got.Right || d.Y < got.Top-0.01 || d.Y > got.Bottom+0.01 || math.IsNaN(d.X+d.Y) {
				t.Errorf("%s: %v is outside", name, d)
			}
			if i > 0 && (d.X <= got.Dots[i-1].X || (d.Y > got.Dots[i-1].Y) != (d.Value < got.Dots[i-1].Value)) {
				t.Errorf("%s: %v after %v", name, d, got.Dots[i-1])
			}
		}
	}
	if newCurve(nil) != nil || newCurve([]loss{{1, math.NaN()}}) != nil {
		t.Error("a curve of nothing")
	}
}
