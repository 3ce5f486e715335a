package proxy

import (
	"math"
	"slices"
)

// distinct gathers the inputs of a batch's rows, each once: a table has fewer ages than people.
type distinct struct {
	width  int       // inputs of a row
	inputs []float64 // of the distinct rows, one after the other
	// slots is a hash table with open addressing, a power of two long: for each distinct row its number plus one.
	slots []int32
}

// rows is how many distinct rows there are.
func (d *distinct) rows() int { return len(d.inputs) / d.width }

// last takes the row that was appended to inputs last, and returns its number. If there was an equal one before, that is its
// number, and it is taken off again.
func (d *distinct) last() int32 {
	n := d.rows()
	if 2*n > len(d.slots) {
		d.grow()
	}
	row := d.inputs[(n-1)*d.width:]
	at := d.find(row)
	if found := d.slots[at]; found != 0 {
		d.inputs = d.inputs[:(n-1)*d.width]
		return found - 1
	}
	d.slots[at] = int32(n)
	return int32(n - 1)
}

// find returns the slot of a row, or the free one where it belongs.
func (d *distinct) find(row []float64) int {
	mask := len(d.slots) - 1
	for at := int(hash(row)) & mask; ; at = (at + 1) & mask {
		n := int(d.slots[at])
		if n == 0 || slices.EqualFunc(row, d.inputs[(n-1)*d.width:n*d.width], sameBits) {
			return at
		}
	}
}

func sameBits(a, b float64) bool { return math.Float64bits(a) == math.Float64bits(b) }

// hash mixes the bits of a row: multiplication by 2^64 over the golden ratio, and the high bits to the low ones.
func hash(row []float64) uint64 {
	h := uint64(0)
	for _, v := range row {
		h = (h ^ math.Float64bits(v)) * 0x9e3779b97f4a7c15
		h ^= h >> 32
	}
	return h
}

// grow makes the table at least four times as long as there are rows.
func (d *distinct) grow() {
	n := d.rows() - 1 // the last is not in it yet
	d.slots = make([]int32, max(64, 2*len(d.slots)))
	for i := range n {
		d.slots[d.find(d.inputs[i*d.width:(i+1)*d.width])] = int32(i + 1)
	}
}

// reset forgets the rows and keeps the memory.
func (d *distinct) reset() {
	d.inputs = d.inputs[:0]
	clear(d.slots)
}
