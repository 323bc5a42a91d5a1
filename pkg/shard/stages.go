package shard

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/postern-pop/postern/pkg/ledger"
	"github.com/postern-pop/postern/pkg/maildrop"
	"github.com/postern-pop/postern/pkg/policy"
)

// moved is how far an account's latest move has come in this shard.
type moved struct {
	id    uint64
	stage maildrop.Stage
}

// takes reports whether another stage may follow. It only goes forward, so a call that
// comes late, or the same entries again over a checkpoint that has seen them, change nothing.
func (m moved) takes(next moved) bool {
	if next.id != m.id {
		return next.id > m.id
	}
	switch m.stage {
	case maildrop.StageArriving:
		return next.stage == maildrop.StageArrived || next.stage == maildrop.StageDiscarded
	case maildrop.StageLeaving:
		return next.stage == maildrop.StageStayed || next.stage == maildrop.StagePurged
	default:
		return false
	}
}

// gone reports whether what the shard has of the account is to be withdrawn.
func (m moved) gone() bool {
	return m.stage == maildrop.StageDiscarded || m.stage == maildrop.StagePurged
}

// move takes a stage in.
func (s *state) move(r *ledger.Move) error {
	next := moved{r.ID, maildrop.Stage(r.Stage)}
	if r.Account == "" || next.id == 0 || next.stage == maildrop.StageNone || !next.stage.Known() {
		return fmt.Errorf("move %d of %q, %s: %w", r.ID, r.Account, next.stage, errRecord)
	}
	if s.moves[r.Account].takes(next) {
		s.moves[r.Account] = next
	}
	return nil
}

// withdraw marks messages as removed, and forgets their unique-ids, unless others have
// them by now: they may come back.
func (s *state) withdraw(at ledger.Position, w *ledger.Withdrawal) {
	s.remove(at, &ledger.Removal{Mailbox: w.Mailbox, Messages: w.Messages, Time: w.Time})
	for _, position := range w.Messages {
		if uid, imported := s.uids[position]; imported {
			hash := s.uidHash(maildrop.Address(w.Mailbox), uid)
			if s.imports[hash].position == position {
				delete(s.imports, hash)
			}
		}
	}
}

// gate is what a shard lets pass of an account that moves.
type gate struct {
	moved
	pending moved // a stage whose entry is being written
}

// user is the error of a call of a user's, of mail for him or of his administrator's.
func (g gate) user(op string) error {
	for _, stage := range []maildrop.Stage{g.stage, g.pending.stage} {
		switch stage {
		case maildrop.StageLeaving:
			return &maildrop.Error{Op: op, Kind: maildrop.Transient, Err: errLeaving}
		case maildrop.StageArriving, maildrop.StageDiscarded, maildrop.StagePurged:
			return &maildrop.Error{Op: op, Kind: maildrop.NotOwner, Err: errElsewhere}
		default:
		}
	}
	return nil
}

// receives is the error of what the other region pushes.
func (g gate) receives(op string, move maildrop.Move) error {
	if g.moved == (moved{move.ID, maildrop.StageArriving}) && g.pending == (moved{}) {
		return nil
	}
	return &maildrop.Error{Op: op, Kind: maildrop.Transient, Err: fmt.Errorf("%s: nothing is taken at stage %s of move %d", move, g.stage, g.id)}
}

var (
	errLeaving   = errors.New("the account is just being moved to another region")
	errElsewhere = errors.New("the account is at home in another region")
	errMoveOver  = errors.New("the move has come to its end here, or a later one has begun")
)

// gates are the accounts that move or have moved. Calls look there without a lock, for
// hardly any account ever does.
type gates struct {
	mu sync.Mutex // of who changes the table
	of atomic.Pointer[map[string]gate]
}

func (g *gates) at(account string) gate {
	table := g.of.Load()
	if table == nil {
		return gate{}
	}
	return (*table)[account]
}

func (g *gates) empty() bool {
	table := g.of.Load()
	return table == nil || len(*table) == 0
}

func (g *gates) change(account string, change func(*gate)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	table := map[string]gate{}
	if was := g.of.Load(); was != nil {
		table = maps.Clone(*was)
	}
	one := table[account]
	change(&one)
	if table[account] = one; one == (gate{}) {
		delete(table, account)
	}
	g.of.Store(&table)
}

// durable takes a stage over whose entry was applied, or loaded.
func (g *gates) durable(account string, now moved) {
	g.change(account, func(one *gate) { one.moved = now })
}

// here is the first question of every call about an address but those of a move: whether
// its account is served here.
func (s *Shard) here(op string, address maildrop.Address) error {
	if s.gates.empty() {
		return nil
	}
	return s.gates.at(s.accountOf(address)).user(op)
}

