package rpc_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/postern-pop/postern/pkg/maildrop"
	"github.com/postern-pop/postern/pkg/rpc"
	posternv1 "github.com/postern-pop/postern/proto/postern/v1"
)

// Sizes about every border there is: empty, one chunk, what is read whole.
var sizes = []int{0, 1, 255, 256<<10 - 1, 256 << 10, 256<<10 + 1, 1<<20 - 1, 1 << 20, 1<<20 + 1, 5<<20 + 3}

// Octets arrive as they were sent, in both directions, however they are read
// and written.
func TestBodiesAreExact(t *testing.T) { bothWays(t, testBodiesAreExact) }

func testBodiesAreExact(t *testing.T, feeds bool) {
	connect := connector(feeds)
	type delivery struct {
		envelope   maildrop.Envelope
		sum        [32]byte
		wire, size uint64
	}
	var got delivery
	var read func(io.Reader) ([]byte, error)
	var stored []byte
	var write func(w io.Writer, b []byte) (uint64, error)
	c := connect(t, &script{
		deliver: func(_ context.Context, e maildrop.Envelope, b maildrop.Body) error {
			r, err := b.Open()
			if err != nil {
				return err
			}
			defer r.Close()
			octets, err := read(r)
			got = delivery{e, sha256.Sum256(octets), b.Wire(), b.Size()}
			return err
		},
		drop: func(info maildrop.Info, token []byte) maildrop.Drop {
			return &scriptDrop{read: func(_ context.Context, uid maildrop.UID, offset uint64, w io.Writer) (uint64, error) {
				return write(w, stored[offset:])
			}}
		},
	})
	drop, _ := c.Resume(t.Context(), maildrop.Info{Address: anna}, nil)
	readers := map[string]func(io.Reader) ([]byte, error){
		"Read": func(r io.Reader) ([]byte, error) { return io.ReadAll(struct{ io.Reader }{r}) },
		"WriteTo": func(r io.Reader) ([]byte, error) {
			var b bytes.Buffer
			_, err := io.Copy(&b, r)
			return b.Bytes(), err
		},
	}
	writers := map[string]func(io.Writer, []byte) (uint64, error){
		"at once": func(w io.Writer, b []byte) (uint64, error) { n, err := w.Write(b); return uint64(n), err },
		"in bits": func(w io.Writer, b []byte) (uint64, error) {
			n, err := io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{bytes.NewReader(b)}, make([]byte, 10_007))
			return uint64(n), err
		},
	}
	for _, size := range sizes {
		octets := random(size)
		envelope := maildrop.Envelope{ID: maildrop.RandomID(), Sender: "s\xfe@x", To: anna, Session: "s"}
		for name := range readers {
			read = readers[name]
			if err := c.Deliver(t.Context(), envelope, body(octets)); err != nil {
				t.Fatalf("deliver %d octets by %s: %v", size, name, err)
			}
			if want := (delivery{envelope, sha256.Sum256(octets), uint64(size), uint64(size) / 2}); got != want {
				t.Errorf("deliver %d octets by %s: arrived otherwise", size, name)
			}
		}
		stored = octets
		for name := range writers {
			write = writers[name]
			for _, offset := range []int{0, size / 3, size} {
				var b bytes.Buffer
				n, err := drop.Read(t.Context(), "u", uint64(offset), &b)
				if err != nil || n != uint64(size-offset) || !bytes.Equal(b.Bytes(), octets[offset:]) {
					t.Errorf("read %d octets from %d %s: %d octets, %v", size, offset, name, n, err)
				}
			}
		}
	}
}

// What an import says of a message comes out as it went in, and only by the
// method that is for it.
func TestImportedEnvelope(t *testing.T) {
	var got maildrop.Envelope
	a := newAuthority(t)
	service := &script{deliver: func(_ context.Context, e maildrop.Envelope, _ maildrop.Body) error { got = e; return nil }}
	only := func(method string) func(rpc.Identity, string) error {
		return func(_ rpc.Identity, called string) error {
			if called != method {
				return errors.New("another method")
			}
			return nil
		}
	}
	for _, c := range []struct {
		method   string
		uid      maildrop.UID
		received time.Time
	}{
		{posternv1.Maildrop_Deliver_FullMethodName, "", time.Time{}},
		{posternv1.Maildrop_Import_FullMethodName, "0000000a6553f163", time.Time{}},
		{posternv1.Maildrop_Import_FullMethodName, "", time.Unix(0, 1).UTC()},
		{posternv1.Maildrop_Import_FullMethodName, "UID1-1795418113", time.Date(2026, 11, 23, 1, 2, 3, 456, time.UTC)},
	} {
		_, address := serve(t, rpc.ServerConfig{TLS: a.server(node), Service: service, Allow: only(c.method)})
		pool := rpc.NewPool(rpc.PoolConfig{TLS: a.client(front)})
		defer pool.Close()
		sent := maildrop.Envelope{ID: maildrop.RandomID(), To: anna, Session: "s", UID: c.uid, Received: c.received}
		if err := pool.Client(address).Deliver(t.Context(), sent, body("x\r\n")); err != nil || got != sent {
			t.Errorf("%+v arrived as %+v by %s: %v", sent, got, c.method, err)
		}
	}
}

