package proxy

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/scrimdb/scrim/catalog"
	"github.com/scrimdb/scrim/rewrite"
)

// seal builds what scrim_runtime.seal gives, by its documented layout and not by the opener's code.
func seal(key []byte, slot uint32, inputs []float64, nulls uint64) []byte {
	var b bytes.Buffer
	put := func(v any) { _ = binary.Write(&b, binary.BigEndian, v) }
	put(uint32(5 + len(inputs)))
	put([]uint32{26, 4, 16999})
	put([]uint32{27, 6})
	put([]uint16{0, 12, 3}) // ctid (12,3)
	put([]uint32{28, 4, 777})
	put([]uint32{23, 4, slot})
	for _, v := range inputs {
		put([]uint32{701, 8})
		put(math.Float64bits(v))
	}
	put([]uint32{20, 8})
	put(nulls)
	pad := aes.BlockSize - b.Len()%aes.BlockSize
	b.Write(bytes.Repeat([]byte{byte(pad)}, pad))
	return encrypt(key, b.Bytes())
}

func encrypt(key, plain []byte) []byte {
	block, _ := aes.NewCipher(key)
	out := make([]byte, len(plain))
	cipher.NewCBCEncrypter(block, make([]byte, aes.BlockSize)).CryptBlocks(out, plain)
	return out
}

func testPolicy() *catalog.Policy {
	of := &catalog.Protection{Keys: [][16]byte{{1, 2, 3}}, View: catalog.View{Identity: catalog.Place}}
	of.Policies = []*catalog.Policy{{ID: 9, Inputs: 3, Protection: of}}
	return of.Policies[0]
}

// TestOpen: a seal opens to its inputs, a NULL to NaN.
func TestOpen(t *testing.T) {
	p := testPolicy()
	o := newOpener(p)
	for range 3 { // an opener is used for row after row
		got, err := o.open(nil, seal(p.Protection.Keys[0][:], 9, []float64{1.5, 0, -7}, 2))
		if err != nil || got[0] != 1.5 || !math.IsNaN(got[1]) || got[2] != -7 {
			t.Fatal(got, err)
		}
	}
}

