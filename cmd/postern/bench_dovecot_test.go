package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/postern-pop/postern/pkg/pki"
)

// nobody is the owner of the peer's mail.
const nobody = 65534

// dovecotConf is Dovecot 2.3 as its makers would have it for a busy server that
// isn't shared with others: processes that serve many clients one after the
// other, sdbox, and fsync as it is by default. It checks passwords in plain text and has no
// proxy in front of it, both in its favour.
const dovecotConf = `
base_dir = %[1]s/run
state_dir = %[1]s/state
log_path = %[1]s/log
protocols = lmtp pop3
listen = 127.0.0.1
ssl = required
ssl_cert = <%[1]s/pki/dovecot.pem
ssl_key = <%[1]s/pki/dovecot.key
mail_location = sdbox:~/
mail_max_userip_connections = 1000
first_valid_uid = %[2]d
passdb {
  driver = static
  args = password=p
}
userdb {
  driver = static
  args = uid=%[2]d gid=%[2]d home=%[1]s/mail/%%n allow_all_users=yes
}
service pop3-login {
  service_count = 0
  process_min_avail = 1
  inet_listener pop3 {
    port = 0
  }
  inet_listener pop3s {
    port = %[3]d
    ssl = yes
  }
}
service pop3 {
  service_count = 1000
  process_min_avail = 16
}
service lmtp {
  process_min_avail = 16
  inet_listener lmtp {
    port = %[4]d
  }
}
`

// startDovecot starts a Dovecot of its own, where there is one to start.
func startDovecot(b *testing.B) (region demoRegionReport) {
	b.Helper()
	program, err := exec.LookPath("dovecot")
	if err != nil || os.Getuid() != 0 {
		b.Skip("no comparison with Dovecot: it isn't installed (dovecot-pop3d, dovecot-lmtpd), or this isn't root, which it needs to start")
	}
	dir := dovecotDir(b)
	pop3s, lmtp := freePort(b), freePort(b)
	conf := filepath.Join(dir, "dovecot.conf")
	if err := os.WriteFile(conf, fmt.Appendf(nil, dovecotConf, dir, nobody, pop3s, lmtp), 0o600); err != nil {
		b.Fatal(err)
	}
	cmd := exec.Command(program, "-F", "-c", conf)
	apart(b, func() { err = cmd.Start() })
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { exec.Command(program, "-c", conf, "stop").Run(); cmd.Wait() })
	region.POP3S, region.LMTP = "127.0.0.1:"+strconv.Itoa(pop3s), "127.0.0.1:"+strconv.Itoa(lmtp)
	region.Processes = []demoProcessReport{{Role: "dovecot", PID: cmd.Process.Pid}}
	awaitListener(b, region.LMTP)
	return region
}

// dovecotDir is a directory that the peer's other users can go through.
func dovecotDir(b *testing.B) string {
	b.Helper()
	dir, err := os.MkdirTemp("", "postern-dovecot-") //nolint:usetesting // no other user gets into TempDir
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { os.RemoveAll(dir) })
	authority, err := pki.Open(filepath.Join(dir, "pki"), "peer", time.Now)
	if err == nil {
		_, err = authority.Issue(pki.Subject{Name: "dovecot", Hosts: []string{"127.0.0.1"}, Server: true})
	}
	mail := filepath.Join(dir, "mail")
	for _, step := range []func() error{
		func() error { return err },
		func() error { return os.Chmod(dir, 0o755) },
		func() error { return os.Mkdir(mail, 0o700) },
		func() error { return os.Chown(mail, nobody, nobody) },
	} {
		if err := step(); err != nil {
			b.Fatal(err)
		}
	}
	return dir
}

func freePort(b *testing.B) int {
	b.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

func awaitListener(b *testing.B, address string) {
	b.Helper()
	for deadline := time.Now().Add(startWithin); ; sleep(b.Context(), pollEvery) {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			conn.Close()
			return
		}
		if time.Now().After(deadline) {
			b.Fatal(err)
		}
	}
}
