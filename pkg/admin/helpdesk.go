package admin

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/postern-pop/postern/pkg/directory"
	"github.com/postern-pop/postern/pkg/maildrop"
	"github.com/postern-pop/postern/pkg/policy"
	posternv1 "github.com/postern-pop/postern/proto/postern/v1"
)

// UnlockAddress ends an address's lock-out; of an alias its primary address's. Names
// that don't exist can be locked out, but there is nobody to help.
func (s *Server) UnlockAddress(ctx context.Context, in *posternv1.UnlockAddressRequest) (*posternv1.UnlockAddressResponse, error) {
	const op = "admin.address.unlock"
	return audited(ctx, s, "address.unlock", func(c *change) (*posternv1.UnlockAddressResponse, error) {
		record, err := s.record(ctx, op, in.GetAddress())
		if err != nil {
			return nil, err
		}
		primary := record.Address
		if record.Primary != "" {
			primary = record.Primary
		}
		c.target = string(primary)
		was, err := s.helpdesk.Unlock(ctx, primary)
		if err != nil {
			return nil, worded(op, "address "+string(primary), err)
		}
		c.before, c.after = fmt.Sprintf("locked_out=%t", was), "locked_out=false"
		return &posternv1.UnlockAddressResponse{Address: string(primary), Was: was}, nil
	})
}

// ExplainLogin says what decides a login, whether or not there is such an address.
func (s *Server) ExplainLogin(ctx context.Context, in *posternv1.ExplainLoginRequest) (*posternv1.ExplainLoginResponse, error) {
	var answer *posternv1.ExplainLoginResponse
	return answer, s.known(ctx, func() (err error) {
		answer, err = s.explain(ctx, in)
		return err
	})
}

func (s *Server) explain(ctx context.Context, in *posternv1.ExplainLoginRequest) (*posternv1.ExplainLoginResponse, error) {
	const op = "admin.explain"
	q := maildrop.Question{}
	var err error
	if q.Address, err = parseAddress(in.GetAddress()); err != nil {
		return nil, err
	}
	if in.GetFrom() != "" {
		if q.Remote, err = netip.ParseAddr(in.GetFrom()); err != nil {
			return nil, refused(op, fmt.Sprintf("from %+.60q: expected an IP address such as 192.0.2.7", in.GetFrom()))
		}
	}
	e, err := s.askOwner(ctx, q)
	if err != nil {
		return nil, worded(op, "the owner of "+string(q.Address), err)
	}
	if s.standing != nil && q.Remote.IsValid() {
		e.Findings = append(s.standing(q.Remote, q.Address), e.Findings...)
		e = refusedFirst(e)
	}
	return s.explanation(q.Address, e), nil
}

// ownerPatience is how long a mailbox's owner is waited for. It is asked when something is
// wrong, and that may be what is.
const ownerPatience = 4 * time.Second

// askOwner asks the mailbox's owner. While that doesn't answer, a login comes to
// ReasonUnavailable, and what the directory says is all that is known besides.
func (s *Server) askOwner(ctx context.Context, q maildrop.Question) (maildrop.Explanation, error) {
	limited, cancel := context.WithTimeout(ctx, ownerPatience)
	defer cancel()
	e, err := s.helpdesk.Explain(limited, q)
	domain, account, served := s.places.Domain(q.Address.Domain())
	if err == nil || !served || ctx.Err() != nil || !away(maildrop.KindOf(err)) {
		return e, err
	}
	region, _ := s.places.Region(account.Region)
	e = maildrop.Explanation{Address: q.Address, Shard: q.Address.Shard(max(1, region.Shards)), Reason: maildrop.ReasonUnavailable}
	e.Findings = []maildrop.Finding{{
		Subject: "mailbox", Value: "unavailable", Reason: maildrop.ReasonUnavailable,
		Words: fmt.Sprintf("its owner gave no answer in %v, so neither lock-out nor address nor attempts are known: see postern shard list --region %s, and that node's log", ownerPatience, region.Name),
	}}
	for _, f := range policy.Explain(account, domain, maildrop.AddressRecord{Address: q.Address}, s.now()) {
		if f.Subject != "access" { // the address's own, which the owner knows
			e.Findings = append(e.Findings, f)
		}
	}
	return e, nil
}

