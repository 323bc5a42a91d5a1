package scram

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	xdg "github.com/xdg-go/scram"
	"pgregory.net/rapid"
)

// The exchange of RFC 7677 section 3.
const (
	rfcFirst       = "n,,n=user,r=rOprNGfwEbeRWgbNEkqO"
	rfcServerNonce = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
	rfcServerFirst = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
	rfcFinal       = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
	rfcServerFinal = "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="
)

// rfcKeys are the keys of "pencil".
func rfcKeys(t testing.TB) *Keys {
	t.Helper()
	k := &Keys{Iterations: 4096}
	if !decodeInto(k.Salt[:], "W22ZaJ0SNY7soEsUEjb6gQ==") {
		t.Fatal("salt")
	}
	k.derive("pencil")
	return k
}

// SASL-15: RFC 7677 section 3, each message as it stands there.
func TestExampleOfTheRFC(t *testing.T) {
	k := rfcKeys(t)
	first, err := ParseFirst([]byte(rfcFirst))
	if err != nil || first.Name != "user" || first.Flag != 'n' || first.Header != "n,," {
		t.Fatalf("%+v, %v", first, err)
	}
	if got := ServerFirst(first.Nonce+rfcServerNonce, k.Salt[:], k.Iterations); got != rfcServerFirst {
		t.Errorf("server-first %q", got)
	}
	final, err := ParseFinal([]byte(rfcFinal))
	if err != nil || string(final.Binding) != first.Header {
		t.Fatalf("%+v, %v", final, err)
	}
	transcript, err := Transcript(first.Bare, final.Without, rfcServerNonce, k)
	if err != nil || !k.Verify(transcript, final.Proof) {
		t.Fatalf("the proof is refused, %v", err)
	}
	if got := ServerFinal(k.Sign(transcript)); got != rfcServerFinal {
		t.Errorf("server-final %q", got)
	}
}

// One octet of the proof, of the keys or of the transcript changed: refused.
func TestOnlyTheRightProofPasses(t *testing.T) {
	k := rfcKeys(t)
	final, _ := ParseFinal([]byte(rfcFinal))
	transcript, _ := Transcript("n=user,r=rOprNGfwEbeRWgbNEkqO", final.Without, rfcServerNonce, k)
	for i := range final.Proof {
		proof := bytes.Clone(final.Proof)
		proof[i] ^= 1
		if k.Verify(transcript, proof) {
			t.Fatalf("passes with octet %d changed", i)
		}
	}
	for i := range transcript {
		if k.Verify(transcript[:i]+"x"+transcript[i+1:], final.Proof) != (transcript[i] == 'x') {
			t.Fatalf("octet %d of the transcript makes no difference", i)
		}
	}
	for _, proof := range [][]byte{nil, final.Proof[:31], append(bytes.Clone(final.Proof), 0), k.Stored[:], k.Server[:]} {
		if k.Verify(transcript, proof) {
			t.Errorf("passes with %x", proof)
		}
	}
}

func TestTranscriptHoldsTheNonce(t *testing.T) {
	k := rfcKeys(t)
	for _, c := range []struct {
		first, final, nonce string
		want                error
	}{
		{"n=user,r=abc", "c=biws,r=abcDEF", "DEF", nil},
		{"n=user,r=abc", "c=biws,r=abcDEF", "DEg", ErrNonce},
		{"n=user,r=abc", "c=biws,r=abcDEF", "", ErrNonce},
		{"n=user,r=abcDEF", "c=biws,r=abcDEF", "", ErrNonce},
		{"n=user,r=abd", "c=biws,r=abcDEF", "DEF", ErrNonce},
		{"n=user,r=abc", "c=biws,r=abcDE,F", "DE,F", ErrEncoding},
		{"n=user", "c=biws,r=abcDEF", "DEF", ErrEncoding},
		{"n=user,r=abc", "r=abcDEF", "DEF", ErrEncoding},
		{"n=" + strings.Repeat("x", 2*MaxMessage) + ",r=abc", "c=biws,r=abcDEF", "DEF", ErrEncoding},
	} {
		if _, err := Transcript(c.first, c.final, c.nonce, k); err != c.want {
			t.Errorf("%q, %q, %q: %v, want %v", c.first, c.final, c.nonce, err, c.want)
		}
	}
}

