package movein

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// oldServer is a POP3 server of somebody else on a Maildir, run for one session
// at a time over its standard input and output.
type oldServer struct {
	t       *testing.T
	maildir string
	greets  bool // else its greeting was its login's, which is not there
	command func() *exec.Cmd
}

// fetched is what a session saw.
type fetched struct {
	uids     []string
	messages []string // as RETR sent them, without dot-stuffing and the end
}

// session asks for UIDL and RETR of all.
func (s *oldServer) session() (f fetched) {
	s.t.Helper()
	cmd := s.command()
	in, err := cmd.StdinPipe()
	noError(s.t, err)
	out, err := cmd.StdoutPipe()
	noError(s.t, err)
	var log bytes.Buffer
	cmd.Stderr = &log
	noError(s.t, cmd.Start())
	r := bufio.NewReader(out)
	ask := func(command string) {
		fmt.Fprintf(in, "%s\r\n", command)
		if line, err := r.ReadString('\n'); err != nil || !strings.HasPrefix(line, "+OK") {
			s.t.Fatalf("%s: %q, %v\n%s", command, line, err, log.String())
		}
	}
	if s.greets {
		_, err := r.ReadString('\n')
		noError(s.t, err)
	}
	ask("UIDL")
	for line := range strings.Lines(multiline(s.t, r)) {
		_, uid, _ := strings.Cut(strings.TrimRight(line, "\r\n"), " ")
		f.uids = append(f.uids, uid)
	}
	for n := range f.uids {
		ask("RETR " + strconv.Itoa(n+1))
		f.messages = append(f.messages, multiline(s.t, r))
	}
	ask("QUIT")
	in.Close()
	noError(s.t, cmd.Wait())
	return f
}

// multiline is a reply's octets behind its first line.
func multiline(t *testing.T, r *bufio.Reader) string {
	t.Helper()
	var all strings.Builder
	for {
		line, err := r.ReadString('\n')
		noError(t, err)
		if line == ".\r\n" {
			return all.String()
		}
		all.WriteString(strings.TrimPrefix(line, "."))
	}
}

// serverDir is a directory that a server without privileges can reach, and who
// that is: nobody when the test is root, which Dovecot refuses to serve.
func serverDir(t *testing.T) (dir string, who *syscall.Credential) {
	t.Helper()
	dir, err := os.MkdirTemp("", "postern-movein-*") //nolint:usetesting // t.TempDir is below a directory of its owner's alone
	noError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	noError(t, os.Chmod(dir, 0o755))
	if os.Geteuid() != 0 {
		return dir, nil
	}
	nobody, err := user.Lookup("nobody")
	noError(t, err)
	uid, _ := strconv.ParseUint(nobody.Uid, 10, 32)
	gid, _ := strconv.ParseUint(nobody.Gid, 10, 32)
	return dir, &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
}

func newMaildir(t *testing.T, dir string, who *syscall.Credential) string {
	t.Helper()
	maildir := filepath.Join(dir, "Maildir")
	for _, sub := range []string{"", "new", "cur", "tmp"} {
		noError(t, os.Mkdir(filepath.Join(maildir, sub), 0o700))
		owned(t, filepath.Join(maildir, sub), who)
	}
	return maildir
}

func owned(t *testing.T, file string, who *syscall.Credential) {
	t.Helper()
	if who != nil {
		noError(t, os.Chown(file, int(who.Uid), int(who.Gid)))
	}
}

