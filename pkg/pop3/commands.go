package pop3

import (
	"bytes"
	"math"
	"strconv"
	"strings"

	"github.com/postern-pop/postern/pkg/maildrop"
)

// Protocol is the table of all that a server's sessions understand. It is made
// once and never changes.
type Protocol struct {
	commands       []command
	implementation string      // "" is not told
	mechanisms     []mechanism // those that are offered
	other          *command    // what isn't in the table
	greeting       []byte
	before         []byte // CAPA's list in AUTHORIZATION; the one in TRANSACTION differs in EXPIRE
	clear          []byte // CAPA's list before TLS
	maxLines       int    // before the login; 0: no limit
	maxFailed      int    // logins that end the connection; 0: no limit
}

// arguments is the form of a command's arguments.
type arguments uint8

const (
	noArguments     arguments = iota
	freeText                  // the rest of the line, spaces at both ends dropped
	exactText                 // the rest of the line as it is
	optionalMessage           // nothing, or a message number
	oneMessage                // a message number
	messageAndLines           // a message number and a number of lines
)

// command is a row of the table.
type command struct {
	verb   string // in capitals, at most four letters; also its label in metrics
	args   arguments
	states State  // where it is allowed
	capa   string // what CAPA says of it (RFC 2449 section 6)
	looks  bool   // it says something of the maildrop
	run    func(*Session, call) Step
	key    uint32 // the verb, packed
}

// call is a command with its arguments, kept while the back end is asked.
type call struct {
	command *command
	text    []byte // free or exact text; valid during Line only
	message int    // index of a message; -1: no number was given
	lines   uint64 // TOP's second number
	next    int    // index that a listing goes on at
}

const anyState = Authorization | Transaction

// NewProtocol makes the table. Hostname and region show in the greeting. The SASL
// mechanisms that are offered are those of DefaultMechanisms unless some are named;
// CheckMechanisms says whether they are known.
func NewProtocol(hostname, region string, mechanisms ...string) *Protocol {
	return newProtocol(hostname, region, product, mechanisms)
}

// product is what the server calls itself (RFC 2449 section 6.9). It says no version.
const product = "Postern"

// newProtocol makes the table of a server that calls itself by the name; "" hides it.
func newProtocol(hostname, region, name string, mechanisms []string) *Protocol {
	p := &Protocol{
		implementation: name,
		other:          &command{verb: "OTHER", states: anyState},
		commands: []command{
			{verb: "CAPA", args: noArguments, states: anyState | Cleartext, run: (*Session).capa},
			{verb: "STLS", args: noArguments, states: Cleartext, capa: "STLS", run: (*Session).stls},
			{verb: "USER", args: freeText, states: Authorization, capa: "USER", run: (*Session).user},
			{verb: "PASS", args: exactText, states: Authorization, run: (*Session).pass},
			{verb: "AUTH", args: freeText, states: Authorization, capa: "SASL", run: (*Session).auth},
			{verb: "STAT", args: noArguments, states: Transaction, looks: true, run: (*Session).stat},
			{verb: "LIST", args: optionalMessage, states: Transaction, looks: true, run: (*Session).list},
			{verb: "UIDL", args: optionalMessage, states: Transaction, capa: "UIDL", looks: true, run: (*Session).list},
			{verb: "RETR", args: oneMessage, states: Transaction, looks: true, run: (*Session).retr},
			{verb: "TOP", args: messageAndLines, states: Transaction, capa: "TOP", looks: true, run: (*Session).retr},
			{verb: "DELE", args: oneMessage, states: Transaction, looks: true, run: (*Session).dele},
			{verb: "RSET", args: noArguments, states: Transaction, looks: true, run: (*Session).rset},
			{verb: "NOOP", args: noArguments, states: Transaction, run: (*Session).noop},
			{verb: "LANG", args: freeText, states: anyState, capa: "LANG", run: (*Session).lang},
			{verb: "UTF8", args: noArguments, states: anyState, capa: "UTF8 USER", run: (*Session).utf8Mode},
			{verb: "QUIT", args: noArguments, states: anyState | Cleartext, run: (*Session).quit},
		},
		mechanisms: offered(mechanisms),
		maxLines:   DefaultLimits().LinesBeforeLogin,
		maxFailed:  DefaultLimits().FailedLogins,
	}
	for i := range p.commands {
		p.commands[i].key = packVerb([]byte(p.commands[i].verb))
	}
	p.greeting = []byte("+OK " + ascii(hostname, 200) + " " + strings.TrimLeft(name+" ", " ") + "POP3 ready, region " + ascii(region, 60) + "\r\n")
	p.before = p.appendCapabilities(nil, leastExpire, "")
	p.clear = p.cleartextCapabilities()
	return p
}

// Session begins a session. The id shows in temporary errors, so that support
// can find the session in the log.
func (p *Protocol) Session(id string) *Session {
	return &Session{protocol: p, id: ascii(id, 64), state: Authorization, language: languages[0]}
}

// Commands are the labels of all commands, OTHER included.
func (p *Protocol) Commands() []string {
	verbs := make([]string, 0, 1+len(p.commands))
	verbs = append(verbs, p.other.verb)
	for i := range p.commands {
		verbs = append(verbs, p.commands[i].verb)
	}
	return verbs
}

// leastExpire is what EXPIRE says of users that aren't known yet (RFC 2449 section 6.7).
var leastExpire = strconv.Itoa(maildrop.ClassContinuity.Days()) + " USER"

