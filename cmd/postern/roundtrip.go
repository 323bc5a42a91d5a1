package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"

	"github.com/alecthomas/kong"

	"github.com/postern-pop/postern/pkg/mailclient"
)

// roundtripCmd tries a region out as its users and gateways do.
type roundtripCmd struct {
	LMTP         string        `name:"lmtp" required:"" placeholder:"HOST:PORT" help:"An intake."`
	POP3S        string        `name:"pop3s" required:"" placeholder:"HOST:PORT" help:"A front."`
	ServerName   string        `placeholder:"NAME" help:"The hostname that their certificates are for; else the host of --pop3s."`
	CA           string        `name:"ca" type:"existingfile" placeholder:"FILE" help:"Who signed them; else the system's authorities."`
	Cert         string        `type:"existingfile" placeholder:"FILE" help:"A mail gateway's certificate; without one the message is delivered without TLS."`
	Key          string        `type:"existingfile" placeholder:"FILE" help:"Its key."`
	PasswordFile string        `required:"" type:"existingfile" placeholder:"FILE" help:"The address's password, in its first line."`
	Timeout      time.Duration `default:"60s" help:"How long all of it may take (${default})."`
	Address      string        `arg:"" help:"An address for tests: only the message that the command has delivered is touched."`
}

// Help is shown by --help.
func (roundtripCmd) Help() string {
	return `Delivers a message, fetches it, compares it octet for octet, deletes it, and looks whether it is
gone. A wrong password has to be refused as well. Exit code 1 says that one of these failed.`
}

// roundtrip is one run of the command.
type roundtrip struct {
	*roundtripCmd
	tls      *tls.Config // as a mail client
	gateway  *tls.Config // as a mail gateway; nil: without TLS
	password string
	token    string // in the message, and in no other
	out      io.Writer
}

// Run does it, and says how long each step took.
func (c *roundtripCmd) Run(ctx context.Context, k *kong.Kong) error {
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	r := &roundtrip{roundtripCmd: c, token: rand.Text(), out: k.Stdout}
	if err := r.prepare(); err != nil {
		return err
	}
	message := r.message()
	uid := ""
	for _, step := range []struct {
		name string
		do   func(ctx context.Context) error
	}{
		{"refuse a wrong password", r.refused},
		{"deliver", func(ctx context.Context) error { return r.deliver(ctx, message) }},
		{"fetch and delete", func(ctx context.Context) (err error) { uid, err = r.fetch(ctx, message); return err }},
		{"find it gone", func(ctx context.Context) error { return r.gone(ctx, uid) }},
	} {
		began := time.Now()
		if err := step.do(ctx); err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
		fmt.Fprintf(r.out, "%-24s ok, %d ms\n", step.name, time.Since(began).Milliseconds())
	}
	return nil
}

// prepare reads the files.
func (r *roundtrip) prepare() error {
	text, err := os.ReadFile(r.PasswordFile)
	if err != nil {
		return err
	}
	first, _, _ := strings.Cut(string(text), "\n")
	if r.password = strings.TrimSuffix(first, "\r"); r.password == "" {
		return fmt.Errorf("%s: no password in its first line", r.PasswordFile)
	}
	name := r.ServerName
	if name == "" {
		if name, _, err = net.SplitHostPort(r.POP3S); err != nil {
			return fmt.Errorf("--pop3s: %w", err)
		}
	}
	r.tls = &tls.Config{MinVersion: tls.VersionTLS12, ServerName: name}
	if r.CA != "" {
		if r.tls.RootCAs, err = readPool(r.CA); err != nil {
			return err
		}
	}
	switch {
	case (r.Cert == "") != (r.Key == ""):
		return errors.New("--cert and --key: expected both or neither")
	case r.Cert == "":
		return nil
	}
	pair, err := tls.LoadX509KeyPair(r.Cert, r.Key)
	if err != nil {
		return fmt.Errorf("--cert and --key: %w", err)
	}
	r.gateway = r.tls.Clone()
	r.gateway.Certificates = []tls.Certificate{pair}
	return nil
}

// message has lines that a sloppy relay would change.
func (r *roundtrip) message() []byte {
	return fmt.Appendf(nil, "From: <roundtrip@roundtrip.invalid>\r\nTo: %s\r\nSubject: %s\r\nMessage-ID: <%s@roundtrip.invalid>\r\n\r\n"+
		".\r\n..\r\n.a line that begins with a dot\r\n trailing space \r\n\r\n%s\r\n", r.Address, r.token, r.token, strings.Repeat("long ", 180))
}

// open connects, and logs in.
func (r *roundtrip) open(ctx context.Context, password string) (*mailclient.POP, error) {
	pop, err := mailclient.DialPOP(ctx, r.POP3S, r.tls)
	if err != nil {
		return nil, err
	}
	context.AfterFunc(ctx, func() { pop.Close() }) // each reply has its own patience, all together have the command's
	if err := pop.Login(r.Address, password); err != nil {
		return nil, errors.Join(err, pop.Close())
	}
	return pop, nil
}

// refused tries a password that can't be right. It is the same one each time, which
// counts once towards a lock-out.
func (r *roundtrip) refused(ctx context.Context) error {
	pop, err := r.open(ctx, "not "+r.password)
	if err == nil {
		pop.Close()
		return errors.New("it was accepted")
	}
	if !strings.Contains(err.Error(), "[AUTH]") { // RFC 3206 section 4
		return err
	}
	return nil
}

func (r *roundtrip) deliver(ctx context.Context, message []byte) error {
	lmtp, err := mailclient.DialLMTP(ctx, r.LMTP, r.gateway)
	if err != nil {
		return err
	}
	defer lmtp.Close()
	context.AfterFunc(ctx, func() { lmtp.Close() })
	verdicts, err := lmtp.Deliver("", []string{r.Address}, message)
	if err = errors.Join(append(verdicts, err)...); err != nil {
		return err
	}
	return lmtp.Quit()
}

// fetch finds the message among what is there, newest first, and deletes it.
func (r *roundtrip) fetch(ctx context.Context, message []byte) (uid string, err error) {
	pop, err := r.open(ctx, r.password)
	if err != nil {
		return "", err
	}
	defer pop.Close()
	uids, err := pop.UIDs()
	if err != nil {
		return "", err
	}
	for n := len(uids); n > 0; n-- {
		var header, whole bytes.Buffer
		if _, err := pop.Top(n, 0, &header); err != nil {
			return "", err
		}
		if !strings.Contains(header.String(), r.token) {
			continue
		}
		if _, err := pop.Retr(n, &whole); err != nil {
			return "", err
		}
		// Trace headers were put ahead (RFC 5321 section 4.4).
		if !bytes.HasSuffix(whole.Bytes(), message) {
			return "", fmt.Errorf("message %d isn't what was delivered:\n%q\nnot\n%q", n, whole.Bytes(), message)
		}
		return uids[n], errors.Join(pop.Dele(n), pop.Quit())
	}
	return "", fmt.Errorf("none of the %d messages is the one that was delivered", len(uids))
}

func (r *roundtrip) gone(ctx context.Context, uid string) error {
	pop, err := r.open(ctx, r.password)
	if err != nil {
		return err
	}
	defer pop.Close()
	uids, err := pop.UIDs()
	if err != nil {
		return err
	}
	for n, there := range uids {
		if there == uid {
			return fmt.Errorf("it was deleted, and is message %d", n)
		}
	}
	return pop.Quit()
}
