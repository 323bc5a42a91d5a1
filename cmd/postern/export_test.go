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
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/postern-pop/postern/pkg/blob/blobtest"
	"github.com/postern-pop/postern/pkg/config"
	"github.com/postern-pop/postern/pkg/maildrop"
	"github.com/postern-pop/postern/pkg/maildroptest"
	"github.com/postern-pop/postern/pkg/movein"
	"github.com/postern-pop/postern/pkg/shard"
)

// maildirOf makes a Maildir of messages, with a list that says their unique-ids.
func maildirOf(t *testing.T, messages []string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "Maildir")
	list := fmt.Sprintf("3 V1700000000 N%d\n", len(messages)+1)
	for _, sub := range []string{"new", "cur", "tmp"} {
		noError(t, os.MkdirAll(filepath.Join(dir, sub), 0o700))
	}
	for i, message := range messages {
		name := fmt.Sprintf("%d.M%dP1.old", 1_700_000_000+i, i)
		file := filepath.Join(dir, "new", name)
		noError(t, os.WriteFile(file, []byte(message), 0o600))
		at := time.Now().Add(-time.Duration(i*7+1) * time.Hour)
		noError(t, os.Chtimes(file, at, at))
		if i%3 > 0 { // the others keep Dovecot's default
			list += fmt.Sprintf("%d Pold-%d{~} :%s\n", i+1, i, name)
		} else {
			list += fmt.Sprintf("%d :%s\n", i+1, name)
		}
	}
	noError(t, os.WriteFile(filepath.Join(dir, "dovecot-uidlist"), []byte(list), 0o600))
	return dir
}

// moved is a message as an import reads it.
type moved struct {
	uid      maildrop.UID
	received time.Time
	size     uint64
	wire     string
}

// readMaildir reads a Maildir as postern import does, and hands each message on.
func readMaildir(t *testing.T, dir string, each func(maildrop.Envelope, *movein.Content)) (all []moved) {
	t.Helper()
	m, err := movein.OpenMaildir(dir, movein.MaildirOptions{Now: time.Now()})
	noError(t, err)
	defer m.Close()
	if m.Replaced != 0 || len(m.Skipped) != 0 {
		t.Errorf("%s: %d replaced, skipped %v", dir, m.Replaced, m.Skipped)
	}
	for _, message := range m.Messages {
		content, err := message.Measure()
		noError(t, err)
		r, err := content.Open()
		noError(t, err)
		octets, err := io.ReadAll(r)
		noError(t, err)
		r.Close()
		all = append(all, moved{message.UID, message.Received.Truncate(time.Second).UTC(), content.Size(), string(octets)})
		if each != nil {
			each(content.Envelope(auditedUser, ""), content)
		}
	}
	return all
}

// exportable are messages of every form that a mailbox can hold.
func exportable() []string {
	return append(oddMessages(), "", "\n", ".", ".\n", "..\n.", "\r\n.\r\n", "\r", "\r\r", "\r\r\n", "a\r\r\n.b\r\n", "\r\r\r\n\r", "x\r", "\x00", ".\r\r\n.\r\n",
		strings.Repeat(".a\r\r\n.\r\n", 200_000), strings.Repeat("y", 1<<20)+"\n.\n")
}

// Imported, exported and imported again, a mailbox is the same: octets, unique-ids, dates, order.
func TestExportRoundTrip(t *testing.T) {
	a, b := newAudited(t, ""), newAudited(t, "")
	var before []moved
	a.owns(auditedUser, func(s *shard.Shard) {
		a.record(s, maildrop.AddressRecord{Address: auditedUser})
		before = readMaildir(t, maildirOf(t, exportable()), func(e maildrop.Envelope, c *movein.Content) {
			noError(t, s.Deliver(context.Background(), e, c))
		})
	})
	dir := filepath.Join(t.TempDir(), "made", "here")
	code, out, said := tool(t, "export", string(auditedUser), "--region", a.file, "--maildir", dir)
	if code != 0 || !strings.Contains(out, fmt.Sprintf("%d messages", len(before))) {
		t.Fatalf("%d\n%s%s", code, out, said)
	}
	after := readMaildir(t, dir, nil)
	same(t, after, before)
	b.owns(auditedUser, func(s *shard.Shard) { // and the octets that a client gets
		b.record(s, maildrop.AddressRecord{Address: auditedUser})
		readMaildir(t, dir, func(e maildrop.Envelope, c *movein.Content) { noError(t, s.Deliver(context.Background(), e, c)) })
		d, err := s.Open(context.Background(), maildrop.Login{Address: auditedUser, Password: "x"})
		noError(t, err)
		entries, err := maildrop.Entries(context.Background(), d)
		noError(t, err)
		var got []moved
		for i, e := range entries {
			var octets bytes.Buffer
			_, err := d.Read(context.Background(), e.UID, 0, &octets)
			noError(t, err)
			got = append(got, moved{e.UID, before[i].received, e.Size, octets.String()})
		}
		same(t, got, before)
	})
	crlf := 0 // less those that need it
	for _, m := range before {
		if strings.Contains(m.wire, "\r\r") {
			crlf--
		}
	}
	for _, file := range exportedFiles(t, dir) {
		content, err := os.ReadFile(file)
		noError(t, err)
		if bytes.Contains(content, []byte("\r\n")) {
			crlf++
		}
		if info, err := os.Stat(file); err != nil || !strings.Contains(file, fmt.Sprintf(",S=%d,W=", info.Size())) || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", file, info, err)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "tmp", "*")); len(left) != 0 || crlf != 0 {
		t.Errorf("left %v; %d messages too many have CRLF", left, crlf)
	}
}