// away reports whether an error says nothing but that the owner wasn't reached.
func away(kind maildrop.Kind) bool {
	switch kind {
	case maildrop.Transient, maildrop.NotOwner, maildrop.Canceled, maildrop.Maybe:
		return true
	}
	return false
}

// refusedFirst takes the verdict from a front's finding, which a login meets before all
// others.
func refusedFirst(e maildrop.Explanation) maildrop.Explanation {
	for _, f := range e.Findings {
		if m, known := f.Reason.Meaning(); known {
			if m.Reason != e.Reason {
				e.Class, e.Reason, e.Wait = maildrop.ClassNone, m.Reason, 0
			}
			break
		}
	}
	return e
}

func (s *Server) explanation(asked maildrop.Address, e maildrop.Explanation) *posternv1.ExplainLoginResponse {
	_, account, served := s.places.Domain(e.Address.Domain())
	region, _ := s.places.Region(account.Region)
	out := &posternv1.ExplainLoginResponse{
		Asked: string(asked), Address: string(e.Address), Known: e.Known, Account: account.Name, Region: account.Region, Hostname: region.Hostname,
		Shard: uint32(e.Shard), Node: e.Node, Epoch: e.Epoch, SinceMilli: toMilli(e.Since), Reason: string(e.Reason),
	}
	if e.Class != maildrop.ClassNone {
		out.Class = e.Class.String()
	}
	if e.Reason != maildrop.ReasonNone {
		out.Reply = s.reply(maildrop.Attempt{Reason: e.Reason, Wait: e.Wait})
	}
	if asked != e.Address {
		out.Findings = append(out.Findings, found("alias", string(e.Address), fmt.Sprintf("%s is an alias of %s, whose login counts", asked, e.Address)))
	}
	owner := found("owner", e.Node, fmt.Sprintf("shard %d, in epoch %d", e.Shard, e.Epoch))
	if e.Node == "" {
		owner = found("owner", "away", fmt.Sprintf("shard %d", e.Shard))
	}
	out.Findings = append(out.Findings, explainRegion(region, served), owner)
	for _, f := range e.Findings {
		out.Findings = append(out.Findings, &posternv1.Finding{Subject: f.Subject, Value: f.Value, Words: f.Words, Reason: string(f.Reason)})
	}
	for _, a := range e.Attempts {
		out.Attempts = append(out.Attempts, s.attemptMessage(a))
	}
	return out
}

func found(subject, value, words string) *posternv1.Finding {
	return &posternv1.Finding{Subject: subject, Value: value, Words: words}
}

// explainRegion says where the user has to connect. Whether he does isn't known here.
func explainRegion(region directory.Region, served bool) *posternv1.Finding {
	switch {
	case !served:
		return found("region", "none", "each region's fronts look for it in a shard of their own, as if it could exist")
	case region.CrossRegion == directory.CrossRegionRefuse:
		return found("region", region.Name, fmt.Sprintf("at %s; the other regions' servers refuse (%s)", region.Hostname, maildrop.ReasonRegion))
	}
	return found("region", region.Name, fmt.Sprintf("at %s; the other regions' servers let him in as well", region.Hostname))
}

func (s *Server) attemptMessage(a maildrop.Attempt) *posternv1.LoginAttempt {
	out := &posternv1.LoginAttempt{
		TimeMilli: toMilli(a.Time), FirstMilli: toMilli(a.First), Times: uint32(a.Times), Mechanism: a.Mechanism, Session: a.Session,
		Reason: string(a.Reason), Reply: s.reply(a),
	}
	if a.Remote.IsValid() {
		out.Remote = a.Remote.String()
	}
	return out
}