// A body held in memory can be read again, a streamed one can't.
func TestBodyOpenedTwice(t *testing.T) { bothWays(t, testBodyOpenedTwice) }

func testBodyOpenedTwice(t *testing.T, feeds bool) {
	connect := connector(feeds)
	c := connect(t, &script{deliver: func(_ context.Context, _ maildrop.Envelope, b maildrop.Body) error {
		for range 2 {
			r, err := b.Open()
			if err != nil {
				return err
			}
			if n, err := io.Copy(io.Discard, r); err != nil || uint64(n) != b.Wire() {
				t.Errorf("read %d octets of %d, %v", n, b.Wire(), err)
			}
		}
		return nil
	}})
	if err := c.Deliver(t.Context(), maildrop.Envelope{To: anna}, body(random(1<<20))); err != nil {
		t.Error("held in memory:", err)
	}
	if err := c.Deliver(t.Context(), maildrop.Envelope{To: anna}, body(random(1<<20+1))); maildrop.KindOf(err) != maildrop.Internal {
		t.Error("streamed:", err)
	}
}

// An answer that comes before the body is the answer.
func TestAnswerBeforeTheBodysEnd(t *testing.T) { bothWays(t, testAnswerBeforeTheBodysEnd) }

func testAnswerBeforeTheBodysEnd(t *testing.T, feeds bool) {
	connect := connector(feeds)
	c := connect(t, always(func(context.Context) error { return &maildrop.Error{Kind: maildrop.NotOwner} }))
	for _, size := range sizes {
		if err := c.Deliver(t.Context(), maildrop.Envelope{To: anna}, body(random(size))); maildrop.KindOf(err) != maildrop.NotOwner {
			t.Errorf("%d octets: %v", size, err)
		}
	}
}

// faultyBody reads otherwise than it says.
type faultyBody struct {
	body
	reader io.Reader
	opens  error
}

func (b faultyBody) Open() (io.ReadCloser, error) { return io.NopCloser(b.reader), b.opens }

// Nothing is stored of a body that can't be read at the sender's, and its kind
// says that nothing happened.
func TestFaultyBodies(t *testing.T) { bothWays(t, testFaultyBodies) }

func testFaultyBodies(t *testing.T, feeds bool) {
	connect := connector(feeds)
	whole := errors.New("whole body seen")
	c := connect(t, &script{deliver: func(_ context.Context, _ maildrop.Envelope, b maildrop.Body) error {
		r, err := b.Open()
		if err != nil {
			return err
		}
		if _, err = io.Copy(io.Discard, r); err == nil {
			t.Error(whole)
		}
		return err
	}})
	for _, size := range sizes {
		octets := random(size)
		for _, b := range []struct {
			name string
			body faultyBody
			want maildrop.Kind
		}{
			{"can't be opened", faultyBody{octets, nil, iotest.ErrTimeout}, maildrop.Transient},
			{"breaks at the end", faultyBody{octets, io.MultiReader(bytes.NewReader(octets), iotest.ErrReader(iotest.ErrTimeout)), nil}, maildrop.Transient},
			{"is longer", faultyBody{octets, io.MultiReader(bytes.NewReader(octets), strings.NewReader("x")), nil}, maildrop.Internal},
			{"is shorter", faultyBody{octets, bytes.NewReader(octets[min(1, size):]), nil}, maildrop.Internal},
		} {
			if size == 0 && b.name == "is shorter" {
				continue
			}
			if err := c.Deliver(t.Context(), maildrop.Envelope{To: anna}, b.body); err == nil || maildrop.KindOf(err) != b.want {
				t.Errorf("body of %d octets %s: %v, want %v", size, b.name, err, b.want)
			}
		}
	}
}

