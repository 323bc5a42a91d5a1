package sim

import (
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"time"
)

// dice are a seed's decisions. The same question has the same answer in every
// run of the seed, whoever asks first.
type dice uint64

// roll makes the random numbers for a question.
func (d dice) roll(question ...any) throw {
	h := fnv.New64a()
	for _, part := range question {
		fmt.Fprint(h, part, "|")
	}
	return throw{rand.New(rand.NewPCG(uint64(d), h.Sum64()))}
}

type throw struct{ *rand.Rand }

// chance is true with a probability of p.
func (t throw) chance(p float64) bool { return t.Float64() < p }

// between is a duration from low to high, small ones as likely as large ones:
// even on a logarithmic scale would be too fine, so the cube of a number does.
func (t throw) between(low, high time.Duration) time.Duration {
	x := t.Float64()
	return low + time.Duration(x*x*x*float64(high-low))
}

// oneOf picks a thing.
func oneOf[T any](t throw, things ...T) T { return things[t.IntN(len(things))] }
