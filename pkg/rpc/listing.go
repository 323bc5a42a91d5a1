package rpc

import (
	"encoding/binary"
	"math/bits"

	"github.com/postern-pop/postern/pkg/maildrop"
	posternv1 "github.com/postern-pop/postern/proto/postern/v1"
)

// listingToWire is a part of a listing: the messages from one index to before another.
func listingToWire(l *maildrop.Listing, from, to int) *posternv1.Listing {
	n := to - from
	sizes, columns, octets := make([]uint64, n), make([]byte, 3*n), make([]byte, 0, n*typicalRest+maxUID)
	heads, tails, rests := columns[:n], columns[n:2*n], columns[2*n:]
	var before []byte
	for i := range n {
		uid := l.Octets(from+i, from+i+1)
		head, tail := shared(before, uid)
		rest := uid[head : len(uid)-tail]
		sizes[i], heads[i], tails[i], rests[i] = l.Size(from+i), byte(head), byte(tail), byte(len(rest))
		octets = append(octets, rest...)
		before = uid
	}
	return &posternv1.Listing{Sizes: sizes, Heads: heads, Tails: tails, Rests: rests, Octets: octets}
}

// shared is how many octets two have in common at their begin, and behind that at
// their end.
func shared(a, b []byte) (head, tail int) {
	short := min(len(a), len(b))
	for ; head+8 <= short; head += 8 {
		if differ := binary.LittleEndian.Uint64(a[head:]) ^ binary.LittleEndian.Uint64(b[head:]); differ != 0 {
			head += bits.TrailingZeros64(differ) / 8
			return head, sharedTail(a[head:], b[head:])
		}
	}
	for head < short && a[head] == b[head] {
		head++
	}
	return head, sharedTail(a[head:], b[head:])
}

func sharedTail(a, b []byte) (tail int) {
	for tail < len(a) && tail < len(b) && a[len(a)-1-tail] == b[len(b)-1-tail] {
		tail++
	}
	return tail
}

// appendListing adds what arrived to a listing. What the unique-ids are made of is
// looked at by those who use them; that they are as long as one may be is looked at here.
func appendListing(l *maildrop.Listing, in *posternv1.Listing) error {
	sizes, heads, tails, rests, octets := in.GetSizes(), in.GetHeads(), in.GetTails(), in.GetRests(), in.GetOctets()
	if len(heads) != len(sizes) || len(tails) != len(sizes) || len(rests) != len(sizes) {
		return errFrame
	}
	var uid [maxUID]byte
	width := 0 // of the one before
	for i, size := range sizes {
		head, tail, rest := int(heads[i]), int(tails[i]), int(rests[i])
		now := head + rest + tail
		if head+tail > width || now > maxUID || rest > len(octets) {
			return errFrame
		}
		if now != width {
			copy(uid[now-tail:now], uid[width-tail:width])
		}
		copy(uid[head:], octets[:rest])
		octets, width = octets[rest:], now
		l.AppendOctets(uid[:now], size)
	}
	if len(octets) > 0 {
		return errFrame
	}
	return nil
}
