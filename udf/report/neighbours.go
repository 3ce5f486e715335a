package report

import "context"

// nearest returns for each query the numbers of its k nearest points, the nearest first. Of points at the same distance
// the first ones count.
func nearest(ctx context.Context, queries, points matrix, k int) ([][]int32, error) {
	found := make([][]int32, queries.rows)
	all, near := make([]float64, points.rows), make([]float64, k)
	for q := range found {
		if q%64 == 0 && ctx.Err() != nil {
			return nil, ctx.Err()
		}
		distances(all, queries.row(q), points.v)
		found[q] = smallest(all, near)
	}
	return found, nil
}

// distances fills in the squares of Euclid's distance from a point to each of the given ones. It is where the time goes.
func distances(dst, from, points []float64) {
	cols := len(from)
	for p := range dst {
		to := points[p*cols : p*cols+cols]
		from := from[:len(to)]
		var s0, s1 float64
		for len(to) >= 4 && len(from) >= 4 {
			d0, d1, d2, d3 := from[0]-to[0], from[1]-to[1], from[2]-to[2], from[3]-to[3]
			s0 += float64(d0*d0) + float64(d1*d1)
			s1 += float64(d2*d2) + float64(d3*d3)
			from, to = from[4:], to[4:]
		}
		for i := range to {
			d := from[i] - to[i]
			s0 += float64(d * d)
		}
		dst[p] = s0 + s1
	}
}

// smallest returns where the len(near) smallest values are, in order. near is for its own use.
func smallest(values, near []float64) []int32 {
	k := len(near)
	list := make([]int32, 0, k)
	for i, v := range values {
		if len(list) == k {
			if v >= near[k-1] {
				continue
			}
			list = list[:k-1]
		}
		at := len(list)
		list = append(list, 0)
		for at > 0 && near[at-1] > v {
			near[at], list[at] = near[at-1], list[at-1]
			at--
		}
		near[at], list[at] = v, int32(i)
	}
	return list
}