// A writer's error ends the read, and what it took is counted.
func TestReadIntoAFailingWriter(t *testing.T) {
	octets := random(3 << 20)
	c := connect(t, &script{drop: func(maildrop.Info, []byte) maildrop.Drop {
		return &scriptDrop{read: func(_ context.Context, _ maildrop.UID, offset uint64, w io.Writer) (uint64, error) {
			n, err := w.Write(octets[offset:])
			return uint64(n), err
		}}
	}})
	drop, _ := c.Resume(t.Context(), maildrop.Info{Address: anna}, nil)
	if n, err := drop.Read(t.Context(), "u", 0, eofWriter{}); n != 0 || maildrop.KindOf(err) != maildrop.Canceled {
		t.Errorf("a writer that says io.EOF: %d octets, %v", n, err)
	}
	w := &quota{left: 300_000}
	n, err := drop.Read(t.Context(), "u", 0, w)
	if maildrop.KindOf(err) != maildrop.Canceled || !errors.Is(err, io.ErrShortBuffer) || n != 300_000 {
		t.Errorf("%d octets, %v", n, err)
	}
	if !bytes.Equal(w.got.Bytes(), octets[:300_000]) {
		t.Error("other octets")
	}
}

type eofWriter struct{}

func (eofWriter) Write([]byte) (int, error) { return 0, io.EOF }

// quota takes so many octets and fails then.
type quota struct {
	left int
	got  bytes.Buffer
}

func (q *quota) Write(p []byte) (int, error) {
	n := min(len(p), q.left)
	q.left -= n
	q.got.Write(p[:n])
	if n < len(p) {
		return n, io.ErrShortBuffer
	}
	return n, nil
}

