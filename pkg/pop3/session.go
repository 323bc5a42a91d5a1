package pop3

import (
	"time"

	"github.com/postern-pop/postern/pkg/maildrop"
)

// Limits on what arrives and what leaves.
const (
	// maxCommand is the longest command line in octets, CRLF included (RFC 2449
	// section 4).
	maxCommand = 255
	// maxPassword is how many octets a password may have that can be right: those that are
	// set have 200 at most, before their spellings are made one.
	maxPassword = 1024
	// maxResponse is the longest line with a SASL response, CRLF included (RFC
	// 5034 section 4: 12288 octets of base64).
	maxResponse = 12288 + 2
	// maxReply is the longest first line of a reply, CRLF included (RFC 2449
	// section 4).
	maxReply = 512
	// maxText is how much of an Error's Text a reply has, in octets.
	maxText = 160
	// checkAfter is how old the last Check may be at a command.
	checkAfter = time.Second
	// typicalScan is about how many octets a line of a listing has.
	typicalScan = 32
	// chunkSize is about how many octets of a listing are made at once.
	chunkSize = 8 << 10
)

// State is a state of a session (RFC 1939 section 3).
type State uint8

// The states of RFC 1939, and the one after them.
const (
	Authorization State = 1 << iota
	Transaction
	Update
	Ended
	Cleartext // before AUTHORIZATION, where TLS doesn't come first (RFC 2595 section 4)
)

// Op is what a Session asks of its driver.
type Op uint8

const (
	OpNone      Op = iota
	OpMore         // send the reply and call Result at once: it goes on
	OpOpen         // Opener.Open with Address, and Password or Proof; Result.Info
	OpCheck        // Drop.Check
	OpList         // Drop.List; Result.Listing
	OpRead         // Drop.Read of UID, cut as TOP does after Lines if not Whole; Result.Begun
	OpRemove       // Drop.Remove of UIDs
	OpChallenge    // Opener.Challenge with Address; Result.Challenge
	OpLeave        // Drop.Close: the client has taken its login back
	OpTLS          // send Preface, then the TLS handshake; ErrTrailing, with nothing sent, if more than STLS has come
)

var opNames = [...]string{OpNone: "none", OpMore: "more", OpOpen: "open", OpCheck: "check", OpList: "list", OpRead: "read", OpRemove: "remove", OpChallenge: "challenge", OpLeave: "leave", OpTLS: "tls"}

// String is the operation's name in logs.
func (o Op) String() string { return opNames[o] }

// Request is one call that a Session wants made.
type Request struct {
	Op       Op
	Address  maildrop.Address // OpOpen, OpChallenge
	Password string           // OpOpen; never log it
	Proof    *maildrop.Proof  // OpOpen, in place of a password
	UID      maildrop.UID     // OpRead
	Whole    bool             // OpRead: RETR
	Lines    uint64           // OpRead: lines of the body, for TOP
	Preface  []byte           // OpTLS; OpRead: goes to the client before the first octet of the message, and only with one
	UIDs     []maildrop.UID   // OpRemove
	Leaving  bool             // the call is part of a QUIT: it goes on though the client has gone
}

// Result is what came of a Request.
type Result struct {
	Err       error
	Info      maildrop.Info      // OpOpen
	Challenge maildrop.Challenge // OpChallenge
	Listing   *maildrop.Listing  // OpList
	Begun     bool               // OpRead: Preface and at least one octet went to the client
}

// Status is how a command ended, as metrics tell it.
type Status uint8

const (
	StatusOK   Status = iota // +OK
	StatusErr                // -ERR
	StatusTemp               // -ERR [SYS/TEMP], or cut for trouble of ours
)

// LoginResult is how an attempt to log in ended.
type LoginResult uint8

const (
	LoginNone LoginResult = iota // the step ends no attempt
	LoginOK
	LoginRefused     // credentials
	LoginDenied      // right credentials, no access
	LoginUnavailable // trouble of ours
)

// End is why a session ended; empty while it goes on.
type End string

