package admin

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"github.com/postern-pop/postern/pkg/directory"
	"github.com/postern-pop/postern/pkg/maildrop"
	"github.com/postern-pop/postern/pkg/policy"
	"github.com/postern-pop/postern/pkg/rpc"
	posternv1 "github.com/postern-pop/postern/proto/postern/v1"
)

const (
	stagesAtOnce = 16               // shards that are brought to a stage, or counted, at once
	pushesAtOnce = 4                // shards that push at once
	enoughPassed = 64               // differences that a pass found: the rest is for the cut-over
	maxPasses    = 50               // over all mailboxes, then mail comes faster than it is copied
	cutOverLimit = 30 * time.Second // nobody is served for longer: the move goes back to copying
	retreatLimit = 30 * time.Second // for serving them again
	statusEvery  = 500 * time.Millisecond
	breathEvery  = 5 * time.Second // a status at least
)

// MoveAccount moves an account to another region. What has been done is in the account's
// record and in the shards; a run goes on where the one before ended, and several at once
// do each other no harm.
func (s *Server) MoveAccount(in *posternv1.MoveAccountRequest, out grpc.ServerStreamingServer[posternv1.MoveStatus]) error {
	ctx := out.Context()
	who, err := s.caller(ctx)
	if err != nil {
		return rpc.ToStatus(err)
	}
	m, err := s.newMover(ctx, in, out, who)
	if err == nil && in.GetDryRun() {
		err = m.plan(ctx)
	} else if err == nil {
		stop := m.breathe()
		err = m.run(ctx)
		stop()
	}
	return rpc.ToStatus(err)
}

// mover is one run of a move.
type mover struct {
	server  *Server
	who     string
	in      *posternv1.MoveAccountRequest
	out     grpc.ServerStreamingServer[posternv1.MoveStatus]
	account policy.Account
	from    directory.Region
	to      directory.Region
	far     maildrop.Mover // of the region that the account moves to

	mu     sync.Mutex // guards what follows
	status *posternv1.MoveStatus
	told   time.Time
	sent   maildrop.Pushed // by passes that are over
}

const opMove = "admin.account.move"

func (s *Server) newMover(ctx context.Context, in *posternv1.MoveAccountRequest, out grpc.ServerStreamingServer[posternv1.MoveStatus], who string) (*mover, error) {
	account, err := s.account(ctx, in.GetName())
	if err != nil {
		return nil, err
	}
	m := &mover{server: s, who: who, in: in, out: out, account: account}
	from, to := account.Region, in.GetTo()
	moving := account.Moving
	switch underWay := moving.Phase != policy.MoveNone; {
	case s.mover == nil || s.gateway == nil || s.places == nil:
		return nil, refused(opMove, "this front moves no accounts")
	case !underWay && in.GetAbort():
		return nil, refused(opMove, fmt.Sprintf("account %s isn't being moved", account.Name))
	case !underWay && to == "":
		return nil, refused(opMove, "to which region? give --to REGION")
	case !underWay && to == from:
		return nil, refused(opMove, fmt.Sprintf("account %s is at home in %s", account.Name, to))
	case underWay && to != "" && to != moving.To:
		return nil, refused(opMove, fmt.Sprintf("account %s is being moved to %s: let that end first, or give it up with --abort", account.Name, moving.To))
	case underWay:
		from, to = moving.From, moving.To
	}
	if from != s.region {
		return nil, refused(opMove, fmt.Sprintf("this gateway is region %s's: a move from %s is driven there", s.region, from))
	}
	var known [2]bool
	m.from, known[0] = s.places.Region(from)
	m.to, known[1] = s.places.Region(to)
	if known != [2]bool{true, true} || m.to.Gateway == "" {
		return nil, refused(opMove, fmt.Sprintf("not both of the regions %.60q and %.60q are known here", from, to))
	}
	m.far = s.gateway(m.to.Gateway)
	m.status = &posternv1.MoveStatus{Account: account.Name, From: from, To: to}
	m.adopt(account)
	return m, nil
}

// adopt takes over what the account's record says.
func (m *mover) adopt(account policy.Account) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.account = account
	m.status.Id, m.status.Phase = account.Moves, string(account.Moving.Phase)
}

func (m *mover) move() maildrop.Move {
	return maildrop.Move{Account: m.account.Name, ID: m.account.Moves}
}

// breathe says now and then that there is somebody, however long a step takes.
func (m *mover) breathe() (stop func()) {
	done := make(chan struct{})
	var breathing sync.WaitGroup
	breathing.Go(func() {
		ticker := time.NewTicker(breathEvery)
		defer ticker.Stop()
		for {
			select {
			case <-ticker.C:
				_ = m.tell(true)
			case <-done:
				return
			}
		}
	})
	return func() {
		close(done)
		breathing.Wait()
	}
}

