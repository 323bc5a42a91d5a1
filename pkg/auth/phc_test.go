package auth

import (
	"strings"
	"testing"

	"github.com/postern-pop/postern/pkg/maildrop"
)

func TestHash(t *testing.T) {
	one, err := Hash("secret")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(one, "$argon2id$v=19$m=65536,t=3,p=4$") || Check(one) != nil {
		t.Errorf("made %q", one)
	}
	if two, _ := Hash("secret"); two == one {
		t.Error("no salt")
	}
	for _, bad := range []string{"", strings.Repeat("x", maxPassword+1)} {
		if _, err := Hash(bad); maildrop.KindOf(err) != maildrop.Invalid {
			t.Errorf("a password of %d octets gives %v", len(bad), err)
		}
	}
}

// A vector from outside: the reference implementation's own test of version
// 0x13 with t=2, m=2^8, p=1.
func TestReferenceVector(t *testing.T) {
	v := verifier(t, Config{})
	const hash = "$argon2id$v=19$m=256,t=2,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4"
	if err := v.Verify(t.Context(), login(anna, "password"), hash); err != nil {
		t.Error(err)
	}
}

func TestParsePHCRefuses(t *testing.T) {
	const salt, tag = "c29tZXNhbHQ", "c29tZXNhbHRzb21lc2FsdA"
	ok := "$argon2id$v=19$m=64,t=1,p=1$" + salt + "$" + tag
	if _, err := parsePHC(ok); err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{
		"", "$", "plain", "$2b$12$abcdefghijklmnopqrstuv",
		"$argon2i$v=19$m=64,t=1,p=1$" + salt + "$" + tag,
		"$argon2id$v=16$m=64,t=1,p=1$" + salt + "$" + tag,
		"$argon2id$m=64,t=1,p=1$" + salt + "$" + tag,
		"$argon2id$v=19$m=65537,t=1,p=1$" + salt + "$" + tag,
		"$argon2id$v=19$m=18446744073709551616,t=1,p=1$" + salt + "$" + tag,
		"$argon2id$v=19$m=64,t=0,p=1$" + salt + "$" + tag,
		"$argon2id$v=19$m=64,t=10,p=1$" + salt + "$" + tag,
		"$argon2id$v=19$m=64,t=1,p=0$" + salt + "$" + tag,
		"$argon2id$v=19$m=64,t=1,p=9$" + salt + "$" + tag, // 8 KiB a lane
		"$argon2id$v=19$m=65536,t=1,p=17$" + salt + "$" + tag,
		"$argon2id$v=19$m=064,t=1,p=1$" + salt + "$" + tag,
		"$argon2id$v=19$m=+64,t=1,p=1$" + salt + "$" + tag,
		"$argon2id$v=19$t=1,m=64,p=1$" + salt + "$" + tag,
		"$argon2id$v=19$m=64,t=1,p=1,x=1$" + salt + "$" + tag,
		"$argon2id$v=19$m=64,t=1,p=1$c29tZQ$" + tag,
		"$argon2id$v=19$m=64,t=1,p=1$" + salt + "$c29tZXNhbHQ",
		"$argon2id$v=19$m=64,t=1,p=1$" + salt + "$" + tag + "==",
		ok + "$", ok + strings.Repeat("A", maxPHC),
	} {
		if h, err := parsePHC(s); err == nil {
			t.Errorf("took %q as %+v", s, h.parameters)
		}
	}
}

func FuzzParsePHC(f *testing.F) {
	f.Add(cheap.hash("x").String())
	f.Add("$argon2id$v=19$m=65536,t=3,p=4$c29tZXNhbHQ$c29tZXNhbHRzb21lc2FsdA")
	f.Add("$argon2id$v=19$m=65536,t=9,p=16$$")
	f.Fuzz(func(t *testing.T, s string) {
		h, err := parsePHC(s)
		if err != nil {
			return
		}
		if h.memory > maxMemory || h.time > maxTime || h.threads > maxThreads || h.threads == 0 || h.time == 0 || len(h.tagOctets) != h.tag {
			t.Fatalf("%q is over a limit: %+v", s, h.parameters)
		}
		if h.String() != s {
			t.Fatalf("%q has two spellings: %q", s, h.String())
		}
	})
}
