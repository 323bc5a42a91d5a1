package pop3

import (
	"slices"
	"strconv"

	"github.com/postern-pop/postern/pkg/maildrop"
)

// stat: RFC 1939 section 5. Marked messages don't count.
func (s *Session) stat(call) Step {
	octets := s.info.Octets
	if s.marks.count > 0 {
		if s.listing == nil {
			return s.ask(Request{Op: OpList})
		}
		octets -= s.marks.octets(s.listing)
	}
	s.out = append(s.out, "+OK "...)
	s.out = strconv.AppendInt(s.out, int64(s.info.Count-s.marks.count), 10)
	s.out = append(s.out, ' ')
	s.out = strconv.AppendUint(s.out, octets, 10)
	return s.done(append(s.out, "\r\n"...), StatusOK)
}

// list is LIST and UIDL (RFC 1939 sections 5 and 7), with a number or without.
func (s *Session) list(c call) Step {
	if s.listing == nil && s.info.Count > 0 {
		return s.ask(Request{Op: OpList})
	}
	if c.message >= 0 {
		s.out = append(s.out, "+OK "...)
		s.scan(c.message)
		return s.done(s.out, StatusOK)
	}
	if c.next == 0 {
		s.out = slices.Grow(s.out, maxReply+min(chunkSize, s.info.Count*typicalScan))
		s.first(textListing, values{messages: uint64(s.info.Count - s.marks.count)})
	}
	for i := c.next; i < s.info.Count; i++ {
		if s.marks.has(i) {
			continue
		}
		if len(s.out) >= chunkSize {
			s.call.next = i
			step := s.ask(Request{Op: OpMore})
			step.Reply = s.out
			return step
		}
		s.scan(i)
	}
	return s.done(append(s.out, ".\r\n"...), StatusOK)
}

// scan adds a line of a listing: the number, and the size or the unique-id.
func (s *Session) scan(i int) {
	s.out = strconv.AppendInt(s.out, int64(i+1), 10)
	s.out = append(s.out, ' ')
	if s.call.command.capa == "UIDL" {
		s.out = append(s.out, s.listing.Octets(i, i+1)...)
	} else {
		s.out = strconv.AppendUint(s.out, s.listing.Size(i), 10)
	}
	s.out = append(s.out, "\r\n"...)
}

// listed takes the listing and goes on with the command that needed it.
func (s *Session) listed(r Result) Step {
	err := r.Err
	if err == nil {
		err = checkListing(s.info, r.Listing)
	}
	if err == nil {
		s.listing = r.Listing
		return s.call.command.run(s, s.call)
	}
	step := s.trouble(OpList, err)
	if s.call.command.verb == "QUIT" && step.End == "" { // QUIT always ends the session
		return s.end(step, EndUpdate)
	}
	return step
}

// retr is RETR and TOP (RFC 1939 sections 5 and 7). A message has at most as many
// lines as octets, so TOP with that many lines is RETR.
func (s *Session) retr(c call) Step {
	if s.listing == nil {
		return s.ask(Request{Op: OpList})
	}
	size := s.listing.Size(c.message)
	r := Request{Op: OpRead, UID: s.listing.UID(c.message), Lines: c.lines}
	r.Whole = c.command.args == oneMessage || c.lines >= size
	if r.Whole {
		s.first(textOctets, values{octets: size})
	} else {
		s.first(textTop)
	}
	r.Preface = s.out
	return s.ask(r)
}

// read ends the reply to RETR or TOP. A message that broke off after its beginning
// was sent must not get an end that looks true: the connection is cut.
func (s *Session) read(r Result) Step {
	whole := s.call.command.args == oneMessage
	switch {
	case r.Err != nil && r.Begun:
		step := s.done(nil, StatusTemp)
		return s.end(step, EndBackend)
	case r.Err != nil:
		return s.trouble(OpRead, r.Err)
	case whole:
		s.tally.Retr++
	default:
		s.tally.Top++
	}
	if !r.Begun { // a message without a single octet
		s.first(textOctets, values{})
	}
	return s.done(append(s.out, ".\r\n"...), StatusOK)
}

// dele: RFC 1939 section 5. A mark only.
func (s *Session) dele(c call) Step {
	s.marks.add(c.message)
	s.tally.Dele++
	return s.ok(textMarked)
}

// rset: RFC 1939 section 5.
func (s *Session) rset(call) Step {
	s.marks = marks{}
	return s.ok(textReset, values{messages: uint64(s.info.Count)})
}

// noop: RFC 1939 section 5.
func (s *Session) noop(call) Step { return s.ok(textNoop) }

// quit: RFC 1939 sections 4 to 6. The only way into UPDATE.
func (s *Session) quit(call) Step {
	switch {
	case s.state != Transaction:
		return s.end(s.ok(textGoodbye), EndQuit)
	case s.marks.count == 0:
		return s.end(s.ok(textNothingRemoved), EndQuit)
	case s.listing == nil:
		return s.ask(Request{Op: OpList})
	}
	s.state = Update
	return s.ask(Request{Op: OpRemove, UIDs: s.marks.uids(s.listing)})
}

// removed answers QUIT, once it is known what became of the marks.
func (s *Session) removed(err error) Step {
	if err != nil {
		step := s.trouble(OpRemove, err)
		if step.End == "" {
			step = s.end(step, EndUpdate)
		}
		return step
	}
	s.tally.Removed = s.marks.count
	return s.end(s.ok(textRemoved, values{messages: uint64(s.marks.count)}), EndQuit)
}

// errListing is what a listing that contradicts Open is taken for.
func errListing(text string) error {
	return &maildrop.Error{Op: "pop3.list", Kind: maildrop.Internal, Text: text}
}
