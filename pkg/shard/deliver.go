package shard

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/postern-pop/postern/pkg/ledger"
	"github.com/postern-pop/postern/pkg/maildrop"
	"github.com/postern-pop/postern/pkg/policy"
)

// maxUploads is how many large bodies are on their way to the store at once;
// each has a few blocks in memory. The others wait.
const maxUploads = 16

var (
	errBody = errors.New("the body isn't what it says")
	errID   = errors.New("a delivery without an ID")

	errForm   = errors.New("a unique-id has 1 to 70 octets of 0x21 to 0x7E")
	errMinted = errors.New("the unique-id has the form of this shard's own")
	errOver   = errors.New("the message's retention is over")
)

// Accept says whether mail to the recipient would be taken now.
func (s *Shard) Accept(ctx context.Context, to maildrop.Recipient) error {
	const op = "shard.accept"
	if err := s.owned(ctx, op); err != nil {
		return err
	}
	if err := s.confirm(ctx, op); err != nil {
		return err
	}
	if err := s.here(op, to.Address); err != nil {
		return err
	}
	_, err := s.keep(to.Address, time.Now())
	return failed(op, err)
}

// keep decides whether mail for the address is taken, and how long it is kept.
func (s *Shard) keep(address maildrop.Address, now time.Time) (maildrop.Class, error) {
	r, ok := s.record(address)
	if !ok {
		return 0, s.nobody(address, now)
	}
	if primary := r.primary(); primary != "" {
		return 0, &maildrop.Error{Op: "shard.keep", Kind: maildrop.Alias, Primary: primary}
	}
	domain, account, ok := s.customer(address, r)
	if !ok {
		return 0, &maildrop.Error{Op: "shard.keep", Kind: maildrop.NotFound, Err: errors.New("nobody's domain")}
	}
	decision := policy.Keep(account, domain, r.full(address), now)
	if decision.Class == maildrop.ClassNone {
		return 0, &maildrop.Error{Op: "shard.keep", Kind: maildrop.Denied, Reason: decision.Reason, Text: decision.Text}
	}
	return decision.Class, nil
}

// nobody is the answer for an address that isn't there: that its domain takes no
// mail at all, when that is so, and else that there is no such address.
func (s *Shard) nobody(address maildrop.Address, now time.Time) error {
	if domain, account, ok := s.config.Rules.Domain(address.Domain()); ok {
		if d := policy.Keep(account, domain, maildrop.AddressRecord{Address: address}, now); d.Class == maildrop.ClassNone {
			return &maildrop.Error{Op: "shard.keep", Kind: maildrop.Denied, Reason: d.Reason, Text: d.Text}
		}
	}
	return &maildrop.Error{Op: "shard.keep", Kind: maildrop.NotFound}
}

// Deliver stores the message; nil when it is durable. A body over
// ledger.MaxInline octets goes to an object of its own first: body before fact.
func (s *Shard) Deliver(ctx context.Context, envelope maildrop.Envelope, body maildrop.Body) error {
	result, err := s.deliver(ctx, envelope, body)
	octets := uint64(0)
	if result == resultAccepted {
		octets = body.Wire()
	}
	s.config.Metrics.delivered(result, octets)
	return failed("shard.deliver", err)
}

// Results of a delivery, as the metric's label says them.
const (
	resultAccepted  = "accepted"
	resultRejected  = "rejected"
	resultDeferred  = "deferred"
	resultDuplicate = "duplicate"
)

func (s *Shard) deliver(ctx context.Context, envelope maildrop.Envelope, body maildrop.Body) (result string, err error) {
	if err := s.owned(ctx, "shard.deliver"); err != nil {
		return resultDeferred, err
	}
	if err := s.checkDelivery(envelope, body); err != nil {
		return resultRejected, err
	}
	if err := s.confirm(ctx, "shard.deliver"); err != nil {
		return resultDeferred, err
	}
	if err := s.here("shard.deliver", envelope.To); err != nil {
		return resultDeferred, err
	}
	key := s.key(envelope)
	switch repeated, err := s.known(key); {
	case err != nil:
		return resultRejected, &maildrop.Error{Op: "shard.deliver", Kind: maildrop.Invalid, Err: err}
	case repeated:
		return resultDuplicate, nil
	}
	now := time.Now()
	class, err := s.keep(envelope.To, now)
	if err == nil {
		err = checkDate(envelope.Received, class, now)
	}
	if err == nil {
		err = s.store(ctx, &key, body, ledger.Delivery{
			Mailbox: string(envelope.To), UID: string(key.uid), ID: envelope.ID, Class: uint8(class),
			Received: envelope.Received, Size: body.Size(), Wire: body.Wire(),
		}, s.guardedBy("shard.deliver", envelope.To))
	}
	switch {
	case err == nil:
		return resultAccepted, nil
	case maildrop.KindOf(err).Temporary():
		return resultDeferred, err
	}
	return resultRejected, err
}

