package ledger

import (
	"context"
	"fmt"
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
