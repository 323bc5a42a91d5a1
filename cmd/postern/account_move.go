package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"github.com/alecthomas/kong"
	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/postern-pop/postern/pkg/maildrop"
	posternv1 "github.com/postern-pop/postern/proto/postern/v1"
)

const (
	moveTries = 8                      // calls in a row that got nothing done
	movePause = 500 * time.Millisecond // before the second one; doubled for each
)

type accountMoveCmd struct {
	Name         string `arg:"" help:"The account."`
	To           string `placeholder:"REGION" help:"Its new home. A move that was interrupted goes on without it."`
	DryRun       bool   `xor:"what" help:"Say what would be done and what stands in the way, and do nothing."`
	Abort        bool   `xor:"what" help:"Give up a move that is under way, and remove what was copied."`
	LeaveDamaged bool   `help:"Move without the messages that can't be read: they are lost."`
}

// moveView is how far a move has come.
type moveView struct {
	Account   string   `json:"account"`
	From      string   `json:"from"`
	To        string   `json:"to"`
	Move      uint64   `json:"move,omitempty"`
	Phase     string   `json:"phase"`
	Addresses uint64   `json:"addresses"`
	Mailboxes uint64   `json:"mailboxes"`
	Messages  uint64   `json:"messages"`
	Octets    uint64   `json:"octets"`
	Passes    uint32   `json:"passes,omitempty"`
	Sent      uint64   `json:"sent_messages"` // by the gateway that answered last
	SentSize  uint64   `json:"sent_octets"`
	Withdrawn uint64   `json:"withdrawn"`
	Damaged   uint64   `json:"damaged"`
	Sealed    float64  `json:"sealed_seconds"` // nobody was served
	Obstacles []string `json:"obstacles"`
	Warnings  []string `json:"warnings"`
	Stopped   string   `json:"stopped,omitempty"`
}

func viewMove(s *posternv1.MoveStatus) moveView {
	return moveView{
		Account: s.GetAccount(), From: s.GetFrom(), To: s.GetTo(), Move: s.GetId(), Phase: s.GetPhase(),
		Addresses: s.GetAddresses(), Mailboxes: s.GetMailboxes(), Messages: s.GetMessages(), Octets: s.GetOctets(),
		Passes: s.GetPass(), Sent: s.GetSentMessages(), SentSize: s.GetSentOctets(), Withdrawn: s.GetWithdrawn(),
		Damaged: s.GetDamaged(), Sealed: (time.Duration(s.GetSealedMilli()) * time.Millisecond).Seconds(),
		Obstacles: append([]string{}, s.GetObstacles()...), Warnings: append([]string{}, s.GetWarnings()...),
	}
}

func (v moveView) write(w io.Writer) {
	row(w, "account", v.Account)
	row(w, "from", v.From)
	row(w, "to", v.To)
	row(w, "phase", v.Phase)
	row(w, "addresses", strconv.FormatUint(v.Addresses, 10))
	row(w, "messages", fmt.Sprintf("%d in %s, %s", v.Messages, maildrop.Counted(int(v.Mailboxes), "mailbox"), octets(v.Octets)))
	if v.Phase != "planned" {
		row(w, "sent", fmt.Sprintf("%d, %s; %d of them withdrawn, %d damaged", v.Sent, octets(v.SentSize), v.Withdrawn, v.Damaged))
	}
	if v.Sealed > 0 {
		row(w, "cut-over", fmt.Sprintf("%.1f s", v.Sealed))
	}
	for _, text := range v.Obstacles {
		row(w, "in the way", text)
	}
	for _, text := range v.Warnings {
		row(w, "to be known", text)
	}
}

// Run moves the account and says what was done.
func (c *accountMoveCmd) Run(ctx context.Context, cl *client, k *kong.Kong) error {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	run := &moveRun{client: cl, in: &posternv1.MoveAccountRequest{
		Name: c.Name, To: c.To, DryRun: c.DryRun, Abort: c.Abort, LeaveDamaged: c.LeaveDamaged,
	}}
	finish := run.showProgress(k.Stderr)
	err := run.all(ctx)
	finish()
	if run.last == nil {
		return err
	}
	view := viewMove(run.last)
	if err != nil {
		view.Stopped = err.Error()
	}
	if said := cl.reply(view, view.write); said != nil {
		return said
	}
	if err == nil && len(view.Obstacles) > 0 {
		err = errors.New("the account can't be moved now")
	}
	return err
}