// dovecot is a Dovecot for one user, with settings of its own.
func dovecot(t *testing.T, settings string) (server *oldServer, deliver func(message string)) {
	t.Helper()
	const lda = "/usr/lib/dovecot/dovecot-lda"
	for _, needed := range []string{"/usr/bin/doveadm", "/usr/lib/dovecot/pop3", lda} {
		if _, err := os.Stat(needed); err != nil {
			t.Skipf("dovecot-pop3d is not installed, so what is read is not compared with what it serves: %v", err)
		}
	}
	dir, who := serverDir(t)
	maildir := newMaildir(t, dir, who)
	owned(t, dir, who)
	config := filepath.Join(dir, "dovecot.conf")
	noError(t, os.WriteFile(config, fmt.Appendf(nil, `base_dir = %[1]s
state_dir = %[1]s
protocols =
ssl = no
mail_location = maildir:%[1]s/Maildir
first_valid_uid = 1
first_valid_gid = 0
log_path = /dev/stderr
postmaster_address = postmaster@example.com
hostname = example.com
%[2]s
`, dir, settings), 0o644))
	run := func(args ...string) *exec.Cmd {
		cmd := exec.Command(args[0], args[1:]...)
		cmd.Env = []string{"HOME=" + dir, "USER=nobody", "PATH=/usr/bin:/bin"}
		cmd.Dir = dir
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: who}
		return cmd
	}
	server = &oldServer{t: t, maildir: maildir, command: func() *exec.Cmd {
		return run("/usr/bin/doveadm", "-c", config, "exec", "pop3")
	}}
	return server, func(message string) {
		t.Helper()
		cmd := run(lda, "-c", config, "-f", "sender@example.org")
		cmd.Stdin = strings.NewReader(message)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("dovecot-lda: %v\n%s", err, out)
		}
	}
}

// courier is Courier's pop3d on a Maildir, behind its login.
func courier(t *testing.T) *oldServer {
	t.Helper()
	dir, who := serverDir(t)
	// Where Debian puts it, or below a directory that a package was unpacked into.
	root := os.Getenv("COURIER_ROOT")
	pop3d := root + "/usr/lib/courier/courier/courierpop3d"
	if _, err := os.Stat(pop3d); err != nil {
		t.Skipf("courier-pop is not installed (COURIER_ROOT may say where it is unpacked), so what is read is not compared with what it serves: %v", err)
	}
	maildir := newMaildir(t, dir, who)
	owned(t, dir, who)
	return &oldServer{t: t, maildir: maildir, greets: true, command: func() *exec.Cmd {
		cmd := exec.Command(pop3d, maildir)
		cmd.Env = []string{"AUTHENTICATED=anna", "AUTHADDR=anna", "MAILDIR=" + maildir, "TCPREMOTEIP=127.0.0.1", "HOME=" + dir,
			"LD_LIBRARY_PATH=" + root + "/usr/lib:" + root + "/usr/lib/x86_64-linux-gnu"}
		cmd.Dir = maildir
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: who}
		return cmd
	}}
}

// put makes a file of a message, as another program would.
func (s *oldServer) put(who *syscall.Credential, name, message string) {
	s.t.Helper()
	file := filepath.Join(s.maildir, name)
	noError(s.t, os.WriteFile(file, []byte(message), 0o600))
	owned(s.t, file, who)
}

// put's owner, of the Maildir.
func (s *oldServer) owner() *syscall.Credential {
	s.t.Helper()
	info, err := os.Stat(s.maildir)
	noError(s.t, err)
	stat := info.Sys().(*syscall.Stat_t)
	return &syscall.Credential{Uid: stat.Uid, Gid: stat.Gid}
}

