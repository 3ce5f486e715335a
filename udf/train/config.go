package train

import (
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/scrimdb/scrim/udf"
)

// Limits. They keep one training step below a second on one core.
const (
	MaxFeatures   = 62 // as many as the NULL mask of a seal has room for
	MaxLatentDims = 1024
	MaxEpochs     = 10_000
	MaxBatchSize  = 8192
	MaxLayers     = 4
	MaxLayerWidth = 1024
)

// SampleRows is the most rows that a Result has codes and errors of.
const SampleRows = 10_000

// Config says what to train. Zero values of the optional fields take the
// documented default.
type Config struct {
	Features   []string // names of the columns, in the order of a row's values
	LatentDims int      // components of a code, 1 to MaxLatentDims

	Epochs       int     // passes over the rows; default 20
	LearningRate float64 // of Adam; default 0.005
	Seed         int64   // of weights and shuffling

	// BatchSize is the rows of a step, never more than there are (Run warns). Default: 512, or
	// on small tables a 32nd of the rows (but at least 16), because an epoch of two
	// or three steps learns nothing.
	BatchSize int

	// Hidden is the widths of the encoder's hidden layers; the decoder mirrors
	// them. Default: one layer, 32 wide up to four features and 64 above. Empty but
	// not nil is a linear encoder.
	Hidden []int

	// Device computes the steps, and the codes of the finished encoder, which runs
	// there only. Default: udf.CPU.
	Device udf.Device
}

// Progress is reported after each epoch. Loss is the mean squared error of the
// reconstruction in units of the features' variance: 1 is no better than
// answering the mean, 0 is perfect.
type Progress struct {
	Epoch, Epochs int
	Loss          float64
	RowsPerSecond float64
	ETA           time.Duration
}

// Result is a trained encoder.
type Result struct {
	Model    []byte // the ONNX file
	SHA256   string // of Model, hexadecimal
	Inputs   int
	Dims     int
	Loss     float64   // of the last epoch
	Losses   []float64 // of each epoch
	Rows     int
	Nulls    []int  // missing values of each feature
	Constant []bool // features with one value in all rows
	Warnings []string

	// What the trained network does to a sample of the training rows, drawn with the
	// seed, in random order: the rows' numbers in Data, their codes (Dims for each
	// row), and for each feature the mean squared error of the reconstruction in
	// units of its variance (over the values that are not missing; NaN if all are).
	Sample []int32
	Codes  []float32
	Errors []float64
}

// Error is a fault of the configuration or the data that the user can mend. It
// names columns, never values.
type Error struct {
	Message string
	Hint    string
}

func (e *Error) Error() string { return e.Message + " (" + e.Hint + ")" }

func refuse(hint, format string, args ...any) error {
	return &Error{Message: fmt.Sprintf(format, args...), Hint: hint}
}

// Validate checks everything that does not depend on the rows.
func (c Config) Validate() error {
	if len(c.Features) == 0 {
		return refuse("name at least one column", "no features to train on")
	}
	if len(c.Features) > MaxFeatures {
		return refuse("train on fewer columns", "%d features, at most %d are possible", len(c.Features), MaxFeatures)
	}
	for i, name := range c.Features {
		if name == "" {
			return refuse("name every column", "feature %d has no name", i+1)
		}
		if slices.Contains(c.Features[:i], name) {
			return refuse("name each column once", "feature %q is listed twice", name)
		}
	}
	for _, check := range []struct {
		name       string
		value, max int
	}{
		{"latent dimensions", c.LatentDims, MaxLatentDims},
		{"epochs", c.withDefaults().Epochs, MaxEpochs},
		{"batch size", c.batch(math.MaxInt), MaxBatchSize},
	} {
		if check.value < 1 || check.value > check.max {
			return refuse(fmt.Sprintf("choose 1 to %d", check.max), "%s is %d", check.name, check.value)
		}
	}
	return c.validateNetwork()
}

func (c Config) validateNetwork() error {
	if len(c.Hidden) > MaxLayers {
		return refuse(fmt.Sprintf("at most %d are possible", MaxLayers), "%d hidden layers", len(c.Hidden))
	}
	for _, width := range c.Hidden {
		if width < 1 || width > MaxLayerWidth {
			return refuse(fmt.Sprintf("choose 1 to %d", MaxLayerWidth), "width of a hidden layer is %d", width)
		}
	}
	if rate := c.LearningRate; math.IsNaN(rate) || rate < 0 || rate > 1 {
		return refuse("choose a value between 0 and 1, like 0.005", "learning rate is %v", rate)
	}
	return nil
}

func (c Config) withDefaults() Config {
	if c.Epochs == 0 {
		c.Epochs = 20
	}
	if c.Device == "" {
		c.Device = udf.CPU
	}
	if c.LearningRate == 0 {
		c.LearningRate = 0.005
	}
	if c.Hidden == nil {
		c.Hidden = []int{64}
		if len(c.Features) <= 4 {
			c.Hidden = []int{32}
		}
	}
	return c
}

// batch returns the rows of a step when there are so many in all.
func (c Config) batch(rows int) int {
	size := c.BatchSize
	if size == 0 {
		size = min(max(rows/32, 16), 512)
	}
	return min(size, rows)
}