// moveRun is a move, over as many calls as it takes.
type moveRun struct {
	client *client
	in     *posternv1.MoveAccountRequest
	show   func(*posternv1.MoveStatus)
	last   *posternv1.MoveStatus
}

// all calls until the move is over, trying again at any gateway of the region that drives it.
func (r *moveRun) all(ctx context.Context) error {
	pause := movePause
	for tries := 1; ; tries++ {
		before := r.last
		err := r.once(ctx)
		var s *stoppedError
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return errors.New("interrupted: run it again to go on, or with --abort to give up")
		case !errors.As(err, &s) || !passing(err) || s.worded || tries >= moveTries:
			return err
		}
		if r.last != before {
			tries, pause = 0, movePause
		}
		sleep(ctx, pause)
		pause *= 2
	}
}

// once makes one call, at a gateway of the region that the account leaves.
func (r *moveRun) once(ctx context.Context) error {
	region, err := r.region(ctx)
	if err != nil {
		return err
	}
	config, err := readContext(r.client.Context)
	if err != nil {
		return err
	}
	transport, err := config.transport()
	if err != nil {
		return fmt.Errorf("%s: %w", r.client.Context, err)
	}
	server, err := config.gatewayOf(ctx, transport, region)
	if err != nil {
		return &stoppedError{error: fmt.Errorf("region %s: %w", region, err), kind: maildrop.Transient}
	}
	conn, err := grpc.NewClient("passthrough:///"+server, grpc.WithTransportCredentials(credentials.NewTLS(transport)))
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stall := time.AfterFunc(r.client.Timeout, cancel) // the gateway says something every few seconds
	defer stall.Stop()
	stream, err := posternv1.NewAdminClient(conn).MoveAccount(ctx, r.in)
	for err == nil {
		var status *posternv1.MoveStatus
		if status, err = stream.Recv(); err == nil {
			stall.Reset(r.client.Timeout)
			r.last = status
			r.show(status)
		}
	}
	if errors.Is(err, io.EOF) {
		return nil
	}
	return stopped(server, err)
}

// region is the one whose gateways drive the move. A question that isn't answered may be asked
// again.
func (r *moveRun) region(ctx context.Context) (region string, err error) {
	err = r.client.call(ctx, false, func(ctx context.Context, admin posternv1.AdminClient) error {
		account, err := admin.ShowAccount(ctx, &posternv1.ShowAccountRequest{Name: r.in.GetName()})
		if region = account.GetRegion(); account.GetMoving() != nil {
			region = account.GetMoving().GetFrom()
		}
		return err
	})
	if err != nil && r.last != nil { // it was answered before
		err = &stoppedError{error: err, kind: maildrop.Transient}
	}
	return region, err
}

// showProgress draws a bar for somebody who looks, and writes lines for a log.
func (r *moveRun) showProgress(stderr io.Writer) (finish func()) {
	file, ok := stderr.(*os.File)
	if !ok || !term.IsTerminal(int(file.Fd())) {
		r.show = r.lines(stderr)
		return func() {}
	}
	bar := progressbar.NewOptions64(1, progressbar.OptionSetWriter(file), progressbar.OptionShowBytes(true),
		progressbar.OptionThrottle(100*time.Millisecond), progressbar.OptionFullWidth(), progressbar.OptionClearOnFinish())
	r.show = func(s *posternv1.MoveStatus) {
		bar.ChangeMax64(int64(max(s.GetOctets(), s.GetSentOctets(), 1)))
		bar.Describe(fmt.Sprintf("%s to %s, %s, pass %d", clean(s.GetAccount()), clean(s.GetTo()), clean(s.GetPhase()), s.GetPass()))
		_ = bar.Set64(int64(s.GetSentOctets()))
	}
	return func() { _ = bar.Clear() }
}

// lines writes a line for each phase and pass.
func (r *moveRun) lines(w io.Writer) func(*posternv1.MoveStatus) {
	var phase string
	var pass uint32
	return func(s *posternv1.MoveStatus) {
		if s.GetPhase() == phase && s.GetPass() == pass {
			return
		}
		phase, pass = s.GetPhase(), s.GetPass()
		fmt.Fprintf(w, "account %s to %s: %s, pass %d, %d messages sent so far of about %d\n",
			clean(s.GetAccount()), clean(s.GetTo()), clean(phase), pass, s.GetSentMessages(), s.GetMessages())
	}
}