// SASL-16: RFC 5802 section 7, the grammar.
func TestParseFirst(t *testing.T) {
	for _, c := range []struct {
		message string
		want    First
		err     error
	}{
		{"n,,n=user,r=abc", First{Header: "n,,", Flag: 'n', Name: "user", Nonce: "abc", Bare: "n=user,r=abc"}, nil},
		{"y,,n=a@b,r=abc", First{Header: "y,,", Flag: 'y', Name: "a@b", Nonce: "abc", Bare: "n=a@b,r=abc"}, nil},
		{"p=tls-exporter,,n=u,r=!~", First{Header: "p=tls-exporter,,", Flag: 'p', Binding: "tls-exporter", Name: "u", Nonce: "!~", Bare: "n=u,r=!~"}, nil},
		{"n,a=x=2Cy=3Dz,n=u=3D=2C,r=a=b", First{Header: "n,a=x=2Cy=3Dz,", Flag: 'n', Authzid: "x,y=z", Name: "u=,", Nonce: "a=b", Bare: "n=u=3D=2C,r=a=b"}, nil},
		{"n,,n=u,r=a,x=1,Y=two words", First{Header: "n,,", Flag: 'n', Name: "u", Nonce: "a", Bare: "n=u,r=a,x=1,Y=two words"}, nil},
		{"n,,n=zo\u00eb,r=a", First{Header: "n,,", Flag: 'n', Name: "zo\u00eb", Nonce: "a", Bare: "n=zo\u00eb,r=a"}, nil},
		{message: "", err: ErrEncoding},
		{message: "n", err: ErrEncoding},
		{message: "n,", err: ErrEncoding},
		{message: "n,,", err: ErrEncoding},
		{message: "n=user,r=abc", err: ErrEncoding},
		{message: "x,,n=user,r=abc", err: ErrEncoding},
		{message: "nn,,n=user,r=abc", err: ErrEncoding},
		{message: "N,,n=user,r=abc", err: ErrEncoding},
		{message: "p=,,n=user,r=abc", err: ErrEncoding},
		{message: "p=a_b,,n=user,r=abc", err: ErrEncoding},
		{message: "n,user,n=user,r=abc", err: ErrEncoding},
		{message: "n,,r=abc,n=user", err: ErrEncoding},
		{message: "n,,n=user", err: ErrEncoding},
		{message: "n,,n=user,r=", err: ErrEncoding},
		{message: "n,,n=user,r=a b", err: ErrEncoding},
		{message: "n,,n=user,r=\u00e4", err: ErrEncoding},
		{message: "n,,n=user,r=a,", err: ErrEncoding},
		{message: "n,,n=user,r=a,1=x", err: ErrEncoding},
		{message: "n,,n=us\x00er,r=abc", err: ErrEncoding},
		{message: "n,,n=" + strings.Repeat("x", MaxMessage) + ",r=abc", err: ErrEncoding},
		{message: "n,,m=new,n=user,r=abc", err: ErrExtension},
		{message: "n,,n=,r=abc", err: ErrName},
		{message: "n,,n=a=2c,r=abc", err: ErrName},
		{message: "n,,n=a=,r=abc", err: ErrName},
		{message: "n,,n=\xff,r=abc", err: ErrName},
		{message: "n,a=,n=user,r=abc", err: ErrName},
	} {
		got, err := ParseFirst([]byte(c.message))
		if err != c.err || err == nil && got != c.want {
			t.Errorf("%q: %+v, %v; want %+v, %v", c.message, got, err, c.want, c.err)
		}
	}
}

