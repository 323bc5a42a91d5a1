package main

import (
	"fmt"
	"log/slog"
	"math"
	"runtime/debug"

	"github.com/KimMachineGun/automemlimit/memlimit"

	"github.com/postern-pop/postern/pkg/shard"
)

// Shares of a process's memory, in octets.
const (
	limitShare = 0.9       // of what the container allows; the kernel's part and what the runtime overlooks are in the rest
	ownMemory  = 128 << 20 // code, connections, one password being verified
	leastMail  = 16 << 20  // for mail on its way, whatever the limit: some of the largest inline messages
)

// memoryPlan is how a mailbox node's memory is divided. What a message takes on
// its way is its body, as received, and the object that it is written in.
type memoryPlan struct {
	limit    int64 // the whole; 0: none is known
	arriving int64 // bodies at once in the gRPC server
	waiting  int64 // of these, what its shards hold until it is written; less, so that a slow store is what is refused for
}

// limitMemory lets the garbage collector know how much memory the process has:
// what GOMEMLIMIT says, else most of what its container allows. Without it the heap may
// grow to twice what lives, and beyond what the container has.
func limitMemory(log *slog.Logger) (limit int64) {
	limit, err := memlimit.Set(memlimit.WithRatio(limitShare))
	if err != nil {
		limit = debug.SetMemoryLimit(-1)
		log.Warn("the container's memory limit can't be read; set GOMEMLIMIT", "err", err)
	}
	if limit == math.MaxInt64 {
		return 0
	}
	return limit
}

// planMemory divides what the cache leaves. The error says that it is too little;
// the plan can be used all the same.
func planMemory(limit, cache int64) (memoryPlan, error) {
	p := memoryPlan{limit: limit, waiting: shard.DefaultBudget}
	var err error
	if limit > 0 {
		left := (limit - cache - ownMemory) * 4 / 9 // arriving 5/9, objects 4/9
		p.waiting = min(p.waiting, max(left, leastMail))
		if left < leastMail {
			err = fmt.Errorf("cache_mib leaves too little for mail on its way: with a cache of %d MiB the process needs %d MiB, and has %d (GOMEMLIMIT, or %.0f %% of its container's)",
				cache>>20, (cache+ownMemory+leastMail*9/4)>>20, limit>>20, 100*limitShare)
		}
	}
	p.arriving = p.waiting * 5 / 4
	return p, err
}