func same(t *testing.T, got, want []moved) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%d messages, want %d", len(got), len(want))
	}
	for i := range want {
		if got[i] != want[i] {
			g, w := got[i], want[i]
			t.Errorf("message %d: %s %s %d %.80q (%d octets), want %s %s %d %.80q (%d octets)",
				i, g.uid, g.received, g.size, g.wire, len(g.wire), w.uid, w.received, w.size, w.wire, len(w.wire))
		}
	}
}

func exportedFiles(t *testing.T, dir string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "new", "*"))
	noError(t, err)
	return files
}

// A Dovecot that gets the Maildir serves the unique-ids and octets that we did.
func TestExportToDovecot(t *testing.T) {
	server := newRealDovecot(t)
	a := newAudited(t, "")
	var want []moved
	a.owns(auditedUser, func(s *shard.Shard) {
		a.record(s, maildrop.AddressRecord{Address: auditedUser})
		messages := slices.DeleteFunc(exportable(), func(m string) bool { return m == "" || m[0] == '.' }) // those that Dovecot gets wrong
		want = readMaildir(t, maildirOf(t, messages), func(e maildrop.Envelope, c *movein.Content) {
			if len(e.UID)%2 == 0 {
				e.UID = "" // one of ours
			}
			noError(t, s.Deliver(context.Background(), e, c))
		})
	})
	dir := filepath.Join(server.dir, "Maildir")
	if code, out, said := tool(t, "export", string(auditedUser), "--region", a.file, "--maildir", dir); code != 0 {
		t.Fatalf("%d\n%s%s", code, out, said)
	}
	noError(t, filepath.WalkDir(dir, func(file string, _ os.DirEntry, err error) error { server.own(file); return err }))
	var listed []string
	a.owns(auditedUser, func(s *shard.Shard) {
		d, err := s.Open(context.Background(), maildrop.Login{Address: auditedUser, Password: "x"})
		noError(t, err)
		entries, err := maildrop.Entries(context.Background(), d)
		noError(t, err)
		for _, e := range entries {
			listed = append(listed, string(e.UID))
		}
	})
	for range 2 {
		uids, messages := server.session()
		if !slices.Equal(uids, listed) {
			t.Fatalf("unique-ids are\n%q, want\n%q", uids, listed)
		}
		for i, message := range messages {
			if plain := unstuffedWire(want[i].wire); message != plain {
				t.Errorf("message %d has %d octets %.60q, want %d octets %.60q", i, len(message), message, len(plain), plain)
			}
		}
	}
}

func unstuffedWire(wire string) string {
	var plain strings.Builder
	for line := range strings.Lines(wire) {
		plain.WriteString(strings.TrimPrefix(line, "."))
	}
	return plain.String()
}