// arrived reports whether an address's account came here from another region.
func (s *Shard) arrived(address maildrop.Address) bool {
	return !s.gates.empty() && s.gates.at(s.accountOf(address)).stage == maildrop.StageArrived
}

// accountOf is whose an address is: as its record says, else its domain.
func (s *Shard) accountOf(address maildrop.Address) string {
	if r, ok := s.record(address); ok {
		return r.account()
	}
	_, account, _ := s.config.Rules.Domain(address.Domain())
	return account.Name
}

// guardedBy is what a request about an address is held against when it is queued: what
// is queued ahead of a stage's entry is ahead of it in the ledger (see request.last), and
// all else is refused.
func (s *Shard) guardedBy(op string, address maildrop.Address) func() error {
	return func() error { return s.here(op, address) }
}

// Stage brings the shard to a stage of a move.
func (s *Shard) Stage(ctx context.Context, move maildrop.Move, stage maildrop.Stage) error {
	const op = "shard.stage"
	if err := s.owned(ctx, op); err != nil {
		return err
	}
	if err := s.confirm(ctx, op); err != nil {
		return err
	}
	if err := s.turn(ctx, move, moved{move.ID, stage}); err != nil {
		return failed(op, err)
	}
	if !(moved{move.ID, stage}).gone() {
		return nil
	}
	return failed(op, s.withdrawAll(ctx, move, moved{move.ID, stage}))
}

// turn writes a stage's entry, unless it is there. It isn't left before the entry's fate is known: what
// comes to wait behind it could be acknowledged after a second call has said that it is over.
func (s *Shard) turn(ctx context.Context, move maildrop.Move, next moved) error {
	select {
	case s.turning <- struct{}{}:
		defer func() { <-s.turning }()
	case <-ctx.Done():
		return &maildrop.Error{Op: "shard.stage", Kind: maildrop.Canceled, Err: ctx.Err()}
	}
	now := s.gates.at(move.Account).moved
	if now == next {
		return nil
	}
	if err := s.may(move, now, next); err != nil {
		return err
	}
	s.gates.change(move.Account, func(g *gate) { g.pending = next })
	defer s.gates.change(move.Account, func(g *gate) { g.pending = moved{} })
	if err := s.commits.reserve(requestOverhead); err != nil {
		return err
	}
	return s.commits.commit(context.WithoutCancel(ctx), &request{octets: requestOverhead, last: true, draft: ledger.Draft{
		Record: &ledger.Move{Account: move.Account, ID: next.id, Stage: uint8(next.stage), Time: time.Now()},
	}})
}

// may holds a stage against what the shard has come to, and against the account's record
// as it is known here.
func (s *Shard) may(move maildrop.Move, now, next moved) error {
	if !now.takes(next) || next.stage == maildrop.StagePurged && now != (moved{next.id, maildrop.StageLeaving}) {
		return &maildrop.Error{Op: "shard.stage", Kind: maildrop.Invalid,
			Err: fmt.Errorf("%s: from stage %s of move %d to %s: %w", move, now.stage, now.id, next.stage, errMoveOver)}
	}
	if next.stage == maildrop.StageStayed && s.outdated(move) {
		return nil // a cut-over that was taken back
	}
	moving, err := s.moving(move)
	if err != nil {
		return err
	}
	if !said(moving, s.config.Region, next.stage) {
		return behind(move, fmt.Sprintf("phase %s, from %s to %s, is no ground for stage %s in %s",
			moving.Phase, moving.From, moving.To, next.stage, s.config.Region))
	}
	return nil
}

// outdated reports whether a later move of the account is known here.
func (s *Shard) outdated(move maildrop.Move) bool {
	if s.config.Account == nil {
		return false
	}
	account, ok := s.config.Account(move.Account)
	return ok && account.Moves > move.ID
}

// moving is what the directory, as it is known here, says of a move.
func (s *Shard) moving(move maildrop.Move) (policy.Moving, error) {
	if s.config.Account == nil {
		return policy.Moving{}, behind(move, "this node doesn't know of moves")
	}
	account, ok := s.config.Account(move.Account)
	switch {
	case !ok || account.Moves < move.ID:
		return policy.Moving{}, behind(move, "not known here yet")
	case account.Moves > move.ID:
		return policy.Moving{}, &maildrop.Error{Op: "shard.stage", Kind: maildrop.Invalid, Err: fmt.Errorf("%s: %w", move, errMoveOver)}
	}
	return account.Moving, nil
}

func behind(move maildrop.Move, why string) error {
	return &maildrop.Error{Op: "shard.stage", Kind: maildrop.Transient, Err: fmt.Errorf("%s: %s", move, why)}
}

