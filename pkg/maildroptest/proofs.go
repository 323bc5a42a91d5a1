package maildroptest

import (
	"bytes"
	"net/netip"
	"strings"
	"sync"

	xdg "github.com/xdg-go/scram"

	"github.com/postern-pop/postern/pkg/maildrop"
	"github.com/postern-pop/postern/pkg/policy"
	"github.com/postern-pop/postern/pkg/scram"
)

var proofs = []test{
	{"a login by proof", proofLogin},
	{"wrong proofs are one error", wrongProofs},
	{"a challenge tells nothing of its address", challengesAreAlike},
	{"a proof is for its nonce", proofsNonce},
	{"a proof that is repeated", proofRepeated},
	{"a proof at another owner", proofAfterTakeOver},
	{"a password that changes between challenge and proof", passwordChangesBetween},
	{"the policy is told to the right proof only", policyIsNotToldToWrongProofs},
	{"proofs in a domain that changes hands", proofsOfFormerOwner},
	{"an alias logs in by proof", aliasProof},
	{"proofs that make no sense", senselessProofs},
	{"keys go with their hash", keysGoWithTheirHash},
	{"ended contexts of challenges", endedChallenges},
}

// The keys that belong to Hash and OtherHash.
var (
	keysText      = sync.OnceValue(func() string { k := scram.Derive(Password); return k.Text() })
	otherKeysText = sync.OnceValue(func() string { k := scram.Derive(OtherPassword); return k.Text() })
)

// prover makes an address with Password and its keys.
func (s *scene) prover(local string) maildrop.Address {
	s.Helper()
	address := s.address(local)
	s.put(maildrop.AddressRecord{Address: address, Hash: Hash, Scram: keysText()})
	return address
}

// dialogue is one client's exchange: an independent implementation, and a login that
// is made of its words.
type dialogue struct {
	*scene
	client *xdg.ClientConversation
	login  maildrop.Login
	first  scram.First
}

// begin has a client call itself by a name at an address.
func (s *scene) begin(address maildrop.Address, password string) *dialogue {
	s.Helper()
	client, err := xdg.SHA256.NewClient(string(address), password, "")
	s.ok(err)
	d := &dialogue{scene: s, client: client.NewConversation()}
	d.login = maildrop.Login{Address: address, Remote: remote, Session: "test"}
	d.first, err = scram.ParseFirst([]byte(d.step("")))
	s.ok(err)
	return d
}

func (d *dialogue) step(text string) string {
	d.Helper()
	out, err := d.client.Step(text)
	d.ok(err)
	return out
}

func (d *dialogue) challenge() maildrop.Challenge {
	d.Helper()
	c, err := d.Service.Challenge(d.Context(), d.login)
	d.ok(err)
	return c
}

// answer has the client prove its password for a challenge.
func (d *dialogue) answer(c maildrop.Challenge) maildrop.Login {
	d.Helper()
	final, err := scram.ParseFinal([]byte(d.step(scram.ServerFirst(d.first.Nonce+c.Nonce, c.Salt, c.Iterations))))
	d.ok(err)
	d.login.Proof = &maildrop.Proof{First: d.first.Bare, Final: final.Without, Nonce: c.Nonce, Proof: final.Proof}
	return d.login
}

// prove is a whole exchange up to its Login.
func (s *scene) prove(address maildrop.Address, password string) *dialogue {
	s.Helper()
	d := s.begin(address, password)
	d.answer(d.challenge())
	return d
}

// opens wants the login to succeed, and the client to believe the signature.
func (d *dialogue) opens() maildrop.Drop {
	d.Helper()
	drop, err := d.Service.Open(d.Context(), d.login)
	d.ok(err)
	d.closes(drop)
	d.step(scram.ServerFinal(drop.Info().Signature))
	if !d.client.Valid() {
		d.Fatal("the client does not believe the signature")
	}
	return drop
}

func (d *dialogue) fails(kind maildrop.Kind) {
	d.Helper()
	_, err := d.Service.Open(d.Context(), d.login)
	d.scene.fails(err, kind)
}

func proofLogin(s *scene) {
	anna := s.prover("anna")
	body := s.message(anna)
	d := s.prove(anna, Password).opens()
	if info := d.Info(); info.Address != anna || info.Count != 1 || info.Class != maildrop.ClassLocal {
		s.Errorf("Info is %+v", info)
	}
	s.same(s.read(d, s.uids(d)[0], 0), body.Octets())
	s.ok(d.Check(s.Context()))
	if signature := s.open(anna).Info().Signature; signature != "" { // by password
		s.Errorf("a login with the password is signed: %x", signature)
	}
}

