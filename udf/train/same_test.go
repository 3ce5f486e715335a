package train

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/scrimdb/scrim/udf"
	"github.com/scrimdb/scrim/udf/internal/udftest"
)

// shuffled is the same rows in another order.
func shuffled(d *Data, seed uint64) *Data {
	other := NewData(d.features)
	for _, i := range rand.New(rand.NewPCG(seed, 9)).Perm(d.Rows()) {
		if err := other.Append(d.Row(i)); err != nil {
			panic(err)
		}
	}
	return other
}

func TestSameRowsSameBytes(t *testing.T) {
	rt := udftest.Runtime(t)
	data := sample(1500, 3, 4)
	data.Row(2)[1] = math.Copysign(0, -1)
	want := run(t, rt, small(), data).SHA256
	for range 3 {
		if got := run(t, rt, small(), data).SHA256; got != want {
			t.Error("another run made another model")
		}
	}
	other := shuffled(data, 9)
	if got := run(t, rt, small(), other).SHA256; got != want {
		t.Error("another order of the rows made another model")
	}
	seed := small()
	seed.Seed++
	if run(t, rt, seed, data).SHA256 == want {
		t.Error("the seed makes no difference")
	}
	other.Row(0)[0]++
	if run(t, rt, small(), other).SHA256 == want {
		t.Error("a changed value makes no difference")
	}
}

// Rows that are hard to put in order: most are there many times, and they differ in what compares as equal or not at all:
// zeros of both signs, missing values of several bit patterns, the smallest numbers. All of the result is the same.
func TestCanonicalOrder(t *testing.T) {
	rt := udftest.Runtime(t)
	odd := []float64{
		0, math.Copysign(0, -1), math.NaN(), -math.NaN(), math.Float64frombits(0x7ff8_dead_beef_0001), math.Float64frombits(0xfff0_0000_0000_0001),
		5e-324, -5e-324, 1, math.Nextafter(1, 2),
	}
	r := rand.New(rand.NewPCG(3, 3))
	data := NewData(3)
	for range 1200 {
		row := []float64{odd[r.IntN(len(odd))], odd[r.IntN(len(odd))], float64(r.IntN(2))}
		if err := data.Append(row); err != nil {
			t.Fatal(err)
		}
	}
	want := run(t, rt, small(), data)
	for seed := range uint64(8) {
		other := shuffled(data, seed)
		got := run(t, rt, small(), other)
		if got.SHA256 != want.SHA256 {
			t.Errorf("order %d: another model", seed)
		}
		for i := range got.Sample { // by their values: which of several equal rows it is says nothing
			a, b := data.Row(int(want.Sample[i])), other.Row(int(got.Sample[i]))
			if slices.Compare(a, b) != 0 {
				t.Fatalf("order %d: row %d of the sample is %v, not %v", seed, i, b, a)
			}
		}
		got.Sample = want.Sample
		if !reflect.DeepEqual(got, want) {
			t.Errorf("order %d: another result", seed)
		}
	}
}

func TestSameBytesWhateverTheProcessors(t *testing.T) {
	rt := udftest.Runtime(t)
	data := sample(20_000, 16, 4)
	cfg := Config{Features: names(16), LatentDims: 8, Hidden: []int{64, 64}, Epochs: 2}
	want := run(t, rt, cfg, data).SHA256
	for _, procs := range []int{1, 4} {
		old := runtime.GOMAXPROCS(procs)
		got := run(t, rt, cfg, data).SHA256
		runtime.GOMAXPROCS(old)
		if got != want {
			t.Errorf("GOMAXPROCS %d: another model", procs)
		}
	}
}

func TestSameBytesInEveryProcess(t *testing.T) {
	const child = "SCRIM_TEST_TRAIN_CHILD"
	hash := func() string {
		rt := udftest.Runtime(t)
		wide := Config{Features: names(16), LatentDims: 8, Hidden: []int{64, 64}, Epochs: 2}
		return run(t, rt, small(), sample(1500, 3, 4)).SHA256 + "+" + run(t, rt, wide, sample(20_000, 16, 4)).SHA256
	}
	if os.Getenv(child) != "" {
		fmt.Printf("hash=%s\n", hash())
		return
	}
	want := hash()
	for _, procs := range []string{"1", "4"} {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
		cmd.Env = append(os.Environ(), child+"=1", "GOMAXPROCS="+procs, "OMP_NUM_THREADS="+procs)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		if !strings.Contains(string(out), "hash="+want+"\n") {
			t.Errorf("GOMAXPROCS=%s: no hash %s in\n%s", procs, want, out)
		}
	}
}

