package rpc

import (
	"net/netip"
	"time"

	"github.com/postern-pop/postern/pkg/maildrop"
	posternv1 "github.com/postern-pop/postern/proto/postern/v1"
)

func loginToWire(l maildrop.Login) *posternv1.OpenRequest {
	out := &posternv1.OpenRequest{
		Address: string(l.Address), Password: []byte(l.Password), Remote: l.Remote.AsSlice(), Session: l.Session,
		Mechanism: l.Mechanism, Language: l.Language,
	}
	if p := l.Proof; p != nil {
		out.Proof = &posternv1.Proof{First: p.First, Final: p.Final, Nonce: p.Nonce, Proof: p.Proof}
	}
	return out
}

func loginFromWire(op string, in *posternv1.OpenRequest) (maildrop.Login, error) {
	address, err := addressFromWire(op, in.GetAddress())
	if err != nil {
		return maildrop.Login{}, err
	}
	if len(in.GetPassword()) > maxPassword || len(in.GetSession()) > maxName || len(in.GetMechanism()) > maxMechanism || len(in.GetLanguage()) > maxLanguage {
		return maildrop.Login{}, invalid(op, "password, session id, mechanism or language too long")
	}
	proof, err := proofFromWire(op, in.GetProof())
	if err != nil {
		return maildrop.Login{}, err
	}
	remote, _ := netip.AddrFromSlice(in.GetRemote()) // none: the zero Addr
	return maildrop.Login{
		Address: address, Password: string(in.GetPassword()), Proof: proof, Remote: remote, Session: in.GetSession(),
		Mechanism: in.GetMechanism(), Language: in.GetLanguage(),
	}, nil
}

func proofFromWire(op string, in *posternv1.Proof) (*maildrop.Proof, error) {
	if in == nil {
		return nil, nil
	}
	if len(in.GetFirst())+len(in.GetFinal())+len(in.GetNonce())+len(in.GetProof()) > maxProof {
		return nil, invalid(op, "proof too long")
	}
	return &maildrop.Proof{First: in.GetFirst(), Final: in.GetFinal(), Nonce: in.GetNonce(), Proof: in.GetProof()}, nil
}

func challengeFromWire(in *posternv1.ChallengeResponse) maildrop.Challenge {
	return maildrop.Challenge{Nonce: in.GetNonce(), Salt: in.GetSalt(), Iterations: int(in.GetIterations())}
}

// addressFromWire takes an address in canonical form only: another spelling
// would be looked for in another shard.
func addressFromWire(op, s string) (maildrop.Address, error) {
	address, err := maildrop.ParseAddress(s)
	if err != nil || string(address) != s {
		return "", invalid(op, "address is not in canonical form")
	}
	return address, nil
}

func infoFromWire(in *posternv1.OpenResponse) maildrop.Info {
	return maildrop.Info{
		Address: maildrop.Address(in.GetAddress()), Class: maildrop.Class(in.GetClass()),
		Count: int(in.GetCount()), Octets: in.GetOctets(), Region: in.GetRegion(), Node: in.GetNode(),
		Signature:  string(in.GetSignature()),
		LoginDelay: time.Duration(in.GetLoginDelaySeconds()) * time.Second,
	}
}

func infoToWire(info maildrop.Info, token []byte) *posternv1.OpenResponse {
	return &posternv1.OpenResponse{
		Address: string(info.Address), Class: uint32(info.Class), Count: uint64(info.Count),
		Octets: info.Octets, Region: info.Region, Node: info.Node, Token: token, Signature: []byte(info.Signature),
		LoginDelaySeconds: uint32(info.LoginDelay / time.Second),
	}
}

func envelopeToWire(e maildrop.Envelope, body maildrop.Body) *posternv1.Envelope {
	out := &posternv1.Envelope{
		Id: e.ID[:], Sender: []byte(e.Sender), Address: string(e.To), Session: e.Session,
		Wire: body.Wire(), Size: body.Size(), Uid: string(e.UID),
	}
	if !e.Received.IsZero() {
		out.ReceivedUnixNano = e.Received.UnixNano()
	}
	return out
}

// imported reports whether an envelope says what only an import may say: under
// which unique-id the message is kept, or since when.
func imported(e maildrop.Envelope) bool { return e.UID != "" || !e.Received.IsZero() }

func envelopeFromWire(op string, in *posternv1.Envelope) (maildrop.Envelope, error) {
	to, err := addressFromWire(op, in.GetAddress())
	if err != nil {
		return maildrop.Envelope{}, err
	}
	e := maildrop.Envelope{Sender: string(in.GetSender()), To: to, Session: in.GetSession(), UID: maildrop.UID(in.GetUid())}
	if in.GetReceivedUnixNano() != 0 {
		e.Received = time.Unix(0, in.GetReceivedUnixNano()).UTC()
	}
	switch {
	case e.UID != "" && !e.UID.Valid():
		return e, invalid(op, "a unique-id is 1 to 70 printable octets (RFC 1939 section 7)")
	case copy(e.ID[:], in.GetId()) != len(e.ID) || len(in.GetId()) != len(e.ID):
		return e, invalid(op, "envelope id is not 16 octets")
	case len(e.Sender) > maxSender || len(e.Session) > maxName:
		return e, invalid(op, "sender or session id too long")
	case in.GetWire() > maxBody || in.GetSize() > in.GetWire():
		return e, invalid(op, "impossible or too large a body")
	}
	return e, nil
}

func recordToWire(r maildrop.AddressRecord) *posternv1.AddressRecord {
	out := &posternv1.AddressRecord{
		Address: string(r.Address), Account: r.Account, Primary: string(r.Primary), Hash: r.Hash,
		Access: uint32(r.Access), Groups: r.Groups, Revision: r.Revision, Scram: r.Scram,
	}
	if !r.Changed.IsZero() {
		out.ChangedUnixNano = r.Changed.UnixNano()
	}
	return out
}

func recordFromWire(in *posternv1.AddressRecord) maildrop.AddressRecord {
	r := maildrop.AddressRecord{
		Address: maildrop.Address(in.GetAddress()), Account: in.GetAccount(),
		Primary: maildrop.Address(in.GetPrimary()), Hash: in.GetHash(),
		Access: maildrop.Access(in.GetAccess()), Groups: in.GetGroups(), Revision: in.GetRevision(), Scram: in.GetScram(),
	}
	if in.GetChangedUnixNano() != 0 {
		r.Changed = time.Unix(0, in.GetChangedUnixNano()).UTC()
	}
	return r
}

func uidsToWire(uids []maildrop.UID) []string {
	out := make([]string, len(uids))
	for i, uid := range uids {
		out[i] = string(uid)
	}
	return out
}

func uidsFromWire(in []string) []maildrop.UID {
	out := make([]maildrop.UID, len(in))
	for i, uid := range in {
		out[i] = maildrop.UID(uid)
	}
	return out
}