// The ends that the protocol knows.
const (
	EndQuit     End = "quit"
	EndUpdate   End = "update_failed" // QUIT, and the removal wasn't confirmed
	EndFlood    End = "flood"
	EndForeign  End = "foreign" // SMTP, or nothing that is text
	EndHTTP     End = "http"
	EndRefused  End = "failed_logins"
	EndAccess   End = "access_ended"
	EndBackend  End = "backend_lost" // in the middle of a message
	EndRestart  End = "drained"
	EndFull     End = "full"
	EndTLS      End = "tls_failed" // after STLS
	EndTrailing End = "stls_trailing"
	EndBadOrder End = "bad_order" // the driver broke the rules
)

// Step is a Session's answer: octets to send, in order; then a call to make, whose
// outcome goes to Result; or the end. A Step with neither waits for a line.
type Step struct {
	Reply []byte // valid until the next call
	Do    Request
	End   End // after sending Reply, close

	Command string // the label of the command that ended with this step, or ""
	Status  Status
	Login   LoginResult
	Reason  maildrop.Reason // of a refusal: the code in the reply
}

// Session is one session's protocol, from the greeting on. It does no I/O, reads
// no clock and starts no goroutine; what it wants done it asks for in a Step.
// It is for one goroutine at a time. Make one with [Protocol.Session].
type Session struct {
	protocol *Protocol
	id       string // reference for support in temporary errors
	state    State
	waiting  Op
	call     call      // the command under way
	now      time.Time // at the latest Line or Result
	out      []byte
	language *language // of replies

	// AUTHORIZATION
	longest   time.Duration // between two logins of any user
	lines     int
	before    int // of lines, those before TLS
	failed    int
	name      string           // USER's argument
	exchange  exchange         // waits for a response to its challenge; nil: none does
	scram     *scramExchange   // the login by SCRAM that is under way
	channel   Channel          // nil: there is nothing to bind to
	mechanism string           // of the latest attempt to log in
	claimed   maildrop.Address // by whom the latest says he is; empty: nobody can be
	farewell  phrase           // what is said when a login that was taken back is undone

	// TRANSACTION
	info    maildrop.Info
	checked time.Time
	looked  bool              // a command that says something of the maildrop was run
	listing *maildrop.Listing // nil: not fetched yet
	marks   marks
	tally   Tally
}

// Tally counts what a session did.
type Tally struct {
	Retr, Top, Dele int
	Removed         int // messages whose removal was confirmed
}

// State is the state the session is in.
func (s *Session) State() State { return s.state }

// Info is what Open answered with; zero before the login.
func (s *Session) Info() maildrop.Info { return s.info }

// Delay says how long users have to wait between two logins, at the longest, for CAPA
// before it is known who the user is (RFC 2449 section 6.5); 0: not at all.
func (s *Session) Delay(longest time.Duration) { s.longest = longest }

// Language is the tag of the language that replies are in.
func (s *Session) Language() string { return s.language.tag }

// User is who has logged in, else who the latest attempt says he is; empty: nobody.
func (s *Session) User() maildrop.Address {
	if s.info.Address != "" {
		return s.info.Address
	}
	return s.claimed
}

// Mechanism is what the latest attempt to log in used: USER or a SASL mechanism.
func (s *Session) Mechanism() string { return s.mechanism }

// Tally is what the session did so far.
func (s *Session) Tally() Tally { return s.tally }

// UIDs are hashes of the listing's unique-ids as the session found and as it left
// them, for the log: a maildrop whose ids change unasked is the most expensive bug
// of a POP3 server. ok is false if the session never fetched its listing.
func (s *Session) UIDs() (before, after uint64, ok bool) {
	if s.listing == nil {
		return 0, 0, false
	}
	before = uidHash(s.listing, nil)
	if s.tally.Removed == 0 {
		return before, before, true
	}
	return before, uidHash(s.listing, &s.marks), true
}

// MaxLine is how long the next line may be, in octets with its CRLF. A longer one
// is to be thrown away and told by Overlong.
func (s *Session) MaxLine() int {
	if s.state == Authorization {
		return maxResponse
	}
	return maxCommand
}

