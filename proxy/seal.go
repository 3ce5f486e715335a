package proxy

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"errors"
	"math"
	"slices"

	"github.com/scrimdb/scrim/catalog"
)

// errSeal is the one error of opening: whatever is wrong with a sealed value, nothing more is said about it.
var errSeal = errors.New("a sealed value failed its integrity check")

// OIDs of PostgreSQL's pg_type.dat that a seal holds.
const (
	oidInt8   = 20
	oidInt4   = 23
	oidOid    = 26
	oidTid    = 27
	oidXid    = 28
	oidFloat8 = 701
	oidUUID   = 2950
)

// field is the type and width of one field of a seal.
type field struct{ oid, width uint32 }

// heads are the fields before slot.
var heads = map[catalog.Identity][]field{
	catalog.Place:         {{oidOid, 4}, {oidTid, 6}, {oidXid, 4}},
	catalog.TableAndPlace: {{oidOid, 4}, {oidOid, 4}, {oidTid, 6}, {oidXid, 4}},
	catalog.Unknown:       {{oidUUID, 16}},
}

// opener opens the seals of one policy. It is not safe for concurrent use.
//
// A seal is pgcrypto's AES-128-CBC with a zero IV and PKCS#7 padding over PostgreSQL's record_send of
//
//	row(filenode oid, ctid tid, xmin xid, slot int4, inputs float8 ..., null_mask int8)
//
// (with tableoid oid behind filenode where the relation has partitions or children, and nonce uuid in the place of all before slot
// where rows have no place), which is a count of fields, then OID, length and bytes of each (src/backend/utils/adt/rowtypes.c, record_send). Every
// field has a fixed width, so every byte of the frame is known and checked. What is before slot makes each seal unique.
type opener struct {
	keys     []sealKey // the one that opened last first
	relation uint32
	head     []field
	slot     uint32
	inputs   int
	size     int // of the plain record in bytes
	plain    []byte
}

// sealKey is one of the keys that may open.
type sealKey struct {
	key [catalog.KeySize]byte
	cbc cipher.BlockMode // nil before its first use
}

// zeroIV is what pgcrypto's encrypt() uses.
var zeroIV [aes.BlockSize]byte

func newOpener(p *catalog.Policy) *opener {
	o := &opener{relation: p.Protection.Relation.OID, head: heads[p.Protection.View.Identity], slot: uint32(p.ID), inputs: p.Inputs}
	o.size = 4 + (8 + 4) + (o.inputs+1)*(8+8)
	for _, f := range o.head {
		o.size += 8 + int(f.width)
	}
	o.take(p.Protection.Keys)
	return o
}

// take puts keys that are not there yet before the others, in their order, and tells whether there are any.
func (o *opener) take(keys [][catalog.KeySize]byte) bool {
	var fresh []sealKey
	for _, k := range keys {
		if !slices.ContainsFunc(o.keys, func(known sealKey) bool { return known.key == k }) {
			fresh = append(fresh, sealKey{key: k})
		}
	}
	o.keys = append(fresh, o.keys...)
	return len(fresh) > 0
}

// learn takes the keys that the relation has in a snapshot where it still has the policy, and tells whether there is a new one among
// them.
func (o *opener) learn(s *catalog.Snapshot) bool {
	p := s.Protections[o.relation]
	return p != nil && slices.ContainsFunc(p.Policies, func(policy *catalog.Policy) bool { return uint32(policy.ID) == o.slot }) && o.take(p.Keys)
}

// open appends the inputs of one seal to dst; a NULL input is NaN, and so is NaN itself.
func (o *opener) open(dst []float64, sealed []byte) ([]float64, error) {
	padded := o.size + aes.BlockSize - o.size%aes.BlockSize
	if len(sealed) != padded {
		return dst, errSeal
	}
	if cap(o.plain) < padded {
		o.plain = make([]byte, padded)
	}
	plain := o.plain[:padded]
	for i := range o.keys {
		o.keys[i].decrypt(plain, sealed)
		if opened, err := o.read(dst, plain); err == nil {
			if i > 0 { // the rows of a statement have one key
				o.keys[0], o.keys[i] = o.keys[i], o.keys[0]
			}
			return opened, nil
		}
	}
	return dst, errSeal
}

// read appends the inputs of one padded record to dst.
func (o *opener) read(dst []float64, plain []byte) ([]float64, error) {
	size := o.size
	ok := true
	for _, b := range plain[size:] {
		ok = ok && int(b) == len(plain)-size
	}
	r := fields{b: plain[:size]}
	ok = r.uint32() == uint32(len(o.head)+2+o.inputs) && ok
	for _, f := range o.head {
		r.field(f.oid, f.width)
	}
	slot := r.field(oidInt4, 4)
	first := len(dst)
	for range o.inputs {
		v := math.Float64frombits(binary.BigEndian.Uint64(r.field(oidFloat8, 8)))
		if math.IsNaN(v) {
			v = math.NaN() // one bit pattern for all of them
		}
		dst = append(dst, v)
	}
	nulls := binary.BigEndian.Uint64(r.field(oidInt8, 8))
	ok = ok && !r.bad && binary.BigEndian.Uint32(slot) == o.slot && (o.inputs >= 64 || nulls>>o.inputs == 0)
	for i := range o.inputs {
		if nulls>>i&1 == 1 {
			ok = ok && math.Float64bits(dst[first+i]) == 0 // a NULL is sealed as a constant
			dst[first+i] = math.NaN()
		}
	}
	if !ok {
		return dst[:first], errSeal
	}
	return dst, nil
}

// decrypt begins with the IV again. The standard library's CBC can; any other is made anew.
func (k *sealKey) decrypt(plain, sealed []byte) {
	if r, ok := k.cbc.(interface{ SetIV([]byte) }); ok {
		r.SetIV(zeroIV[:])
	} else {
		block, err := aes.NewCipher(k.key[:])
		if err != nil {
			panic(err) // the key has a right size
		}
		k.cbc = cipher.NewCBCDecrypter(block, zeroIV[:])
	}
	k.cbc.CryptBlocks(plain, sealed)
}

// fields reads a record whose length is known to suffice.
type fields struct {
	b   []byte
	bad bool
}

func (r *fields) uint32() uint32 {
	v := binary.BigEndian.Uint32(r.b)
	r.b = r.b[4:]
	return v
}

// field reads one field of the given type and width.
func (r *fields) field(oid, width uint32) []byte {
	r.bad = r.uint32() != oid || r.bad
	r.bad = r.uint32() != width || r.bad
	v := r.b[:width]
	r.b = r.b[width:]
	return v
}
