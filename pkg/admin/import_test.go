package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/postern-pop/postern/pkg/maildrop"
	"github.com/postern-pop/postern/pkg/policy"
	"github.com/postern-pop/postern/pkg/rpc"
	posternv1 "github.com/postern-pop/postern/proto/postern/v1"
)

// mailboxes is a Deliverer that keeps what it gets, or does what a test says.
type mailboxes struct {
	mu      sync.Mutex
	there   maildrop.UID // of a message that is there already: nobody reads it
	got     []maildrop.Envelope
	bodies  []string
	accept  error
	deliver func(maildrop.Envelope, maildrop.Body) error // nil: it is kept
}

func (m *mailboxes) Accept(context.Context, maildrop.Recipient) error { return m.accept }

func (m *mailboxes) Deliver(_ context.Context, e maildrop.Envelope, b maildrop.Body) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.deliver != nil {
		if err := m.deliver(e, b); err != nil {
			return err
		}
	}
	if e.UID == m.there {
		return nil
	}
	r, err := b.Open()
	if err != nil {
		return err
	}
	defer r.Close()
	octets, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	m.got, m.bodies = append(m.got, e), append(m.bodies, string(octets))
	return nil
}

type importClient = posternv1.Admin_ImportClient

// say sends a part. To a server that has ended the run already, gRPC answers
// io.EOF, and Recv says why it ended.
func say(t *testing.T, stream importClient, part *posternv1.ImportRequest) {
	t.Helper()
	if err := stream.Send(part); err != nil && !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
}

func (r *rig) begin(address string) (importClient, *posternv1.ImportAdmitted, error) {
	r.t.Helper()
	stream, err := r.admin.Import(r.t.Context())
	must(r.t, err)
	say(r.t, stream, &posternv1.ImportRequest{Part: &posternv1.ImportRequest_Start{
		Start: &posternv1.ImportStart{Address: address, Source: "maildir /old\nevil"}}})
	answer, err := stream.Recv()
	return stream, answer.GetAdmitted(), rpc.FromStatus("test", err, false)
}

func head(uid, body string) *posternv1.ImportRequest {
	return &posternv1.ImportRequest{Part: &posternv1.ImportRequest_Head{Head: &posternv1.ImportHead{
		Id: bytes.Repeat([]byte{1}, 16), Uid: uid, ReceivedUnixNano: noon.UnixNano() + 5, Wire: uint64(len(body)), Size: uint64(len(body) / 2)}}}
}

func data(octets string) *posternv1.ImportRequest {
	return &posternv1.ImportRequest{Part: &posternv1.ImportRequest_Data{Data: []byte(octets)}}
}

// sends sends a message in pieces.
func sends(t *testing.T, stream importClient, uid, body string, piece int) {
	t.Helper()
	say(t, stream, head(uid, body))
	for len(body) > 0 {
		n := min(piece, len(body))
		say(t, stream, data(body[:n]))
		body = body[n:]
	}
}

func importRig(t *testing.T) (*rig, *mailboxes) {
	r := newRig(t)
	r.customer()
	_, err := r.admin.AddAddress(t.Context(), &posternv1.AddAddressRequest{Address: "anna@acme.example", Password: "secret"})
	must(t, err)
	r.audit.Reset()
	return r, r.mailboxes
}

