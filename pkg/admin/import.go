package admin

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"time"

	"google.golang.org/grpc"

	"github.com/postern-pop/postern/pkg/maildrop"
	"github.com/postern-pop/postern/pkg/policy"
	"github.com/postern-pop/postern/pkg/rpc"
	posternv1 "github.com/postern-pop/postern/proto/postern/v1"
)

// Limits on imports.
const (
	maxImports  = 8       // runs at once at one gateway; each has up to maxHeld in memory
	maxHeld     = 1 << 20 // octets of a message that is read whole, so that a new owner can be tried
	maxImported = 1 << 30 // octets of one message in wire form: what rpc carries
	maxSource   = 255     // octets of what an operator says of where mail comes from
)

type importStream = grpc.BidiStreamingServer[posternv1.ImportRequest, posternv1.ImportResponse]

// Import moves a maildrop in: what an operator sends, in that order, one message
// after the other, since a listing's order is the order of commits. A message
// that can never be taken gets a verdict and the run goes on; anything else ends
// the run with an error, and what has a verdict is durable. One line of audit a
// run.
func (s *Server) Import(stream importStream) error {
	ctx := stream.Context()
	who, err := s.caller(ctx)
	if err != nil {
		return rpc.ToStatus(err)
	}
	select {
	case s.importing <- struct{}{}:
		defer func() { <-s.importing }()
	default:
		return rpc.ToStatus(&maildrop.Error{Op: "admin.import", Kind: maildrop.Busy,
			Text: fmt.Sprintf("%d imports run here already; try again later, or at another gateway", maxImports)})
	}
	run := &importRun{stream: stream, deliverer: s.deliverer, session: "import-" + rand.Text()[:12]}
	if err := s.admit(ctx, run); err != nil {
		return rpc.ToStatus(err)
	}
	err = run.messages(ctx)
	if run.sent > 0 {
		s.auditImport(ctx, who, run, err)
	}
	return rpc.ToStatus(err)
}

func (s *Server) auditImport(ctx context.Context, who string, run *importRun, err error) {
	outcome := "done"
	switch {
	case err != nil && maildrop.KindOf(err) == maildrop.Maybe:
		outcome = "unknown"
	case err != nil:
		outcome = "stopped"
	}
	s.audit(ctx, who, change{action: "maildrop.import", target: string(run.to),
		after: fmt.Sprintf("messages=%d refused=%d octets=%d session=%s source=%.255q",
			run.stored, run.refused, run.octets, run.session, run.source)}, outcome)
}

// admit takes a run's start and answers whether the mailbox takes mail, and how
// old it may be. Nothing of the maildrop was sent by then.
func (s *Server) admit(ctx context.Context, run *importRun) error {
	const op = "admin.import"
	in, err := run.stream.Recv()
	if err != nil {
		return err
	}
	start := in.GetStart()
	switch {
	case s.deliverer == nil:
		return refused(op, "this server takes no imports: ask a region's gateway")
	case start == nil:
		return refused(op, "an import begins with its address")
	case len(start.GetSource()) > maxSource:
		return refused(op, "the source's name is too long")
	}
	record, err := s.record(ctx, op, start.GetAddress())
	if err != nil {
		return err
	}
	if record.Primary != "" {
		return refused(op, fmt.Sprintf("%s is an alias and has no mail of its own: import into its primary address, %s", record.Address, record.Primary))
	}
	run.to, run.source = record.Address, start.GetSource()
	err = s.deliverer.Accept(ctx, maildrop.Recipient{Address: run.to, Session: run.session})
	if err != nil {
		return worded(op, "mailbox "+string(run.to), err)
	}
	return s.welcome(ctx, run, record)
}

// welcome says what the mailbox takes. The owner decides again for each message.
func (s *Server) welcome(ctx context.Context, run *importRun, record maildrop.AddressRecord) error {
	domain, err := s.store.Domain(ctx, run.to.Domain())
	if err != nil {
		return err
	}
	account, err := s.store.Account(ctx, domain.Account)
	if err != nil {
		return err
	}
	keep := policy.Keep(account, domain, record, s.now())
	if keep.Class == maildrop.ClassNone {
		return &maildrop.Error{Op: "admin.import", Kind: maildrop.Denied, Reason: keep.Reason, Text: keep.Text}
	}
	return run.stream.Send(&posternv1.ImportResponse{Part: &posternv1.ImportResponse_Admitted{Admitted: &posternv1.ImportAdmitted{
		Class: keep.Class.String(), OldestUnixNano: s.now().Add(-keep.Class.Retention()).UnixNano(), MaxWire: maxImported,
	}}})
}

// importRun is one maildrop on its way in.
type importRun struct {
	stream    importStream
	deliverer maildrop.Deliverer
	session   string
	to        maildrop.Address
	source    string

	sent            int    // messages that came
	stored, refused int    // of them
	octets          uint64 // of the stored ones, as LIST counts them
}

// messages delivers until the operator has no more.
func (r *importRun) messages(ctx context.Context) error {
	for {
		in, err := r.stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return rpc.FromStatus("admin.import", err, false)
		}
		verdict, err := r.message(ctx, in.GetHead())
		if err == nil {
			err = r.stream.Send(&posternv1.ImportResponse{Part: &posternv1.ImportResponse_Verdict{Verdict: verdict}})
		}
		if err != nil {
			return err
		}
	}
}

// message delivers one message. Its error ends the run.
func (r *importRun) message(ctx context.Context, head *posternv1.ImportHead) (*posternv1.ImportVerdict, error) {
	envelope, err := r.envelope(head)
	if err != nil {
		return nil, err
	}
	r.sent++
	body := &importBody{stream: r.stream, wire: head.GetWire(), size: head.GetSize(), left: head.GetWire()}
	if body.wire <= maxHeld {
		if err := body.hold(); err != nil {
			return nil, err
		}
	}
	err = r.deliverer.Deliver(ctx, envelope, body)
	switch {
	case err == nil:
		r.stored++
		r.octets += body.size
		return &posternv1.ImportVerdict{}, body.skip() // nobody reads one that is there already
	case maildrop.KindOf(err) != maildrop.Invalid || body.err != nil:
		return nil, err
	}
	r.refused++
	text := maildrop.TextOf(err)
	if text == "" {
		text = fmt.Sprintf("the mailbox has, or had, another message with the unique-id %s, or may make one itself", envelope.UID)
	}
	return &posternv1.ImportVerdict{Refused: true, Text: text}, body.skip()
}

func (r *importRun) envelope(head *posternv1.ImportHead) (maildrop.Envelope, error) {
	const op = "admin.import"
	e := maildrop.Envelope{To: r.to, Session: r.session, UID: maildrop.UID(head.GetUid())}
	switch {
	case head == nil:
		return e, refused(op, "expected the head of a message")
	case len(head.GetId()) != len(e.ID) || !e.UID.Valid():
		return e, refused(op, "a message to import has an ID of 16 octets and a unique-id of 1 to 70 printable ones")
	case head.GetWire() > maxImported || head.GetSize() > head.GetWire():
		return e, refused(op, "a message of an impossible size")
	}
	copy(e.ID[:], head.GetId())
	if head.GetReceivedUnixNano() != 0 {
		e.Received = time.Unix(0, head.GetReceivedUnixNano()).UTC()
	}
	return e, nil
}