func (s *Shard) checkDelivery(envelope maildrop.Envelope, body maildrop.Body) error {
	err := error(nil)
	switch {
	case envelope.ID == maildrop.EnvelopeID{}:
		err = errID
	case body.Wire() > maxWire || body.Size() > body.Wire():
		err = fmt.Errorf("%d octets, %d in wire form: %w", body.Size(), body.Wire(), errBody)
	case envelope.UID != "":
		err = s.checkUID(envelope.UID)
	}
	if err != nil {
		return &maildrop.Error{Op: "shard.deliver", Kind: maildrop.Invalid, Err: err}
	}
	return nil
}

// checkUID is for a unique-id that comes with its message (RFC 1939 section 7).
// One that we might mint ourselves some day is nobody else's to give.
func (s *Shard) checkUID(uid maildrop.UID) error {
	if !uid.Valid() {
		return errForm
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	if _, ours := s.state.minted(uid); ours {
		return errMinted
	}
	return nil
}

// key names the delivery for repetitions.
func (s *Shard) key(envelope maildrop.Envelope) delivery {
	s.mu.RLock()
	defer s.mu.RUnlock()
	d := delivery{mailbox: envelope.To, repeat: s.state.repeat(envelope.To, envelope.ID), uid: envelope.UID}
	if d.uid == "" && !envelope.Received.IsZero() {
		d.uid = maildrop.UID(datedUID + mintedEncoding.EncodeToString(envelope.ID[:]))
	}
	return d
}

// datedUID begins the unique-id of an imported message that came without one.
const datedUID = "imported-"

// checkDate refuses an imported message that nobody would ever see.
func checkDate(received time.Time, class maildrop.Class, now time.Time) error {
	if received.IsZero() || received.Add(class.Retention()).After(now) {
		return nil
	}
	return &maildrop.Error{Op: "shard.deliver", Kind: maildrop.Invalid, Err: errOver,
		Text: fmt.Sprintf("the message is older than the %d days that it would be kept", class.Days())}
}

// store reads or uploads the body, then commits the delivery, if it passes.
func (s *Shard) store(ctx context.Context, key *delivery, body maildrop.Body, d ledger.Delivery, passes func() error) error {
	inline := d.Wire <= ledger.MaxInline
	octets := int64(requestOverhead)
	if inline {
		octets += int64(d.Wire)
	}
	if err := s.commits.reserve(octets); err != nil {
		return err
	}
	r := &request{octets: octets, key: key, passes: passes}
	var err error
	if inline {
		r.draft.Body, err = readBody(body)
	} else {
		d.Object, err = s.upload(ctx, body)
		r.ended = func() { s.space.flew(d.Object) }
	}
	if err != nil {
		s.commits.release(octets)
		return err
	}
	if now := time.Now(); d.Received.IsZero() || d.Received.After(now) {
		d.Received = now
	}
	r.draft.Record = &d
	return s.commits.commit(ctx, r)
}

// inMemory is a body that may be in memory as a whole; nil when it is not.
// Its octets are never changed, so they are kept as they are.
type inMemory interface{ Whole() []byte }

// readBody reads a body whole. It must be as long as it says.
func readBody(body maildrop.Body) ([]byte, error) {
	if held, ok := body.(inMemory); ok {
		if octets := held.Whole(); octets != nil && uint64(len(octets)) == body.Wire() {
			return octets, nil
		}
	}
	r, err := body.Open()
	if err != nil {
		return nil, bodyError(err)
	}
	defer r.Close()
	octets := make([]byte, body.Wire())
	if _, err := io.ReadFull(r, octets); err != nil {
		return nil, bodyError(err)
	}
	if n, err := r.Read(make([]byte, 1)); n > 0 {
		return nil, &maildrop.Error{Op: "shard.body", Kind: maildrop.Invalid, Err: errBody}
	} else if err != nil && !errors.Is(err, io.EOF) {
		return nil, bodyError(err)
	}
	return octets, nil
}

// bodyError sorts what reading a body answered: its end is the caller's fault,
// anything else that nobody classified passes.
func bodyError(err error) error {
	kind := maildrop.KindOf(err)
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		kind = maildrop.Invalid
	case kind == maildrop.Internal:
		kind = maildrop.Transient
	}
	return &maildrop.Error{Op: "shard.body", Kind: kind, Err: fmt.Errorf("%w: %w", errBody, err)}
}

// upload streams a large body into an object of its own.
func (s *Shard) upload(ctx context.Context, body maildrop.Body) (object string, err error) {
	select {
	case s.uploads <- struct{}{}:
		defer func() { <-s.uploads }()
	case <-ctx.Done():
		return "", &maildrop.Error{Op: "shard.upload", Kind: maildrop.Canceled, Err: ctx.Err()}
	case <-s.done:
		return "", &maildrop.Error{Op: "shard.upload", Kind: maildrop.NotOwner, Err: errStopped}
	}
	r, err := body.Open()
	if err != nil {
		return "", bodyError(err)
	}
	defer r.Close()
	object, err = s.ledger.PutBody(ctx, r, body.Wire())
	s.space.flies(object)
	return object, err
}
