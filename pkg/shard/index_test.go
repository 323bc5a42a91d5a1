package shard

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"runtime"
	"testing"
	"time"
	"unsafe"

	"github.com/postern-pop/postern/pkg/blob/blobtest"
	"github.com/postern-pop/postern/pkg/ledger"
	"github.com/postern-pop/postern/pkg/maildrop"
	"github.com/postern-pop/postern/pkg/maildroptest"
)

// The index is what a node's memory is bought for.
func TestMessagesAreSmall(t *testing.T) {
	if size := unsafe.Sizeof(message{}); size != 40 {
		t.Errorf("a message takes %d octets, must be 40", size)
	}
	if size := unsafe.Sizeof(mailbox{}); size > 112 {
		t.Errorf("a mailbox takes %d octets, at most 112", size)
	}
}

// filled makes a state of so many mailboxes with so many messages each.
func filled(mailboxes, messages int) *state { return filledWith(mailboxes, messages, "") }

func filledWith(mailboxes, messages int, keys string) *state {
	s, sequence := newState(), uint64(0)
	apply := func(r ledger.Record) {
		sequence++
		if err := s.Apply(ledger.Entry{Position: ledger.At(sequence, 0), Record: r}); err != nil {
			panic(err)
		}
	}
	now := time.Now()
	address := func(i int) string { return fmt.Sprintf("firstname.lastname%d@customer%d.example", i, i%100) }
	for i := range mailboxes {
		sum := sha256.Sum256([]byte(address(i)))
		apply(&ledger.Address{Address: address(i), Account: fmt.Sprint("customer", i%100), Time: now, Scram: keys, Hash: "$argon2id$v=19$m=65536,t=3,p=4$" +
			base64.RawStdEncoding.EncodeToString(sum[:16]) + "$" + base64.RawStdEncoding.EncodeToString(sum[:])})
	}
	for range messages {
		for i := range mailboxes {
			d := &ledger.Delivery{Mailbox: address(i), Class: 1, Received: now, Size: 1000, Wire: 1000}
			binary.LittleEndian.PutUint64(d.ID[:], sequence)
			apply(d)
		}
	}
	return s
}

func heap() uint64 {
	for range 3 { // pools and finalizers of tests before take more than one
		runtime.GC()
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// measured are octets a mailbox and a message, all maps and slack included.
func measured(mailboxes, messages int) (box, message float64) {
	before := heap()
	empty := filled(mailboxes, 0)
	boxes := heap() - before
	runtime.KeepAlive(empty)
	before = heap()
	full := filled(mailboxes, messages)
	all := heap() - before
	runtime.KeepAlive(full)
	return float64(boxes) / float64(mailboxes), float64(all-boxes) / float64(mailboxes*messages)
}

// What the package promises of memory, for mailboxes with few and many messages.
func TestIndexMemory(t *testing.T) {
	for _, c := range []struct{ mailboxes, messages int }{{10_000, 20}, {5_000, 100}} {
		box, message := measured(c.mailboxes, c.messages)
		if box > 200 || message > 48 {
			t.Errorf("%d messages each: %.1f octets a mailbox, at most 200; %.1f a message, at most 48", c.messages, box, message)
		}
	}
}

// keyedBox is the octets of a mailbox with keys for SCRAM, without messages.
func keyedBox(mailboxes int) float64 {
	before := heap()
	s := filledWith(mailboxes, 0, keysText('x'))
	box := float64(heap()-before) / float64(mailboxes)
	runtime.KeepAlive(s)
	return box
}

// Keys for SCRAM take 96 octets more; they can't be had for less than 64.
func TestKeysMemory(t *testing.T) {
	if box := keyedBox(10_000); box > 296 {
		t.Errorf("%.1f octets a mailbox with keys, at most 296", box)
	}
}

// BenchmarkIndexMemory says what a mailbox and a message take in memory.
func BenchmarkIndexMemory(b *testing.B) {
	for _, c := range []struct{ mailboxes, messages int }{{20_000, 20}, {10_000, 100}} {
		b.Run(fmt.Sprintf("%dx%d", c.mailboxes, c.messages), func(b *testing.B) {
			for b.Loop() {
				box, message := measured(c.mailboxes, c.messages)
				b.ReportMetric(box, "octets/mailbox")
				b.ReportMetric(keyedBox(c.mailboxes), "octets/keyed-mailbox")
				b.ReportMetric(message, "octets/message")
			}
		})
	}
}

// BenchmarkLogin is a cached login in a maildrop of 50,000 messages.
func BenchmarkLogin(b *testing.B) {
	s := open(b, testConfig(blobtest.NewMemory()))
	user(b, s, anna)
	s.mu.Lock()
	for i := range 50_000 {
		ok(b, s.state.Apply(ledger.Entry{Position: ledger.At(1000+uint64(i), 0), Record: &ledger.Delivery{
			Mailbox: string(anna), ID: maildrop.RandomID(), Class: 1, Received: time.Now(), Size: 1000, Wire: 1000}}))
	}
	s.mu.Unlock()
	b.Run("Open", func(b *testing.B) {
		for b.Loop() {
			login(b, s, anna)
		}
	})
	d := login(b, s, anna)
	b.Run("List", func(b *testing.B) {
		for b.Loop() {
			if _, err := d.List(b.Context()); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkDeliver is group commit without a disk: what it costs beside
// storage.
func BenchmarkDeliver(b *testing.B) {
	s := open(b, testConfig(blobtest.NewMemory()))
	user(b, s, anna)
	body := maildroptest.Filled(20_000, 1)
	b.SetParallelism(16)
	b.ReportAllocs()
	b.RunParallel(func(p *testing.PB) {
		for p.Next() {
			if err := s.Deliver(b.Context(), envelope(anna), body); err != nil {
				b.Error(err)
			}
		}
	})
}
