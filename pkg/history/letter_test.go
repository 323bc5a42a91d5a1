package history

import (
	"bytes"
	"crypto/sha256"
	"testing"
)

const trace = "Return-Path: <a@b.example>\r\nDelivered-To: anna@c.example\r\nReceived: from x by y\r\n\twith LMTP; now\r\n"

func TestLettersAreKnownAgain(t *testing.T) {
	letters := NewLetters()
	for _, number := range []int{1, 19, 20, 3000} {
		text := letters.Letter("a@b.example", "anna@c.example", number)
		if !bytes.Equal(text, letters.Letter("a@b.example", "anna@c.example", number)) {
			t.Errorf("letter %d is another one each time", number)
		}
		got, sum := letters.Identify("anna@c.example", append([]byte(trace), text...))
		if got != number || sum != sha256.Sum256(text) {
			t.Errorf("letter %d is known as %d, its sum as %x", number, got, sum)
		}
		for what, other := range map[string][]byte{
			"another run's":     NewLetters().Letter("a@b.example", "anna@c.example", number),
			"another mailbox's": letters.Letter("a@b.example", "ben@c.example", number),
			"somebody's":        []byte("Subject: hello\r\n\r\n" + string(text)),
			"nothing":           nil,
		} {
			if got, _ := letters.Identify("anna@c.example", other); got != 0 {
				t.Errorf("%s is known as letter %d", what, got)
			}
		}
		text[len(text)-3] ^= 1
		if _, changed := letters.Identify("anna@c.example", append([]byte(trace), text...)); changed == sum {
			t.Errorf("letter %d with a changed octet has the same sum", number)
		}
	}
}
