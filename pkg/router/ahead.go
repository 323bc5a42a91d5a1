package router

import "github.com/postern-pop/postern/pkg/maildrop"

// How many messages are fetched ahead from another region: of octets, the window of a
// call bounds it.
const (
	aheadGrowth = 8   // for each message of a run
	aheadMost   = 512 // a round trip for so many costs little
)

// run is messages read one after the other, each the listing's neighbour of the one
// before, upwards or downwards.
type run struct {
	last   int // number of the message read last, as clients count; 0: none
	step   int // 1 or -1; 0: there was one message at most
	length int // steps so far
}

// next takes the message of a number in, and says how many more are likely to follow by
// what step.
func (r *run) next(number int) (step, count int) {
	switch step := number - r.last; {
	case r.last == 0 || step != 1 && step != -1:
		r.step, r.length = 0, 0
	case step == r.step:
		r.length++
	default:
		r.step, r.length = step, 1
	}
	r.last = number
	return r.step, min(aheadGrowth*r.length, aheadMost)
}

// number finds a message in the listing: mostly it is next to the one read last. 0: it
// isn't there.
func (r *run) number(l *maildrop.Listing, uid maildrop.UID) int {
	for _, n := range [...]int{r.last + 1, r.last - 1} {
		if n > 0 && n <= l.Len() && l.UID(n-1) == uid {
			return n
		}
	}
	for i := range l.Len() {
		if l.UID(i) == uid {
			return i + 1
		}
	}
	return 0
}

// expect is what will be read after the message, if that continues a run.
func (r *run) expect(l *maildrop.Listing, uid maildrop.UID) []maildrop.UID {
	number := r.number(l, uid)
	if number == 0 {
		return nil
	}
	step, count := r.next(number)
	uids := make([]maildrop.UID, 0, count)
	for n := number + step; len(uids) < count && n > 0 && n <= l.Len(); n += step {
		uids = append(uids, l.UID(n-1))
	}
	return uids
}
