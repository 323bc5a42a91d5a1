package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/alecthomas/kong"

	"github.com/postern-pop/postern/pkg/maildrop"
	"github.com/postern-pop/postern/pkg/movein"
	"github.com/postern-pop/postern/pkg/rpc"
)

// mailboxes is a maildrop.Deliverer that keeps mail in memory, by the contract
// of imported mail, and fails where a test says.
type mailboxes struct {
	mu     sync.Mutex
	kept   []keptMessage
	accept error
	// before is asked before each message; an error is the answer. It is called
	// with the number of calls so far.
	before func(ctx context.Context, call int, e maildrop.Envelope) error
	calls  int
}

type keptMessage struct {
	maildrop.Envelope
	octets string // wire form
}

func (m *mailboxes) Accept(context.Context, maildrop.Recipient) error { return m.accept }

func (m *mailboxes) Deliver(ctx context.Context, e maildrop.Envelope, b maildrop.Body) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.calls++
	if m.before != nil {
		if err := m.before(ctx, m.calls, e); err != nil {
			return err
		}
	}
	for _, k := range m.kept {
		if k.To == e.To && k.UID == e.UID && k.ID == e.ID {
			return nil
		}
		if k.To == e.To && k.UID == e.UID {
			return &maildrop.Error{Op: "mailboxes", Kind: maildrop.Invalid}
		}
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
	m.kept = append(m.kept, keptMessage{e, string(octets)})
	return nil
}

func (m *mailboxes) uids() (all []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, k := range m.kept {
		all = append(all, string(k.UID))
	}
	return all
}

// imports runs "postern import" and returns what it printed.
func (b *bench) imports(ctx context.Context, args ...string) (string, error) {
	b.t.Helper()
	var out bytes.Buffer
	var grammar struct {
		Import importCmd `cmd:""`
	}
	parser, err := kong.New(&grammar, kong.Name("postern"), kong.Writers(&out, io.Discard), kong.Vars{"uid_format": movein.DefaultUIDFormat},
		kong.BindTo(ctx, (*context.Context)(nil)))
	noError(b.t, err)
	parsed, err := parser.Parse(append([]string{"import", "--context", b.context}, args...))
	noError(b.t, err)
	err = parsed.Run()
	return out.String(), err
}

// report is what an import says in JSON.
func (b *bench) report(ctx context.Context, args ...string) (r importReport, err error) {
	b.t.Helper()
	out, err := b.imports(ctx, append(args, "-o", "json")...)
	if decoded := json.Unmarshal([]byte(out), &r); decoded != nil {
		b.t.Fatalf("%v (%v):\n%s", decoded, err, out)
	}
	return r, err
}

// anna is a customer's user.
func (b *bench) anna() *bench {
	b.t.Helper()
	for _, line := range []string{"account create acme --region eu", "domain add acme.example --account acme --kind local", "address add anna@acme.example"} {
		_, err := b.run("", strings.Fields(line)...)
		noError(b.t, err)
	}
	return b
}

const annas = "anna@acme.example"

// oldMaildir is a Maildir with n messages, of which two are large, and a
// list of Dovecot's that has them in another order than their names.
func oldMaildir(t *testing.T, n int) (dir string, uids []string) {
	t.Helper()
	dir = t.TempDir()
	for _, sub := range []string{"new", "cur", "tmp"} {
		noError(t, os.Mkdir(filepath.Join(dir, sub), 0o700))
	}
	list := fmt.Sprintf("3 V1700000099 N%d G0123456789abcdef0123456789abcdef\n", n+1)
	for i := range n {
		name := fmt.Sprintf("%d.M1P1.h", 1_700_000_000-i)
		body := fmt.Sprintf("Subject: %d\n\n.body\n", i)
		if i == 1 || i == 8 {
			body += strings.Repeat("a line of a large message\n", 50_000)
		}
		writeMessage(t, filepath.Join(dir, "cur", name+":2,S"), body, time.Duration(n-i)*time.Minute)
		list += fmt.Sprintf("%d :%s\n", i+1, name)
		uids = append(uids, fmt.Sprintf("%08x%08x", i+1, 1_700_000_099))
	}
	noError(t, os.WriteFile(filepath.Join(dir, "dovecot-uidlist"), []byte(list), 0o600))
	return dir, uids
}

func writeMessage(t *testing.T, file, content string, age time.Duration) {
	t.Helper()
	noError(t, os.WriteFile(file, []byte(content), 0o600))
	at := time.Now().Add(-age)
	noError(t, os.Chtimes(file, at, at))
}

