package lmtp

import (
	"bytes"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/postern-pop/postern/pkg/maildrop"
)

// trace is what the trace header of a delivery says (RFC 5321 section 4.4).
type trace struct {
	sender   string // as MAIL gave it; empty: the null sender
	to       maildrop.Address
	client   string     // what the client called itself
	remote   netip.Addr // where it came from
	hostname string     // ours
	secured  bool       // by TLS
	id       string     // the transaction's
	time     time.Time
}

// header is the trace header in wire form. No line of it begins with a dot, so
// its octets with and without stuffing are the same number.
func (t trace) header() []byte {
	to := displayed(t.to)
	return fmt.Appendf(nil, "Return-Path: <%s>\r\nDelivered-To: %s\r\n"+
		"Received: from %s (%s)\r\n\tby %s with %s id %s\r\n\tfor <%s>; %s\r\n",
		t.sender, to, t.client, literal(t.remote), t.hostname, t.protocol(), t.id, to,
		t.time.Format(time.RFC1123Z))
}

// protocol is the keyword of the Received field's "with" (RFC 3848). The one with an A is for SMTP's AUTH, which we don't have; a
// client certificate is part of S.
func (t trace) protocol() string {
	if t.secured {
		return "LMTPS"
	}
	return "LMTP"
}

// literal is an address as RFC 5321 section 4.1.3 writes it.
func literal(a netip.Addr) string {
	if a.Is4() {
		return "[" + a.String() + "]"
	}
	return "[IPv6:" + a.WithZone("").String() + "]"
}

// displayed is an address as it is written in a header: quoted where its local
// part is no dot-string (RFC 5321 section 4.1.2).
func displayed(a maildrop.Address) string {
	local := a.Local()
	if isDotString(local) {
		return string(a)
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(local) + `"@` + a.Domain()
}

func isDotString(s string) bool {
	if s == "" || s[0] == '.' || s[len(s)-1] == '.' || strings.Contains(s, "..") {
		return false
	}
	for _, c := range s {
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c >= utf8.RuneSelf
		if !letter && !strings.ContainsRune("!#$%&'*+-/=?^_`{|}~.", c) {
			return false
		}
	}
	return true
}

// body is a message as one recipient gets it: trace header and content.
type body struct {
	header  []byte
	content *spool
	size    uint64 // of the content, without dot-stuffing
}

// Open implements maildrop.Body.
func (b *body) Open() (io.ReadCloser, error) {
	content, err := b.content.open()
	if err != nil {
		return nil, err
	}
	return struct {
		io.Reader
		io.Closer
	}{io.MultiReader(bytes.NewReader(b.header), content), content}, nil
}

// Wire implements maildrop.Body.
func (b *body) Wire() uint64 { return uint64(len(b.header)) + b.content.wire }

// Size implements maildrop.Body.
func (b *body) Size() uint64 { return uint64(len(b.header)) + b.size }
