package shard

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postern-pop/postern/pkg/blob/dir"
	"github.com/postern-pop/postern/pkg/maildroptest"
)

// BenchmarkDeliverAtOnce delivers from a number of clients, each of which waits
// for one answer before its next message, to shards whose store is a directory. It says
// what a delivery took of the processors, how long it took, and how many went into
// one ledger object.
func BenchmarkDeliverAtOnce(b *testing.B) {
	for _, size := range []int{4 << 10, 90 << 10} {
		for _, shards := range []int{1, 16} {
			for _, clients := range []int{1, 32, 64} {
				b.Run(fmt.Sprintf("octets=%d/shards=%d/clients=%d", size, shards, clients), func(b *testing.B) {
					benchDeliver(b, size, benchShards(b, shards), clients)
				})
			}
		}
	}
}

// benchShards are some with a user each.
func benchShards(b *testing.B, count int) []*Shard {
	b.Helper()
	store, err := dir.Open(b.TempDir())
	ok(b, err)
	shards := make([]*Shard, count)
	for i := range shards {
		config := testConfig(store)
		config.Number = i
		shards[i] = open(b, config)
		for range maxInFlight { // a ledger's first appends are written one by one
			user(b, shards[i], anna)
		}
	}
	return shards
}

func benchDeliver(b *testing.B, size int, shards []*Shard, clients int) {
	b.Helper()
	body := maildroptest.Filled(size, 1)
	before := appended(shards)
	var left, waited atomic.Int64
	left.Store(int64(b.N))
	var group sync.WaitGroup
	b.ResetTimer()
	spent := processorTime(b)
	for range clients {
		group.Go(func() {
			for n := left.Add(-1); n >= 0; n = left.Add(-1) {
				began := time.Now()
				if err := shards[int(n)%len(shards)].Deliver(b.Context(), envelope(anna), body); err != nil {
					b.Error(err)
				}
				waited.Add(int64(time.Since(began)))
			}
		})
	}
	group.Wait()
	b.StopTimer()
	n := float64(b.N)
	b.ReportMetric(float64(processorTime(b)-spent)/n, "cpu-ns/op")
	b.ReportMetric(float64(waited.Load())/n, "latency-ns")
	b.ReportMetric(n/float64(appended(shards)-before), "records/object")
}

func appended(shards []*Shard) (objects uint64) {
	for _, s := range shards {
		objects += s.ledger.Stats().Objects
	}
	return objects
}

// processorTime is what this process has spent, in user code and in the kernel.
func processorTime(b *testing.B) time.Duration {
	b.Helper()
	var usage unix.Rusage
	ok(b, unix.Getrusage(unix.RUSAGE_SELF, &usage))
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}