// A maildrop is moved in its order, under its unique-ids, with its times, once.
func TestImport(t *testing.T) {
	b := newBench(t).anna()
	dir, uids := oldMaildir(t, 7)
	writeMessage(t, filepath.Join(dir, "cur", "1600000000.M1P1.h:2,"), "Subject: old\n\n", 61*24*time.Hour)
	writeMessage(t, filepath.Join(dir, "cur", "1600000001.M1P1.h:2,T"), "Subject: trashed\n\n", time.Hour)
	for run := range 2 {
		report, err := b.report(t.Context(), "--maildir", dir, annas)
		noError(t, err)
		if report.Stored != 7 || report.Found != 9 || report.UIDs != "dovecot-uidlist" || len(report.Skipped) != 2 || report.Stopped != "" {
			t.Errorf("run %d: %+v", run+1, report)
		}
		if got := b.mail.uids(); !slices.Equal(got, uids) {
			t.Errorf("run %d: %q, want %q", run+1, got, uids)
		}
	}
	for i, k := range b.mail.kept {
		age := time.Since(k.Received).Round(time.Minute)
		if !strings.HasPrefix(k.octets, fmt.Sprintf("Subject: %d\r\n\r\n..body\r\n", i)) || k.To != annas || age != time.Duration(7-i)*time.Minute {
			t.Errorf("message %d: %+v %.60q", i+1, k.Envelope, k.octets)
		}
	}
	out, err := b.imports(t.Context(), "--maildir", dir, annas, "-v")
	noError(t, err)
	for _, words := range []string{"7 of 9 messages are there", "unique-ids from dovecot-uidlist", "not moved: 1 trashed, 1 too old", "cur/1600000001.M1P1.h:2,T"} {
		if !strings.Contains(out, words) {
			t.Errorf("%q is missing in\n%s", words, out)
		}
	}
}

// Whatever breaks on the way, the messages come in order, each once, and the
// command goes on by itself.
func TestImportGoesOn(t *testing.T) {
	b := newBench(t).anna()
	dir, uids := oldMaildir(t, 20)
	kinds := []maildrop.Kind{maildrop.Transient, maildrop.Maybe, maildrop.Busy, maildrop.NotOwner}
	b.mail.before = func(_ context.Context, call int, _ maildrop.Envelope) error {
		if call%7 == 0 {
			return &maildrop.Error{Op: "test", Kind: kinds[call/7%len(kinds)]}
		}
		return nil
	}
	report, err := b.report(t.Context(), "--maildir", dir, annas)
	noError(t, err)
	if got := b.mail.uids(); report.Stored != 20 || !slices.Equal(got, uids) {
		t.Errorf("%+v\n%q", report, got)
	}
}

// What the mailbox refuses for ever is named, the others are moved, and the
// command fails.
func TestImportRefusedMessages(t *testing.T) {
	b := newBench(t).anna()
	dir, uids := oldMaildir(t, 3)
	_, err := b.report(t.Context(), "--maildir", dir, annas)
	noError(t, err)
	writeMessage(t, filepath.Join(dir, "cur", "1700000000.M1P1.h:2,S"), "Subject: another\n\n", time.Hour) // under the first one's name
	noError(t, os.Symlink("/etc/passwd", filepath.Join(dir, "cur", "1700000009.M1P1.h:2,")))
	report, err := b.report(t.Context(), "--maildir", dir, annas)
	if err == nil || err.Error() != "2 messages could not be moved" || report.Stored != 2 || len(report.Skipped) != 2 {
		t.Errorf("%v: %+v", err, report)
	}
	if s := report.Skipped[1]; s.Why != "refused" || !strings.Contains(s.Text, "another message with the unique-id "+uids[0]) {
		t.Errorf("%+v", s)
	}
	if got := b.mail.uids(); !slices.Equal(got, uids) {
		t.Errorf("%q", got)
	}
}

func TestImportOfMbox(t *testing.T) {
	b := newBench(t).anna()
	file := filepath.Join(t.TempDir(), "mbox")
	at := time.Now().Add(-time.Hour).UTC().Truncate(time.Second)
	from := "From x@example.org " + at.Format(time.ANSIC) + "\n"
	noError(t, os.WriteFile(file, []byte(from+"X-UIDL: first\n\n>From a\n\n"+from+"Subject: b\nStatus: RO\n\n"), 0o600))
	report, err := b.report(t.Context(), "--mbox", file, annas)
	noError(t, err)
	if report.Stored != 2 || b.mail.kept[0].UID != "first" || !b.mail.kept[0].Received.Equal(at) ||
		b.mail.kept[0].octets != "X-UIDL: first\r\n\r\nFrom a\r\n" || b.mail.kept[1].octets != "Subject: b\r\n" {
		t.Errorf("%+v\n%+v", report, b.mail.kept)
	}
	noError(t, os.WriteFile(file, []byte("no mbox\n"), 0o600))
	if _, err := b.imports(t.Context(), "--mbox", file, annas); err == nil || !strings.Contains(err.Error(), "octet 0: ") {
		t.Errorf("no mbox: %v", err)
	}
}