// The server takes what generated code sends, and refuses what makes no sense
// with Invalid, before the service sees it.
func TestServerAgainstGeneratedClient(t *testing.T) {
	a := newAuthority(t)
	var got []byte
	service := &script{
		deliver: func(_ context.Context, _ maildrop.Envelope, b maildrop.Body) error {
			r, _ := b.Open()
			var err error
			got, err = io.ReadAll(r)
			return err
		},
		drop: func(maildrop.Info, []byte) maildrop.Drop {
			return &scriptDrop{
				read: func(_ context.Context, _ maildrop.UID, _ uint64, w io.Writer) (uint64, error) {
					n, err := io.WriteString(w, "octets\r\n")
					return uint64(n), err
				},
				list: func(context.Context) (*maildrop.Listing, error) {
					return maildrop.ListingOf(maildrop.Entry{UID: "u", Size: 8}), nil
				},
			}
		},
	}
	_, address := serve(t, rpc.ServerConfig{TLS: a.server(node), Service: service, Allow: func(rpc.Identity, string) error { return nil }})
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(credentials.NewTLS(a.client(front))))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	c := posternv1.NewMaildropClient(conn)

	stream, err := c.Read(t.Context(), &posternv1.ReadRequest{Address: string(anna)})
	if err != nil {
		t.Fatal(err)
	}
	if m, err := stream.Recv(); err != nil || string(m.GetData()) != "octets\r\n" {
		t.Errorf("read %q, %v", m.GetData(), err)
	}
	listing, err := c.List(t.Context(), &posternv1.ListRequest{Address: string(anna)})
	if err != nil {
		t.Fatal(err)
	}
	if m, err := listing.Recv(); err != nil || string(m.GetOctets()) != "u" || !slices.Equal(m.GetSizes(), []uint64{8}) {
		t.Errorf("listed %v, %v", m, err)
	}

	id := make([]byte, 16)
	envelope := func(wire, size uint64) *posternv1.DeliverRequest {
		return &posternv1.DeliverRequest{Envelope: &posternv1.Envelope{Id: id, Address: string(anna), Wire: wire, Size: size}}
	}
	data := func(s string) *posternv1.DeliverRequest { return &posternv1.DeliverRequest{Data: []byte(s)} }
	invalid := func(what string, err error) {
		t.Helper()
		if err := rpc.FromStatus("test", err, false); err == nil || maildrop.KindOf(err) != maildrop.Invalid {
			t.Errorf("%s: %v", what, err)
		}
	}
	for _, m := range []struct {
		what string
		say  []*posternv1.DeliverRequest
		ok   bool
	}{
		{"exact", []*posternv1.DeliverRequest{envelope(3, 3), data("a"), data(""), data("bc")}, true},
		{"too long", []*posternv1.DeliverRequest{envelope(3, 3), data("abc"), data("d")}, false},
		{"too short", []*posternv1.DeliverRequest{envelope(3, 3), data("ab")}, false},
		{"streamed and too short", []*posternv1.DeliverRequest{envelope(2<<20, 3), data("ab")}, false},
		{"no envelope", []*posternv1.DeliverRequest{data("abc")}, false},
		{"more octets than wire octets", []*posternv1.DeliverRequest{envelope(3, 4), data("abc")}, false},
		{"too large", []*posternv1.DeliverRequest{envelope(1<<40, 4), data("abc")}, false},
		{"short id", []*posternv1.DeliverRequest{{Envelope: &posternv1.Envelope{Id: id[1:], Address: string(anna)}}}, false},
		{"no address", []*posternv1.DeliverRequest{{Envelope: &posternv1.Envelope{Id: id, Address: "Anna@Example.com"}}}, false},
	} {
		got = nil
		stream, err := c.Deliver(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, message := range m.say {
			stream.Send(message)
		}
		if _, err = stream.CloseAndRecv(); !m.ok {
			invalid(m.what, err)
		} else if err != nil || string(got) != "abc" {
			t.Errorf("%s: %q, %v", m.what, got, err)
		}
	}
	for _, m := range []struct {
		what     string
		by       func(context.Context, ...grpc.CallOption) (grpc.ClientStreamingClient[posternv1.DeliverRequest, posternv1.DeliverResponse], error)
		uid      string
		received int64
	}{
		{"a unique-id by Deliver", c.Deliver, "u", 0},
		{"a time by Deliver", c.Deliver, "", 1},
		{"neither by Import", c.Import, "", 0},
		{"a unique-id with a space", c.Import, "u v", 0},
		{"a unique-id too long", c.Import, strings.Repeat("u", 71), 0},
	} {
		got = nil
		stream, err := m.by(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		stream.Send(&posternv1.DeliverRequest{Envelope: &posternv1.Envelope{
			Id: id, Address: string(anna), Wire: 3, Size: 3, Uid: m.uid, ReceivedUnixNano: m.received}})
		stream.Send(data("abc"))
		if _, err = stream.CloseAndRecv(); got != nil {
			t.Errorf("%s reached the service", m.what)
		}
		invalid(m.what, err)
	}
	_, err = c.Open(t.Context(), &posternv1.OpenRequest{Address: "Anna@example.com"})
	invalid("address not canonical", err)
	_, err = c.Open(t.Context(), &posternv1.OpenRequest{Address: string(anna), Password: make([]byte, 5000)})
	invalid("long password", err)
	_, err = c.Check(t.Context(), &posternv1.CheckRequest{Address: string(anna), Token: make([]byte, 5000)})
	invalid("long token", err)
}

// What doesn't fit into the memory for bodies is refused for now, and there is
// room again when a delivery has ended.
func TestBodiesAreBounded(t *testing.T) { bothWays(t, testBodiesAreBounded) }

func testBodiesAreBounded(t *testing.T, feeds bool) {
	a := newAuthority(t)
	entered, leave := make(chan struct{}), make(chan struct{})
	service := &script{deliver: func(context.Context, maildrop.Envelope, maildrop.Body) error {
		entered <- struct{}{}
		<-leave
		return nil
	}}
	_, address := serve(t, rpc.ServerConfig{TLS: a.server(node), Service: service, Allow: func(rpc.Identity, string) error { return nil }, BodyBytes: 1000})
	pool := rpc.NewPool(rpc.PoolConfig{TLS: a.client(front), Feeds: feeds})
	t.Cleanup(pool.Close)
	c := pool.Client(address)
	deliver := func(size int) error {
		return c.Deliver(t.Context(), maildrop.Envelope{ID: maildrop.RandomID(), To: anna}, body(random(size)))
	}
	first := make(chan error)
	go func() { first <- deliver(600) }()
	<-entered
	if err := deliver(401); maildrop.KindOf(err) != maildrop.Busy {
		t.Errorf("1001 octets at once: %v", err)
	}
	leave <- struct{}{}
	if err := <-first; err != nil {
		t.Fatal(err)
	}
	go func() { first <- deliver(1000) }()
	<-entered
	leave <- struct{}{}
	if err := <-first; err != nil {
		t.Errorf("1000 octets, alone: %v", err)
	}
}