func TestParseFinal(t *testing.T) {
	proof := base64.StdEncoding.EncodeToString(make([]byte, 32))
	for message, want := range map[string]error{
		"c=biws,r=abc,p=" + proof:                                     nil,
		"c=biws,r=abc,x=p=,p=" + proof:                                nil,
		"c=,r=abc,p=" + proof:                                         nil,
		"c=biws,r=abc":                                                ErrEncoding,
		"c=biws,p=" + proof:                                           ErrEncoding,
		"r=abc,c=biws,p=" + proof:                                     ErrEncoding,
		"c=b!,r=abc,p=" + proof:                                       ErrEncoding,
		"c=biws,r=abc,p=" + proof + ",x=y":                            ErrEncoding,
		"c=biws,r=abc,p=" + strings.TrimRight(proof, "="):             ErrEncoding,
		"c=biws,r=abc,p=" + proof[:20] + "\r\n" + proof[20:]:          ErrEncoding,
		"c=biws,r=abc,p=YWJj":                                         errProofValue,
		"c=biws,r=" + strings.Repeat("x", MaxMessage) + ",p=" + proof: ErrEncoding,
	} {
		if _, err := ParseFinal([]byte(message)); err != want {
			t.Errorf("%q: %v, want %v", message, err, want)
		}
	}
}

func TestKeysText(t *testing.T) {
	k := rfcKeys(t)
	text := k.Text()
	again, err := ParseKeys(text)
	if err != nil || again != *k || len(text) > MaxKeys {
		t.Fatalf("%v from %d octets, %v", again == *k, len(text), err)
	}
	for _, bad := range []string{
		"", Name, strings.Replace(text, "4096", "4095", 1), strings.Replace(text, "4096", "+4096", 1), strings.Replace(text, "4096", "2097152", 1),
		strings.Replace(text, "256$", "1$", 1), text[:len(text)-4], text + "=", text + "\n", strings.Replace(text, ":", "", 1),
		strings.Replace(text, "gQ==", "", 1),
	} {
		if _, err := ParseKeys(bad); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
	var log bytes.Buffer
	slog.New(slog.NewTextHandler(&log, nil)).Info("keys", "keys", *k)
	fmt.Fprintf(&log, "%v %+v %#v %s", *k, *k, *k, k)
	for _, secret := range []string{encode(k.Stored[:]), encode(k.Server[:]), hex.EncodeToString(k.Stored[:]), fmt.Sprintf("%d %d %d", k.Stored[0], k.Stored[1], k.Stored[2])} {
		if strings.Contains(log.String(), secret) {
			t.Errorf("logged: %s", log.String())
		}
	}
}

func TestDerivedKeysHaveTheirOwnSalt(t *testing.T) {
	a, b := Derive("secret"), Derive("secret")
	if a.Salt == b.Salt || a.Stored == b.Stored || a.Iterations < MinIterations {
		t.Errorf("%d iterations, salts %x and %x", a.Iterations, a.Salt, b.Salt)
	}
}

// RFC 5802 section 2.2, RFC 4013 section 3; and what it says nothing of.
func TestPrepare(t *testing.T) {
	for password, want := range map[string]string{
		"pencil":             "pencil",
		"I\u00adX":           "IX",
		"\u00aa":             "a",
		"\u2168":             "IX",
		"a\u00a0b":           "a b",
		"\u00ad":             "\u00ad",             // nothing would be left
		"tab\there":          "tab\there",          // prohibited
		"\u06271":            "\u06271",            // bidirectional rules
		"\xff":               "\xff",               // no UTF-8
		"\U0001f40e battery": "\U0001f40e battery", // later than Unicode 3.2
	} {
		if got := Prepare(password); got != want {
			t.Errorf("%q is prepared as %q, want %q", password, got, want)
		}
	}
}

// An independent client logs in, with any user name and password, and believes that
// we have the keys.
func TestAnIndependentClient(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.StringMatching(`[a-z,=@\x{e4}]{1,12}`).Draw(t, "name")
		password := rapid.StringMatching(`[ -~\x{e4}\x{aa}]{1,20}`).Draw(t, "password")
		client, err := xdg.SHA256.NewClient(name, password, "")
		if err != nil {
			t.Skip("the client refuses them")
		}
		k := Keys{Iterations: MinIterations, Salt: [SaltSize]byte{1}}
		k.derive(password)
		c := client.NewConversation()
		say := func(text string) string {
			out, err := c.Step(text)
			if err != nil {
				t.Fatal(err)
			}
			return out
		}
		first, err := ParseFirst([]byte(say("")))
		if err != nil || first.Name != Prepare(name) {
			t.Fatalf("%q is read as %q, %v", name, first.Name, err)
		}
		final, err := ParseFinal([]byte(say(ServerFirst(first.Nonce+"xyz", k.Salt[:], k.Iterations))))
		if err != nil {
			t.Fatal(err)
		}
		transcript, err := Transcript(first.Bare, final.Without, "xyz", &k)
		if err != nil || !k.Verify(transcript, final.Proof) {
			t.Fatalf("refused, %v", err)
		}
		say(ServerFinal(k.Sign(transcript)))
		if !c.Valid() {
			t.Fatal("the client does not believe us")
		}
	})
}

