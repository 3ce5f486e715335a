package udf

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	ort "github.com/yalue/onnxruntime_go"

	"github.com/scrimdb/scrim/udf/internal/onnx"
)

// The metadata of a model file that holds its test vector: numbers in
// hexadecimal floating point (exact, and readable in a hex dump), row by row. And
// the device that they were computed on, if it is not the CPU.
const (
	metaTestFeatures = "scrim.test.features"
	metaTestCode     = "scrim.test.code"
	metaDevice       = "scrim.device"
)

// AddTestVector makes an encoder that has no test vector yet one for a device: it
// runs it there on the given rows and returns the model file with device, rows and
// codes. The rows end up in the file as they are: never pass rows of a table.
func (rt *Runtime) AddTestVector(model []byte, d Device, inputs, dims int, rows []float64) ([]byte, error) {
	model = model[:len(model):len(model)]
	if d != "" && d != CPU {
		model = onnx.AppendMeta(model, metaDevice, string(d))
	}
	e, err := rt.openEncoder(EncoderSpec{Name: "new", Inputs: inputs, Dims: dims}, model)
	if err != nil {
		return nil, err
	}
	n := len(rows) / inputs
	codes := make([]float32, n*dims)
	if err := errors.Join(e.encode(codes, rows, n), e.Close()); err != nil {
		return nil, err
	}
	return appendVector(model, rows, codes), nil
}

func appendVector(model []byte, rows []float64, codes []float32) []byte {
	model = onnx.AppendMeta(model[:len(model):len(model)], metaTestFeatures, formatFloats(rows, 64))
	return onnx.AppendMeta(model, metaTestCode, formatFloats(codes, 32))
}

// modelDevice reads for which device a model was made.
func modelDevice(model []byte) (Device, error) {
	meta, err := ort.GetModelMetadataWithONNXData(model)
	if err != nil {
		return "", err
	}
	text, found, err := meta.LookupCustomMetadataMap(metaDevice)
	if err := errors.Join(err, meta.Destroy()); err != nil {
		return "", err
	}
	if !found {
		return CPU, nil
	}
	return Device(text), nil
}

// checkTestVector encodes the rows of the test vector as they are, and repeated until a chunk is full: a code depends
// neither on the batch nor on the place in it.
func (e *Encoder) checkTestVector() error {
	features, want, err := e.testVector()
	if err != nil {
		return fmt.Errorf("%w: %w", ErrTestVector, err)
	}
	rows := len(features) / e.spec.Inputs
	for _, times := range []int{1, max(1, chunkRows/max(1, rows))} {
		got := make([]float32, times*len(want))
		if err := e.encode(got, slices.Repeat(features, times), times*rows); err != nil {
			return fmt.Errorf("%w: %w", ErrTestVector, err)
		}
		for i := range got {
			if math.Float32bits(got[i]) != math.Float32bits(want[i%len(want)]) {
				return fmt.Errorf("%w: component %d of row %d differs; the model was made on another kind of processor or library",
					ErrTestVector, i%e.spec.Dims, i/e.spec.Dims)
			}
		}
	}
	return nil
}

func (e *Encoder) testVector() (features []float64, codes []float32, err error) {
	meta, err := e.session.GetModelMetadata()
	if err != nil {
		return nil, nil, err
	}
	featureText, _, err1 := meta.LookupCustomMetadataMap(metaTestFeatures)
	codeText, _, err2 := meta.LookupCustomMetadataMap(metaTestCode)
	if err := errors.Join(err1, err2, meta.Destroy()); err != nil {
		return nil, nil, err
	}
	features, err1 = parseFloats[float64](featureText, 64)
	codes, err2 = parseFloats[float32](codeText, 32)
	if err := errors.Join(err1, err2); err != nil {
		return nil, nil, err
	}
	if len(features) == 0 {
		return nil, nil, errors.New("the file holds none")
	}
	return features, codes, nil
}

func formatFloats[T float32 | float64](v []T, bitSize int) string {
	words := make([]string, len(v))
	for i, f := range v {
		words[i] = strconv.FormatFloat(float64(f), 'x', -1, bitSize)
	}
	return strings.Join(words, " ")
}

func parseFloats[T float32 | float64](text string, bitSize int) ([]T, error) {
	words := strings.Fields(text)
	v := make([]T, len(words))
	for i, word := range words {
		f, err := strconv.ParseFloat(word, bitSize)
		if err != nil {
			return nil, err
		}
		v[i] = T(f)
	}
	return v, nil
}
