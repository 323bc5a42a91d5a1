package main

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/postern-pop/postern/pkg/mailclient"
)

// realDovecot is a Dovecot on a Maildir, for one POP3 session at a time over its
// standard input and output.
type realDovecot struct {
	t   *testing.T
	dir string
	who *syscall.Credential // who serves; nil: whoever tests
}

func newRealDovecot(t *testing.T) *realDovecot {
	t.Helper()
	for _, needed := range []string{"/usr/bin/doveadm", "/usr/lib/dovecot/pop3", "/usr/lib/dovecot/dovecot-lda"} {
		if _, err := os.Stat(needed); err != nil {
			t.Skipf("dovecot-pop3d is not installed, so an import is not compared with what it serves: %v", err)
		}
	}
	dir, err := os.MkdirTemp("", "postern-import-*") //nolint:usetesting // t.TempDir is below a directory of its owner's alone
	noError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	d := &realDovecot{t: t, dir: dir}
	if os.Geteuid() == 0 { // whom Dovecot doesn't serve
		nobody, err := user.Lookup("nobody")
		noError(t, err)
		uid, _ := strconv.ParseUint(nobody.Uid, 10, 32)
		gid, _ := strconv.ParseUint(nobody.Gid, 10, 32)
		d.who = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	}
	for _, sub := range []string{"", "Maildir", "Maildir/new", "Maildir/cur", "Maildir/tmp"} {
		noError(t, os.MkdirAll(filepath.Join(dir, sub), 0o755))
		d.own(filepath.Join(dir, sub))
	}
	noError(t, os.Chmod(dir, 0o755))
	noError(t, os.WriteFile(filepath.Join(dir, "dovecot.conf"), fmt.Appendf(nil, "base_dir = %[1]s\nstate_dir = %[1]s\nprotocols =\nssl = no\n"+
		"mail_location = maildir:%[1]s/Maildir\nfirst_valid_uid = 1\nfirst_valid_gid = 0\nlog_path = /dev/stderr\n"+
		"postmaster_address = postmaster@example.com\nhostname = example.com\n", dir), 0o600))
	d.own(filepath.Join(dir, "dovecot.conf"))
	return d
}

func (d *realDovecot) own(file string) {
	d.t.Helper()
	if d.who != nil {
		noError(d.t, os.Chown(file, int(d.who.Uid), int(d.who.Gid)))
	}
}

func (d *realDovecot) command(args ...string) *exec.Cmd {
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Dir, cmd.Env = d.dir, []string{"HOME=" + d.dir, "USER=nobody", "PATH=/usr/bin:/bin"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: d.who}
	return cmd
}

// deliver delivers as a mail server does.
func (d *realDovecot) deliver(message string) {
	d.t.Helper()
	cmd := d.command("/usr/lib/dovecot/dovecot-lda", "-c", filepath.Join(d.dir, "dovecot.conf"), "-f", "sender@example.org")
	cmd.Stdin = strings.NewReader(message)
	if out, err := cmd.CombinedOutput(); err != nil {
		d.t.Fatalf("dovecot-lda: %v\n%s", err, out)
	}
}

// put puts a file there, as another mail server would.
func (d *realDovecot) put(name, message string) {
	d.t.Helper()
	file := filepath.Join(d.dir, "Maildir", name)
	writeMessage(d.t, file, message, time.Hour)
	d.own(file)
}

// numberOf is the number that Dovecot has given to a file; 0: none yet. It looks at a
// folder again only when that has changed by its clock's second.
func (d *realDovecot) numberOf(name string) (number int) {
	d.t.Helper()
	list, err := os.ReadFile(filepath.Join(d.dir, "Maildir", "dovecot-uidlist"))
	noError(d.t, err)
	for line := range strings.Lines(string(list)) {
		if strings.HasSuffix(strings.TrimSpace(line), ":"+name) {
			_, err := fmt.Sscan(line, &number)
			noError(d.t, err)
		}
	}
	return number
}

// session is the unique-ids and the messages that Dovecot serves.
func (d *realDovecot) session() (uids []string, messages []string) {
	d.t.Helper()
	var log bytes.Buffer
	cmd := d.command("/usr/bin/doveadm", "-c", filepath.Join(d.dir, "dovecot.conf"), "exec", "pop3")
	cmd.Stderr = &log
	in, err := cmd.StdinPipe()
	noError(d.t, err)
	out, err := cmd.StdoutPipe()
	noError(d.t, err)
	noError(d.t, cmd.Start())
	r := bufio.NewReader(out)
	ask := func(command string, lines func(string)) {
		fmt.Fprintf(in, "%s\r\n", command)
		line, err := r.ReadString('\n')
		if err != nil || !strings.HasPrefix(line, "+OK") {
			d.t.Fatalf("%s: %q, %v\n%s", command, line, err, log.String())
		}
		for lines != nil {
			line, err := r.ReadString('\n')
			noError(d.t, err)
			if line == ".\r\n" {
				return
			}
			lines(strings.TrimPrefix(line, "."))
		}
	}
	ask("UIDL", func(line string) {
		_, uid, _ := strings.Cut(strings.TrimRight(line, "\r\n"), " ")
		uids = append(uids, uid)
	})
	for n := range uids {
		var message strings.Builder
		ask("RETR "+strconv.Itoa(n+1), func(line string) { message.WriteString(line) })
		messages = append(messages, message.String())
	}
	ask("QUIT", nil)
	in.Close()
	noError(d.t, cmd.Wait())
	return uids, messages
}

