package drill

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http/httptest"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/postern-pop/postern/pkg/history"
	"github.com/postern-pop/postern/pkg/lmtp"
	"github.com/postern-pop/postern/pkg/maildrop"
	"github.com/postern-pop/postern/pkg/pop3"
)

// office is a mailbox in memory, behind the real protocols. It lies if it is told to.
type office struct {
	maildrop.Opener // nobody asks for a Challenge

	lie string

	mu      sync.Mutex
	minted  int
	listing []maildrop.UID
	wire    map[maildrop.UID][]byte
	known   map[maildrop.EnvelopeID]bool
	removed []maildrop.UID
	logins  int
	lied    bool
}

// lies reports whether the moment of a lie has come. There is one.
func (o *office) lies(lie string, moment bool) bool {
	if o.lie != lie || !moment || o.lied {
		return false
	}
	o.lied = true
	return true
}

func (o *office) Accept(context.Context, maildrop.Recipient) error { return nil }

var errBusy = &maildrop.Error{Op: "office", Kind: maildrop.Busy, Err: errors.New("for now")}

func (o *office) Deliver(_ context.Context, e maildrop.Envelope, body maildrop.Body) error {
	r, err := body.Open()
	if err != nil {
		return err
	}
	defer r.Close()
	octets, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.known[e.ID] {
		return nil // a repetition
	}
	letter4 := bytes.Contains(octets, []byte("\r\nSubject: letter 4 of "))
	if o.lies("acknowledges before it keeps", letter4) {
		return nil
	}
	o.known[e.ID] = true
	o.keep(octets)
	if o.lies("keeps it twice", letter4) {
		o.keep(octets)
	}
	if o.lies("gives a name again", letter4) {
		o.listing[len(o.listing)-1] = o.listing[1]
	}
	if o.lie == "is busy" && len(o.known)%3 == 0 {
		return errBusy // though it has kept it
	}
	return nil
}

func (o *office) keep(octets []byte) {
	o.minted++
	uid := maildrop.UID(fmt.Sprintf("u%05d", o.minted))
	o.listing = append(o.listing, uid)
	o.wire[uid] = octets
}

func (o *office) Open(context.Context, maildrop.Login) (maildrop.Drop, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.logins++
	if o.lie == "is busy" && o.logins%4 == 0 {
		return nil, errBusy
	}
	if o.lies("forgets a password", o.logins == 4) {
		return nil, &maildrop.Error{Op: "office", Kind: maildrop.Denied, Reason: maildrop.ReasonCredentials}
	}
	if i := o.letter(2); o.lies("loses what it has shown", i >= 0 && o.logins > 3) {
		o.listing = slices.Delete(o.listing, i, i+1)
	}
	if i := o.letter(2); o.lies("changes an octet", i >= 0 && o.logins > 3) {
		changed := bytes.Clone(o.wire[o.listing[i]])
		changed[len(changed)-3] ^= 1
		o.wire[o.listing[i]] = changed
	}
	snapshot := slices.Clone(o.listing)
	if o.lie == "brings back what was removed" && len(o.removed) > 0 {
		o.lied, snapshot = true, append(snapshot, o.removed[0]) // again and again
	}
	return &counter{o, snapshot}, nil
}

// letter is the place of a letter in the listing; -1: it isn't there.
func (o *office) letter(number int) int {
	return slices.IndexFunc(o.listing, func(uid maildrop.UID) bool {
		return bytes.Contains(o.wire[uid], fmt.Appendf(nil, "\r\nSubject: letter %d of ", number))
	})
}

// counter is a session at the office.
type counter struct {
	*office

	snapshot []maildrop.UID
}

func (c *counter) List(context.Context) (*maildrop.Listing, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	l := maildrop.NewListing(len(c.snapshot), 0)
	for _, uid := range c.snapshot {
		l.Append(uid, c.size(uid))
	}
	return l, nil
}

func (c *counter) size(uid maildrop.UID) uint64 {
	return uint64(len(c.wire[uid]) - bytes.Count(c.wire[uid], []byte("\r\n..")))
}

func (c *counter) Info() maildrop.Info {
	c.mu.Lock()
	defer c.mu.Unlock()
	info := maildrop.Info{Address: "anna@c.example", Class: maildrop.ClassLocal, Count: len(c.snapshot), Region: "eu"}
	for _, uid := range c.snapshot {
		info.Octets += c.size(uid)
	}
	return info
}

