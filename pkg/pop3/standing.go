package pop3

import (
	"fmt"
	"net/netip"
	"strconv"
	"time"

	"github.com/postern-pop/postern/pkg/maildrop"
	"github.com/postern-pop/postern/pkg/throttle"
)

// Standing says what a login of the user from there would meet here before its
// mailbox is asked: the limits that all fronts of the region hold together, in the
// order in which they are asked.
func (s *Server) Standing(remote netip.Addr, user maildrop.Address) []maildrop.Finding {
	return []maildrop.Finding{s.connectionsOf(remote), s.delayOf(remote, user)}
}

func (s *Server) connectionsOf(remote netip.Addr) maildrop.Finding {
	source := throttle.SourceOf(remote)
	_, open, limit := s.gate.Standing(remote)
	f := maildrop.Finding{Subject: "connections", Value: strconv.Itoa(open)}
	if limit == 0 {
		f.Words = fmt.Sprintf("from %s, at the fronts of %s; there is no limit", source, s.config.Region)
		return f
	}
	f.Words = fmt.Sprintf("of at most %d from %s, at the fronts of %s", limit, source, s.config.Region)
	if open < limit {
		return f
	}
	f.Reason = maildrop.ReasonFullIP
	if source.Wide() {
		f.Reason = maildrop.ReasonFullNetwork
	}
	return f
}

func (s *Server) delayOf(remote netip.Addr, user maildrop.Address) maildrop.Finding {
	failures, _, _ := s.gate.Standing(remote)
	f := maildrop.Finding{Subject: "source-delay", Value: "none"}
	f.Words = fmt.Sprintf("%s lately from %s, at the fronts of %s", maildrop.Counted(failures, "wrong password"), throttle.SourceOf(remote), s.config.Region)
	if delay := s.gate.Delay(remote, string(user)); delay > 0 {
		f.Value = delay.Round(time.Millisecond).String()
		f.Words += "; this front lets the user's login wait for so long"
	}
	return f
}