func TestImport(t *testing.T) {
	r, boxes := importRig(t)
	large := strings.Repeat("0123456789abcdef", (maxHeld+160)/16)
	boxes.there = "there"
	boxes.deliver = func(e maildrop.Envelope, _ maildrop.Body) error {
		switch e.UID {
		case "old", "old-and-large":
			return &maildrop.Error{Op: "test", Kind: maildrop.Invalid, Text: "its retention has ended"}
		case "conflict":
			return &maildrop.Error{Op: "test", Kind: maildrop.Invalid}
		}
		return nil
	}
	stream, admitted, err := r.begin("anna@acme.example")
	must(t, err)
	if admitted.GetClass() != "continuity" || admitted.GetOldestUnixNano() != noon.Add(-5*24*time.Hour).UnixNano() || admitted.GetMaxWire() != maxImported {
		t.Errorf("admitted %v", admitted)
	}
	for _, m := range []struct{ uid, body, refused string }{
		{"a", "abc\r\n", ""},
		{"old", "abc\r\n", "its retention has ended"},
		{"empty", "", ""},
		{"old-and-large", large, "its retention has ended"}, // nobody reads it, and the next one comes all the same
		{"large", large, ""},
		{"there", large, ""},
		{"conflict", "abc\r\n", "the mailbox has, or had, another message with the unique-id conflict, or may make one itself"},
		{"z", "xyz\r\n", ""},
	} {
		sends(t, stream, m.uid, m.body, 100_000)
		answer, err := stream.Recv()
		must(t, err)
		if v := answer.GetVerdict(); v.GetRefused() != (m.refused != "") || v.GetText() != m.refused {
			t.Errorf("%s: %v, want %q", m.uid, v, m.refused)
		}
	}
	must(t, stream.CloseSend())
	if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("the end: %v", err)
	}
	if strings.Join(boxes.bodies, "|") != "abc\r\n||"+large+"|xyz\r\n" {
		t.Error("messages arrived otherwise")
	}
	first := boxes.got[0]
	if first.To != "anna@acme.example" || first.UID != "a" || !first.Received.Equal(noon.Add(5)) || first.ID != [16]byte(bytes.Repeat([]byte{1}, 16)) || first.Session == "" {
		t.Errorf("%+v", first)
	}
	r.oneLine("done", fmt.Sprintf("messages=5 refused=3 octets=%d session=%s source=%q", 2+2*(len(large)/2)+2, first.Session, "maildir /old\nevil"))
}

// oneLine is all that the audit has of a run.
func (r *rig) oneLine(outcome, after string) {
	r.t.Helper()
	var line map[string]string
	if err := json.Unmarshal(r.audit.Bytes(), &line); err != nil {
		r.t.Fatalf("not one line: %v\n%s", err, r.audit)
	}
	if line["action"] != "maildrop.import" || line["target"] != "anna@acme.example" || line["who"] != r.who || line["outcome"] != outcome || line["after"] != after {
		r.t.Errorf("audit %v, want %s, %s", line, outcome, after)
	}
}

// What can't be taken at all is refused before anything is sent, in words.
func TestImportRefused(t *testing.T) {
	r, boxes := importRig(t)
	_, err := r.admin.AddAddress(t.Context(), &posternv1.AddAddressRequest{Address: "alias@acme.example", AliasOf: "anna@acme.example"})
	must(t, err)
	r.audit.Reset()
	refusal := func(address string, kind maildrop.Kind, words string) {
		t.Helper()
		_, _, err := r.begin(address)
		if err == nil || maildrop.KindOf(err) != kind || !strings.Contains(maildrop.TextOf(err), words) {
			t.Errorf("%s: %v", address, err)
		}
	}
	refusal("nonsense", maildrop.Invalid, "is not a mail address")
	refusal("anna@other.example", maildrop.NotFound, "other.example")
	refusal("nobody@acme.example", maildrop.NotFound, "does not exist")
	refusal("alias@acme.example", maildrop.Invalid, "import into its primary address, anna@acme.example")
	boxes.accept = &maildrop.Error{Op: "test", Kind: maildrop.Denied, Reason: maildrop.ReasonRegion, Text: "taken in region je only"}
	refusal("anna@acme.example", maildrop.Denied, "taken in region je only")
	boxes.accept = &maildrop.Error{Op: "test", Kind: maildrop.Transient}
	refusal("anna@acme.example", maildrop.Transient, "cannot be reached")
	boxes.accept = nil
	must(t, r.store.UpdateAccount(t.Context(), "acme", func(a *policy.Account) error { a.Continuity = false; return nil }))
	refusal("anna@acme.example", maildrop.Denied, "nothing entitles this domain to POP")
	r.who = ""
	refusal("anna@acme.example", maildrop.Denied, "an operator's identity")
	if r.audit.Len() > 0 {
		t.Errorf("the audit says %s", r.audit)
	}
}

