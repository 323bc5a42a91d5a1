package pop3

import (
	"crypto/hmac"

	"github.com/postern-pop/postern/pkg/maildrop"
	"github.com/postern-pop/postern/pkg/scram"
)

// Channel tells what a login can be bound to (RFC 5056): the data of a kind of channel
// binding on the client's connection. ok is false for a kind that it doesn't have.
type Channel func(kind string) (data []byte, ok bool)

// Bind says which channel the session talks over. Without it nothing is bound.
func (s *Session) Bind(channel Channel) { s.channel = channel }

// scramExchange is a login by SCRAM-SHA-256 (RFC 5802 section 5, RFC 5034 section 4):
//
//	client-first ─ Challenge ─▶ server-first ─▶ client-final ─ Open ─▶ server-final ─▶ (empty) ─▶ TRANSACTION
//
// A failure is -ERR at once, as RFC 5802 section 5.1 allows (e): a server-final with an
// error would be one more challenge, which clients leave unanswered.
type scramExchange struct {
	plus      bool
	first     scram.First
	address   maildrop.Address
	challenge maildrop.Challenge

	open bool // the back end has let the user in, and the client hasn't yet believed the signature
	info maildrop.Info
}

func (x *scramExchange) name() string {
	if x.plus {
		return scram.Plus
	}
	return scram.Name
}

// firstMessage takes client-first-message.
func (x *scramExchange) firstMessage(s *Session, response []byte) (step Step) {
	first, err := scram.ParseFirst(response)
	if err == nil {
		err = x.bindable(s, first)
	}
	if err != nil {
		return s.err(textNotScram, values{text: err.Error()})
	}
	s.mechanism = x.name()
	x.first = first
	x.address, err = userAddress(first.Name)
	s.claimed = x.address
	if err != nil || first.Authzid != "" && !sameUser(first.Authzid, first.Name) {
		return s.refused()
	}
	s.scram = x
	return s.ask(Request{Op: OpChallenge, Address: x.address})
}

// bindable holds the client's flag against what is offered (RFC 5802 section 6). One
// who could bind and was told by somebody on the way that the server can't, is warned.
func (x *scramExchange) bindable(s *Session, first scram.First) error {
	switch {
	case x.plus && first.Flag != 'p', first.Flag == 'y' && s.protocol.mechanism(scram.Plus) != nil:
		return scram.ErrUnbound
	case !x.plus && first.Flag == 'p':
		return scram.ErrBound
	case x.plus:
		if _, ok := s.bound(first.Binding); !ok {
			return scram.ErrNoBinding
		}
	}
	return nil
}

// bound is the channel's data of a kind.
func (s *Session) bound(kind string) ([]byte, bool) {
	if s.channel == nil {
		return nil, false
	}
	return s.channel(kind)
}

// challenged takes the owner's part of server-first-message.
func (x *scramExchange) challenged(s *Session, r Result) Step {
	if r.Err != nil {
		return s.notOpened(r.Err)
	}
	x.challenge = r.Challenge
	return s.challenge(scram.ServerFirst(x.first.Nonce+r.Challenge.Nonce, r.Challenge.Salt, r.Challenge.Iterations), x.finalMessage)
}

// finalMessage takes client-final-message, whose proof only the owner can verify.
func (x *scramExchange) finalMessage(s *Session, response []byte) Step {
	final, err := scram.ParseFinal(response)
	if err == nil {
		err = x.holds(s, final)
	}
	if err != nil {
		return s.abandon(textNotScram, values{text: err.Error()})
	}
	return s.ask(Request{Op: OpOpen, Address: x.address, Proof: &maildrop.Proof{
		First: x.first.Bare, Final: final.Without, Nonce: x.challenge.Nonce, Proof: final.Proof,
	}})
}

// holds compares what the client-final repeats with what it must be (RFC 5802 section
// 5.1, c and r).
func (x *scramExchange) holds(s *Session, final scram.Final) error {
	want := []byte(x.first.Header)
	if x.plus {
		data, _ := s.bound(x.first.Binding)
		want = append(want, data...)
	}
	switch {
	case final.Nonce != x.first.Nonce+x.challenge.Nonce:
		return scram.ErrNonce
	case !hmac.Equal(final.Binding, want):
		return scram.ErrBinding
	}
	return nil
}

// prove shows the client that the mailbox's owner has its keys.
func (x *scramExchange) prove(s *Session, info maildrop.Info) Step {
	x.open, x.info = true, info
	return s.challenge(scram.ServerFinal(info.Signature), x.believed)
}

// believed takes the empty response of a client that believes it (RFC 5034 section 4:
// the mechanism's last word is a challenge, where +OK has no room for it).
func (x *scramExchange) believed(s *Session, response []byte) Step {
	if len(response) > 0 {
		return s.abandon(textNotScram, values{text: scram.ErrEncoding.Error()})
	}
	return s.enter(x.info)
}