// A mailbox that takes no mail refuses all at once, in words; and a region that
// takes mail at its own gateways only is asked there.
func TestImportRefusals(t *testing.T) {
	b := newBench(t).anna()
	dir, uids := oldMaildir(t, 3)
	_, err := b.imports(t.Context(), "--maildir", dir, "nobody@acme.example")
	if err == nil || !strings.Contains(err.Error(), "address nobody@acme.example does not exist") {
		t.Errorf("nobody: %v", err)
	}
	b.mail.accept = &maildrop.Error{Op: "test", Kind: maildrop.Denied, Reason: maildrop.ReasonDisabled, Text: "the account of this domain is disabled and takes no mail"}
	_, err = b.imports(t.Context(), "--maildir", dir, annas)
	if err == nil || !strings.Contains(err.Error(), "is disabled and takes no mail") {
		t.Errorf("disabled: %v", err)
	}
	elsewhere := &mailboxes{accept: &maildrop.Error{Op: "test", Kind: maildrop.Denied, Reason: maildrop.ReasonRegion, Text: "taken in region je only"}}
	b.mail.accept = nil
	b.context = b.write("both.yaml", b.identity(rpc.RoleOperator, "ben"), b.gateway("front-2", elsewhere), b.server)
	_, err = b.report(t.Context(), "--maildir", dir, annas)
	noError(t, err)
	if got := b.mail.uids(); !slices.Equal(got, uids) {
		t.Errorf("%q", got)
	}
	b.context = b.write("other.yaml", b.identity(rpc.RoleOperator, "cleo"), b.gateway("front-3", elsewhere))
	if _, err = b.imports(t.Context(), "--maildir", dir, annas); err == nil || !strings.Contains(err.Error(), "taken in region je only") {
		t.Errorf("elsewhere: %v", err)
	}
}

func TestImportDryRun(t *testing.T) {
	b := newBench(t).anna()
	dir, uids := oldMaildir(t, 3)
	writeMessage(t, filepath.Join(dir, "new", "1600000000.M1P1.h"), "Subject: old\n\n", 61*24*time.Hour)
	out, err := b.imports(t.Context(), "--maildir", dir, annas, "--dry-run", "-o", "json")
	noError(t, err)
	var plans []importPlan
	noError(t, json.Unmarshal([]byte(out), &plans))
	if len(plans) != 4 || plans[2].N != 3 || plans[2].UID != uids[2] || plans[0].Octets == 0 || plans[3].Why != "too old" || plans[3].N != 0 {
		t.Errorf("%+v", plans)
	}
	if b.mail.calls > 0 {
		t.Error("something was sent")
	}
	out, err = b.imports(t.Context(), "--maildir", dir, annas, "--dry-run")
	noError(t, err)
	if !strings.Contains(out, uids[0]) || !strings.Contains(out, "not moved: too old") {
		t.Error(out)
	}
}

// Ctrl-C ends the command at once, with a report, and the next run goes on.
func TestImportInterrupted(t *testing.T) {
	b := newBench(t).anna()
	dir, uids := oldMaildir(t, 6)
	ctx, interrupt := context.WithCancel(t.Context())
	b.mail.before = func(ctx context.Context, call int, _ maildrop.Envelope) error {
		if call < 4 {
			return nil
		}
		interrupt()
		<-ctx.Done()
		return ctx.Err()
	}
	report, err := b.report(ctx, "--maildir", dir, annas)
	said := fmt.Sprintf("stopped before message %d of 6: interrupted", report.Stored+1) // the last verdicts may be under way
	if err == nil || !strings.Contains(report.Stopped, said) || report.Stored > 3 {
		t.Errorf("%v: %+v", err, report)
	}
	b.mail.before = nil
	_, err = b.report(t.Context(), "--maildir", dir, annas)
	noError(t, err)
	if got := b.mail.uids(); !slices.Equal(got, uids) {
		t.Errorf("%q", got)
	}
}

// A message that is gone when its turn comes is said, and no failure.
func TestImportOfMaildirInUse(t *testing.T) {
	b := newBench(t).anna()
	dir, uids := oldMaildir(t, 200)
	last := filepath.Join(dir, "cur", fmt.Sprintf("%d.M1P1.h:2,S", 1_700_000_000-199))
	b.mail.before = func(_ context.Context, call int, _ maildrop.Envelope) error {
		if call == 1 { // long before its turn
			return os.Remove(last)
		}
		return nil
	}
	report, err := b.report(t.Context(), "--maildir", dir, annas)
	noError(t, err)
	if report.Stored != 199 || len(report.Skipped) != 1 || report.Skipped[0].Why != "vanished" {
		t.Errorf("%+v", report)
	}
	if got := b.mail.uids(); !slices.Equal(got, uids[:199]) {
		t.Errorf("%q", got)
	}
}
