package gateway

import "sync/atomic"

type fault int

const (
	noFault   fault = iota
	failEarly       // 500 before anything happens
	dropLate        // everything happens; the connection closes without the answer
)

// faults decides which requests go wrong, whatever their card: the nth request of a seed always fares the same.
type faults struct {
	rate float64
	seed uint64
	n    atomic.Uint64
}

func (f *faults) next() fault {
	if f.rate == 0 {
		return noFault
	}
	x := mix(f.seed + f.n.Add(1)*0x9e3779b97f4a7c15)
	switch {
	case float64(x>>11)/(1<<53) >= f.rate:
		return noFault
	case x&1 == 0:
		return failEarly
	}
	return dropLate
}

// mix is the finalizer of SplitMix64: every bit of the input moves half the bits of the output.
func mix(x uint64) uint64 {
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
