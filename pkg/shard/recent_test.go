package shard

import (
	"encoding/binary"
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/postern-pop/postern/pkg/ledger"
	"github.com/postern-pop/postern/pkg/maildrop"
)

// delivered applies a delivery with an ID of its own, which is made of a number.
func delivered(t interface{ Fatal(args ...any) }, s *state, number uint64, at time.Time, uid string) {
	err := s.Apply(ledger.Entry{Position: ledger.At(number, 0), Record: &ledger.Delivery{
		Mailbox: string(anna), ID: numbered(number), UID: uid, Class: uint8(maildrop.ClassLocal), Received: at, Size: 10, Wire: 10}})
	if err != nil {
		t.Fatal(err)
	}
}

func numbered(id uint64) (e [16]byte) {
	binary.LittleEndian.PutUint64(e[:], id)
	return e
}

// A busy mailbox's table answers what a look at all of its messages would, whatever
// comes, expires and is imported, and however time goes by.
func TestBusyMailboxKnowsRepetitions(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s, now, number := newState(), time.Unix(1_700_000_000, 0), uint64(0)
		was := map[uint64]time.Time{}
		for range rapid.IntRange(1, 12).Draw(t, "days") {
			now = now.Add(time.Duration(rapid.IntRange(0, 30).Draw(t, "hours")) * time.Hour)
			step := time.Duration(rapid.IntRange(0, 120).Draw(t, "seconds apart")) * time.Second
			imports := rapid.Bool().Draw(t, "imports")
			for range rapid.IntRange(1, 3*busyDay).Draw(t, "messages") {
				number++
				now = now.Add(step)
				if imports {
					delivered(t, s, number, now.Add(-20*24*time.Hour), fmt.Sprint("old", number))
					continue
				}
				delivered(t, s, number, now, "")
				was[number] = now
			}
			if rapid.Bool().Draw(t, "purge") {
				s.purge(s.name(anna), now)
			}
			for id, at := range was {
				repeat := delivery{mailbox: anna, repeat: s.repeat(anna, numbered(id))}
				if got, _ := s.repeated(repeat, seconds(now)); got != (now.Sub(at) < repeatWindow) {
					t.Fatalf("a delivery of %s ago: repeated %t", now.Sub(at), got)
				}
			}
			for id := range uint64(50) {
				if got, _ := s.repeated(delivery{mailbox: anna, repeat: s.repeat(anna, numbered(1<<40+id))}, seconds(now)); got {
					t.Fatal("a new delivery is called a repetition")
				}
			}
		}
	})
}

// What a busy mailbox's table takes is within what a message may take.
func TestBusyMailboxMemory(t *testing.T) {
	s, now := newState(), time.Now()
	for i := range uint64(100_000) {
		delivered(t, s, i+1, now, "")
		if table := s.recents[s.box(anna)]; i >= 10*busyDay && float64(4*len(table.slots))/float64(table.used) > 5.4 {
			t.Fatalf("%d octets for %d messages", 4*len(table.slots), table.used)
		}
	}
}

// A table goes with the day: a mailbox that isn't busy any more has none in the end.
func TestQuietMailboxHasNoTable(t *testing.T) {
	s, now := newState(), time.Unix(1_700_000_000, 0)
	for i := range uint64(2 * busyDay) {
		delivered(t, s, i+1, now, "")
	}
	if s.recents[s.box(anna)] == nil {
		t.Fatal("a busy mailbox has no table")
	}
	for i := range uint64(2 * busyDay) {
		now = now.Add(time.Hour)
		delivered(t, s, 10_000+i, now, "")
	}
	if s.recents[s.box(anna)] != nil {
		t.Error("a quiet mailbox has a table")
	}
}

// BenchmarkRepeated asks whether a delivery is a repetition, in mailboxes that got
// so many messages within the last day.
func BenchmarkRepeated(b *testing.B) {
	for _, n := range []uint64{10, busyDay - 1, 1000, 10_000, 100_000} {
		b.Run(fmt.Sprintf("messages=%d", n), func(b *testing.B) {
			s, now := newState(), time.Now()
			for i := range n {
				delivered(b, s, i+1, now, "")
			}
			unknown := delivery{mailbox: anna}
			for b.Loop() {
				unknown.repeat += 0x9e3779b97f4a7c15 // all over the table
				if known, err := s.repeated(unknown, seconds(now)); known || err != nil {
					b.Fatal(known, err)
				}
			}
		})
	}
}

// BenchmarkBusyMailbox applies deliveries to a mailbox that had so many on the same day.
func BenchmarkBusyMailbox(b *testing.B) {
	for _, n := range []uint64{10, 10_000, 100_000} {
		b.Run(fmt.Sprintf("messages=%d", n), func(b *testing.B) {
			s, now := newState(), time.Now()
			for i := range n {
				delivered(b, s, i+1, now, "")
			}
			for b.Loop() {
				n++
				delivered(b, s, n, now, "")
			}
		})
	}
}