// What is removed or damaged isn't there, and what is there is never overwritten.
func TestExportCommand(t *testing.T) {
	a := newAudited(t, "")
	a.fill()
	const alias = "a.n@local.example"
	a.owns(alias, func(s *shard.Shard) { a.record(s, maildrop.AddressRecord{Address: alias, Primary: auditedUser}) })
	a.owns(auditedUser, func(s *shard.Shard) {
		d, err := s.Open(context.Background(), maildrop.Login{Address: auditedUser, Password: "x"})
		noError(t, err)
		entries, err := maildrop.Entries(context.Background(), d)
		noError(t, err)
		noError(t, d.Remove(context.Background(), []maildrop.UID{entries[0].UID}))
		noError(t, s.Deliver(context.Background(), maildrop.Envelope{ID: maildrop.RandomID(), To: auditedUser}, maildroptest.Text("")))
	})
	dir := filepath.Join(t.TempDir(), "M")
	if code, out, said := tool(t, "export", alias, "--region", a.file, "--maildir", dir); code != 0 || !strings.HasPrefix(out, "anna@local.example: 6 messages") {
		t.Errorf("%d\n%s%s", code, out, said)
	}
	if code, _, said := tool(t, "export", alias, "--region", a.file, "--maildir", dir); code != exitFailed || !strings.Contains(said, "expected a Maildir without messages") {
		t.Errorf("%d, %s", code, said)
	}
	for _, address := range []string{"nobody@local.example", "x@local.example", "y@local.example", "z@local.example", "not an address"} {
		if code, _, said := tool(t, "export", address, "--region", a.file, "--maildir", dir+"2"); code != exitFailed || said == "" {
			t.Errorf("%s: %d, %s", address, code, said)
		}
	}
	if _, err := os.Stat(dir + "2"); err == nil {
		t.Error("a Maildir was made for nobody")
	}
	flip(t, a.files("body")[0], 1000)
	code, out, said := tool(t, "export", string(auditedUser), "--region", a.file, "--maildir", dir+"3", "-o", "json")
	var report exportReport
	noError(t, json.Unmarshal([]byte(out), &report))
	if code != exitFailed || report.Messages != 5 || len(report.Lost) != 1 || len(exportedFiles(t, dir+"3")) != 5 || !strings.Contains(said, "postern fsck --region") {
		t.Errorf("%d, %s%s", code, out, said)
	}
}

// Beside an owner who moves bodies into packs and deletes what is removed, every
// message that lives is exported.
func TestExportOfALiveMailbox(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, ctx := blobtest.NewMemory(), context.Background()
		s := agingShard(t, store)
		var ids []maildrop.UID
		for i := range 8 {
			uid := maildrop.UID(fmt.Sprint("message-", i))
			noError(t, s.Deliver(ctx, maildrop.Envelope{ID: maildrop.RandomID(), To: auditedUser, UID: uid}, maildroptest.Filled(50_000+i, byte(i))))
			ids = append(ids, uid)
		}
		e := &export{region: &regionStore{Region: &config.Region{Name: "eu", Shards: 4}, store: store, log: noLog}}
		noError(t, e.find(ctx, auditedUser))
		time.Sleep(30 * time.Hour)
		d, err := s.Open(ctx, maildrop.Login{Address: auditedUser, Password: "x"})
		noError(t, err)
		noError(t, d.Remove(ctx, ids[:2]))
		time.Sleep(20 * time.Hour)
		dir := filepath.Join(t.TempDir(), "M")
		noError(t, e.all(ctx, dir, io.Discard))
		if e.report.Messages != 6 || e.report.Gone != 2 || len(e.report.Lost) != 0 {
			t.Errorf("%+v", e.report)
		}
		var got []maildrop.UID
		for _, m := range readMaildir(t, dir, nil) {
			got = append(got, m.uid)
		}
		if !slices.Equal(got, ids[2:]) {
			t.Errorf("%q, want %q", got, ids[2:])
		}
		noError(t, s.Close(ctx))
	})
}

// What is given up leaves no message behind.
func TestExportGivesUp(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "M")
	w, err := newMaildir(dir)
	noError(t, err)
	body := func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader("Subject: x\r\n\r\n")), nil }
	noError(t, w.add(exported{uid: "1", received: time.Now(), order: "1/1"}, body))
	broken := func() (io.ReadCloser, error) { return io.NopCloser(iotest.ErrReader(io.ErrUnexpectedEOF)), nil }
	if err := w.add(exported{uid: "2", received: time.Now(), order: "1/2"}, broken); err == nil {
		t.Error("a message that can't be read is added")
	}
	w.close()
	for _, sub := range []string{"new", "cur", "tmp"} {
		if left, err := os.ReadDir(filepath.Join(dir, sub)); err != nil || len(left) != 0 {
			t.Errorf("%s: %v, %v", sub, left, err)
		}
	}
	if _, err := newMaildir(dir); err != nil {
		t.Errorf("the next run: %v", err)
	}
}