// On a machine with a GPU a training there is the same each time, and its encoder does not depend on the batch. Elsewhere it is
// refused, and with the same words before the rows are looked at.
func TestCUDA(t *testing.T) {
	rt := udftest.Runtime(t)
	cfg, data := small(), sample(3000, 3, 1)
	cfg.Device = udf.CUDA
	if missing := rt.Device(udf.CUDA); missing != nil {
		for _, data := range []*Data{data, NewData(3)} {
			_, err := Run(context.Background(), rt, cfg, data, nil)
			var device *udf.DeviceError
			if !errors.As(err, &device) || device.Error() != missing.Error() {
				t.Errorf("got %v, want %v", err, missing)
			}
		}
		return
	}
	res := run(t, rt, cfg, data)
	if again := run(t, rt, cfg, shuffled(data, 1)); again.SHA256 != res.SHA256 {
		t.Error("another run made another model")
	}
	e := load(t, rt, res)
	if e.Device() != udf.CUDA {
		t.Errorf("device %q", e.Device())
	}
	var rows []float64
	for _, row := range res.Sample {
		rows = append(rows, data.Row(int(row))...)
	}
	codes := make([]float32, len(res.Codes))
	if err := e.Encode(codes, rows); err != nil {
		t.Fatal(err)
	}
	for i := range codes {
		if math.Abs(float64(codes[i]-res.Codes[i])) > 1e-5 {
			t.Fatalf("component %d: the encoder says %v, training said %v", i, codes[i], res.Codes[i])
		}
	}
}

// untested makes an encoder with random weights and no test vector, and returns the weights and the vector's rows too.
func untested(t *testing.T, seed int64) (model []byte, params []float32, rows []float64) {
	t.Helper()
	prep, err := prepare(context.Background(), names(3), sample(500, 3, 3))
	if err != nil {
		t.Fatal(err)
	}
	net, random := newNetwork(3, []int{8}, 2), newGenerator(seed)
	params = make([]float32, net.params())
	for i := range params {
		params[i] = float32(random.uniform(1))
	}
	if model, err = export(net, names(3), prep, params); err != nil {
		t.Fatal(err)
	}
	return model, params[:3*8+8+8*2+2], testInputs(prep, random)
}

// try loads a model as what its registered hash is of.
func try(t *testing.T, rt *udf.Runtime, model, registered []byte) error {
	t.Helper()
	path := filepath.Join(t.TempDir(), "1")
	if err := os.WriteFile(path, model, 0o600); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(registered)
	e, err := rt.LoadEncoder(udf.EncoderSpec{Name: "tried", Version: 1, Path: path, SHA256: hex.EncodeToString(sum[:]), Inputs: 3, Dims: 2})
	if err == nil {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	}
	return err
}

// What the test vector is for: each weight counts, also where the hash is right. The flipped bits are those that
// change a weight by a thousandth of itself or more; less can be lost in rounding.
func TestVectorFindsFlippedBits(t *testing.T) {
	rt := udftest.Runtime(t)
	model, params, rows := untested(t, 1)
	good, err := rt.AddTestVector(model, udf.CPU, 3, 2, rows)
	if err != nil {
		t.Fatal(err)
	}
	if err := try(t, rt, good, good); err != nil {
		t.Fatal(err)
	}
	for i, p := range params {
		pattern := binary.LittleEndian.AppendUint32(nil, math.Float32bits(p))
		at := bytes.Index(good, pattern)
		if at < 0 || bytes.Count(good, pattern) != 1 {
			t.Fatalf("weight %d is not in the file once", i)
		}
		for bit := 13 + i%3; bit < 32; bit += 3 {
			bad := bytes.Clone(good)
			bad[at+bit/8] ^= 1 << (bit % 8)
			if err := try(t, rt, bad, bad); !errors.Is(err, udf.ErrTestVector) {
				t.Errorf("bit %d of weight %d: %v", bit, i, err)
			}
			if err := try(t, rt, bad, good); !errors.Is(err, udf.ErrModelHash) {
				t.Errorf("bit %d of weight %d, with the hash of what it was: %v", bit, i, err)
			}
		}
	}
}

// Another model of the same shape, under this one's hash and with this one's vector; and a bit of every seventh byte of the file.
func TestOtherModel(t *testing.T) {
	rt := udftest.Runtime(t)
	model, _, rows := untested(t, 1)
	good, err := rt.AddTestVector(model, udf.CPU, 3, 2, rows)
	if err != nil {
		t.Fatal(err)
	}
	otherModel, _, _ := untested(t, 2)
	other, err := rt.AddTestVector(otherModel, udf.CPU, 3, 2, rows)
	if err != nil {
		t.Fatal(err)
	}
	if err := try(t, rt, other, good); !errors.Is(err, udf.ErrModelHash) {
		t.Errorf("another model: %v", err)
	}
	mixed := append(bytes.Clone(otherModel), good[len(model):]...)
	if err := try(t, rt, mixed, mixed); !errors.Is(err, udf.ErrTestVector) {
		t.Errorf("another model with the vector of this one: %v", err)
	}
	for at := 0; at < len(good); at += 7 {
		bad := bytes.Clone(good)
		bad[at] ^= 1 << (at / 7 % 8)
		if err := try(t, rt, bad, good); !errors.Is(err, udf.ErrModelHash) {
			t.Fatalf("a bit of byte %d: %v", at, err)
		}
	}
}
