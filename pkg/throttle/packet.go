package throttle

import (
	"encoding/binary"
	"math"
	"net/netip"
	"time"
)

// What fronts tell each other, and how often.
const (
	// MaxPacket is the longest packet in octets: with what encryption and gossip put
	// around it, it fits into one datagram of the usual size.
	MaxPacket  = 1200
	maxPackets = 8 // that Say makes at a time

	repeats   = 3               // news is told so many times: datagrams get lost
	tellAll   = 5 * time.Second // everything is told anew: to who joined, and so that connections hold
	maxPeers  = 128             // that are listened to about one source
	levelUnit = 16              // a level of 1 on the wire
)

// The format of a packet: version, who says it (8 octets), its number (8), and then
// for each source its kind, the octets of its network (4 or 8), level and connections
// (2 each). Numbers are in network byte order.
const (
	packetVersion = 1
	headSize      = 1 + 8 + 8
	kindIPv4      = 4
	kindIPv6      = 6
	longestEntry  = 1 + 8 + 2 + 2
)

// Say is what the other fronts are to be told now: packets of at most MaxPacket
// octets, none if there is no news. Call it several times a second.
func (t *Table) Say(now time.Time) (packets [][]byte) {
	t.tellEverything(now)
	w := &writer{table: t}
	told := make(map[Source]struct{}) // now: twice at once is as easily lost as once
	for _, fresh := range []bool{true, false} {
		for s, times := range t.news {
			if _, already := told[s]; already || fresh != (times > 1) {
				continue
			}
			if !w.entry(now, s) {
				return w.packets
			}
			told[s] = struct{}{}
			if t.news[s]--; t.news[s] <= 0 {
				delete(t.news, s)
			}
		}
	}
	return w.packets
}

// tellEverything makes news of all that matters, now and then. What has decayed is
// dropped on the way.
func (t *Table) tellEverything(now time.Time) {
	if now.Sub(t.told) < tellAll {
		return
	}
	t.told = now
	for s, r := range t.records {
		switch {
		case r.harm(now) < negligible && r.opened(now) == 0:
			delete(t.records, s)
		case r.own.now(now) >= negligible:
			t.news[s] = max(t.news[s], 1)
		}
	}
	for s, n := range t.open {
		if n >= t.worthTelling(s) {
			t.news[s] = max(t.news[s], 1)
		}
	}
}

// writer fills packets.
type writer struct {
	table   *Table
	packets [][]byte
}

// entry adds a source; false: there is no more room.
func (w *writer) entry(now time.Time, s Source) bool {
	last := len(w.packets) - 1
	if last < 0 || len(w.packets[last])+longestEntry > MaxPacket {
		if len(w.packets) == maxPackets {
			return false
		}
		w.packets = append(w.packets, w.table.head())
		last++
	}
	w.packets[last] = w.table.appendEntry(w.packets[last], now, s)
	return true
}

func (t *Table) head() []byte {
	t.number++
	b := make([]byte, 0, MaxPacket)
	b = append(b, packetVersion)
	b = binary.BigEndian.AppendUint64(b, t.self)
	return binary.BigEndian.AppendUint64(b, t.number)
}

// appendEntry says what this front has seen of the source.
func (t *Table) appendEntry(b []byte, now time.Time, s Source) []byte {
	own := 0.0
	if r := t.records[s]; r != nil {
		own = r.own.now(now)
	}
	if s.Wide() {
		network := s.network.As16()
		b = append(append(b, kindIPv6), network[:8]...)
	} else {
		network := s.network.As4()
		b = append(append(b, kindIPv4), network[:]...)
	}
	b = binary.BigEndian.AppendUint16(b, uint16(math.Round(own*levelUnit)))
	return binary.BigEndian.AppendUint16(b, uint16(min(t.open[s], math.MaxUint16)))
}

// Hear takes a peer's packet. Whatever isn't one is ignored, and so is our own.
func (t *Table) Hear(now time.Time, packet []byte) {
	if len(packet) < headSize || len(packet) > MaxPacket || packet[0] != packetVersion {
		return
	}
	peer, number := binary.BigEndian.Uint64(packet[1:]), binary.BigEndian.Uint64(packet[9:])
	if peer == t.self {
		return
	}
	for rest := packet[headSize:]; ; {
		s, octets := readSource(rest)
		if octets == 0 || len(rest) < octets+4 {
			return
		}
		heard := share{peer: peer, number: number, open: int(binary.BigEndian.Uint16(rest[octets+2:]))}
		value := float64(binary.BigEndian.Uint16(rest[octets:])) / levelUnit
		heard.level = level{min(value, maxLevel), now}
		t.take(now, s, heard)
		rest = rest[octets+4:]
	}
}

// readSource reads a kind and a network; no octets: there is none.
func readSource(b []byte) (s Source, octets int) {
	switch {
	case len(b) >= 5 && b[0] == kindIPv4:
		return Source{netip.AddrFrom4([4]byte(b[1:5]))}, 5
	case len(b) >= 9 && b[0] == kindIPv6:
		var network [16]byte
		copy(network[:], b[1:9])
		return SourceOf(netip.AddrFrom16(network)), 9
	}
	return Source{}, 0
}

// take keeps what a peer said, if it said nothing later. A peer that was heard of
// longest ago makes room for another one.
func (t *Table) take(now time.Time, s Source, heard share) {
	r := t.record(now, s) // also for "nothing any more": an older packet may come later
	oldest := 0
	for i := range r.peers {
		if r.peers[i].peer == heard.peer {
			if heard.number > r.peers[i].number {
				r.peers[i] = heard
			}
			return
		}
		if r.peers[i].level.at.Before(r.peers[oldest].level.at) {
			oldest = i
		}
	}
	if len(r.peers) < maxPeers {
		r.peers = append(r.peers, heard)
		return
	}
	r.peers[oldest] = heard
}
