package ledger

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
)

func BenchmarkAppend(b *testing.B) {
	for _, batch := range []int{1, 16, 128} {
		b.Run(fmt.Sprintf("batch=%d", batch), func(b *testing.B) {
			l, _ := open(b, onDisk(b))
			drafts := make([]Draft, batch)
			for i := range drafts {
				body := make([]byte, 8<<10)
				drafts[i] = Draft{Record: &Delivery{Mailbox: "user@example.com", Wire: uint64(len(body)), Size: uint64(len(body))}, Body: body}
			}
			b.ReportAllocs()
			b.SetBytes(int64(batch) * 8 << 10)
			for b.Loop() {
				if _, err := l.Append(context.Background(), drafts); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// Several appends at once, as a busy shard's.
func BenchmarkAppendPipelined(b *testing.B) {
	for _, callers := range []int{1, MaxInFlight} {
		b.Run(fmt.Sprintf("in-flight=%d", callers), func(b *testing.B) {
			l := warm(b, onDisk(b))
			drafts := make([]Draft, 16)
			for i := range drafts {
				body := make([]byte, 8<<10)
				drafts[i] = Draft{Record: &Delivery{Mailbox: "user@example.com", Wire: uint64(len(body)), Size: uint64(len(body))}, Body: body}
			}
			b.ReportAllocs()
			b.SetBytes(int64(len(drafts)) * 8 << 10)
			var left atomic.Int64
			left.Store(int64(b.N))
			var done sync.WaitGroup
			for range callers {
				done.Go(func() {
					for left.Add(-1) >= 0 {
						if _, err := l.Append(context.Background(), drafts); err != nil {
							b.Error(err)
						}
					}
				})
			}
			done.Wait()
		})
	}
}

// 128 records: what an append costs before the store.
func BenchmarkEncode(b *testing.B) {
	drafts := make([]Draft, 128)
	for i := range drafts {
		drafts[i] = message(uint64(i))
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := encodeObject(header{sequence: 1}, drafts); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkOpen1000(b *testing.B) {
	store := onDisk(b)
	l, _ := open(b, store)
	for n := range uint64(1000) {
		drafts := make([]Draft, 16)
		for i := range drafts {
			drafts[i] = message(n)
		}
		if _, err := l.Append(context.Background(), drafts); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportAllocs()
	for b.Loop() {
		open(b, store)
	}
}