// oddMessages are messages that are stored and sent otherwise than they look.
func oddMessages() []string {
	all := []string{
		"Subject: dots\n\n.\n..\n.x\n...\n.",
		"Subject: no final newline\n\nbody",
		"Subject: CRLF\r\n\r\nbody\r\n",
		"Subject: mixed\r\n\nbody\r\nline\nline\r\n",
		"Subject: CR\n\na\rb\r\rc\r\r\n\r",
		"Subject: 8-bit \xe4\xf6\xfc\n\n\xff\xfe\x80\n",
		"Subject: NUL\n\na\x00b\x00\n",
		"Subject: no body\n\n",
		"Subject: no empty line\n",
		"\nbody alone\n",
		"Subject: long line\n\n" + strings.Repeat("x", 200_000) + "\n",
		"Subject: large\n\n" + strings.Repeat(".a line of a large message\n", 100_000),
	}
	for i := range 13 {
		all = append(all, fmt.Sprintf("From: a@example.org\nSubject: %d\n\nHello %d\n", i, i))
	}
	return all
}

// A maildrop that moves from a Dovecot looks to a mail client as it did there:
// the same unique-ids in the same order, and the same octets. Moved again it is
// the same maildrop.
func TestImportFromDovecot(t *testing.T) {
	old := newRealDovecot(t)
	for i, message := range oddMessages() {
		if message[0] != '\n' {
			old.deliver(message)
		}
		old.put(fmt.Sprintf("new/%d.M%dP1.old", 1_700_000_000-i, i), message)
	}
	uids, messages := old.session()
	old.put("cur/1700000001.M1P2.old:2,ST", "Subject: trashed\n\n")
	at := startStandalone(t)
	for range 2 {
		var report importReport
		at.operate(&report, "import", "--maildir", filepath.Join(old.dir, "Maildir"), "zoe@shop.example")
		if report.Stored != len(uids) || len(report.Skipped) != 1 {
			t.Errorf("%+v", report)
		}
		gotUIDs, gotMessages := at.maildrop()
		if !slices.Equal(gotUIDs, uids) {
			t.Fatalf("unique-ids are\n%q, Dovecot's are\n%q", gotUIDs, uids)
		}
		for i := range messages {
			if gotMessages[i] != messages[i] {
				t.Errorf("message %d, %s, has %d octets %.60q, Dovecot sends %d octets %.60q", i+1, uids[i], len(gotMessages[i]), gotMessages[i], len(messages[i]), messages[i])
			}
		}
	}
	old.deliver("Subject: later\n\n")
	uids, _ = old.session()
	if trashed := old.numberOf("1700000001.M1P2.old"); trashed != 0 { // Dovecot has noticed it, and shows it
		uids = slices.DeleteFunc(uids, func(uid string) bool { return strings.HasPrefix(uid, fmt.Sprintf("%08x", trashed)) })
	}
	var report importReport
	at.operate(&report, "import", "--maildir", filepath.Join(old.dir, "Maildir"), "zoe@shop.example")
	if got, _ := at.maildrop(); !slices.Equal(got, uids) {
		t.Errorf("with later mail unique-ids are\n%q, want\n%q", got, uids)
	}
}

// standaloneZA is a standalone region with one user.
type standaloneZA struct {
	t                        *testing.T
	dir, pop, lmtp, password string
}

func startStandalone(t *testing.T) *standaloneZA {
	t.Helper()
	ofProcesses(t)
	base, dir := freePorts(t), filepath.Join(t.TempDir(), "data")
	port := func(n int) string { return fmt.Sprintf("127.0.0.1:%d", base+n) }
	cmd := exec.Command(binary, "standalone", "--data", dir, "--region", "../../regions/za.yaml",
		"--pop3s", port(10), "--lmtp", port(11), "--gateway", port(12), "--http", port(13), "--base-port", strconv.Itoa(base))
	noError(t, cmd.Start())
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() { cmd.Process.Kill(); <-ended })
	awaitHTTP(t, "http://"+port(13)+"/readyz", ended)
	s := &standaloneZA{t: t, dir: dir, pop: port(10), lmtp: port(11)}
	var ignored any
	var zoe struct{ Password string }
	s.operate(&ignored, "account", "create", "shop", "--region", "za")
	s.operate(&ignored, "domain", "add", "shop.example", "--account", "shop", "--kind", "local")
	s.operate(&zoe, "address", "add", "zoe@shop.example")
	s.password = zoe.Password
	return s
}

// operate runs an operator's command.
func (s *standaloneZA) operate(into any, args ...string) {
	s.t.Helper()
	out, err := exec.Command(binary, append(args, "-o", "json", "--context", contextFile(s.dir))...).Output()
	if err != nil {
		s.t.Fatalf("%v: %v\n%s%s", args, err, out, exitError(err))
	}
	noError(s.t, json.Unmarshal(out, into))
}

// maildrop is what a mail client sees.
func (s *standaloneZA) maildrop() (uids, messages []string) {
	s.t.Helper()
	pop, err := mailclient.DialPOP(s.t.Context(), s.pop, s.tls())
	noError(s.t, err)
	defer pop.Close()
	noError(s.t, pop.Login("zoe@shop.example", s.password))
	byNumber, err := pop.UIDs()
	noError(s.t, err)
	for n := 1; n <= len(byNumber); n++ {
		var message bytes.Buffer
		_, err := pop.Retr(n, &message)
		noError(s.t, err)
		uids, messages = append(uids, byNumber[n]), append(messages, message.String())
	}
	noError(s.t, pop.Quit())
	return uids, messages
}

// tls is how a mail client trusts the region's front.
func (s *standaloneZA) tls() *tls.Config {
	s.t.Helper()
	pool, err := readPool(filepath.Join(publicDir(s.dir), "ca.pem"))
	noError(s.t, err)
	return &tls.Config{RootCAs: pool, ServerName: "za-pop.postern-za.example"}
}