// TestOpenRefuses: every bit of a sealed value matters, and so do key, slot, length and what stands in a NULL's place.
func TestOpenRefuses(t *testing.T) {
	p := testPolicy()
	o := newOpener(p)
	good := seal(p.Protection.Keys[0][:], 9, []float64{1.5, 0, -7}, 2)
	block, _ := aes.NewCipher(p.Protection.Keys[0][:])
	plain := make([]byte, len(good))
	cipher.NewCBCDecrypter(block, make([]byte, 16)).CryptBlocks(plain, good)
	values := map[int]bool{} // bytes that may be anything: filenode, ctid, xmin, the inputs that are not NULL, the null mask
	for _, r := range [][2]int{{12, 16}, {24, 30}, {38, 42}, {62, 70}, {94, 102}, {110, 118}} {
		for i := r[0]; i < r[1]; i++ {
			values[i] = true
		}
	}
	for i := range plain {
		for bit := range 8 {
			changed := bytes.Clone(plain)
			changed[i] ^= 1 << bit
			if _, err := o.open(nil, encrypt(p.Protection.Keys[0][:], changed)); err == nil && !values[i] {
				t.Errorf("byte %d bit %d may be changed", i, bit)
			}
		}
	}
	for name, sealed := range map[string][]byte{
		"empty": {}, "a block less": good[:len(good)-16], "a block more": append(bytes.Clone(good), good[:16]...), "a byte less": good[:len(good)-1],
		"another slot":               seal(p.Protection.Keys[0][:], 8, []float64{1, 2, 3}, 0),
		"another key":                seal([]byte("0123456789abcdef"), 9, []float64{1, 2, 3}, 0),
		"fewer inputs":               seal(p.Protection.Keys[0][:], 9, []float64{1, 2}, 0),
		"more inputs":                seal(p.Protection.Keys[0][:], 9, []float64{1, 2, 3, 4}, 0),
		"NULL with a value":          seal(p.Protection.Keys[0][:], 9, []float64{1, 2, 3}, 1),
		"NULL of no input":           seal(p.Protection.Keys[0][:], 9, []float64{1, 2, 3}, 8),
		"blocks that changed places": append(append(bytes.Clone(good[:16]), good[32:48]...), append(bytes.Clone(good[16:32]), good[48:]...)...),
	} {
		if _, err := o.open(nil, sealed); err != errSeal { //nolint:errorlint // it must be this very one, and nothing around it
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestOpenEveryByte: a seal of which one bit was changed, that is longer or shorter by any number of bytes, or spliced from two
// good ones of the same policy or with another owner's at any place, does not open, and says the same whatever it is.
func TestOpenEveryByte(t *testing.T) {
	p := testPolicy()
	o := newOpener(p)
	one, two := seal(p.Protection.Keys[0][:], 9, []float64{1.5, 0, -7}, 2), seal(p.Protection.Keys[0][:], 9, []float64{3, 4, 5}, 0)
	two = encryptOther(p.Protection.Keys[0][:], two)
	theirs := seal([]byte("another's key..."), 9, []float64{1.5, 0, -7}, 2)
	refuses := func(what string, sealed []byte) {
		t.Helper()
		dst := []float64{42}
		got, err := o.open(dst, sealed)
		if err != errSeal || len(got) != 1 || got[0] != 42 { //nolint:errorlint // it must be this very one, and nothing around it
			t.Errorf("%s: %v, %v", what, got, err)
		}
	}
	for i := range one {
		for bit := range 8 {
			changed := bytes.Clone(one)
			changed[i] ^= 1 << bit
			refuses(fmt.Sprintf("byte %d bit %d", i, bit), changed)
		}
		refuses(fmt.Sprintf("the first %d bytes", i), one[:i])
		refuses(fmt.Sprintf("all but the first %d bytes", i+1), one[i+1:])
		refuses(fmt.Sprintf("%d bytes more", i+1), append(bytes.Clone(one), two[:i+1]...))
		refuses(fmt.Sprintf("%d bytes before", i+1), append(bytes.Clone(two[:i+1]), one...))
	}
	for i := 1; i < len(one); i++ {
		refuses(fmt.Sprintf("two from byte %d on", i), append(bytes.Clone(one[:i]), two[i:]...))
		refuses(fmt.Sprintf("one from byte %d on", i), append(bytes.Clone(two[:i]), one[i:]...))
		refuses(fmt.Sprintf("another owner's from byte %d on", i), append(bytes.Clone(one[:i]), theirs[i:]...))
		refuses(fmt.Sprintf("another owner's up to byte %d", i), append(bytes.Clone(theirs[:i]), one[i:]...))
	}
	for a := 0; a < len(one); a += aes.BlockSize {
		for b := a + aes.BlockSize; b < len(one); b += aes.BlockSize {
			changed := bytes.Clone(one)
			copy(changed[a:], one[b:b+aes.BlockSize])
			copy(changed[b:], one[a:a+aes.BlockSize])
			refuses(fmt.Sprintf("blocks at %d and %d exchanged", a, b), changed)
			copy(changed[b:], two[b:b+aes.BlockSize])
			refuses(fmt.Sprintf("the block at %d twice, and another's", b), changed)
		}
	}
	for _, good := range [][]byte{one, two} {
		if _, err := o.open(nil, good); err != nil {
			t.Error(err)
		}
	}
}

// encryptOther seals what a seal holds once more, for another row: in another file of the table.
func encryptOther(key, sealed []byte) []byte {
	plain := make([]byte, len(sealed))
	block, _ := aes.NewCipher(key)
	cipher.NewCBCDecrypter(block, make([]byte, aes.BlockSize)).CryptBlocks(plain, sealed)
	plain[15]++
	return encrypt(key, plain)
}

func FuzzOpen(f *testing.F) {
	p := testPolicy()
	f.Add(seal(p.Protection.Keys[0][:], 9, []float64{1, 2, 3}, 0))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, sealed []byte) {
		o := newOpener(p)
		if values, err := o.open(nil, sealed); err == nil && len(values) != 3 {
			t.Errorf("%d values", len(values))
		}
	})
}

// FuzzStartupParameters: any startup packet gives parameters or an error that can be shown.
func FuzzStartupParameters(f *testing.F) {
	f.Add([]byte("\x00\x03\x00\x00user\x00analyst\x00database\x00demo\x00\x00"))
	f.Add([]byte("\x00\x03\x00\x02user\x00a\x00_pq_.x\x001\x00\x00"))
	f.Add([]byte("\x00\x03\x00\x00user\x00\x00"))
	f.Fuzz(func(t *testing.T, packet []byte) {
		params, err := startupParameters(packet)
		if err != nil {
			if e := clientError(err, ""); e.Code != codeProtocolViolation || !e.Fatal {
				t.Error(e)
			}
			return
		}
		var m pgproto3.StartupMessage
		if m.Decode(packet) != nil {
			return // pgproto3 is stricter about versions
		}
		if m.Parameters["user"] != params["user"] || m.Parameters["database"] != params["database"] {
			t.Errorf("%q: %v, pgproto3 reads %v", packet, params, m.Parameters)
		}
	})
}

// FuzzGreet: whatever a client begins with, the front door answers or gives up; it neither hangs nor panics.
func FuzzGreet(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x08\x04\xd2\x16\x2f\x00\x00\x00\x17\x00\x03\x00\x00user\x00analyst\x00\x00"))
	f.Add([]byte("\x00\x00\x00\x08\x04\xd2\x16\x30\x00\x00\x00\x08\x04\xd2\x16\x2f"))
	f.Add([]byte("\x00\x00\x00\x10\x04\xd2\x16\x2e\x00\x00\x00\x01\x00\x00\x00\x02"))
	f.Add([]byte("\x00\x00\x00\x14\x04\xd2\x16\x2e\x00\x00\x00\x01\x00\x00\x00\x02\x00\x00\x00\x03"))
	f.Add([]byte("\x16\x03\x01\x00\x00"))
	srv := &Server{log: slog.New(slog.DiscardHandler)}
	f.Fuzz(func(t *testing.T, sent []byte) {
		client, server := net.Pipe()
		go func() { _, _ = io.Copy(io.Discard, client) }()
		go func() {
			_, _ = client.Write(sent)
			_ = client.Close()
		}()
		_ = server.SetDeadline(time.Now().Add(5 * time.Second))
		started := time.Now()
		start, err := srv.greet(server)
		_ = server.Close()
		if time.Since(started) > 4*time.Second {
			t.Errorf("%q: no answer", sent)
		}
		if err == nil && start.cancel == "" && len(start.packet) < 4 {
			t.Errorf("%q: packet %q", sent, start.packet)
		}
	})
}

// FuzzFrames cuts a stream at any place: what comes out must not depend on it, and no header may cost memory.
func FuzzFrames(f *testing.F) {
	f.Add([]byte("Q\x00\x00\x00\x08abc\x00X\x00\x00\x00\x04"), 3)
	f.Add([]byte("D\x3f\xff\xff\xff"), 1)
	f.Fuzz(func(t *testing.T, stream []byte, cut int) {
		if cut < 1 {
			cut = 1
		}
		fr, src := frames{}, &choppy{stream, cut}
		total := 0
		for fr.read(src, baseBuffer) == nil {
			for {
				_, size, ok := fr.header()
				if !ok || size < 0 || !fr.has(size) {
					break
				}
				msg := fr.message(size)
				if !bytes.Equal(msg, stream[total:total+size]) {
					t.Fatalf("message %q at %d", msg, total)
				}
				total += size
			}
		}
		if len(fr.buf) > baseBuffer+4*len(stream) {
			t.Errorf("%d bytes of buffer for %d bytes", len(fr.buf), len(stream))
		}
	})
}

// choppy reads a few bytes at a time.
type choppy struct {
	rest []byte
	n    int
}

func (c *choppy) Read(p []byte) (int, error) {
	if len(c.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(p, c.rest[:min(c.n, len(c.rest))])
	c.rest = c.rest[n:]
	return n, nil
}

// FuzzSplit: a DataRow body is split into cells that lie in it one after the other, or refused.
func FuzzSplit(f *testing.F) {
	f.Add([]byte{0, 2, 0, 0, 0, 1, 'x', 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, body []byte) {
		cells, ok := split(nil, body)
		if !ok {
			return
		}
		again := binary.BigEndian.AppendUint16(nil, uint16(len(cells)))
		for _, c := range cells {
			again = appendCell(again, c)
		}
		if len(again) != len(body) { // any negative length means NULL, and is written as -1
			t.Errorf("%x became %x", body, again)
		}
	})
}

func BenchmarkOpen(b *testing.B) {
	p := testPolicy()
	o := newOpener(p)
	sealed := seal(p.Protection.Keys[0][:], 9, []float64{1, 2, 3}, 0)
	var dst []float64
	b.ReportAllocs()
	for b.Loop() {
		var err error
		if dst, err = o.open(dst[:0], sealed); err != nil {
			b.Fatal(err)
		}
	}
}

// TestOpenOldKeys: a seal opens with any key that the policy has, one that is learned later too, and with no other.
func TestOpenOldKeys(t *testing.T) {
	newest, old, unknown := [16]byte{3}, [16]byte{2}, [16]byte{1}
	p := testPolicy()
	p.Protection.Keys = [][16]byte{newest, old}
	o := newOpener(p)
	opens := func(key [16]byte) bool {
		t.Helper()
		got, err := o.open([]float64{7}, seal(key[:], 9, []float64{1.5, 0, -7}, 2))
		if err != nil && (len(got) != 1 || got[0] != 7) {
			t.Errorf("a refused seal leaves %v", got)
		}
		return err == nil && len(got) == 4 && got[1] == 1.5
	}
	for _, key := range [][16]byte{newest, old, old, newest, old} { // they change places
		if !opens(key) {
			t.Errorf("%x does not open", key)
		}
	}
	if opens(unknown) {
		t.Error("a key that the policy does not have opens")
	}
	another := testPolicy()
	another.ID, another.Protection.Keys = 10, [][16]byte{unknown}
	if o.learn(&catalog.Snapshot{Protections: map[uint32]*catalog.Protection{0: another.Protection}}) || o.learn(&catalog.Snapshot{}) || opens(unknown) {
		t.Error("the key of another policy was learned")
	}
	p.Protection.Keys = [][16]byte{unknown, newest}
	if s := (&catalog.Snapshot{Protections: map[uint32]*catalog.Protection{0: p.Protection}}); !o.learn(s) || o.learn(s) {
		t.Error("a new key is learned once")
	}
	if !opens(unknown) || !opens(old) || !opens(newest) {
		t.Error("what was known is forgotten, or the new key does not open")
	}
}

// TestRowOfUnknownKey: a row of which one seal does not open leaves nothing in the batch, and can be added again.
func TestRowOfUnknownKey(t *testing.T) {
	first, second := testPolicy(), testPolicy()
	second.ID, second.Protection.Relation.OID = 10, 1
	r := &results{plan: &rewrite.Plan{
		Outputs: []rewrite.Output{{Seal: 0}, {Seal: 1}},
		Seals:   []rewrite.Seal{{Column: 0, Policy: first}, {Column: 1, Policy: second}},
	}}
	key, unknown := first.Protection.Keys[0], [16]byte{1}
	row := func(v float64, key2 [16]byte) []byte {
		msg := encode(&pgproto3.DataRow{Values: [][]byte{seal(key[:], 9, []float64{v, 0, 0}, 0), seal(key2[:], 10, []float64{-v, 0, 0}, 0)}})
		return msg[headerSize:]
	}
	if err := r.add(row(1, key)); err != nil {
		t.Fatal(err)
	}
	bad := row(2, unknown)
	for range 2 {
		if err := r.add(bad); err != errSeal { //nolint:errorlint // it must be this very one
			t.Fatal(err)
		}
	}
	second.Protection.Keys = [][16]byte{unknown}
	if !r.batch.learn(&catalog.Snapshot{Protections: map[uint32]*catalog.Protection{0: first.Protection, 1: second.Protection}}) {
		t.Fatal("nothing learned")
	}
	for _, body := range [][]byte{bad, row(3, key)} {
		if err := r.add(body); err != nil {
			t.Fatal(err)
		}
	}
	for i, s := range r.batch.seals {
		if len(s.index) != 3 || len(r.batch.rows) != 3 {
			t.Fatalf("seal %d: %d of %d rows", i, len(s.index), len(r.batch.rows))
		}
		for row, at := range s.index {
			if got := math.Abs(s.inputs[int(at)*3]); got != float64(row+1) {
				t.Errorf("seal %d of row %d has %v", i, row, got)
			}
		}
	}
}