// plan says what a move would come to.
func (m *mover) plan(ctx context.Context) error {
	if err := m.survey(ctx); err != nil {
		m.status.Obstacles = append(m.status.Obstacles, "not all of the account's mailboxes can be reached: "+said(err))
	}
	m.status.Obstacles = append(m.status.Obstacles, m.obstacles(ctx)...)
	m.status.Warnings = m.warnings()
	if m.account.Moving.Phase == policy.MoveNone {
		m.status.Phase = "planned"
	}
	return m.out.Send(m.status)
}

// obstacles are what stands in the way.
func (m *mover) obstacles(ctx context.Context) []string {
	probe := maildrop.Move{Account: m.account.Name, ID: max(m.account.Moves, 1)}
	if _, err := m.far.Survey(ctx, 0, probe); err != nil {
		return []string{fmt.Sprintf("region %s does not answer at %s: %s", m.to.Name, m.to.Gateway, said(err))}
	}
	return nil
}

func (m *mover) warnings() []string {
	var all []string
	if m.to.CrossRegion == directory.CrossRegionRefuse {
		all = append(all, fmt.Sprintf("region %s takes no sessions and no mail from other regions: users have to change the server in their mail programs from %s to %s, and mail has to be sent to its intakes",
			m.to.Name, m.from.Hostname, m.to.Hostname))
	}
	return all
}

// said is an error for an operator, in one line.
func said(err error) string {
	if text := maildrop.TextOf(err); text != "" {
		return text
	}
	return strings.ReplaceAll(err.Error(), "\n", "; ")
}

// run goes on from the phase that the account's record says until the move is over.
func (m *mover) run(ctx context.Context) error {
	if err := m.begin(ctx); err != nil {
		return err
	}
	id := m.account.Moves
	for m.account.Moves >= id && m.account.Moving.Phase != policy.MoveNone {
		if now := m.account.Moving; now.From != m.from.Name || now.To != m.to.Name {
			return refused(opMove, fmt.Sprintf("account %s is being moved from %s to %s by now", m.account.Name, now.From, now.To))
		}
		if err := m.tell(true); err != nil {
			return err
		}
		if err := m.phase(ctx); err != nil {
			return err
		}
	}
	end := "done"
	if m.account.Region == m.from.Name {
		end = "aborted"
	}
	m.mu.Lock()
	m.status.Phase = end
	m.mu.Unlock()
	return m.tell(true)
}

// begin begins the move, or giving it up, where that is asked for.
func (m *mover) begin(ctx context.Context) (err error) {
	account, action := m.account, "account.move"
	phase := account.Moving.Phase
	switch {
	case phase == policy.MoveNone:
		if obstacles := m.obstacles(ctx); len(obstacles) > 0 {
			return &maildrop.Error{Op: opMove, Kind: maildrop.Transient, Text: strings.Join(obstacles, "; ") + "; nothing was changed"}
		}
		account, err = m.server.store.BeginMove(ctx, account.Name, m.to.Name, m.who, m.server.now())
	case m.in.GetAbort() && (phase == policy.MoveCopying || phase == policy.MoveSealed):
		action = "account.move.abort"
		account, err = m.server.store.AdvanceMove(ctx, account.Name, account.Moves, phase, policy.MoveAborting)
	case m.in.GetAbort() && phase != policy.MoveAborting:
		return refused(opMove, fmt.Sprintf("account %s has all but moved to %s (%s): it can only be finished, and then moved back", account.Name, m.to.Name, phase))
	default:
		return nil
	}
	if err != nil {
		return err
	}
	m.audit(ctx, action, account)
	m.adopt(account)
	return nil
}

func (m *mover) audit(ctx context.Context, action string, after policy.Account) {
	m.server.audit(ctx, m.who, change{action: action, target: m.account.Name, before: moveFacts(m.account), after: moveFacts(after)}, "done")
}

func moveFacts(a policy.Account) string {
	facts := fmt.Sprintf("region=%s move=%d", a.Region, a.Moves)
	if a.Moving.Phase != policy.MoveNone {
		facts += fmt.Sprintf(" from=%s to=%s phase=%s", a.Moving.From, a.Moving.To, a.Moving.Phase)
	}
	return facts
}

