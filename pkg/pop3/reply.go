package pop3

import (
	"strings"

	"github.com/postern-pop/postern/pkg/maildrop"
)

// LoginReply is what a client was sent, without its CRLF, when its attempt to log in
// came to this: made by the machine that made it then, in the language that it spoke.
func LoginReply(a maildrop.Attempt) string {
	s := NewProtocol("", "").Session(a.Session)
	if l := lookUp(a.Language); l != nil {
		s.language = l
	}
	var r Result
	switch a.Reason {
	case maildrop.ReasonNone:
		r.Info = maildrop.Info{Class: a.Class, Count: a.Count, Octets: a.Octets}
	case maildrop.ReasonUnavailable:
		r.Err = &maildrop.Error{Op: "pop3.reply", Kind: maildrop.Transient}
	default:
		r.Err = &maildrop.Error{Op: "pop3.reply", Kind: maildrop.Denied, Reason: a.Reason, Wait: a.Wait}
	}
	return strings.TrimSuffix(string(s.opened(r).Reply), "\r\n")
}