// A run that breaks is one line of audit with what is durable.
func TestImportStopped(t *testing.T) {
	r, boxes := importRig(t)
	for _, c := range []struct {
		name    string
		say     []*posternv1.ImportRequest
		deliver error // of "b"
		want    maildrop.Kind
		outcome string
	}{
		{"the owner is away", []*posternv1.ImportRequest{head("b", "xyz\r\n"), data("xyz\r\n")}, &maildrop.Error{Kind: maildrop.Transient}, maildrop.Transient, "stopped"},
		{"not known", []*posternv1.ImportRequest{head("b", "xyz\r\n"), data("xyz\r\n")}, &maildrop.Error{Kind: maildrop.Maybe}, maildrop.Maybe, "unknown"},
		{"the address is gone", []*posternv1.ImportRequest{head("b", "xyz\r\n"), data("xyz\r\n")}, &maildrop.Error{Kind: maildrop.NotFound}, maildrop.NotFound, "stopped"},
		{"too long", []*posternv1.ImportRequest{head("b", "xyz\r\n"), data("xyz\r\n!")}, nil, maildrop.Invalid, "stopped"},
		{"a head in a body", []*posternv1.ImportRequest{head("b", "xyz\r\n"), data("xy"), head("c", "")}, nil, maildrop.Invalid, "stopped"},
		{"an empty piece", []*posternv1.ImportRequest{head("b", "xyz\r\n"), data("")}, nil, maildrop.Invalid, "stopped"},
		{"too short", []*posternv1.ImportRequest{head("b", "xyz\r\n"), data("xy")}, nil, maildrop.Canceled, "stopped"},
		{"streamed and too short", []*posternv1.ImportRequest{head("b", strings.Repeat("x", maxHeld+1)), data("xy")}, nil, maildrop.Canceled, "stopped"},
		{"data without a head", []*posternv1.ImportRequest{data("xyz\r\n")}, nil, maildrop.Invalid, "stopped"},
		{"no unique-id", []*posternv1.ImportRequest{head("", "")}, nil, maildrop.Invalid, "stopped"},
		{"a unique-id too long", []*posternv1.ImportRequest{head(strings.Repeat("u", 71), "")}, nil, maildrop.Invalid, "stopped"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r.audit.Reset()
			boxes.got = nil
			boxes.deliver = func(e maildrop.Envelope, _ maildrop.Body) error {
				if e.UID == "b" && c.deliver != nil {
					return c.deliver
				}
				return nil
			}
			stream, _, err := r.begin("anna@acme.example")
			must(t, err)
			sends(t, stream, "a", "abcd\r\n", 6)
			_, err = stream.Recv()
			must(t, err)
			for _, message := range c.say {
				say(t, stream, message)
			}
			must(t, stream.CloseSend())
			_, err = stream.Recv()
			if err := rpc.FromStatus("test", err, false); err == nil || maildrop.KindOf(err) != c.want {
				t.Errorf("%v, want %v", err, c.want)
			}
			r.oneLine(c.outcome, fmt.Sprintf("messages=1 refused=0 octets=3 session=%s source=%q", boxes.got[0].Session, "maildir /old\nevil"))
			if len(boxes.got) != 1 {
				t.Errorf("%d messages arrived", len(boxes.got))
			}
		})
	}
}

// More than a few at once are told to come later.
func TestImportsAtOnce(t *testing.T) {
	r, _ := importRig(t)
	var streams []importClient
	for range maxImports {
		stream, _, err := r.begin("anna@acme.example")
		must(t, err)
		streams = append(streams, stream)
	}
	if _, _, err := r.begin("anna@acme.example"); err == nil || maildrop.KindOf(err) != maildrop.Busy {
		t.Errorf("one too many: %v", err)
	}
	for _, stream := range streams {
		must(t, stream.CloseSend())
		if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
			t.Error(err)
		}
	}
	_, _, err := r.begin("anna@acme.example")
	must(t, err)
}