// phase does what the phase asks for, and goes on to the next.
func (m *mover) phase(ctx context.Context) error {
	switch m.account.Moving.Phase {
	case policy.MoveCopying:
		return m.copying(ctx)
	case policy.MoveSealed, policy.MoveOpening:
		return m.cutOver(ctx)
	case policy.MovePurging:
		if err := m.stage(ctx, m.server.mover, m.from, maildrop.StagePurged); err != nil {
			return m.interrupted("served from its new home, and not yet removed from the old one", err)
		}
		return m.advance(ctx, policy.MoveNone)
	case policy.MoveAborting:
		if err := m.stage(ctx, m.far, m.to, maildrop.StageDiscarded); err != nil {
			return m.interrupted("served where it was, and what was copied is not yet removed", err)
		}
		if err := m.stage(ctx, m.server.mover, m.from, maildrop.StageStayed); err != nil {
			return m.interrupted("not yet served again everywhere", err)
		}
		return m.advance(ctx, policy.MoveNone)
	}
	return refused(opMove, fmt.Sprintf("the move is in phase %q, which this version doesn't know", m.account.Moving.Phase))
}

// interrupted is the error of a run that ends before the move does.
func (m *mover) interrupted(state string, err error) error {
	return &maildrop.Error{Op: opMove, Kind: maildrop.KindOf(err), Err: err,
		Text: fmt.Sprintf("account %s is %s; run the command again to go on (%s)", m.account.Name, state, said(err))}
}

// advance goes on to a phase, unless somebody else did.
func (m *mover) advance(ctx context.Context, to policy.MovePhase) error {
	account, err := m.server.store.AdvanceMove(ctx, m.account.Name, m.account.Moves, m.account.Moving.Phase, to)
	if err != nil {
		return err
	}
	if to == policy.MovePurging || to == policy.MoveNone {
		m.audit(ctx, "account.move", account)
	}
	m.adopt(account)
	return nil
}

// stage brings all shards of a region to a stage.
func (m *mover) stage(ctx context.Context, at maildrop.Mover, region directory.Region, stage maildrop.Stage) error {
	move := m.move()
	return eachShard(ctx, region, stagesAtOnce, func(ctx context.Context, shard int) error {
		return at.Stage(ctx, shard, move, stage)
	})
}

// eachShard does a thing for all shards of a region, some at once. The first error ends it.
func eachShard(ctx context.Context, region directory.Region, atOnce int, do func(ctx context.Context, shard int) error) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(atOnce)
	for shard := range region.Shards {
		group.Go(func() error {
			if err := do(ctx, shard); err != nil {
				return fmt.Errorf("shard %d of %s: %w", shard, region.Name, err)
			}
			return nil
		})
	}
	return group.Wait()
}

// survey counts what there is to move.
func (m *mover) survey(ctx context.Context) error {
	var sum maildrop.Survey
	move := m.move()
	move.ID = max(move.ID, 1)
	err := eachShard(ctx, m.from, stagesAtOnce, func(ctx context.Context, shard int) error {
		v, err := m.server.mover.Survey(ctx, shard, move)
		m.mu.Lock()
		defer m.mu.Unlock()
		sum.Addresses += v.Addresses
		sum.Mailboxes += v.Mailboxes
		sum.Messages += v.Messages
		sum.Octets += v.Octets
		return err
	})
	m.mu.Lock()
	defer m.mu.Unlock()
	m.status.Addresses, m.status.Mailboxes, m.status.Messages, m.status.Octets = sum.Addresses, sum.Mailboxes, sum.Messages, sum.Octets
	return err
}

// copying copies until little is left, while the account is served as ever.
func (m *mover) copying(ctx context.Context) error {
	const state = "served as before, and being copied"
	if err := m.release(ctx, m.account.Moves-1); err != nil {
		return m.interrupted("not yet served again everywhere", err)
	}
	if err := m.stage(ctx, m.far, m.to, maildrop.StageArriving); err != nil {
		return m.interrupted(state, err)
	}
	for range maxPasses {
		if err := m.survey(ctx); err != nil {
			return m.interrupted(state, err)
		}
		sum, err := m.pass(ctx, false)
		if err != nil {
			return m.interrupted(state, err)
		}
		if err := m.whole(sum); err != nil {
			return err
		}
		if sum.Changes() <= enoughPassed {
			return m.advance(ctx, policy.MoveSealed)
		}
	}
	return &maildrop.Error{Op: opMove, Kind: maildrop.Busy,
		Text: fmt.Sprintf("mail for account %s changes faster than it is copied to %s: it is served as before; run the command again at a quieter hour", m.account.Name, m.to.Name)}
}

