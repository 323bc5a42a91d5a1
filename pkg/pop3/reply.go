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
	return strings.TrimSuffix(string(s.repeat(a).Reply), "\r\n")
}

func (s *Session) repeat(a maildrop.Attempt) Step {
	switch a.Reason {
	case maildrop.ReasonNone:
		return s.enter(maildrop.Info{Class: a.Class, Count: a.Count, Octets: a.Octets})
	case maildrop.ReasonUnavailable, maildrop.ReasonNoListing, maildrop.ReasonNoMessage,
		maildrop.ReasonNotRemoved, maildrop.ReasonRemovalUnknown: // trouble, which the log has
		return s.refusal(a.Reason, "", 0, s.id)
	}
	return s.refuse(reasonOf(&maildrop.Error{Op: "pop3.reply", Kind: maildrop.Denied, Reason: a.Reason}), a.Text, a.Wait)
}
