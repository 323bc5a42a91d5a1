package main

import (
	"bytes"
	"testing"

	"github.com/postern-pop/postern/pkg/mailclient"
)

// BenchmarkListing is LIST and UIDL of 50,000 messages, through front and node, to the last
// octet: of a session that lists for the first time, and of one that has its listing.
func BenchmarkListing(b *testing.B) {
	const messages = 50_000
	d := benchDemo(b)
	user, region, config := d.makeUsers("eu", 1)[0], d.region("eu"), benchTLS(d, nil)
	send(b, region.LMTP, clients, times(messages), func(int) (string, []byte) { return user.Address, letterOf("listing", 64) })
	for _, verb := range []string{"LIST", "UIDL"} {
		b.Run(verb+"/first", func(b *testing.B) {
			for b.Loop() {
				b.StopTimer()
				pop := benchLogin(b, region, user, config)
				b.StartTimer()
				wholeListing(b, pop, verb, messages)
				b.StopTimer()
				benchQuit(b, pop)
				b.StartTimer()
			}
		})
		b.Run(verb+"/again", func(b *testing.B) {
			pop := benchLogin(b, region, user, config)
			wholeListing(b, pop, verb, messages)
			for b.Loop() {
				wholeListing(b, pop, verb, messages)
			}
			benchQuit(b, pop)
		})
	}
}

// wholeListing reads a listing to its last octet.
func wholeListing(b *testing.B, pop *mailclient.POP, verb string, messages int) {
	b.Helper()
	if err := pop.Send(verb); err != nil {
		b.Fatal(err)
	}
	buf, last, lines := make([]byte, 64<<10), []byte(nil), 0
	for !bytes.HasSuffix(last, []byte("\r\n.\r\n")) {
		n, err := pop.Conn().Read(buf)
		if err != nil {
			b.Fatal(err)
		}
		lines += bytes.Count(buf[:n], []byte("\n"))
		last = append(last[:0], append(last[max(0, len(last)-5):], buf[:n]...)...)
		last = last[max(0, len(last)-5):]
	}
	if lines != messages+2 {
		b.Fatalf("%s: %d lines", verb, lines)
	}
}