// odd are messages of every form that a file can have. But for two: of a file
// without any octet Dovecot makes an empty line, and a dot at the very first
// octet is stuffed by neither server, so that the client loses it.
func odd() []string {
	random := rand.New(rand.NewPCG(1, 2))
	large := make([]byte, 3<<20)
	for i := range large {
		large[i] = " abcdefghijklmnopqrstuvwxyz.\n"[random.IntN(29)]
	}
	return []string{
		"Subject: plain\n\nbody\n",
		"Subject: CRLF\r\n\r\nbody\r\n",
		"Subject: mixed\r\n\nbody\r\nline\nline\r\n",
		"Subject: dots\n\n.\n..\n.x\n...\nx.\n.",
		"Subject: CRLF dots\r\n\r\n.\r\n..\r\n.x\r\n.",
		"Subject: dot first\n\n.\n",
		"Subject: no final newline\n\nbody",
		"Subject: a CR at the end\n\nbody\r",
		"Subject: CRs\n\na\rb\r\rc\r\r\nd\n",
		"Subject: 8-bit \xe4\xf6\xfc\n\n\xff\xfe\x80\n",
		"Subject: NUL\n\na\x00b\x00\n",
		"Subject: no body\n\n",
		"Subject: no empty line\n",
		"Subject: no line end at all",
		"\n",
		"\nbody alone\n",
		"\n\n\n",
		"Subject: long line\n\n" + strings.Repeat("x", 200_000) + "\n",
		"Subject: long line of dots\n\n" + strings.Repeat(".", 70_000),
		"Subject: many lines\n\n" + strings.Repeat("line\n", 20_000),
		"Subject: From\n\nFrom the start\n>From quoted\n",
		"Subject: large\n\n" + string(large),
	}
}

// compare holds what is read against what the server served.
func compare(t *testing.T, m *Maildrop, want fetched) {
	t.Helper()
	if len(m.Messages) != len(want.uids) {
		t.Fatalf("%d messages, the server has %d", len(m.Messages), len(want.uids))
	}
	for i, message := range m.Messages {
		if string(message.UID) != want.uids[i] {
			t.Errorf("message %d, %s, has unique-id %s, the server says %s", i+1, message.Name, message.UID, want.uids[i])
		}
		if got := unstuffed(t, message); got != want.messages[i] {
			t.Errorf("message %d, %s, has %d octets %.60q, the server sends %d octets %.60q", i+1, message.Name, len(got), got, len(want.messages[i]), want.messages[i])
		}
	}
}

// unstuffed is a message as RETR's client has it, and its counts are true.
func unstuffed(t *testing.T, m *Message) string {
	t.Helper()
	content, err := m.Measure()
	noError(t, err)
	r, err := content.Open()
	noError(t, err)
	defer r.Close()
	octets, err := io.ReadAll(r)
	noError(t, err)
	if uint64(len(octets)) != content.Wire() {
		t.Errorf("%s: %d octets, it said %d", m.Name, len(octets), content.Wire())
	}
	var plain strings.Builder
	for line := range strings.Lines(string(octets)) {
		if !strings.HasSuffix(line, "\r\n") {
			t.Errorf("%s: a line ends without CRLF", m.Name)
		}
		plain.WriteString(strings.TrimPrefix(line, "."))
	}
	if uint64(plain.Len()) != content.Size() {
		t.Errorf("%s: size %d, it said %d", m.Name, plain.Len(), content.Size())
	}
	return plain.String()
}

// What is read of a Dovecot's Maildir is what that Dovecot serves: the same
// unique-ids, order and octets.
func TestDovecot(t *testing.T) {
	for _, c := range []struct{ name, settings, format string }{
		{"by default", "", ""},
		{"uid alone", "pop3_uidl_format = %u", "%u"},
		{"validity and uid", "pop3_uidl_format = %v.%u", "%v.%u"},
		{"as Cyrus", "pop3_uidl_format = %v.%u%%", "%v.%u%%"},
		{"upper hexadecimal", "pop3_uidl_format = %08XUu-%XLv", "%08XUu-%XLv"},
		{"file names", "pop3_uidl_format = %f", "%f"},
		{"guids", "pop3_uidl_format = %g", "%g"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			server, deliver := dovecot(t, c.settings)
			messages := odd()
			if c.name != "by default" {
				messages = messages[:8]
			}
			for i, message := range messages {
				if i%2 == 0 && message[0] != '\n' {
					deliver(message)
				}
				server.put(server.owner(), fmt.Sprintf("new/%d.M%dP1.old", 1_600_000_000+i/3, 9-i), message)
				server.put(server.owner(), fmt.Sprintf("cur/%d.M%dP2.old:2,S", 1_650_000_000+i, i), message)
			}
			options := MaildirOptions{Now: time.Now()}
			if c.format != "" {
				format, err := ParseUIDFormat(c.format)
				noError(t, err)
				options.Format = format
			}
			want := server.session() // before it there is no list
			compare(t, read(t, server.maildir, options), want)
			for i, message := range messages[:3] {
				server.put(server.owner(), fmt.Sprintf("new/%d.M%dP3.old", 1_700_000_000-i%2, 3-i), message)
			}
			next := read(t, server.maildir, options)
			compare(t, next, server.session()) // also of those that the server had not listed yet
		})
	}
}

