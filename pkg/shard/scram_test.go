package shard

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	xdg "github.com/xdg-go/scram"
	"pgregory.net/rapid"

	"github.com/postern-pop/postern/pkg/blob/blobtest"
	"github.com/postern-pop/postern/pkg/maildrop"
	"github.com/postern-pop/postern/pkg/scram"
)

// keysText are keys of no password that anybody knows, different for each seed.
func keysText(seed byte) string {
	k := scram.Keys{Iterations: scram.MinIterations + int(seed), Salt: [16]byte{seed}, Stored: [32]byte{seed, 1}, Server: [32]byte{seed, 2}}
	return k.Text()
}

// prover makes an address with password and its keys.
func prover(t testing.TB, s *Shard, address maildrop.Address) {
	t.Helper()
	keys := scram.Derive(password)
	ok(t, s.PutAddress(t.Context(), maildrop.AddressRecord{
		Address: address, Account: "customer", Hash: plainHash(password), Scram: keys.Text(),
	}))
}

// proved is a client's login by SCRAM at the shard, up to its proof.
func proved(t testing.TB, s *Shard, address maildrop.Address, password string) maildrop.Login {
	t.Helper()
	client, err := xdg.SHA256.NewClient(string(address), password, "")
	ok(t, err)
	c := client.NewConversation()
	text, err := c.Step("")
	ok(t, err)
	first, err := scram.ParseFirst([]byte(text))
	ok(t, err)
	login := maildrop.Login{Address: address}
	challenge, err := s.Challenge(t.Context(), login)
	ok(t, err)
	text, err = c.Step(scram.ServerFirst(first.Nonce+challenge.Nonce, challenge.Salt, challenge.Iterations))
	ok(t, err)
	final, err := scram.ParseFinal([]byte(text))
	ok(t, err)
	login.Proof = &maildrop.Proof{First: first.Bare, Final: final.Without, Nonce: challenge.Nonce, Proof: final.Proof}
	return login
}

// A front can repeat a login that it carried for two minutes, and not a moment
// longer. That the nonce is too old is not told to who doesn't know the password.
func TestProofsExpire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, testConfig(blobtest.NewMemory()))
		prover(t, s, anna)
		right, wrong := proved(t, s, anna, password), proved(t, s, anna, "guess")
		time.Sleep(nonceLife - time.Millisecond)
		_, err := s.Open(t.Context(), right)
		ok(t, err)
		time.Sleep(time.Millisecond)
		_, err = s.Open(t.Context(), right)
		wants(t, err, maildrop.Invalid)
		_, err = s.Open(t.Context(), wrong)
		wants(t, err, maildrop.Denied)
	})
}

func TestNonces(t *testing.T) {
	secret, now := [32]byte{1}, time.UnixMilli(1e12)
	rapid.Check(t, func(t *rapid.T) {
		nonce := mintNonce(secret, anna, now)
		if err := checkNonce(secret, anna, nonce, now.Add(nonceLife-1)); err != nil {
			t.Fatal(err)
		}
		if checkNonce(secret, anna, nonce, now.Add(nonceLife)) == nil {
			t.Fatal("it counts for ever")
		}
		if checkNonce([32]byte{2}, anna, nonce, now) == nil || checkNonce(secret, "x"+anna, nonce, now) == nil {
			t.Fatal("it counts elsewhere")
		}
		i := rapid.IntRange(0, len(nonce)-1).Draw(t, "octet")
		changed := []byte(nonce)
		if changed[i] = rapid.Byte().Draw(t, "value"); string(changed) != nonce && checkNonce(secret, anna, string(changed), now) == nil {
			t.Fatalf("%q counts, made of %q", changed, nonce)
		}
		if checkNonce(secret, anna, nonce[:i], now) == nil || checkNonce(secret, anna, nonce+nonce[:i+1], now) == nil {
			t.Fatal("it counts in another length")
		}
	})
}

// The keys that a session began with must still be there when its proof was found
// right, and a session whose keys alone change ends like any other.
func TestKeysAreCredentials(t *testing.T) {
	s := open(t, testConfig(blobtest.NewMemory()))
	prover(t, s, anna)
	d, err := s.Open(t.Context(), proved(t, s, anna, password))
	ok(t, err)
	ok(t, d.Check(t.Context()))
	ok(t, s.PutAddress(t.Context(), maildrop.AddressRecord{Address: anna, Account: "customer", Hash: plainHash(password), Scram: keysText(1)}))
	wants(t, d.Check(t.Context()), maildrop.Denied)
}

// Who helps a user hears that his address has no keys, which the user never does.
func TestExplainKeys(t *testing.T) {
	s := open(t, testConfig(blobtest.NewMemory()))
	const ben = "ben@local.example"
	prover(t, s, anna)
	user(t, s, ben)
	for address, want := range map[maildrop.Address]bool{anna: false, ben: true} {
		e, err := s.Explain(t.Context(), maildrop.Question{Address: address})
		ok(t, err)
		told := slices.ContainsFunc(e.Findings, func(f maildrop.Finding) bool { return strings.Contains(f.Words, "no keys for SCRAM") })
		if told != want || e.Reason != maildrop.ReasonNone {
			t.Errorf("%s: %+v", address, e)
		}
	}
}

// BenchmarkProof is what a login by SCRAM costs the owner: the challenge, and the proof
// with the snapshot of an empty maildrop; and a remembered password beside it.
func BenchmarkProof(b *testing.B) {
	s := open(b, testConfig(blobtest.NewMemory()))
	prover(b, s, anna)
	b.Run("Challenge", func(b *testing.B) {
		for b.Loop() {
			_, err := s.Challenge(b.Context(), maildrop.Login{Address: anna})
			ok(b, err)
		}
	})
	login := proved(b, s, anna, password)
	b.Run("OpenProof", func(b *testing.B) {
		for b.Loop() {
			_, err := s.Open(b.Context(), login)
			ok(b, err)
		}
	})
	b.Run("OpenPassword", func(b *testing.B) {
		for b.Loop() {
			_, err := s.Open(b.Context(), maildrop.Login{Address: anna, Password: password})
			ok(b, err)
		}
	})
}
