package pop3

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"math/big"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	xdg "github.com/xdg-go/scram"

	"github.com/postern-pop/postern/pkg/maildrop"
	"github.com/postern-pop/postern/pkg/scram"
)

func encode64(text string) string { return base64.StdEncoding.EncodeToString([]byte(text)) }

// challenge reads one.
func (c *client) challenge() string {
	c.t.Helper()
	line, err := c.lines.ReadString('\n')
	text, isChallenge := strings.CutPrefix(strings.TrimSuffix(line, "\r\n"), "+ ")
	decoded, err64 := base64.StdEncoding.DecodeString(text)
	if err != nil || err64 != nil || !isChallenge {
		c.t.Fatalf("got %q, %v, %v; want a challenge", line, err, err64)
	}
	return string(decoded)
}

// scram has an independent client go through an exchange, up to what comes after
// client-final.
func (c *client) scram(mechanism string, how func(*xdg.Client) *xdg.ClientConversation) *xdg.ClientConversation {
	c.t.Helper()
	user, err := xdg.SHA256.NewClient("alice@example.com", "secret", "")
	if err != nil {
		c.t.Fatal(err)
	}
	talk := how(user)
	step := func(in string) string {
		out, err := talk.Step(in)
		if err != nil {
			c.t.Fatal(err)
		}
		return encode64(out)
	}
	c.say("AUTH " + mechanism + " " + step("") + "\r\n")
	c.say(step(c.challenge()) + "\r\n")
	return talk
}

// scramLogin is an exchange that succeeds.
func (c *client) scramLogin(mechanism string, how func(*xdg.Client) *xdg.ClientConversation) {
	c.t.Helper()
	c.expect("+OK *")
	talk := c.scram(mechanism, how)
	if _, err := talk.Step(c.challenge()); err != nil || !talk.Valid() {
		c.t.Fatal("the client does not believe the signature:", err)
	}
	c.say("\r\nSTAT\r\n")
	c.expect("+OK 5 messages*", "+OK 5 86")
}

func withPlus(c *Config) { c.Mechanisms = append(DefaultMechanisms(), scram.Plus) }

// binding makes a client's binding of a kind to its connection.
func (c *client) binding(kind string) (func(*xdg.Client) *xdg.ClientConversation, []byte) {
	c.t.Helper()
	state := c.ConnectionState()
	bind, err := xdg.NewTLSExporterBinding(&state)
	if kind == bindEndPoint {
		bind, err = xdg.NewTLSServerEndpointBinding(&state)
	}
	if err != nil {
		c.t.Fatal(err)
	}
	return func(user *xdg.Client) *xdg.ClientConversation { return user.NewConversationWithChannelBinding(bind) }, bind.Data
}

// SASL-17; RFC 9266 section 2, RFC 5929 section 4: an independent client binds its login
// to the connection, by either kind, also after resumption.
func TestScramPlus(t *testing.T) {
	address := listen(t, newBox("five"), withPlus)
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		for _, kind := range []string{bindExporter, bindEndPoint} {
			t.Run(tls.VersionName(version)+" "+kind, func(t *testing.T) {
				cache := tls.NewLRUClientSessionCache(1)
				for _, resumed := range []bool{false, true} {
					c := mustDial(t, address, &tls.Config{MinVersion: version, MaxVersion: version, ClientSessionCache: cache})
					if resumed && version == tls.VersionTLS13 && kind == bindEndPoint {
						c.expect("+OK *") // it was shown no certificate, and must use the exporter
						c.say("AUTH SCRAM-SHA-256-PLUS " + encode64("p=tls-server-end-point,,n=alice@example.com,r=x") + "\r\n")
						c.expect("-ERR unsupported-channel-binding-type: *")
						continue
					}
					how, _ := c.binding(kind)
					c.scramLogin("SCRAM-SHA-256-PLUS", how)
					c.say("QUIT\r\n")
					c.expect("+OK *")
					c.expectEnd()
					if c.ConnectionState().DidResume != resumed {
						t.Errorf("resumed: %v", !resumed)
					}
				}
			})
		}
	}
}

// SASL-17; RFC 5802 section 6: the binding of another connection is that of somebody
// between the two; and who says that we don't offer -PLUS was lied to.
func TestScramPlusNoticesWhoIsBetween(t *testing.T) {
	address := listen(t, newBox("five"), withPlus)
	victim := mustDial(t, address, &tls.Config{})
	how, _ := victim.binding(bindExporter)
	c := mustDial(t, address, &tls.Config{})
	c.expect("+OK *")
	c.scram("SCRAM-SHA-256-PLUS", how)
	c.expect("-ERR channel-bindings-dont-match: *")
	for first, want := range map[string]string{
		"y,,n=alice@example.com,r=x":              "-ERR server-does-support-channel-binding: *",
		"p=tls-exporter,,n=alice@example.com,r=x": "-ERR channel-binding-not-supported: *",
	} {
		c.say("AUTH SCRAM-SHA-256 " + encode64(first) + "\r\n")
		c.expect(want)
	}
	for first, want := range map[string]string{
		"y,,n=alice@example.com,r=x":            "-ERR server-does-support-channel-binding: *",
		"n,,n=alice@example.com,r=x":            "-ERR server-does-support-channel-binding: *",
		"p=tls-unique,,n=alice@example.com,r=x": "-ERR unsupported-channel-binding-type: *",
	} {
		c.say("AUTH SCRAM-SHA-256-PLUS " + encode64(first) + "\r\n")
		c.expect(want)
	}
	// A client that knows nothing of binding is as welcome as ever.
	again := mustDial(t, address, &tls.Config{})
	again.scramLogin("SCRAM-SHA-256", (*xdg.Client).NewConversation)
}

