package console

import (
	"fmt"
	"math"
	"strings"

	"github.com/scrimdb/scrim/catalog"
)

// loss is the mean squared error after an epoch.
type loss struct {
	Epoch int
	Value float64
}

// newLoss reads a line of the report, the i-th one. Its note says the epoch: of long trainings not all are kept.
func newLoss(i int, f catalog.Figure) loss {
	l := loss{Epoch: i + 1, Value: math.NaN()}
	if f.Note != nil {
		_, _ = fmt.Sscanf(*f.Note, "after epoch %d", &l.Epoch) // what does not parse counts from one
	}
	if f.Value != nil {
		l.Value = *f.Value
	}
	return l
}

// curve is a line chart of losses, in units of its SVG.
type curve struct {
	Losses        []loss
	First, Last   loss
	Points        string
	Dots          []dot // of a short curve, each with its figure
	Logarithmic   bool
	XTicks        []tick
	YTicks        []tick
	Width, Height float64
	Left, Right   float64
	Top, Bottom   float64
}

type (
	dot struct {
		X, Y float64
		loss
	}
	tick struct {
		At   float64
		Text string
	}
)

// maxDots is how many points are marked; more would be a smear.
const maxDots = 60

// manyTimes is how many times the lowest loss the highest may be to be drawn from zero up, where heights can be compared.
// Of what falls deeper only the first epochs could be seen.
const manyTimes = 20

// newCurve returns nil if there is nothing to draw.
func newCurve(losses []loss) *curve {
	c := &curve{Width: 720, Height: 260, Left: 64, Right: 704, Top: 16, Bottom: 212}
	for _, l := range losses {
		if !math.IsNaN(l.Value) && !math.IsInf(l.Value, 0) {
			c.Losses = append(c.Losses, l)
		}
	}
	if len(c.Losses) == 0 {
		return nil
	}
	c.First, c.Last = c.Losses[0], c.Losses[len(c.Losses)-1]
	from, to := float64(c.First.Epoch), float64(c.Last.Epoch)
	x := func(epoch float64) float64 { return c.Left + (c.Right-c.Left)*(epoch-from)/max(to-from, 1) }
	y := c.scale()

	xStep := max(math.Round(niceStep(to-from, 8)), 1)
	c.XTicks = append(c.XTicks, tick{x(from), fmt.Sprint(from)})
	for epoch := (math.Floor(from/xStep) + 1) * xStep; epoch <= to; epoch += xStep {
		if epoch-from >= xStep/2 { // or it would stand on the first
			c.XTicks = append(c.XTicks, tick{x(epoch), fmt.Sprint(epoch)})
		}
	}
	points := make([]string, len(c.Losses))
	for i, l := range c.Losses {
		d := dot{x(float64(l.Epoch)), y(l.Value), l}
		points[i] = fmt.Sprintf("%.1f,%.1f", d.X, d.Y)
		if len(c.Losses) <= maxDots {
			c.Dots = append(c.Dots, d)
		}
	}
	c.Points = strings.Join(points, " ")
	return c
}

// scale sets the ticks of the losses, and returns where a loss is.
func (c *curve) scale() (y func(float64) float64) {
	lowest, highest := c.First.Value, 0.0
	for _, l := range c.Losses {
		lowest, highest = min(lowest, l.Value), max(highest, l.Value)
	}
	between := func(value, bottom, top float64) float64 {
		return c.Bottom - (c.Bottom-c.Top)*(value-bottom)/(top-bottom)
	}
	if c.Logarithmic = lowest > 0 && highest > manyTimes*lowest; c.Logarithmic {
		bottom, top := math.Floor(math.Log10(lowest)), math.Ceil(math.Log10(highest))
		for power := bottom; power <= top; power += math.Ceil((top - bottom) / 8) {
			c.YTicks = append(c.YTicks, tick{between(power, bottom, top), fmt.Sprintf("%.4g", math.Pow(10, power))})
		}
		return func(value float64) float64 { return between(math.Log10(value), bottom, top) }
	}
	step := niceStep(highest, 5)
	top := max(math.Ceil(highest/step), 1)
	for i := 0.0; i <= top; i++ {
		c.YTicks = append(c.YTicks, tick{between(i, 0, top), fmt.Sprintf("%.4g", i*step)})
	}
	return func(value float64) float64 { return between(value/step, 0, top) }
}

// niceStep is 1, 2 or 5 times a power of ten, such that about n steps make the whole.
func niceStep(whole float64, n int) float64 {
	if whole <= 0 {
		return 1
	}
	rough := whole / float64(n)
	power := math.Pow(10, math.Floor(math.Log10(rough)))
	for _, m := range []float64{1, 2, 5} {
		if m*power >= rough {
			return m * power
		}
	}
	return 10 * power
}