func (c *counter) Read(_ context.Context, uid maildrop.UID, offset uint64, w io.Writer) (uint64, error) {
	c.mu.Lock()
	octets := c.wire[uid]
	c.mu.Unlock()
	n, err := w.Write(octets[offset:])
	return uint64(n), err
}

func (c *counter) Remove(_ context.Context, uids []maildrop.UID) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.removed = append(c.removed, uids...)
	c.listing = slices.DeleteFunc(c.listing, func(uid maildrop.UID) bool { return slices.Contains(uids, uid) })
	return nil
}

func (c *counter) Check(context.Context) error { return nil }
func (c *counter) Token() []byte               { return nil }
func (c *counter) Close() error                { return nil }

// serve opens the office's doors until the test ends.
func (o *office) serve(t *testing.T) (*Doors, error) {
	certified := httptest.NewTLSServer(nil) // for its certificate
	t.Cleanup(certified.Close)
	roots := x509.NewCertPool()
	roots.AddCert(certified.Certificate())
	pop, err := pop3.NewServer(pop3.Config{Opener: o, TLS: &tls.Config{Certificates: certified.TLS.Certificates, MinVersion: tls.VersionTLS12}})
	if err != nil {
		return nil, err
	}
	intake, err := lmtp.NewServer(lmtp.Config{
		Deliverer: o, Networks: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, Hostname: "lmtp.example.com", Log: slog.New(slog.DiscardHandler), Spool: t.TempDir(),
	})
	if err != nil {
		return nil, err
	}
	pop3s, err := door(t, pop.Serve, pop.Shutdown)
	if err != nil {
		return nil, err
	}
	lmtp, err := door(t, intake.Serve, intake.Shutdown)
	return &Doors{
		POP3S: []string{pop3s}, POP3TLS: &tls.Config{RootCAs: roots, ServerName: "example.com", MinVersion: tls.VersionTLS12},
		LMTP: []string{lmtp},
	}, err
}

func door(t *testing.T, serve func(net.Listener) error, stop func(context.Context) error) (string, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	ended := make(chan struct{})
	go func() { defer close(ended); _ = serve(listener) }()
	t.Cleanup(func() {
		over, cancel := context.WithCancel(context.Background())
		cancel()
		_ = stop(over) // at once
		<-ended
	})
	return listener.Addr().String(), nil
}

// TestDrillsFindLies: under the drill's own load, at a mailbox that breaks one promise once, the report names
// the promise; and an honest one, however busy, breaks none.
func TestDrillsFindLies(t *testing.T) {
	var all sync.WaitGroup
	for lie, want := range map[string]history.Invariant{
		"":                             "",
		"is busy":                      "",
		"acknowledges before it keeps": history.Kept,
		"loses what it has shown":      history.Kept,
		"keeps it twice":               history.Once,
		"changes an octet":             history.Exact,
		"brings back what was removed": history.Gone,
		"gives a name again":           history.Named,
		"forgets a password":           Answered,
	} {
		all.Go(func() {
			if err := liar(t, lie, want); err != nil {
				t.Errorf("%q: %v", lie, err)
			}
		})
	}
	all.Wait()
}

// liar drills an office, and says how the report isn't as it should be.
func liar(t *testing.T, lie string, want history.Invariant) error {
	o := &office{lie: lie, wire: map[maildrop.UID][]byte{}, known: map[maildrop.EnvelopeID]bool{}}
	doors, err := o.serve(t)
	if err != nil {
		return err
	}
	scenario, err := Named("etcd-loss")
	if err != nil {
		return err
	}
	p, err := NewPlan(t.Context(), scenario, &ward{nodes: 2}, *doors, []User{{"anna@c.example", "secret"}}, Options{
		Region: "eu", Calm: 200 * time.Millisecond, For: 2 * time.Second, Patience: time.Minute, Step: func(Step) {}, Pulse: func(Pulse) {},
	})
	if err != nil {
		return err
	}
	r, err := p.Run(t.Context())
	if err != nil {
		return err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	left := len(o.listing)
	if (lie != "") != (o.lied || len(r.Errors) > 0) {
		return errors.New("it never came to it")
	}
	for _, v := range r.Invariants {
		if v.Name == want && !v.OK && left > 0 {
			return nil
		}
	}
	if want != "" || !r.OK || left > 0 {
		return fmt.Errorf("%d messages are left: %+v", left, r)
	}
	return nil
}