// SASL-15: with the default mechanisms a client that can bind doesn't, and isn't refused.
func TestScramWithoutPlus(t *testing.T) {
	address := listen(t, newBox("five"), nil)
	for _, how := range []func(*xdg.Client) *xdg.ClientConversation{
		(*xdg.Client).NewConversation, (*xdg.Client).NewConversationAdvertisingChannelBinding,
	} {
		c := mustDial(t, address, &tls.Config{})
		c.scramLogin("SCRAM-SHA-256", how)
	}
}

// The data after STLS is that of the connection's TLS.
func TestScramPlusAfterSTLS(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := testServer(t, newBox("five"), withPlus)
		c := pipeCleartext(t, server)
		c.expect("+OK *")
		c.say("STLS\r\n")
		c.expect("+OK *")
		c.secure(&tls.Config{})
		how, _ := c.binding(bindExporter)
		talk := c.scram("SCRAM-SHA-256-PLUS", how)
		if _, err := talk.Step(c.challenge()); err != nil || !talk.Valid() {
			t.Fatal(err)
		}
		c.raw.Close()
		stop(t, server)
	})
}

// RFC 5929 section 4.1: a signature algorithm without a hash of its own has no binding.
func TestEndPointWithoutAHash(t *testing.T) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Unix(1<<33, 0)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, public, private)
	if err != nil {
		t.Fatal(err)
	}
	for _, certificate := range [][]byte{der, nil} {
		if data, ok := endPoint(certificate); ok {
			t.Errorf("%x", data)
		}
	}
}

// A session that was let in and whose client never said that it believes us is not
// in TRANSACTION: a server that ends turns it away like any other stranger.
func TestShutdownBeforeTheLastWord(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBox("five")
		server := testServer(t, b, nil)
		c := pipe(t, server)
		c.expect("+OK *")
		c.scram("SCRAM-SHA-256", (*xdg.Client).NewConversation)
		c.challenge()
		c.say("*\r\n")
		c.expect("-ERR cancelled")
		synctest.Wait()
		go c.expect("-ERR [SYS/TEMP] *")
		stop(t, server)
		if b.opened != 1 || b.closed != 1 {
			t.Errorf("%d opened, %d closed", b.opened, b.closed)
		}
	})
}

// An overlong line in place of the last word takes the login back, too.
func TestOverlongLastWord(t *testing.T) {
	d := newDriver(newBox("five"))
	user, _ := xdg.SHA256.NewClient("alice@example.com", "secret", "")
	talk := user.NewConversation()
	in := ""
	for _, verb := range []string{"AUTH SCRAM-SHA-256 ", ""} {
		out, err := talk.Step(in)
		if err != nil {
			t.Fatal(err)
		}
		d.sent.Reset()
		d.line([]byte(verb + encode64(out)))
		octets, err := base64.StdEncoding.DecodeString(strings.TrimSpace(d.sent.String()[2:]))
		if err != nil {
			t.Fatal(err)
		}
		in = string(octets)
	}
	d.sent.Reset()
	d.line(make([]byte, maxResponse))
	if d.sent.String() != "-ERR line too long\r\n" || d.session.State() != Authorization || d.box.closed != 1 {
		t.Errorf("%q in state %d, %d closed", d.sent.String(), d.session.State(), d.box.closed)
	}
}

func TestMechanismsByConfiguration(t *testing.T) {
	for _, bad := range [][]string{{"plain"}, {"CRAM-MD5"}, {"PLAIN", "PLAIN"}, {"OAUTHBEARER"}, {""}} {
		if CheckMechanisms(bad) == nil {
			t.Errorf("%q is taken", bad)
		}
	}
	p := NewProtocol("h", "r", scram.Plus, "PLAIN")
	if !strings.Contains(string(p.before), "SASL PLAIN SCRAM-SHA-256-PLUS\r\n") {
		t.Errorf("%s", p.before)
	}
}

// The back end is told who is asking, and gets the client's words as they came.
func TestProofIsHandedOn(t *testing.T) {
	s := NewProtocol("h", "r").Session("x")
	now := time.Now()
	step := s.Line(now, []byte("AUTH SCRAM-SHA-256 "+encode64("n,,n=Alice@EXAMPLE.com,r=client,x=y")))
	if step.Do.Op != OpChallenge || step.Do.Address != "alice@example.com" {
		t.Fatalf("%+v", step.Do)
	}
	s.Result(now, Result{Challenge: maildrop.Challenge{Nonce: "server", Salt: []byte("salt"), Iterations: 5000}})
	proof := make([]byte, 32)
	step = s.Line(now, []byte(encode64("c=biws,r=clientserver,z=x,p="+encode64(string(proof)))))
	p := step.Do.Proof
	if step.Do.Op != OpOpen || step.Do.Password != "" || p == nil || p.First != "n=Alice@EXAMPLE.com,r=client,x=y" ||
		p.Final != "c=biws,r=clientserver,z=x" || p.Nonce != "server" || string(p.Proof) != string(proof) {
		t.Fatalf("%+v, %+v", step.Do, p)
	}
}
