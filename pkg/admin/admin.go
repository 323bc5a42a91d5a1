// Package admin is what operators drive: accounts, domains, addresses,
// continuity events. It is a gRPC service that a front serves on its gateway
// port, next to Maildrop.
//
//	operator's CLI ──mTLS── Admin ──▶ directory.Store     accounts, domains (etcd)
//	                          │  ├──▶ maildrop.Registrar  addresses (their shards)
//	                          │  ├──▶ maildrop.Deliverer  maildrops moved in from other servers
//	                          │  ├──▶ maildrop.Helpdesk   why a user can't log in, and lock-outs
//	                          │  └──▶ maildrop.Mover      accounts that move to another region
//	                          └─────▶ one audit line a change: who, what, before, after
//
// Who may call is decided before, by the role in the caller's certificate. Here
// is checked that what is asked makes sense; errors are *maildrop.Error with
// words for the operator, one line that says what to do.
//
// # Decisions
//
//   - 2026-11-25: a front drives the move of an account, in the region that it leaves, and keeps
//     nothing of it: each phase is in the account's record before anything of it is done, and every step may
//     be repeated. A cut-over has 30 seconds, and goes on when the operator leaves; then it is taken
//     back, under a new number, so that what was under way for it counts no more. Refused: a
//     controller that moves by itself, for somebody should look when mailboxes change regions.
//   - 2026-11-23: reads go to etcd itself, not to the front's view of it: what an
//     operator just changed must be in the next list, whichever front answers.
//     Administration may wait for etcd; logins may not.
//   - 2026-11-23: a call without an identity is refused here too, although the
//     server in front of us lets none through: a change that nobody made cannot be
//     audited.
//   - 2026-11-23: an address of another account's past is not handed on. A domain
//     with addresses can't be removed, so a domain never comes to its next owner
//     with somebody else's users.
//   - 2026-11-23: a password has 1 to 200 octets without control characters, and
//     that is all that is asked of it. Strength is the customer's policy; what
//     cannot be typed into PASS (RFC 2449 section 4: a line of 255) is ours.
//   - 2026-11-23: an outcome that is not known (Maybe) is audited too, as such.
//   - 2026-11-23: an import is one stream, its messages delivered one after the
//     other: the order in which they are committed is the order of the listing, and
//     clients that go by message numbers keep theirs. A message of over 1 MiB is not
//     held but streamed on; when its owner changes meanwhile the run ends, and the
//     operator's command sends on from there. Refused: a spool on the gateway's disk.
package admin

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"strings"
	"time"

	"google.golang.org/grpc"

	"github.com/postern-pop/postern/pkg/auth"
	"github.com/postern-pop/postern/pkg/directory"
	"github.com/postern-pop/postern/pkg/maildrop"
	"github.com/postern-pop/postern/pkg/policy"
	"github.com/postern-pop/postern/pkg/rpc"
	"github.com/postern-pop/postern/pkg/scram"
	posternv1 "github.com/postern-pop/postern/proto/postern/v1"
)

// Limits on what is taken.
const (
	MaxPassword = 200 // octets
	maxHashing  = 2   // passwords hashed at once: each takes 64 MiB for a moment
)

// Config is what a Server is made of.
type Config struct {
	Store     *directory.Store
	Registrar maildrop.Registrar // reaches every region's addresses; a router
	Deliverer maildrop.Deliverer // reaches every region's mailboxes; nil: no imports
	Helpdesk  maildrop.Helpdesk  // reaches every region's mailboxes; a router
	// Standing is what a login of the user from there would meet at this front before its
	// mailbox is asked; nil: nothing is known of that.
	Standing func(remote netip.Addr, user maildrop.Address) []maildrop.Finding
	Places   Places // where mailboxes are, as the fronts know it: explaining a login doesn't wait for etcd
	// For moves of accounts, from this region to another: the owners of this one's shards, and
	// a region's gateway, by its address. nil: none.
	Region  string
	Mover   maildrop.Mover
	Gateway func(address string) maildrop.Mover
	// Reply is what a front has sent to a client that tried to log in.
	Reply func(maildrop.Attempt) string
	Log   *slog.Logger // the audit's lines go there

	Now func() time.Time                     // nil: time.Now
	Who func(context.Context) (string, bool) // who calls; nil: the identity in the caller's certificate
}

// Places says where mailboxes are at home. directory.View is one.
type Places interface {
	policy.Rules
	Region(name string) (directory.Region, bool)
}

// Server is the Admin service.
type Server struct {
	posternv1.UnimplementedAdminServer
	store     *directory.Store
	registrar maildrop.Registrar
	deliverer maildrop.Deliverer
	helpdesk  maildrop.Helpdesk
	standing  func(remote netip.Addr, user maildrop.Address) []maildrop.Finding
	places    Places
	reply     func(maildrop.Attempt) string
	region    string
	mover     maildrop.Mover
	gateway   func(address string) maildrop.Mover
	log       *slog.Logger
	now       func() time.Time
	who       func(context.Context) (string, bool)
	hashing   chan struct{}
	importing chan struct{}
}

