package shard

import (
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/postern-pop/postern/pkg/ledger"
	"github.com/postern-pop/postern/pkg/maildrop"
)

// The exact rule about repetitions, against a list of all of them.
func TestRepeatsModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s, sequence := newState(), uint64(0)
		model := make(map[[16]byte]uint32)
		now := uint32(1_800_000_000)
		t.Repeat(map[string]func(*rapid.T){
			"wait": func(t *rapid.T) { now += rapid.Uint32Range(0, 40*3600).Draw(t, "seconds") },
			"add": func(t *rapid.T) {
				id := [16]byte{rapid.ByteMax(20).Draw(t, "id")}
				sequence++
				if err := s.Apply(ledger.Entry{Position: ledger.At(sequence, 0), Record: &ledger.Delivery{
					Mailbox: string(anna), ID: id, Class: 1, Received: time.Unix(int64(now), 0), Size: 1, Wire: 1}}); err != nil {
					t.Fatal(err)
				}
				model[id] = now
			},
			"import": func(t *rapid.T) { // its date says nothing
				sequence++
				if err := s.Apply(ledger.Entry{Position: ledger.At(sequence, 0), Record: &ledger.Delivery{
					Mailbox: string(anna), UID: fmt.Sprint("u", sequence), ID: [16]byte{100}, Class: 1, Received: time.Unix(int64(now)-50*24*3600, 0), Size: 1, Wire: 1}}); err != nil {
					t.Fatal(err)
				}
			},
			"purge": func(t *rapid.T) {
				s.purge(s.name(anna), time.Unix(int64(now), 0))
			},
			"": func(t *rapid.T) {
				for b := range byte(21) {
					came, known := model[[16]byte{b}]
					want := known && now-came < windowSeconds
					if got, err := s.repeated(delivery{mailbox: anna, repeat: s.repeat(anna, [16]byte{b})}, now); got != want || err != nil {
						t.Fatalf("delivery %d is known: %v, want %v; %v", b, got, want, err)
					}
				}
			},
		})
	})
}

// A mailbox's hashes are its own, and another ledger's are others.
func TestRepeatsAreKeyed(t *testing.T) {
	s, other := newState(), newState()
	s.key, other.key = hashKey([32]byte{1}), hashKey([32]byte{2})
	id := [16]byte{1}
	all := map[uint64]bool{
		s.repeat(anna, id): true, s.repeat("ben@local.example", id): true, s.repeat(anna, [16]byte{2}): true,
		other.repeat(anna, id): true, s.uidHash(anna, "x"): true, s.uidHash(anna, "xa"): true, s.uidHash(anna[1:], "xa"): true,
	}
	if len(all) != 7 {
		t.Errorf("%d hashes, want 7", len(all))
	}
}

// Whatever text is packed comes out again, and hashes of ours are packed.
func TestCredentialsArePackedWithoutLoss(t *testing.T) {
	const ours = "$argon2id$v=19$m=65536,t=3,p=4$"
	rapid.Check(t, func(t *rapid.T) {
		salt, tag := rapid.SliceOfN(rapid.Byte(), 15, 17).Draw(t, "salt"), rapid.SliceOfN(rapid.Byte(), 31, 33).Draw(t, "tag")
		hash := ours + base64.RawStdEncoding.EncodeToString(salt) + "$" + base64.RawStdEncoding.EncodeToString(tag)
		packed := packCredential(hash)
		if packed.hash() != hash {
			t.Fatalf("%q became %q", hash, packed.hash())
		}
		zero := packed.secret == secret{}
		if zero == (len(salt) == packedSalt && len(tag) == packedTag && strings.Trim(string(salt)+string(tag), "\x00") != "") {
			t.Fatalf("%q is packed: %v", hash, !zero)
		}
		odd := rapid.StringOfN(rapid.RuneFrom([]rune("$Aa0/+\r\n=")), 0, 80, -1).Draw(t, "odd")
		if c := packCredential(odd); c.hash() != odd || c.empty() != (odd == "") {
			t.Fatalf("%q became %q", odd, c.hash())
		}
		// The right length and separators, and any text between.
		near := "$" + rapid.StringOfN(rapid.RuneFrom([]rune("Aa0/+\r\n=")), saltText, saltText, -1).Draw(t, "near") + "$" + strings.Repeat("A", tagText)
		if c := packCredential(near); c.hash() != near {
			t.Fatalf("%q became %q", near, c.hash())
		}
	})
}

