package lmtp

import (
	"bytes"
	"crypto/sha256"
	"net/netip"
	"testing"
	"time"

	"github.com/postern-pop/postern/pkg/maildrop"
)

// What was stored says which ID it was delivered with.
func TestIdentify(t *testing.T) {
	for name, c := range map[string]struct {
		sender string
		to     maildrop.Address
		wire   string // of the content
		plain  string // the same without dot-stuffing
	}{
		"plain":        {"a@example.net", "anna@local.example", "Received: x\r\n\r\nhi\r\n", "Received: x\r\n\r\nhi\r\n"},
		"null sender":  {"", "anna@local.example", "x\r\n", "x\r\n"},
		"dots":         {"a@example.net", "anna@local.example", "..x\r\n...\r\n\r\n..\r\n", ".x\r\n..\r\n\r\n.\r\n"},
		"quoted":       {"a@example.net", `"x\y z@local.example`, "x\r\n", "x\r\n"},
		"UTF-8":        {"ä@example.net", "jürgen@local.example", "x\r\n", "x\r\n"},
		"empty":        {"a@example.net", "anna@local.example", "", ""},
		"octets":       {"a@example.net", "anna@local.example", "\x00\xff\r\n", "\x00\xff\r\n"},
		"bare CR":      {"a@example.net", "anna@local.example", "a\rb\r\n", "a\rb\r\n"},
		"angle sender": {"a>b@example.net", "anna@local.example", "x\r\n", "x\r\n"},
	} {
		header := trace{sender: c.sender, to: c.to, client: "gate", remote: netip.MustParseAddr("::1"), hostname: "in.example", id: "1", time: time.Unix(1e9, 0)}.header()
		id, ok := Identify(bytes.NewReader(append(header, c.wire...)))
		if want := maildrop.RepeatableID(c.sender, c.to, sha256.Sum256([]byte(c.plain))); !ok || id != want {
			t.Errorf("%s: %x, %t, want %x", name, id, ok, want)
		}
	}
	for _, foreign := range []string{"", "x", "Return-Path: <a>\r\n", "Return-Path: <a>\r\nDelivered-To: b@c.example\r\nSubject: x\r\n\r\n",
		"Return-Path: <a>\r\nDelivered-To: nobody\r\nReceived: from x\r\n\tby y\r\n\tfor z\r\n\r\n"} {
		if _, ok := Identify(bytes.NewReader([]byte(foreign))); ok {
			t.Errorf("%q has an ID", foreign)
		}
	}
}