// wrongProofs: nobody learns which addresses there are, nor which have keys.
func wrongProofs(s *scene) {
	anna, ben := s.prover("anna"), s.user("ben")
	s.put(maildrop.AddressRecord{Address: s.address("nologin")})
	_, reference := s.login(anna, "wrong")
	for address, password := range map[maildrop.Address]string{
		anna: OtherPassword, ben: Password, s.address("nobody"): Password, s.address("nologin"): Password,
		"anna@nobodys-domain.example": Password,
	} {
		_, err := s.Service.Open(s.Context(), s.prove(address, password).login)
		s.denied(err, maildrop.ReasonCredentials)
		if maildrop.TextOf(err) != maildrop.TextOf(reference) {
			s.Errorf("%s is told apart: %q and %q", address, maildrop.TextOf(err), maildrop.TextOf(reference))
		}
	}
	s.prove(anna, Password).opens()
}

// challengesAreAlike: of the same form, with a salt that stays, and a nonce that
// doesn't.
func challengesAreAlike(s *scene) {
	salts := map[string]maildrop.Address{}
	for _, address := range []maildrop.Address{s.prover("anna"), s.user("ben"), s.address("nobody"), "anna@nobodys-domain.example"} {
		first, second := s.begin(address, Password).challenge(), s.begin(address, Password).challenge()
		if !bytes.Equal(first.Salt, second.Salt) || first.Iterations != second.Iterations || first.Nonce == second.Nonce {
			s.Errorf("%s: %+v, then %+v", address, first, second)
		}
		if len(first.Salt) != scram.SaltSize || first.Iterations != scram.Iterations || len(first.Nonce) != 46 {
			s.Errorf("%s has a challenge of its own form: %+v", address, first)
		}
		if other, twice := salts[string(first.Salt)]; twice {
			s.Errorf("%s and %s have one salt", address, other)
		}
		salts[string(first.Salt)] = address
	}
	if s.TakeOver == nil {
		return
	}
	before := s.begin(s.address("nobody"), Password).challenge()
	s.TakeOver(s)
	if after := s.begin(s.address("nobody"), Password).challenge(); !bytes.Equal(before.Salt, after.Salt) {
		s.Error("the next owner has another salt for an address that doesn't exist")
	}
}

// proofsNonce: who carries the messages can't make up the nonce. The client's proof
// is right in all of these.
func proofsNonce(s *scene) {
	anna, ben := s.prover("anna"), s.prover("ben")
	forged := s.begin(anna, Password)
	c := forged.challenge()
	c.Nonce = strings.Repeat("A", len(c.Nonce))
	forged.answer(c)
	forged.fails(maildrop.Invalid)

	short := s.begin(anna, Password)
	c = short.challenge()
	c.Nonce = "x"
	short.answer(c)
	short.fails(maildrop.Invalid)

	other := s.begin(anna, Password)
	c = other.challenge()
	c.Nonce = s.begin(ben, Password).challenge().Nonce
	other.answer(c)
	other.fails(maildrop.Invalid)

	changed := s.prove(anna, Password)
	changed.login.Proof.Nonce = changed.challenge().Nonce
	changed.fails(maildrop.Invalid)
}

// proofRepeated: an Open whose answer was lost may be repeated.
func proofRepeated(s *scene) {
	d := s.prove(s.prover("anna"), Password)
	again, err := s.Service.Open(s.Context(), d.login)
	s.ok(err)
	s.closes(again)
	d.opens()
}

func proofAfterTakeOver(s *scene) {
	if s.TakeOver == nil {
		s.Skip("no take-over here")
	}
	d := s.prove(s.prover("anna"), Password)
	s.TakeOver(s)
	d.opens()
}

func passwordChangesBetween(s *scene) {
	anna := s.prover("anna")
	d := s.prove(anna, Password)
	s.put(maildrop.AddressRecord{Address: anna, Hash: OtherHash, Scram: otherKeysText()})
	d.fails(maildrop.Denied)
	s.prove(anna, OtherPassword).opens()
}

func policyIsNotToldToWrongProofs(s *scene) {
	anna := s.prover("anna")
	s.change(func(a *policy.Account) {
		a.Override, a.Networks = policy.OverrideBlock, []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
	})
	for _, address := range []maildrop.Address{anna, s.address("nobody")} {
		_, err := s.Service.Open(s.Context(), s.prove(address, OtherPassword).login)
		s.denied(err, maildrop.ReasonCredentials)
	}
	_, err := s.Service.Open(s.Context(), s.prove(anna, Password).login)
	s.denied(err, maildrop.ReasonBlocked)
}