// New makes a Server.
func New(c Config) *Server {
	s := &Server{store: c.Store, registrar: c.Registrar, deliverer: c.Deliverer, log: c.Log, now: c.Now, who: c.Who,
		helpdesk: c.Helpdesk, standing: c.Standing, places: c.Places, reply: c.Reply,
		region: c.Region, mover: c.Mover, gateway: c.Gateway,
		hashing: make(chan struct{}, maxHashing), importing: make(chan struct{}, maxImports)}
	if s.now == nil {
		s.now = time.Now
	}
	if s.who == nil {
		s.who = peer
	}
	return s
}

// Register makes a gRPC server serve it.
func (s *Server) Register(registrar grpc.ServiceRegistrar) {
	posternv1.RegisterAdminServer(registrar, s)
}

func peer(ctx context.Context) (string, bool) {
	id, ok := rpc.PeerIdentity(ctx)
	return id.String(), ok
}

// caller is who asks, for the audit.
func (s *Server) caller(ctx context.Context) (string, error) {
	who, ok := s.who(ctx)
	if !ok {
		return "", &maildrop.Error{Op: "admin.caller", Kind: maildrop.Denied, Text: "a certificate with an operator's identity is needed"}
	}
	return who, nil
}

// change is one change for the audit. Before and after hold what differs, and
// never a password.
type change struct {
	action string // "account.set"
	target string // what was changed
	before string
	after  string
}

// audited runs a change and writes its line. The work fills in the change.
func audited[T any](ctx context.Context, s *Server, action string, work func(*change) (T, error)) (T, error) {
	var none T
	who, err := s.caller(ctx)
	if err != nil {
		return none, rpc.ToStatus(err)
	}
	c := change{action: action}
	answer, err := work(&c)
	outcome := "done"
	switch {
	case err != nil && maildrop.KindOf(err) == maildrop.Maybe:
		outcome = "unknown"
	case err != nil:
		return none, rpc.ToStatus(err)
	}
	s.audit(ctx, who, c, outcome)
	if err != nil {
		return none, rpc.ToStatus(err)
	}
	return answer, nil
}

// audit writes the line of one change.
func (s *Server) audit(ctx context.Context, who string, c change, outcome string) {
	s.log.InfoContext(ctx, "audit", "who", who, "action", c.action, "target", c.target,
		"before", c.before, "after", c.after, "outcome", outcome)
}

// known runs what only reads.
func (s *Server) known(ctx context.Context, work func() error) error {
	if _, err := s.caller(ctx); err != nil {
		return rpc.ToStatus(err)
	}
	return rpc.ToStatus(work())
}

// secure puts what is kept of a password into a record: its hash, and its keys for
// SCRAM. A few are worked out at a time.
func (s *Server) secure(ctx context.Context, record *maildrop.AddressRecord, password string) (err error) {
	if err := checkPassword(password); err != nil {
		return err
	}
	select {
	case s.hashing <- struct{}{}:
	case <-ctx.Done():
		return &maildrop.Error{Op: "admin.password", Kind: maildrop.Canceled, Err: context.Cause(ctx)}
	}
	defer func() { <-s.hashing }()
	if record.Hash, err = auth.Hash(password); err != nil {
		return &maildrop.Error{Op: "admin.password", Kind: maildrop.Internal, Err: err}
	}
	keys := scram.Derive(password)
	record.Scram = keys.Text()
	return nil
}

func checkPassword(password string) error {
	const op = "admin.password"
	control := strings.ContainsFunc(password, func(r rune) bool { return r < 0x20 || r == 0x7F })
	switch {
	case password == "":
		return refused(op, "the password is empty")
	case len(password) > MaxPassword:
		return refused(op, "the password is longer than 200 octets, and mail programs could not send it")
	case control:
		return refused(op, "the password has a control character (a line end?), and mail programs could not send it")
	}
	return nil
}

// refused is the error of a request that makes no sense, in the operator's words.
func refused(op, text string) error {
	return &maildrop.Error{Op: op, Kind: maildrop.Invalid, Text: text}
}

// refusedBy is the same with an error's words.
func refusedBy(op string, err error) error {
	return refused(op, strings.ReplaceAll(err.Error(), "\n", "; "))
}

// worded gives an error that has no words for the operator some, by its Kind.
func worded(op, what string, err error) error {
	var e *maildrop.Error
	if err == nil || errors.As(err, &e) && e.Text != "" {
		return err
	}
	words := map[maildrop.Kind]string{
		maildrop.Busy:      " is overloaded; nothing was changed, try again",
		maildrop.NotOwner:  " is moving between nodes; nothing was changed, try again",
		maildrop.Transient: " cannot be reached; nothing was changed, try again",
		maildrop.Maybe:     " did not answer, so it is not known whether the change was made; look, then try again",
		maildrop.Full:      " has no room left",
		maildrop.ReadOnly:  " is on a store that is read-only; nothing was changed: see the node's log",
		maildrop.Corrupt:   " is damaged",
		maildrop.NotFound:  " does not exist",
		maildrop.Canceled:  " did not answer in time",
	}[maildrop.KindOf(err)]
	if words == "" {
		words = " failed: see the log of the front that answered"
	}
	return &maildrop.Error{Op: op, Kind: maildrop.KindOf(err), Text: what + words, Err: err}
}