// said reports whether a phase is ground for a stage in a region.
func said(m policy.Moving, region string, stage maildrop.Stage) bool {
	in := m.From
	if stage <= maildrop.StageDiscarded {
		in = m.To
	}
	if in != region {
		return false
	}
	switch stage {
	case maildrop.StageArriving:
		return m.Phase == policy.MoveCopying || m.Phase == policy.MoveSealed
	case maildrop.StageArrived:
		return m.Phase == policy.MoveOpening || m.Phase == policy.MovePurging
	case maildrop.StageLeaving:
		return m.Phase == policy.MoveSealed
	case maildrop.StagePurged:
		return m.Phase == policy.MovePurging
	case maildrop.StageDiscarded, maildrop.StageStayed:
		return m.Phase == policy.MoveAborting
	default:
		return false
	}
}

// withdrawAtOnce is how many messages one withdrawal names.
const withdrawAtOnce = 4096

// withdrawAll ends all that is there of an account that is another region's.
func (s *Shard) withdrawAll(ctx context.Context, move maildrop.Move, at moved) error {
	passes := func() error {
		if now := s.gates.at(move.Account); now.moved != at {
			return &maildrop.Error{Op: "shard.withdraw", Kind: maildrop.Invalid, Err: fmt.Errorf("%s: %w", move, errMoveOver)}
		}
		return nil
	}
	for _, address := range s.mailboxesOf(move.Account) {
		if err := s.withdrawMailbox(ctx, address, passes); err != nil {
			return err
		}
	}
	s.pushes.forget(move)
	return nil
}

func (s *Shard) withdrawMailbox(ctx context.Context, address maildrop.Address, passes func() error) error {
	positions := s.present(address, nil)
	for len(positions) > 0 {
		n := min(len(positions), withdrawAtOnce)
		if err := s.withdraw(ctx, address, positions[:n], passes); err != nil {
			return err
		}
		positions = positions[n:]
	}
	if _, ok := s.record(address); !ok {
		return nil
	}
	return s.writeIf(ctx, &ledger.Address{Address: string(address), Removed: true, Time: time.Now()}, 0, passes)
}

func (s *Shard) withdraw(ctx context.Context, address maildrop.Address, positions []ledger.Position, passes func() error) error {
	return s.writeIf(ctx, &ledger.Withdrawal{Mailbox: string(address), Messages: positions, Time: time.Now()}, 8*int64(len(positions)), passes)
}

// present are the positions of the mailbox's messages that aren't removed; of those
// alone that uids names, unless it is nil.
func (s *Shard) present(address maildrop.Address, uids map[maildrop.UID]bool) []ledger.Position {
	s.mu.RLock()
	defer s.mu.RUnlock()
	box := s.state.box(address)
	if box == nil {
		return nil
	}
	var positions []ledger.Position
	for i := range box.messages {
		if m := &box.messages[i]; m.flags&flagRemoved == 0 && (uids == nil || uids[s.state.uid(m)]) {
			positions = append(positions, m.position)
		}
	}
	return positions
}

// mailboxesOf are an account's: those whose record names it, and those without a record
// in its domains, which have the mail of addresses that were removed. The lock is let go now
// and then, so they are those that were there all the time, and perhaps others.
func (s *Shard) mailboxesOf(account string) []maildrop.Address {
	owners := make(map[string]bool) // domains: whether they are the account's
	owns := func(domain string) bool {
		owned, known := owners[domain]
		if !known {
			_, of, ok := s.config.Rules.Domain(domain)
			owned = ok && of.Name == account
			owners[domain] = owned
		}
		return owned
	}
	var list []maildrop.Address
	s.mu.RLock()
	defer s.mu.RUnlock()
	looked := 0
	for n, box := range s.state.mailboxes {
		_, domain := s.state.split(n)
		if box.record.exists() && box.record.account() == account || !box.record.exists() && owns(domain) {
			list = append(list, s.state.address(n))
		}
		if looked++; looked%surveyAtOnce == 0 {
			s.mu.RUnlock()
			s.mu.RLock()
		}
	}
	return list
}

// Survey counts what the shard has of the account.
func (s *Shard) Survey(ctx context.Context, move maildrop.Move) (maildrop.Survey, error) {
	var v maildrop.Survey
	if err := s.owned(ctx, "shard.survey"); err != nil {
		return v, err
	}
	if now := s.gates.at(move.Account).moved; now.id == move.ID {
		v.Stage = now.stage
	}
	at := time.Now().Unix()
	for _, address := range s.mailboxesOf(move.Account) {
		s.count(&v, address, at)
	}
	return v, nil
}

func (s *Shard) count(v *maildrop.Survey, address maildrop.Address, now int64) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	box := s.state.box(address)
	if box == nil {
		return
	}
	if box.record.exists() {
		v.Addresses++
	}
	before := v.Messages
	for i := range box.messages {
		if m := &box.messages[i]; m.flags&flagRemoved == 0 && m.expires() > now {
			v.Messages++
			v.Octets += uint64(m.wire)
		}
	}
	if v.Messages > before {
		v.Mailboxes++
	}
}