// A message's place in the listing may be said by the list, as conversions from
// other servers do, and its unique-id.
func TestDovecotOrder(t *testing.T) {
	server, _ := dovecot(t, "")
	for i := range 6 {
		server.put(server.owner(), fmt.Sprintf("cur/170000000%d.M1P1.old:2,S", i), fmt.Sprintf("Subject: %d\n\n", i))
	}
	server.put(server.owner(), dovecotFile, "3 V1700000099 N99 G0123456789abcdef0123456789abcdef\n"+
		"7 W5 Pxyz O3 :1700000000.M1P1.old\n8 P O2 :1700000001.M1P1.old:2,\n10 :1700000002.M1P1.old\n11 Gabcdef O7 :1700000005.M1P1.old\n")
	next := read(t, server.maildir, MaildirOptions{Now: time.Now()})
	want := server.session()
	if want.uids[0] != "1700000001.M1P1.old" {
		t.Fatalf("the server lists %q", want.uids)
	}
	compare(t, next, want)
	compare(t, read(t, server.maildir, MaildirOptions{Now: time.Now()}), want)
}

// What is read of a Courier's Maildir is what that Courier serves.
func TestCourier(t *testing.T) {
	server := courier(t)
	for i, message := range odd() {
		if strings.Contains(message, "\r\n") {
			continue // Courier sends CR CR LF
		}
		server.put(server.owner(), fmt.Sprintf("new/%d.M%dP1.old", 1_600_000_000+i/3, 9-i), message)
		server.put(server.owner(), fmt.Sprintf("cur/%d.M%dP2.old,S=%d:2,S", 1_650_000_000-i, i, len(message)), message)
	}
	want := server.session()
	compare(t, read(t, server.maildir, MaildirOptions{Now: time.Now()}), want)
	for i := range 4 {
		server.put(server.owner(), fmt.Sprintf("new/%d.M%dP3.old", 1_700_000_000-i%2, 3-i), "Subject: new\n\n")
	}
	next := read(t, server.maildir, MaildirOptions{Now: time.Now()})
	compare(t, next, server.session())
}

// A list of an earlier Courier keeps the unique-ids of its time: those with no
// number are file names, those with no validity a number alone.
func TestCourierOfEarlierTimes(t *testing.T) {
	server := courier(t)
	for i := range 4 {
		server.put(server.owner(), fmt.Sprintf("cur/170000000%d.M+'\"1P1.old:2,S", i), "Subject: x\n\n")
	}
	server.put(server.owner(), courierFile, "/2 9 1700000009\n"+
		"1700000000.M+'\"1P1.old:2, 14 0:0\n1700000001.M+'\"1P1.old:2,S 14 5:0\n1700000002.M+'\"1P1.old:2, 14 6:1700000009\n")
	next := read(t, server.maildir, MaildirOptions{Now: time.Now()})
	want := server.session()
	if want.uids[1] != "UID5" || want.uids[3] != "UID9-1700000009" {
		t.Fatalf("the server lists %q", want.uids)
	}
	compare(t, next, want)
}

func read(t *testing.T, maildir string, options MaildirOptions) *Maildrop {
	t.Helper()
	m, err := OpenMaildir(maildir, options)
	noError(t, err)
	t.Cleanup(func() { m.Close() })
	return m
}

func noError(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
