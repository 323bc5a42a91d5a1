package shard

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/postern-pop/postern/pkg/blob"
	"github.com/postern-pop/postern/pkg/blob/blobtest"
	"github.com/postern-pop/postern/pkg/blob/dir"
	"github.com/postern-pop/postern/pkg/blob/s3"
	"github.com/postern-pop/postern/pkg/blob/s3test"
	"github.com/postern-pop/postern/pkg/ledger"
	"github.com/postern-pop/postern/pkg/maildrop"
)

// benchLarge asks for the large benchmarks: ten million messages.
const benchLarge = "POSTERN_BENCH_LARGE"

func benchAddress(i int) maildrop.Address {
	return maildrop.Address(fmt.Sprintf("firstname.lastname%d@local.example", i))
}

// written writes a checkpoint of a state that build makes into a store, and a tail
// of so many small ledger objects behind it.
func written(b *testing.B, store blob.Store, tail int, build func(*state, *ledger.Ledger)) {
	b.Helper()
	var s *state
	l, err := ledger.Open(b.Context(), ledger.Config{Store: store, Prefix: testConfig(store).Prefix(), Owner: "bench"}, func() ledger.State {
		s = newState()
		return s
	})
	ok(b, err)
	build(s, l)
	ok(b, l.WriteCheckpoint(b.Context(), l.Last(), s.parts(s.last, new(sync.Mutex), usualChunks)))
	for i := range tail {
		_, err := l.Append(b.Context(), []ledger.Draft{{Body: []byte("x\r\n"), Record: &ledger.Delivery{
			Mailbox: string(benchAddress(i)), ID: maildrop.RandomID(), Class: 1, Received: time.Now(), Size: 3, Wire: 3}}})
		ok(b, err)
	}
}

// fill makes mailboxes with so many messages each, all in pack 1.
func fill(s *state, mailboxes, messages int) {
	for i := range mailboxes {
		box := s.mailbox(benchAddress(i))
		box.record = s.newRecord(1, &ledger.Address{Account: "customer", Hash: plainHash(password), Time: time.Now()}, record{})
		s.addresses++
		box.messages = make([]message, messages)
		for k := range box.messages {
			box.messages[k] = message{
				position: ledger.Position(k + 1), repeat: uint64(k), size: 1000, wire: 1000, offset: uint32(k),
				received: seconds(time.Now()), pack: 1, class: 1,
			}
		}
		s.messages += messages
	}
	s.packs.put(1, pack{object: "0000000000000001-00000000000000000000000000", class: 1, messages: uint32(mailboxes * messages)})
}

// BenchmarkTakeOver opens a shard of a million messages in 10,000 mailboxes, with
// 1,000 ledger objects behind the checkpoint, from a directory and from an S3 server on
// loopback. With benchLarge ten million, too.
func BenchmarkTakeOver(b *testing.B) {
	sizes := []int{100}
	if os.Getenv(benchLarge) != "" {
		sizes = append(sizes, 1000)
	}
	const mailboxes = 10_000
	for name, open := range map[string]func(b *testing.B) blob.Store{"dir": benchDir, "s3": benchBucket} {
		for _, messages := range sizes {
			b.Run(fmt.Sprintf("%s/%d_messages", name, mailboxes*messages), func(b *testing.B) {
				takeOver(b, open(b), mailboxes, messages)
			})
		}
	}
}

func benchDir(b *testing.B) blob.Store {
	store, err := dir.Open(b.TempDir())
	ok(b, err)
	return store
}

func benchBucket(b *testing.B) blob.Store {
	server := s3test.Start(b)
	b.Setenv("AWS_ACCESS_KEY_ID", s3test.AccessKey)
	b.Setenv("AWS_SECRET_ACCESS_KEY", s3test.SecretKey)
	store, err := s3.Open(b.Context(), s3.Config{Endpoints: []string{server.URL()}, Bucket: server.Bucket(), PathStyle: true})
	ok(b, err)
	b.Cleanup(func() { store.Close() })
	return store
}

func takeOver(b *testing.B, store blob.Store, mailboxes, messages int) {
	const tail = 1000
	written(b, store, tail, func(s *state, _ *ledger.Ledger) { fill(s, mailboxes, messages) })
	b.ResetTimer()
	for b.Loop() {
		s, err := Open(b.Context(), testConfig(store), 0)
		ok(b, err)
		b.StopTimer()
		if s.state.messages != mailboxes*messages+tail {
			b.Fatalf("%d messages", s.state.messages)
		}
		ok(b, s.Close(context.Background()))
		b.StartTimer()
	}
}

// BenchmarkCheckpoint writes a million messages down.
func BenchmarkCheckpoint(b *testing.B) {
	s := newState()
	fill(s, 10_000, 100)
	octets := int64(0)
	for b.Loop() {
		octets = 0
		for part := range s.parts(s.last, new(sync.Mutex), usualChunks) {
			octets += int64(len(part))
		}
	}
	b.SetBytes(octets)
}

// BenchmarkRandomReads reads random old messages of packs from a directory, and
// says how many calls of the store each takes.
func BenchmarkRandomReads(b *testing.B) {
	const mailboxes, messages, octets = 100, 100, 4000
	directory, err := dir.Open(b.TempDir())
	ok(b, err)
	store, lists := blobtest.NewFaulty(directory, nil), 0
	written(b, store, 0, func(s *state, l *ledger.Ledger) { fillPacks(b, s, l, mailboxes, messages, octets) })
	config := testConfig(store)
	config.CacheBytes = -1
	s := open(b, config)
	var drops []maildrop.Drop
	var uidLists [][]maildrop.UID
	for i := range mailboxes {
		drops = append(drops, login(b, s, benchAddress(i)))
		uidLists = append(uidLists, uids(b, drops[i]))
	}
	store.SetPlan(func(c blobtest.Call) blobtest.Fault {
		if c.Op != blobtest.OpRead {
			lists++
		}
		return blobtest.Fault{}
	})
	random, before, reads := rand.New(rand.NewPCG(1, 2)), store.Calls(), 0
	for b.Loop() {
		i := random.IntN(mailboxes)
		if _, err := drops[i].Read(b.Context(), uidLists[i][random.IntN(messages)], 0, io.Discard); err != nil {
			b.Fatal(err)
		}
		reads++
	}
	b.ReportMetric(float64(store.Calls()-before)/float64(reads), "calls/read")
	b.ReportMetric(float64(lists), "lists")
	if calls := store.Calls() - before; calls != reads || lists != 0 {
		b.Errorf("%d calls for %d reads, %d of them no reads", calls, reads, lists)
	}
}

// fillPacks makes mailboxes whose messages are in packs that are there.
func fillPacks(b *testing.B, s *state, l *ledger.Ledger, mailboxes, messages, octets int) {
	b.Helper()
	fill(s, mailboxes, messages)
	s.packs = newPacks()
	body := bytes.Repeat([]byte("y"), octets)
	position := ledger.Position(0)
	for i := range mailboxes {
		box := s.box(benchAddress(i))
		packed := make([]ledger.PackBody, messages)
		for k := range box.messages {
			position++
			box.messages[k].position, box.messages[k].wire = position, uint32(octets)
			packed[k] = ledger.PackBody{Position: position, Body: body}
		}
		object, offsets, _, err := l.WritePack(b.Context(), 1, packed)
		ok(b, err)
		number := s.packs.number(pack{object: object, class: 1, messages: uint32(messages)})
		for k := range box.messages {
			box.messages[k].pack, box.messages[k].offset = number, offsets[k]
		}
	}
}
