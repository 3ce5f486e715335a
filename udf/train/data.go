package train

import "fmt"

// chunkRows is how many rows one chunk of Data holds.
const chunkRows = 1 << 12

// Data is the rows to train on, 8 bytes for each value. They lie in chunks, so
// what is there is not copied when more comes. Run does not change them.
type Data struct {
	features int
	rows     int
	chunks   [][]float64
}

// NewData returns an empty Data for rows of so many features.
func NewData(features int) *Data { return &Data{features: features} }

// Append adds a row of one value for each feature, NaN for NULL. It copies them.
func (d *Data) Append(row []float64) error {
	if len(row) != d.features {
		return fmt.Errorf("train: a row of %d values, not of %d", len(row), d.features)
	}
	if d.rows%chunkRows == 0 {
		d.chunks = append(d.chunks, make([]float64, 0, chunkRows*d.features))
	}
	last := &d.chunks[len(d.chunks)-1]
	*last = append(*last, row...)
	d.rows++
	return nil
}

// Rows returns the number of rows.
func (d *Data) Rows() int { return d.rows }

// Row returns row i, from 0: one value for each feature.
func (d *Data) Row(i int) []float64 {
	at := i % chunkRows * d.features
	return d.chunks[i/chunkRows][at : at+d.features : at+d.features]
}