// appendCapabilities adds CAPA's list (RFC 2449 section 5): what the table says, and
// the properties of the whole. No delay leaves LOGIN-DELAY out.
func (p *Protocol) appendCapabilities(b []byte, expire, delay string) []byte {
	for i := range p.commands {
		c := &p.commands[i]
		if c.capa == "" || c.states == Cleartext {
			continue
		}
		b = append(b, c.capa...)
		if c.capa == "SASL" { // RFC 5034 section 3
			for j := range p.mechanisms {
				b = append(b, ' ')
				b = append(b, p.mechanisms[j].name...)
			}
		}
		b = append(b, "\r\n"...)
	}
	b = append(b, "RESP-CODES\r\n"...)        // RFC 2449 section 6.4
	b = append(b, "AUTH-RESP-CODE\r\n"...)    // RFC 3206 section 6
	b = append(b, "PIPELINING\r\n"...)        // RFC 2449 section 6.6
	b = append(b, "EXPIRE "+expire+"\r\n"...) // RFC 2449 section 6.7
	if delay != "" {
		b = append(b, "LOGIN-DELAY "+delay+"\r\n"...) // RFC 2449 section 6.5
	}
	if p.implementation != "" {
		b = append(b, "IMPLEMENTATION "+p.implementation+"\r\n"...) // RFC 2449 section 6.9
	}
	return append(b, ".\r\n"...)
}

// packVerb is a keyword of up to four letters or digits in one number, in
// capitals, since case doesn't matter (RFC 1939 section 3); 0 for anything else.
func packVerb(verb []byte) (key uint32) {
	if len(verb) > 4 {
		return 0
	}
	for _, c := range verb {
		switch {
		case 'a' <= c && c <= 'z':
			c -= 'a' - 'A'
		case 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		default:
			return 0
		}
		key = key<<8 | uint32(c)
	}
	return key
}

func (p *Protocol) lookup(verb []byte) *command {
	key := packVerb(verb)
	for i := range p.commands {
		if p.commands[i].key == key {
			return &p.commands[i]
		}
	}
	return nil
}

// command runs a command line.
func (s *Session) command(line []byte) Step {
	if len(bytes.Trim(line, " ")) == 0 {
		return Step{}
	}
	verb, rest, _ := bytes.Cut(line, []byte(" "))
	c := s.protocol.lookup(verb)
	s.call = call{command: s.protocol.other, message: -1}
	switch {
	case len(line)+2 > maxCommand && (c == nil || c.capa != "SASL"):
		return s.err(textTooLong)
	case c == nil:
		return s.err(textUnknown)
	}
	s.call.command = c
	if c.states&s.state == 0 {
		return s.misplaced(c)
	}
	if complaint := s.arguments(&s.call, rest); complaint != textNone {
		return s.err(complaint, s.census())
	}
	s.looked = s.looked || c.looks
	if s.state == Transaction && s.now.Sub(s.checked) > checkAfter && !s.leaving() {
		s.call.text = nil
		return s.ask(Request{Op: OpCheck})
	}
	return c.run(s, s.call)
}

// leaving reports whether the command under way is a QUIT that removes nothing.
func (s *Session) leaving() bool {
	return s.call.command.verb == "QUIT" && s.marks.count == 0
}

// misplaced refuses a command that isn't for the state.
func (s *Session) misplaced(c *command) Step {
	switch {
	case s.state == Cleartext: // RFC 8314 section 3.3
		return s.err(textNeedTLS)
	case c.states == Cleartext: // RFC 2595 section 4
		return s.err(textTLSOn)
	case s.state == Authorization:
		return s.err(textLogInFirst)
	}
	return s.err(textLoggedIn)
}

// checkedNow goes on with the command under way unless the user's access has ended.
func (s *Session) checkedNow(err error) Step {
	s.checked = s.now
	if err != nil && maildrop.KindOf(err) == maildrop.Denied {
		return s.trouble(OpCheck, err)
	}
	return s.call.command.run(s, s.call)
}

// arguments parses what follows the verb. Spaces at the end are no argument: old
// clients and phones send them.
func (s *Session) arguments(c *call, rest []byte) (complaint text) {
	if c.command.args == exactText {
		c.text = rest
		return textNone
	}
	rest = bytes.Trim(rest, " ")
	switch c.command.args {
	case noArguments:
		if len(rest) > 0 {
			return textNoArguments
		}
	case freeText:
		c.text = rest
	case optionalMessage:
		if len(rest) > 0 {
			c.message, complaint = s.messageNumber(rest)
		}
	case oneMessage:
		c.message, complaint = s.messageNumber(rest)
	case messageAndLines:
		number, lines, _ := bytes.Cut(rest, []byte(" "))
		n, ok := parseNumber(bytes.TrimLeft(lines, " "))
		if !ok {
			return textLinesWanted
		}
		c.lines = n
		c.message, complaint = s.messageNumber(number)
	}
	return complaint
}

// messageNumber turns a client's message number, which counts from 1, into the
// index of a message that is there and not marked.
func (s *Session) messageNumber(digits []byte) (int, text) {
	n, ok := parseNumber(digits)
	switch {
	case !ok:
		return -1, textNumberWanted
	case n < 1 || n > uint64(s.info.Count):
		return -1, textNoSuchMessage
	case s.marks.has(int(n - 1)):
		return -1, textMarkedMessage
	}
	return int(n - 1), textNone
}

// census says how many messages there are.
func (s *Session) census() values {
	return values{messages: uint64(s.info.Count), number: uint64(s.marks.count)}
}

// parseNumber takes decimal digits only. A number past 64 bits is the largest
// there is: no message has it, and as TOP's lines it means all.
func parseNumber(digits []byte) (n uint64, ok bool) {
	for _, c := range digits {
		if c < '0' || c > '9' {
			return 0, false
		}
		d := uint64(c - '0')
		if n > (math.MaxUint64-d)/10 {
			n = math.MaxUint64
			continue
		}
		n = n*10 + d
	}
	return n, len(digits) > 0
}
