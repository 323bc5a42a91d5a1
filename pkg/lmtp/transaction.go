package lmtp

import (
	"context"
	"crypto/sha256"
	"slices"
	"sync"
	"time"

	"github.com/postern-pop/postern/pkg/maildrop"
)

// recipient is one address of a transaction.
type recipient struct {
	address maildrop.Address
	err     error // Deliver's; nil: the message is durable
}

// transaction is what lies between MAIL and the replies to its content.
type transaction struct {
	id       string
	mail     mail
	began    time.Time
	accepted []*recipient // one for each RCPT that was accepted, in order; an address given twice is there twice
	refused  []maildrop.Kind
}

// recipients are the accepted ones, each once.
func (t *transaction) recipients() []*recipient {
	var all []*recipient
	for _, r := range t.accepted {
		if !slices.Contains(all, r) {
			all = append(all, r)
		}
	}
	return all
}

// find is the accepted recipient of an address, or nil.
func (t *transaction) find(a maildrop.Address) *recipient {
	for _, r := range t.accepted {
		if r.address == a {
			return r
		}
	}
	return nil
}

// content is a message that came in whole.
type content struct {
	spool    *spool
	size     uint64 // without dot-stuffing
	sum      [sha256.Size]byte
	received bool // it has a Received field
}

// delivery delivers one transaction's content.
type delivery struct {
	deliverer maildrop.Deliverer
	session   string
	content   content
	trace     trace // for every recipient but its address
}

// run delivers to all recipients, some at once, and returns when all is done.
func (d delivery) run(ctx context.Context, recipients []*recipient) {
	ctx, cancel := context.WithTimeout(ctx, deliverTime)
	defer cancel()
	if len(recipients) == 1 { // as mostly: a goroutine would first have to grow its stack
		recipients[0].err = d.deliver(ctx, recipients[0].address)
		return
	}
	var all sync.WaitGroup
	slots := make(chan struct{}, parallelDeliveries)
	for _, r := range recipients {
		slots <- struct{}{}
		all.Go(func() {
			defer func() { <-slots }()
			r.err = d.deliver(ctx, r.address)
		})
	}
	all.Wait()
}

// deliver delivers to one recipient. A try whose outcome is unknown is
// repeated under the same ID, which stores one message.
func (d delivery) deliver(ctx context.Context, to maildrop.Address) error {
	d.trace.to = to
	message := &body{header: d.trace.header(), content: d.content.spool, size: d.content.size}
	envelope := maildrop.Envelope{ID: d.envelopeID(to), Sender: d.trace.sender, To: to, Session: d.session}
	pause := 200 * time.Millisecond
	for try := 1; ; try++ {
		err := d.deliverer.Deliver(ctx, envelope, message)
		if err == nil || maildrop.KindOf(err) != maildrop.Maybe || try == deliverTries {
			return err
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return err
		}
		pause *= 5
	}
}

// envelopeID is the same for a gateway's repetition of a message only if the
// message's Received field tells it from another one with the same words.
func (d delivery) envelopeID(to maildrop.Address) maildrop.EnvelopeID {
	if d.content.received {
		return maildrop.RepeatableID(d.trace.sender, to, d.content.sum)
	}
	return maildrop.RandomID()
}
