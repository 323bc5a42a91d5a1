package rpc_test

import (
	"context"
	"fmt"
	"io"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/postern-pop/postern/pkg/maildrop"
	"github.com/postern-pop/postern/pkg/rpc"
)

// cpu makes the benchmark report what CPU this process spends on an operation,
// both ends of it.
func cpu(b *testing.B) {
	spent := func() time.Duration {
		var usage syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
			b.Fatal(err)
		}
		return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
	}
	before := spent()
	b.Cleanup(func() { b.ReportMetric(float64(spent()-before)/float64(b.N)/1e3, "cpu-µs/op") })
}

// BenchmarkCheck is a round trip with nothing in it.
func BenchmarkCheck(b *testing.B) {
	drop, _ := connect(b, always(func(context.Context) error { return nil })).Resume(b.Context(), maildrop.Info{Address: anna}, nil)
	b.ReportAllocs()
	cpu(b)
	for b.Loop() {
		if err := drop.Check(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkRead is a message of 16 MiB from memory over the network.
func BenchmarkRead(b *testing.B) {
	octets := random(16 << 20)
	drop, _ := connect(b, &script{drop: func(maildrop.Info, []byte) maildrop.Drop {
		return &scriptDrop{read: func(_ context.Context, _ maildrop.UID, _ uint64, w io.Writer) (uint64, error) {
			n, err := w.Write(octets)
			return uint64(n), err
		}}
	}}).Resume(b.Context(), maildrop.Info{Address: anna}, nil)
	b.SetBytes(int64(len(octets)))
	b.ReportAllocs()
	cpu(b)
	for b.Loop() {
		if n, err := drop.Read(b.Context(), "u", 0, io.Discard); err != nil || n != uint64(len(octets)) {
			b.Fatal(n, err)
		}
	}
}

// BenchmarkDeliver is a message, asked for and delivered, by a stream each and by a
// feed, from so many callers at once.
func BenchmarkDeliver(b *testing.B) {
	for way, feeds := range map[string]bool{"streams": false, "feed": true} {
		for _, size := range []int{4_000, 90_000} {
			for _, callers := range []int{1, 64} {
				b.Run(fmt.Sprintf("%s/octets=%d/callers=%d", way, size, callers), func(b *testing.B) {
					benchDeliver(b, connector(feeds)(b, always(func(context.Context) error { return nil })), size, callers)
				})
			}
		}
	}
}

func benchDeliver(b *testing.B, c *rpc.Client, size, callers int) {
	b.Helper()
	message := body(random(size))
	b.SetBytes(int64(len(message)))
	b.ReportAllocs()
	b.SetParallelism(max(1, callers/runtime.GOMAXPROCS(0)))
	cpu(b)
	one := func() {
		err := c.Accept(b.Context(), maildrop.Recipient{Address: anna})
		if err == nil {
			err = c.Deliver(b.Context(), maildrop.Envelope{To: anna}, message)
		}
		if err != nil {
			b.Error(err)
		}
	}
	if callers == 1 {
		for b.Loop() {
			one()
		}
		return
	}
	b.RunParallel(func(p *testing.PB) {
		for p.Next() {
			one()
		}
	})
}

// BenchmarkList is a listing of 50,000 messages over the network.
func BenchmarkList(b *testing.B) {
	entries := make([]maildrop.Entry, 50_000)
	for i := range entries {
		entries[i] = maildrop.Entry{UID: maildrop.UID(fmt.Sprintf("of24octets%014d", i)), Size: uint64(1000 + i)}
	}
	listing := maildrop.ListingOf(entries...)
	c := connect(b, &script{drop: func(maildrop.Info, []byte) maildrop.Drop {
		return &scriptDrop{list: func(context.Context) (*maildrop.Listing, error) { return listing, nil }}
	}})
	b.ReportAllocs()
	cpu(b)
	for b.Loop() {
		drop, _ := c.Resume(b.Context(), maildrop.Info{Address: anna, Count: len(entries)}, nil)
		if got, err := drop.List(b.Context()); err != nil || got.Len() != len(entries) {
			b.Fatal(got.Len(), err)
		}
	}
}