// What is parsed, is what was there: written down again it is the same message.
func FuzzParseFirst(f *testing.F) {
	for _, s := range []string{rfcFirst, "p=tls-exporter,a=x=2C,n=u=3D,r=1,x=y", "y,,m=1,n=u,r=1", "n,,n=,r=,", "n,a=b,n=c"} {
		f.Add([]byte(s))
	}
	escape := strings.NewReplacer("=", "=3D", ",", "=2C")
	f.Fuzz(func(t *testing.T, message []byte) {
		p, err := ParseFirst(message)
		if err != nil {
			return
		}
		flag, authzid := string(p.Flag), ""
		if p.Flag == 'p' {
			flag += "=" + p.Binding
		}
		if p.Authzid != "" {
			authzid = "a=" + escape.Replace(p.Authzid)
		}
		if want := flag + "," + authzid + ","; p.Header != want {
			t.Fatalf("%q has the header %q, want %q", message, p.Header, want)
		}
		if want := "n=" + escape.Replace(p.Name) + ",r=" + p.Nonce; p.Header+p.Bare != string(message) || p.Bare != want && !strings.HasPrefix(p.Bare, want+",") {
			t.Fatalf("%q is %+v", message, p)
		}
		k := Keys{Iterations: MinIterations}
		if _, err := Transcript(p.Bare, "c=biws,r="+p.Nonce+"n", "n", &k); err != nil {
			t.Fatalf("%q has no transcript: %v", message, err)
		}
	})
}

func FuzzParseFinal(f *testing.F) {
	f.Add([]byte(rfcFinal))
	f.Add([]byte("c=,r=a,p=b,p=AAAA"))
	f.Fuzz(func(t *testing.T, message []byte) {
		p, err := ParseFinal(message)
		if err != nil {
			return
		}
		if want := p.Without + ",p=" + encode(p.Proof); want != string(message) || len(p.Proof) != 32 {
			t.Fatalf("%q is %+v", message, p)
		}
		if want := "c=" + encode(p.Binding) + ",r=" + p.Nonce; p.Without != want && !strings.HasPrefix(p.Without, want+",") {
			t.Fatalf("%q is %+v", message, p)
		}
	})
}

func FuzzParseKeys(f *testing.F) {
	k := Keys{Iterations: MinIterations}
	f.Add(k.Text())
	f.Fuzz(func(t *testing.T, text string) {
		if k, err := ParseKeys(text); err == nil && k.Text() != text {
			t.Fatalf("%q becomes %q", text, k.Text())
		}
	})
}

func BenchmarkDerive(b *testing.B) {
	for b.Loop() {
		Derive("correct horse battery staple")
	}
}

func BenchmarkVerify(b *testing.B) {
	k := rfcKeys(b)
	final, _ := ParseFinal([]byte(rfcFinal))
	for b.Loop() {
		transcript, _ := Transcript("n=user,r=rOprNGfwEbeRWgbNEkqO", final.Without, rfcServerNonce, k)
		if !k.Verify(transcript, final.Proof) || len(k.Sign(transcript)) != 32 {
			b.Fatal("refused")
		}
	}
}
