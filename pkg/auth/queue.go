package auth

import "net/netip"

// queue is the checks that wait for a worker. Each source has a line of its own,
// and the lines take turns, so that a source has to wait for its own checks and for
// one of each other source's, however many those have. It is not safe for
// concurrent use.
type queue struct {
	max   int // checks in all lines
	count int
	lines map[netip.Prefix]*line
	turns []*line // lines that aren't empty; the first one's turn is next
}

// line is the checks of one source, the oldest first.
type line struct {
	source netip.Prefix
	checks []*flight
}

func newQueue(limit int) *queue {
	return &queue{max: limit, lines: map[netip.Prefix]*line{}}
}

// push puts a check at the end of its source's line. When there is no room, the
// latest check of the longest line has to go: it is dropped, and may be the new
// one itself.
func (q *queue) push(f *flight) (dropped *flight) {
	l := q.lines[f.source]
	if q.count == q.max {
		longest := q.longest()
		if l != nil && len(l.checks) >= len(longest.checks) || len(longest.checks) == 1 {
			return f
		}
		dropped = q.dropLatest(longest)
	}
	if l == nil {
		l = &line{source: f.source}
		q.lines[f.source] = l
		q.turns = append(q.turns, l)
	}
	l.checks = append(l.checks, f)
	q.count++
	return dropped
}

// longest is a line that no other is longer than. There is one.
func (q *queue) longest() *line {
	longest := q.turns[0]
	for _, l := range q.turns {
		if len(l.checks) > len(longest.checks) {
			longest = l
		}
	}
	return longest
}

// dropLatest takes the latest check out of a line that has at least two.
func (q *queue) dropLatest(l *line) *flight {
	last := len(l.checks) - 1
	f := l.checks[last]
	l.checks[last] = nil
	l.checks = l.checks[:last]
	q.count--
	return f
}

// pop takes the oldest check of the line whose turn it is; nil: none waits.
func (q *queue) pop() *flight {
	if q.count == 0 {
		return nil
	}
	l := q.turns[0]
	q.turns[0] = nil
	q.turns = q.turns[1:]
	f := l.checks[0]
	l.checks[0] = nil
	if l.checks = l.checks[1:]; len(l.checks) > 0 {
		q.turns = append(q.turns, l)
	} else {
		delete(q.lines, l.source)
	}
	q.count--
	return f
}

// Who shares a turn. An IPv6 site has a /48 to itself (RFC 6177), and whoever rents
// one could else have 65,536 turns; an IPv4 address is one turn, whoever shares it.
const siteBits = 48

// sourceOf is the line that a client's checks wait in. An unknown address is a
// source too.
func sourceOf(remote netip.Addr) netip.Prefix {
	remote = remote.Unmap().WithZone("")
	bits := remote.BitLen()
	if remote.Is6() {
		bits = siteBits
	}
	p, err := remote.Prefix(bits)
	if err != nil { // of the zero Addr only
		return netip.Prefix{}
	}
	return p
}
