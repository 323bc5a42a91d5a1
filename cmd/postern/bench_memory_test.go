package main

import (
	"sync"
	"testing"
	"time"
)

// BenchmarkMemory delivers messages of nearly 1 MiB, the largest that are not
// objects of their own, from 64 connections, and says how much memory each role's
// processes took at most: in the first half of the run, and in the second. They
// are the same where there is a bound.
func BenchmarkMemory(b *testing.B) {
	d := benchDemo(b)
	users, text := d.makeUsers("eu", 64), letterOf("memory", 1000<<10)
	deliver := func(n int) (string, []byte) { return users[n%len(users)].Address, text }
	for _, half := range []string{"first", "second"} {
		peaks := d.peaks(b, func() { send(b, d.region("eu").LMTP, 64, times(b.N/2), deliver) })
		for role, octets := range peaks {
			b.ReportMetric(float64(octets)/(1<<20), half+"-"+role+"-MiB")
		}
	}
}

// peaks is the most memory that a process of each role had while something ran.
func (r *running) peaks(b *testing.B, run func()) map[string]int64 {
	b.Helper()
	peaks, done := map[string]int64{}, make(chan struct{})
	var watch sync.WaitGroup
	watch.Go(func() {
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for {
			for _, p := range r.region("eu").Processes {
				peaks[p.Role] = max(peaks[p.Role], procOctets(b, p.PID, "status", "VmRSS:"))
			}
			select {
			case <-tick.C:
			case <-done:
				return
			}
		}
	})
	run()
	close(done)
	watch.Wait()
	return peaks
}
