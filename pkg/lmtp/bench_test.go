package lmtp

import (
	"context"
	"io"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/postern-pop/postern/pkg/maildrop"
)

// BenchmarkDelivery is a message of 90 KB from a gateway that pipelines, to a
// Deliverer that reads it once. The CPU is both ends'.
func BenchmarkDelivery(b *testing.B) {
	_, address := start(b, Config{Deliverer: sinkhole{}})
	c := greeted(b, address)
	c.SetDeadline(time.Time{})
	message := "Received: by gateway.test\r\n\r\n" + strings.Repeat(strings.Repeat("0123456789abcdef", 4)+"\r\n", 90_000/66) + ".\r\n"
	before := spent(b)
	b.ReportAllocs()
	for b.Loop() {
		c.send("MAIL FROM:<s@client.test>\r\nRCPT TO:<anna@example.test>\r\nDATA\r\n")
		c.expect("250 ")
		c.expect("250 ")
		c.expect("354 ")
		c.send(message)
		c.expect("250 ")
	}
	b.ReportMetric(float64(spent(b)-before)/float64(b.N)/1e3, "cpu-µs/op")
}

// sinkhole is a Deliverer that reads what comes and keeps nothing.
type sinkhole struct{}

func (sinkhole) Accept(context.Context, maildrop.Recipient) error { return nil }

func (sinkhole) Deliver(_ context.Context, _ maildrop.Envelope, body maildrop.Body) error {
	r, err := body.Open()
	if err != nil {
		return err
	}
	defer r.Close()
	_, err = io.Copy(io.Discard, r)
	return err
}

// spent is the CPU time of this process.
func spent(b *testing.B) time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		b.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}
