package lmtp

import (
	"context"
	"net/netip"
	"strconv"
	"time"

	"github.com/postern-pop/postern/pkg/maildrop"
)

// verb is one command: what it takes, where it is allowed, what it does.
type verb struct {
	name      string
	arguments bool // takes any; RFC 5321 has a 501 for those of the others
	gateway   bool // for gateways only
	greeted   bool // only after LHLO
	run       func(*session, context.Context, string) reply
}

// verbs is the protocol. Dispatch and metric labels come from it.
var verbs = []verb{
	{name: "LHLO", arguments: true, run: (*session).lhlo},
	{name: "MAIL", arguments: true, gateway: true, greeted: true, run: (*session).mailFrom},
	{name: "RCPT", arguments: true, gateway: true, greeted: true, run: (*session).rcptTo},
	{name: "DATA", gateway: true, greeted: true, run: (*session).data},
	{name: "RSET", run: (*session).rset},
	{name: "NOOP", arguments: true, run: always(replyOK)},
	{name: "QUIT", run: always(replyBye)},
	{name: "VRFY", arguments: true, run: always(replyVrfy)},
	{name: "STARTTLS", run: (*session).startTLS},
	{name: "HELO", arguments: true, run: always(replyUseLHLO)}, // RFC 2033 section 4.1
	{name: "EHLO", arguments: true, run: always(replyUseLHLO)},
	{name: "EXPN", arguments: true, run: always(replyNotOffered)},
	{name: "HELP", arguments: true, run: always(replyNotOffered)},
	{name: "BDAT", arguments: true, run: always(replyNotOffered)},
	{name: "AUTH", arguments: true, run: always(replyNotOffered)},
}

// http are the verbs of the protocol that browsers speak.
var http = map[string]bool{
	"GET": true, "HEAD": true, "POST": true, "PUT": true, "PATCH": true,
	"DELETE": true, "OPTIONS": true, "CONNECT": true, "TRACE": true, "PRI": true,
}

// otherVerb is the metric label of what is no command.
const otherVerb = "OTHER"

// always is a command that only has an answer.
func always(r reply) func(*session, context.Context, string) reply {
	return func(*session, context.Context, string) reply { return r }
}

// session is one connection's state in the protocol. It does no I/O but to ask
// the Deliverer. It is for one goroutine.
type session struct {
	config  Config
	metrics *metrics
	id      string
	remote  netip.Addr
	gateway bool // may deliver
	secured bool // TLS is on

	client string // what it called itself in LHLO; empty: not yet
	count  int    // transactions so far
	open   *transaction
}

// command takes a command line without its end, and answers.
func (s *session) command(ctx context.Context, line []byte) reply {
	name, argument, err := parseLine(line)
	label, r := otherVerb, replySyntax
	if err == nil {
		label, r = s.dispatch(ctx, name, argument)
	}
	s.metrics.command(label, r)
	return r
}

func (s *session) dispatch(ctx context.Context, name, argument string) (label string, r reply) {
	for i := range verbs {
		if v := &verbs[i]; v.name == name {
			return name, s.run(ctx, v, argument)
		}
	}
	if http[name] {
		return otherVerb, replyHTTP
	}
	return otherVerb, replyUnknown
}

func (s *session) run(ctx context.Context, v *verb, argument string) reply {
	switch {
	case !v.arguments && argument != "":
		return replyArguments
	case v.gateway && !s.gateway && !s.secured:
		return replyMustTLS
	case v.gateway && !s.gateway:
		return replyNoGateway
	case v.greeted && s.client == "":
		return replyLHLOFirst
	}
	return v.run(s, ctx, argument)
}

// lhlo greets. It also ends a transaction (RFC 5321 section 4.1.4).
func (s *session) lhlo(_ context.Context, argument string) reply {
	client, err := parseHost(argument)
	if err != nil {
		return replyArguments
	}
	s.client, s.open = client, nil
	r := reply{code: 250, text: s.config.Hostname, more: []string{
		"PIPELINING", "SIZE " + strconv.FormatInt(s.config.MaxSize, 10), "8BITMIME", "ENHANCEDSTATUSCODES",
	}}
	if s.config.TLS != nil && !s.secured {
		r.more = append(r.more, "STARTTLS")
	}
	return r
}

func (s *session) mailFrom(_ context.Context, argument string) reply {
	if s.open != nil {
		return replyMailTwice
	}
	m, err := parseMail(argument)
	if err != nil {
		return parseReply(err, replyBadSender)
	}
	if m.size > uint64(s.config.MaxSize) {
		return replyTooLarge // RFC 1870 section 6.1
	}
	s.count++
	s.open = &transaction{id: s.id + "-" + strconv.Itoa(s.count), mail: m, began: time.Now()}
	return replySender
}

func (s *session) rcptTo(ctx context.Context, argument string) reply {
	if s.open == nil {
		return replyMailFirst
	}
	address, err := parseRcpt(argument)
	if err != nil {
		return parseReply(err, replyBadRcpt)
	}
	if len(s.open.accepted) >= MaxRecipients {
		return replyManyRcpt
	}
	r := s.open.find(address)
	if r == nil {
		if err := s.accept(ctx, address); err != nil {
			s.open.refused = append(s.open.refused, maildrop.KindOf(err))
			return refusal(err)
		}
		r = &recipient{address: address}
	}
	s.open.accepted = append(s.open.accepted, r)
	return replyRecipient
}

// accept asks whether mail to the address would be taken.
func (s *session) accept(ctx context.Context, address maildrop.Address) error {
	ctx, cancel := context.WithTimeout(ctx, acceptTime)
	defer cancel()
	err := s.config.Deliverer.Accept(ctx, maildrop.Recipient{Address: address, Session: s.id})
	s.metrics.recipient(err)
	return err
}

func (s *session) data(context.Context, string) reply {
	switch {
	case s.open == nil:
		return replyMailFirst
	case len(s.open.accepted) == 0:
		return replyNoRcpt // RFC 2033 section 4.2
	}
	return replyGo
}

func (s *session) rset(context.Context, string) reply {
	s.open = nil
	return replyOK
}

func (s *session) startTLS(context.Context, string) reply {
	switch {
	case s.config.TLS == nil:
		return replyNotOffered
	case s.secured:
		return replyTLSOn
	}
	return replyTLS
}

// tlsOn is called after the handshake. What was said before it is forgotten
// (RFC 3207 section 4.2).
func (s *session) tlsOn(verified bool) {
	s.secured = true
	s.gateway = s.gateway || verified
	s.client, s.open = "", nil
}

// end ends the transaction with its content delivered, or not: a reply for
// each accepted recipient, in the order of RCPT (RFC 2033 section 4.2). failed,
// if it has a code, is why the content isn't whole.
func (s *session) end(ctx context.Context, c content, failed reply) []reply {
	t := s.open
	s.open = nil
	if failed.code == 0 {
		d := delivery{deliverer: s.config.Deliverer, session: s.id, content: c, trace: trace{
			sender: t.mail.sender, client: s.client, remote: s.remote, hostname: s.config.Hostname,
			secured: s.secured, id: t.id, time: time.Now(),
		}}
		d.run(ctx, t.recipients())
	}
	replies := make([]reply, len(t.accepted))
	for i, r := range t.accepted {
		switch {
		case failed.code != 0:
			replies[i] = failed
		case r.err != nil:
			replies[i] = refusal(r.err)
		default:
			replies[i] = reply{code: 250, enhanced: "2.1.5", text: t.id + " delivered"}
		}
	}
	return replies
}