// Each epoch mints UIDs of its own, which are read back; those from before epochs
// were in them stay as they are.
func TestMintedUIDsAreReadBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := &state{identity: rapid.Uint32().Draw(t, "identity")}
		from := ledger.At(rapid.Uint64Range(1, ledger.MaxSequence).Draw(t, "from"), 0)
		s.mints.note(from, rapid.Uint32().Draw(t, "epoch"))
		position := ledger.At(rapid.Uint64Range(1, ledger.MaxSequence).Draw(t, "sequence"), rapid.Uint16().Draw(t, "index"))
		mint := s.mints.at(position)
		uid := maildrop.UID(s.appendMinted(nil, position))
		if want := maildrop.UID(ledger.UID(s.identity, position, mint)); uid != want || position < from && mint != 0 {
			t.Fatalf("%v has %q, want %q", position, uid, want)
		}
		if got, read := s.minted(uid); !read || got != position {
			t.Fatalf("%v became %v (%v)", position, got, read)
		}
		for _, mint := range []uint32{0, mint, mint + 1} {
			if _, read := s.minted(maildrop.UID(ledger.UID(s.identity+1, position, mint))); read {
				t.Fatal("another ledger's is taken")
			}
			if got, read := s.minted(maildrop.UID(ledger.UID(s.identity, position, mint))); !read || got != position {
				t.Fatal("another epoch's isn't told as our own form")
			}
		}
	})
}

// What a position's UID says changes with none of: later epochs, a second replay, and
// leaving out what no message needs.
func TestMints(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var m mints
		said := map[ledger.Position]uint32{}
		position, mint := ledger.Position(0), uint32(0)
		for range rapid.IntRange(1, 40).Draw(t, "entries") {
			position += ledger.Position(rapid.IntRange(1, 3).Draw(t, "step"))
			mint += uint32(rapid.IntRange(0, 1).Draw(t, "epoch"))
			said[position] = mint
			m.note(position, mint)
		}
		again := slices.Clone(m)
		for at := ledger.Position(1); at <= position; at++ {
			if want, there := said[at]; there {
				again.note(at, want)
			}
		}
		if !slices.Equal(m, again) {
			t.Fatalf("a second replay made %v of %v", again, m)
		}
		oldest := ledger.Position(rapid.Uint64Range(0, uint64(position)).Draw(t, "oldest"))
		short := m.since(oldest)
		for at, want := range said {
			if m.at(at) != want || at >= oldest && short.at(at) != want {
				t.Fatalf("%v: %d and %d, want %d (%v, %v)", at, m.at(at), short.at(at), want, m, short)
			}
		}
	})
}

func TestToken(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		secret, other := [32]byte{1}, [32]byte{2}
		c := claims{
			snapshot: snapshot{
				address:  maildrop.Address(rapid.StringOfN(rapid.Rune(), 3, 60, -1).Draw(t, "address")),
				position: ledger.Position(rapid.Uint64().Draw(t, "position")), opened: rapid.Int64().Draw(t, "opened"),
			},
			credentials: ledger.Position(rapid.Uint64().Draw(t, "credentials")), expires: rapid.Int64().Draw(t, "expires"),
		}
		token := c.token(secret)
		if got, err := parseToken(secret, token); err != nil || got != c {
			t.Fatalf("%+v became %+v, %v", c, got, err)
		}
		if _, err := parseToken(other, token); err == nil {
			t.Fatal("another ledger's secret opens it")
		}
		token[rapid.IntRange(0, len(token)-1).Draw(t, "octet")] ^= 1 << rapid.IntRange(0, 7).Draw(t, "bit")
		if _, err := parseToken(secret, token); err == nil {
			t.Fatal("a changed token is taken")
		}
	})
}

func FuzzParseToken(f *testing.F) {
	secret := [32]byte{1}
	f.Add(claims{snapshot: snapshot{address: anna, position: 1 << 16, opened: 1}, expires: 2}.token(secret))
	f.Add([]byte{tokenVersion})
	f.Fuzz(func(t *testing.T, token []byte) {
		c, err := parseToken(secret, token)
		if err == nil && string(c.token(secret)) != string(token) {
			t.Fatalf("%x has two spellings", token)
		}
	})
}
