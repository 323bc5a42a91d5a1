package rpc

import (
	"context"
	"net/netip"
	"time"

	"github.com/postern-pop/postern/pkg/maildrop"
	posternv1 "github.com/postern-pop/postern/proto/postern/v1"
)

// Explain asks what a login would come to.
func (c *Client) Explain(ctx context.Context, q maildrop.Question) (maildrop.Explanation, error) {
	var out posternv1.Explanation
	in := &posternv1.ExplainRequest{Address: string(q.Address), Remote: q.Remote.AsSlice()}
	if err := c.call(ctx, "rpc.explain", posternv1.Maildrop_Explain_FullMethodName, in, &out, false); err != nil {
		return maildrop.Explanation{}, err
	}
	return explanationFromWire(&out), nil
}

// Unlock ends an address's lock-out.
func (c *Client) Unlock(ctx context.Context, address maildrop.Address) (was bool, err error) {
	var out posternv1.UnlockResponse
	in := &posternv1.UnlockRequest{Address: string(address)}
	err = c.call(ctx, "rpc.unlock", posternv1.Maildrop_Unlock_FullMethodName, in, &out, true)
	return out.GetWas(), err
}

// Tell has the server remember what was refused here.
func (c *Client) Tell(ctx context.Context, address maildrop.Address, refused []maildrop.Attempt) error {
	in := &posternv1.TellRequest{Address: string(address), Refused: attemptsToWire(refused)}
	return c.call(ctx, "rpc.tell", posternv1.Maildrop_Tell_FullMethodName, in, &posternv1.TellResponse{}, false)
}

func (s *maildropServer) Explain(ctx context.Context, in *posternv1.ExplainRequest) (*posternv1.Explanation, error) {
	address, err := addressFromWire("rpc.explain", in.GetAddress())
	if err != nil {
		return nil, err
	}
	remote, _ := netip.AddrFromSlice(in.GetRemote()) // none: the zero Addr
	e, err := s.service.Explain(ctx, maildrop.Question{Address: address, Remote: remote})
	if err != nil {
		return nil, err
	}
	return explanationToWire(e), nil
}

func (s *maildropServer) Unlock(ctx context.Context, in *posternv1.UnlockRequest) (*posternv1.UnlockResponse, error) {
	address, err := addressFromWire("rpc.unlock", in.GetAddress())
	if err != nil {
		return nil, err
	}
	was, err := s.service.Unlock(ctx, address)
	if err != nil {
		return nil, err
	}
	return &posternv1.UnlockResponse{Was: was}, nil
}

func (s *maildropServer) Tell(ctx context.Context, in *posternv1.TellRequest) (*posternv1.TellResponse, error) {
	const op = "rpc.tell"
	address, err := addressFromWire(op, in.GetAddress())
	if err != nil {
		return nil, err
	}
	if len(in.GetRefused()) > maildrop.MaxTold {
		return nil, invalid(op, "more refusals than one call may have")
	}
	refused := attemptsFromWire(in.GetRefused())
	for _, a := range refused {
		if a.Times < 1 || len(a.Reason) > maxName || len(a.Session) > maxName || len(a.Mechanism) > maxMechanism || len(a.Language) > maxLanguage || len(a.Text) > maxText {
			return nil, invalid(op, "a refusal that none of our fronts tells of")
		}
	}
	return &posternv1.TellResponse{}, s.service.Tell(ctx, address, refused)
}

func explanationToWire(e maildrop.Explanation) *posternv1.Explanation {
	out := &posternv1.Explanation{
		Address: string(e.Address), Known: e.Known, Node: e.Node, Shard: uint32(e.Shard), Epoch: e.Epoch, SinceUnixNano: toNano(e.Since),
		Class: uint32(e.Class), Reason: string(e.Reason), WaitMilli: e.Wait.Milliseconds(),
	}
	for _, f := range e.Findings {
		out.Findings = append(out.Findings, &posternv1.Finding{
			Subject: f.Subject, Value: f.Value, Words: clean(f.Words, maxFinding), Reason: string(f.Reason),
		})
	}
	out.Attempts = attemptsToWire(e.Attempts)
	return out
}

func attemptsToWire(attempts []maildrop.Attempt) []*posternv1.Attempt {
	out := make([]*posternv1.Attempt, 0, len(attempts))
	for _, a := range attempts {
		out = append(out, &posternv1.Attempt{
			TimeUnixNano: toNano(a.Time), FirstUnixNano: toNano(a.First), Times: uint32(a.Times), Remote: a.Remote.AsSlice(),
			Mechanism: a.Mechanism, Session: a.Session, Reason: string(a.Reason), WaitMilli: a.Wait.Milliseconds(),
			Class: uint32(a.Class), Count: uint64(a.Count), Octets: a.Octets, Language: a.Language, Text: clean(a.Text, maxText),
		})
	}
	return out
}

func explanationFromWire(in *posternv1.Explanation) maildrop.Explanation {
	e := maildrop.Explanation{
		Address: maildrop.Address(in.GetAddress()), Known: in.GetKnown(), Node: in.GetNode(), Shard: int(in.GetShard()),
		Epoch: in.GetEpoch(), Since: fromNano(in.GetSinceUnixNano()), Class: maildrop.Class(in.GetClass()),
		Reason: maildrop.Reason(in.GetReason()), Wait: fromMilli(in.GetWaitMilli()),
	}
	for _, f := range in.GetFindings() {
		e.Findings = append(e.Findings, maildrop.Finding{
			Subject: f.GetSubject(), Value: f.GetValue(), Words: f.GetWords(), Reason: maildrop.Reason(f.GetReason()),
		})
	}
	e.Attempts = attemptsFromWire(in.GetAttempts())
	return e
}

func attemptsFromWire(in []*posternv1.Attempt) (attempts []maildrop.Attempt) {
	for _, a := range in {
		remote, _ := netip.AddrFromSlice(a.GetRemote())
		attempts = append(attempts, maildrop.Attempt{
			Time: fromNano(a.GetTimeUnixNano()), First: fromNano(a.GetFirstUnixNano()), Times: int(a.GetTimes()), Remote: remote,
			Mechanism: a.GetMechanism(), Session: a.GetSession(), Reason: maildrop.Reason(a.GetReason()), Wait: fromMilli(a.GetWaitMilli()),
			Class: maildrop.Class(a.GetClass()), Count: int(a.GetCount()), Octets: a.GetOctets(),
			Language: a.GetLanguage(), Text: clean(a.GetText(), maxText),
		})
	}
	return attempts
}

// toNano and fromNano carry times; 0 is the zero time.
func toNano(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

func fromNano(nano int64) time.Time {
	if nano == 0 {
		return time.Time{}
	}
	return time.Unix(0, nano).UTC()
}

func fromMilli(milli int64) time.Duration { return max(0, time.Duration(milli)*time.Millisecond) }