// Greet begins the session (RFC 1939 section 4). There is no timestamp in angle
// brackets: APOP isn't offered.
func (s *Session) Greet() Step { return Step{Reply: s.protocol.greeting} }

// Line takes a line without its line end.
func (s *Session) Line(now time.Time, line []byte) Step {
	if s.waiting != OpNone || s.state == Ended {
		return s.end(Step{}, EndBadOrder)
	}
	s.begin(now)
	if step, over := s.stranger(line); over {
		return step
	}
	if s.exchange != nil {
		return s.response(line)
	}
	return s.command(line)
}

// Overlong tells of a line that was longer than MaxLine, or otherwise unfit, and
// was thrown away.
func (s *Session) Overlong(now time.Time) Step {
	if s.waiting != OpNone || s.state == Ended {
		return s.end(Step{}, EndBadOrder)
	}
	s.begin(now)
	if step, over := s.stranger(nil); over {
		return step
	}
	s.call = call{command: s.protocol.other}
	return s.abandon(textTooLong)
}

// Flood tells of input that has no line end in sight. Nothing sensible can follow.
func (s *Session) Flood(now time.Time) Step { return s.end(s.Overlong(now), EndFlood) }

// Restart ends the session from the server's side, between two commands. Nothing is
// removed.
func (s *Session) Restart() Step {
	s.begin(s.now)
	s.call = call{}
	return s.end(s.refuse(maildrop.ReasonRestart, "", 0), EndRestart)
}

// TurnAway is said in place of the greeting to one for whom there is no room.
func (s *Session) TurnAway(reason maildrop.Reason) Step {
	return s.end(s.refuse(reason, "", 0), EndFull)
}

// TooMuch ends the session of a stranger who has sent more octets than he may.
func (s *Session) TooMuch() Step {
	s.begin(s.now)
	s.call = call{command: s.protocol.other}
	return s.end(s.refuse(maildrop.ReasonOctets, "", 0), EndFlood)
}

// Result takes what came of the latest Step's request.
func (s *Session) Result(now time.Time, r Result) Step {
	op := s.waiting
	s.begin(now)
	s.waiting = OpNone
	switch op {
	case OpMore:
		return s.call.command.run(s, s.call)
	case OpOpen:
		return s.opened(r)
	case OpCheck:
		return s.checkedNow(r.Err)
	case OpList:
		return s.listed(r)
	case OpRead:
		return s.read(r)
	case OpRemove:
		return s.removed(r.Err)
	case OpChallenge:
		return s.scram.challenged(s, r)
	case OpLeave:
		return s.err(s.farewell.text, s.farewell.values)
	case OpTLS:
		return s.secured(r.Err)
	}
	return s.end(Step{}, EndBadOrder)
}

// begin makes room for the next reply. A buffer that a listing made large isn't
// kept: most of a session's life is waiting.
func (s *Session) begin(now time.Time) {
	s.now = now
	if cap(s.out) > 2*maxReply && s.waiting != OpMore {
		s.out = nil
	}
	s.out = s.out[:0]
}

// stranger bounds what someone may send who hasn't logged in.
func (s *Session) stranger(line []byte) (Step, bool) {
	if s.state&(Cleartext|Authorization) == 0 {
		return Step{}, false
	}
	s.lines++
	s.call = call{command: s.protocol.other}
	if s.lines == s.before+1 {
		if end := foreign(line); end != "" {
			return s.end(s.err(textStranger), end), true
		}
	}
	if limit := s.protocol.maxLines; limit > 0 && s.lines > limit {
		return s.end(s.refuse(maildrop.ReasonLines, "", 0), EndFlood), true
	}
	return Step{}, false
}

// ask has a call made; the command under way goes on with its Result.
func (s *Session) ask(r Request) Step {
	s.waiting = r.Op
	r.Leaving = s.call.command != nil && s.call.command.verb == "QUIT"
	return Step{Do: r}
}

// end makes a step the last one.
func (s *Session) end(step Step, why End) Step {
	s.state = Ended
	step.End = why
	return step
}