// proofsOfFormerOwner: right ones are wrong, however old their nonce is.
func proofsOfFormerOwner(s *scene) {
	d := s.prove(s.prover("anna"), Password)
	heir := policy.Account{Name: s.account.Name + "-heir", Region: s.account.Region}
	s.rules.PutAccount(heir)
	s.rules.PutDomain(policy.Domain{Name: s.domain, Account: heir.Name, Kind: policy.DomainLocal})
	_, err := s.Service.Open(s.Context(), d.login)
	s.denied(err, maildrop.ReasonCredentials)
	d = s.begin(d.login.Address, Password)
	c := d.challenge()
	c.Nonce = strings.Repeat("A", len(c.Nonce))
	d.answer(c)
	d.fails(maildrop.Denied)
	s.kind(policy.DomainLocal)
	s.prove(d.login.Address, Password).opens()
}

func aliasProof(s *scene) {
	anna, info := s.prover("anna"), s.address("info")
	s.put(maildrop.AddressRecord{Address: info, Primary: anna})
	if !s.ResolvesAliases {
		_, err := s.Service.Challenge(s.Context(), maildrop.Login{Address: info})
		s.alias(err, anna)
		_, err = s.Service.Open(s.Context(), maildrop.Login{Address: info, Proof: s.prove(anna, Password).login.Proof})
		s.alias(err, anna)
		return
	}
	if got := s.prove(info, Password).opens().Info(); got.Address != anna {
		s.Errorf("Info is %+v", got)
	}
	s.prove(info, OtherPassword).fails(maildrop.Denied)
}

// senselessProofs come of a front's mistake, and no client's.
func senselessProofs(s *scene) {
	anna := s.prover("anna")
	for _, spoil := range []func(*maildrop.Proof){
		func(p *maildrop.Proof) { p.First = "" },
		func(p *maildrop.Proof) { p.Final = p.First },
		func(p *maildrop.Proof) { p.Nonce = "" },
		func(p *maildrop.Proof) { *p = maildrop.Proof{} },
		func(p *maildrop.Proof) { p.First += strings.Repeat("x", 5000) },
	} {
		d := s.prove(anna, Password)
		spoil(d.login.Proof)
		d.fails(maildrop.Invalid)
	}
	for _, spoil := range []func(*maildrop.Proof){
		func(p *maildrop.Proof) { p.Proof = nil },
		func(p *maildrop.Proof) { p.Proof = p.Proof[:31] },
		func(p *maildrop.Proof) { p.Proof[31] ^= 1 },
		func(p *maildrop.Proof) { p.First = strings.Replace(p.First, "n=", "n=x", 1) },
		func(p *maildrop.Proof) { p.Final = strings.Replace(p.Final, "c=biws", "c=eSws", 1) },
	} {
		d := s.prove(anna, Password)
		d.login.Password = Password // the proof counts
		spoil(d.login.Proof)
		d.fails(maildrop.Denied)
	}
}

func keysGoWithTheirHash(s *scene) {
	anna := s.prover("anna")
	if got := s.record(anna); got.Scram != "set" || got.Hash != "set" {
		s.Errorf("told as %+v", got)
	}
	s.put(maildrop.AddressRecord{Address: anna, Access: maildrop.AccessAllow})
	s.put(s.record(anna)) // what was read can be put back
	s.prove(anna, Password).opens()
	s.put(maildrop.AddressRecord{Address: anna, Hash: OtherHash})
	if got := s.record(anna).Scram; got != "" {
		s.Errorf("no keys are told as %q", got)
	}
	s.prove(anna, Password).fails(maildrop.Denied)
	s.prove(anna, OtherPassword).fails(maildrop.Denied)
	for _, record := range []maildrop.AddressRecord{
		{Address: anna, Scram: keysText()}, // of which password?
		{Address: anna, Hash: Hash, Scram: "SCRAM-SHA-256$15000"},
		{Address: s.address("info"), Primary: anna, Scram: keysText()},
	} {
		record.Account = s.account.Name
		s.fails(s.Service.PutAddress(s.Context(), record), maildrop.Invalid)
	}
}

func endedChallenges(s *scene) {
	_, err := s.Service.Challenge(ended(), maildrop.Login{Address: s.prover("anna")})
	s.fails(err, maildrop.Canceled)
}