// whole refuses to leave messages behind that can't be read, unless that was said.
func (m *mover) whole(sum maildrop.Pushed) error {
	if sum.Damaged == 0 || m.in.GetLeaveDamaged() {
		return nil
	}
	return &maildrop.Error{Op: opMove, Kind: maildrop.Corrupt,
		Text: fmt.Sprintf("%s of account %s can't be read, and would be lost: see postern fsck in region %s. The account is served as before; to move it without them, use --leave-damaged",
			maildrop.Counted(int(sum.Damaged), "message"), m.account.Name, m.from.Name)}
}

// pass brings the other region up to what this one has, once.
func (m *mover) pass(ctx context.Context, final bool) (maildrop.Pushed, error) {
	m.mu.Lock()
	m.status.Pass++
	m.status.LookedAt = 0
	m.mu.Unlock()
	move := m.move()
	shards := make([]maildrop.Pushed, m.from.Shards)
	err := eachShard(ctx, m.from, pushesAtOnce, func(ctx context.Context, shard int) error {
		note := func(sum maildrop.Pushed) { m.note(shards, shard, sum) }
		sum, err := m.server.mover.Push(ctx, shard, move, final, note)
		note(sum)
		return err
	})
	var sum maildrop.Pushed
	for _, one := range shards {
		sum.Add(one)
	}
	m.sent.Add(sum)
	return sum, err
}

// note takes in what a shard's push has done so far, and tells of it now and then.
func (m *mover) note(shards []maildrop.Pushed, shard int, sum maildrop.Pushed) {
	m.mu.Lock()
	shards[shard] = sum
	all, now := m.sent, maildrop.Pushed{}
	for _, one := range shards {
		now.Add(one)
	}
	all.Add(now)
	m.status.SentMessages, m.status.SentOctets, m.status.Withdrawn = all.Messages, all.Octets, all.Withdrawn
	m.status.LookedAt, m.status.Damaged = now.Mailboxes, now.Damaged
	m.mu.Unlock()
	_ = m.tell(false) // who has left is noticed at the next phase
}

// tell sends the status, at most every statusEvery unless it has to be now.
func (m *mover) tell(now bool) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if at := time.Now(); now || at.Sub(m.told) >= statusEvery {
		m.told = at
		return m.out.Send(m.status)
	}
	return nil
}

// cutOver makes the other region the account's home. Nobody is served meanwhile, so it ends
// in time, one way or the other, and also if the operator leaves.
func (m *mover) cutOver(ctx context.Context) error {
	began := time.Now()
	limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), cutOverLimit)
	defer cancel()
	err := m.toPurging(limited)
	m.mu.Lock()
	m.status.SealedMilli = time.Since(began).Milliseconds()
	m.mu.Unlock()
	if err == nil || m.account.Moving.Phase == policy.MovePurging {
		return err
	}
	back, cancelBack := context.WithTimeout(context.WithoutCancel(ctx), retreatLimit)
	defer cancelBack()
	if failed := m.retreat(back); failed != nil {
		return m.interrupted("SEALED: nobody of it is served until the command is run again", errors.Join(err, failed))
	}
	return m.interrupted("served as before, for the cut-over failed", err)
}

func (m *mover) toPurging(ctx context.Context) error {
	if m.account.Moving.Phase == policy.MoveSealed {
		if err := m.stage(ctx, m.server.mover, m.from, maildrop.StageLeaving); err != nil {
			return err
		}
		sum, err := m.pass(ctx, true)
		if err == nil {
			err = m.whole(sum)
		}
		if err == nil {
			err = m.advance(ctx, policy.MoveOpening)
		}
		if err != nil || m.account.Moving.Phase != policy.MoveOpening {
			return err
		}
	}
	if err := m.stage(ctx, m.far, m.to, maildrop.StageArrived); err != nil {
		return err
	}
	return m.advance(ctx, policy.MovePurging)
}

// retreat goes back to copying, as another move: what is under way for this one comes too
// late then.
func (m *mover) retreat(ctx context.Context) error {
	sealed := m.account.Moves
	account, err := m.server.store.RetreatMove(ctx, m.account.Name, sealed)
	if err != nil {
		return err
	}
	m.audit(ctx, "account.move.retreat", account)
	m.adopt(account)
	return m.release(ctx, sealed)
}

// release serves the account again where an earlier move had sealed it.
func (m *mover) release(ctx context.Context, id uint64) error {
	if id == 0 {
		return nil
	}
	move := maildrop.Move{Account: m.account.Name, ID: id}
	return eachShard(ctx, m.from, stagesAtOnce, func(ctx context.Context, shard int) error {
		err := m.server.mover.Stage(ctx, shard, move, maildrop.StageStayed)
		if maildrop.KindOf(err) == maildrop.Invalid { // that move came to another end here
			return nil
		}
		return err
	})
}
