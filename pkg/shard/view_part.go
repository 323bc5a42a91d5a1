package shard

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/postern-pop/postern/pkg/maildrop"
)

// DescribePart writes what one part of a checkpoint says, in lines for people: the
// payload that ledger.PartPayload answers with. Secrets and hashes are left out. The error
// wraps ledger.ErrCorrupt.
func DescribePart(w io.Writer, payload []byte) error {
	s := newState()
	if err := s.Load(payload); err != nil {
		return err
	}
	p := &printer{w: w}
	if s.last > 0 {
		p.line("covers all up to %s", s.last)
	}
	v := &View{state: s}
	for _, address := range v.Addresses() {
		p.mailbox(v, address)
	}
	if len(s.imports) > 0 {
		p.line("%d unique-ids of imported messages, as hashes", len(s.imports))
	}
	for _, account := range slices.Sorted(maps.Keys(s.moves)) {
		one := s.moves[account]
		p.line("move %d of account %q between regions: %s", one.id, account, one.stage)
	}
	for _, number := range slices.Sorted(maps.Keys(s.packs.table)) {
		one := s.packs.table[number]
		p.line("pack %d is %s: %s, named for %d messages", number, one.object, one.class, one.messages)
	}
	return p.failed
}

// printer writes lines until one fails.
type printer struct {
	w      io.Writer
	failed error
}

func (p *printer) line(format string, args ...any) {
	if p.failed == nil {
		_, p.failed = fmt.Fprintf(p.w, format+"\n", args...)
	}
}

func (p *printer) mailbox(v *View, address maildrop.Address) {
	box, owner := v.state.box(address), "no record here"
	if r, ok := v.Record(address); ok {
		owner = fmt.Sprintf("account %q, access %s, changed %s", r.Account, r.Access, r.Changed.Format(time.RFC3339))
		if r.Primary != "" {
			owner += ", alias of " + string(r.Primary)
		}
		if len(r.Groups) > 0 {
			owner += fmt.Sprintf(", groups %q", r.Groups)
		}
		if r.Hash != "" {
			owner += ", hash set"
		}
		if r.Scram != "" {
			owner += ", SCRAM keys set"
		}
	}
	messages := "no messages"
	if n := len(box.messages); n > 0 {
		messages = fmt.Sprintf("%d messages from %s to %s", n, box.messages[0].position, box.messages[n-1].position)
	}
	p.line("mailbox %s: %s; %s", address, owner, messages)
}
