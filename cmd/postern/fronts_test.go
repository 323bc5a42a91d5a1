package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pires/go-proxyproto"

	"github.com/postern-pop/postern/pkg/config"
	"github.com/postern-pop/postern/pkg/mailclient"
	"github.com/postern-pop/postern/pkg/pki"
	"github.com/postern-pop/postern/pkg/rpc"
)

// TestFronts is a region with two fronts, each a process, behind balancers.
func TestFronts(t *testing.T) {
	regions := t.TempDir()
	region, err := os.ReadFile("../../regions/eu.yaml")
	if err == nil {
		err = os.WriteFile(filepath.Join(regions, "eu.yaml"), region, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	d := startDemo(t, t.TempDir(), freePorts(t), "--regions", regions)
	second := d.startSecondFront()
	t.Run("sessions resume", func(t *testing.T) { second.sessionsResume(t) })
	t.Run("PROXY", func(t *testing.T) { second.behindProxies(t) })
	t.Run("STLS", func(t *testing.T) { second.stls(t) })
	t.Run("certificates", func(t *testing.T) { second.certificates(t) })
	t.Run("limits", func(t *testing.T) { second.together(t) })
	t.Run("metrics", func(t *testing.T) { second.metrics(t) })
	second.stop()
	d.stop()
}

// secondFront is a front besides the demo's own, with all the doors that there are.
type secondFront struct {
	*running
	cfg   *config.Process
	other pki.Pair // the certificate of its other name
	log   string
	stop  func()
}

const otherName = "pop.customer.example"

// patience is for what takes no time on a machine with nothing else to do.
const patience = 10 * time.Second

// startSecondFront starts a front of eu as the demo's own is, on other ports.
func (r *running) startSecondFront() *secondFront {
	r.t.Helper()
	cfg, err := config.Load(filepath.Join(r.dir, "eu", "front-1.yaml"))
	if err != nil {
		r.t.Fatal(err)
	}
	install, err := openInstallation(r.dir)
	if err != nil {
		r.t.Fatal(err)
	}
	other, err := install.public.Issue(pki.Subject{Name: "other", Server: true, Hosts: []string{otherName}})
	if err != nil {
		r.t.Fatal(err)
	}
	cfg.Name = "front-2"
	if err := install.issueIdentity(rpc.Identity{Region: "eu", Role: cfg.Role, Name: "front-2"}); err != nil {
		r.t.Fatal(err)
	}
	cfg.TLS = identityTLS(r.dir, "eu", "front-2")
	port := func(n int) config.HostPort { return at(r.base + 180 + n) }
	cfg.Gossip.Bind, cfg.HTTP.Listen = port(0), port(1)
	balancers := []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}
	cfg.Front.Certificates = append([]config.Pair{{Cert: config.Path(other.Cert), Key: config.Path(other.Key)}}, cfg.Front.Certificates...)
	cfg.Front.Gateway.Listen, cfg.Front.POP3S.Listen = port(2), port(3)
	cfg.Front.POP3 = &config.Listener{Listen: port(4)}
	cfg.Front.POP3SProxy = &config.ProxyListener{Listen: port(5), Networks: balancers}
	cfg.Front.POP3Proxy = &config.ProxyListener{Listen: port(6), Networks: balancers}
	file := filepath.Join(r.dir, "eu", "front-2.yaml")
	if err := writeYAML(file, cfg); err != nil {
		r.t.Fatal(err)
	}
	f := &secondFront{running: r, cfg: cfg, other: other, log: filepath.Join(r.t.TempDir(), "front-2.log")}
	f.start(file)
	return f
}

func (f *secondFront) start(file string) {
	f.t.Helper()
	log, err := os.Create(f.log)
	if err != nil {
		f.t.Fatal(err)
	}
	cmd := exec.Command(binary, "front", "--config", file)
	cmd.Stderr = log
	if err := cmd.Start(); err != nil {
		f.t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait(); log.Close() }()
	f.t.Cleanup(func() {
		cmd.Process.Kill()
		if f.t.Failed() {
			f.t.Logf("front-2 says\n%s", f.logged())
		}
	})
	awaitHTTP(f.t.(*testing.T), "http://"+string(f.cfg.HTTP.Listen)+"/readyz", ended)
	f.stop = func() {
		f.t.Helper()
		cmd.Process.Signal(os.Interrupt)
		select {
		case err := <-ended:
			if err != nil {
				f.t.Errorf("the stop: %v", err)
			}
		case <-time.After(stopWithin):
			f.t.Errorf("not stopped after %v", stopWithin)
		}
	}
}

func (f *secondFront) logged() string {
	text, err := os.ReadFile(f.log)
	if err != nil {
		f.t.Fatal(err)
	}
	return string(text)
}

// balancer spreads TCP connections over backends, one after the other.
type balancer struct {
	listener net.Listener
	backends []string
	version  byte // of the PROXY header that it sends; 0: none
	served   []atomic.Int32
	turn     int
	work     sync.WaitGroup
}

func balance(t *testing.T, version byte, backends ...string) *balancer {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := &balancer{listener: listener, backends: backends, version: version, served: make([]atomic.Int32, len(backends))}
	ctx, cancel := context.WithCancel(t.Context())
	b.work.Go(func() { b.run(ctx) })
	t.Cleanup(func() { listener.Close(); cancel(); b.work.Wait() })
	return b
}

func (b *balancer) address() string { return b.listener.Addr().String() }

func (b *balancer) run(ctx context.Context) {
	for {
		client, err := b.listener.Accept()
		if err != nil {
			return
		}
		i := b.turn % len(b.backends)
		b.turn++
		b.work.Go(func() { b.relay(ctx, client, i) })
	}
}

func (b *balancer) relay(ctx context.Context, client net.Conn, i int) {
	defer client.Close()
	server, err := new(net.Dialer).DialContext(ctx, "tcp", b.backends[i])
	if err != nil {
		return
	}
	defer server.Close()
	defer context.AfterFunc(ctx, func() { client.Close(); server.Close() })()
	if b.version > 0 {
		header := proxyproto.HeaderProxyFromAddrs(b.version, client.RemoteAddr(), client.LocalAddr())
		if _, err := header.WriteTo(server); err != nil {
			return
		}
	}
	b.served[i].Add(1)
	var back sync.WaitGroup
	back.Go(func() { pass(client, server) })
	pass(server, client)
	back.Wait()
}

// pass copies one way, up to and including the end.
func pass(to, from net.Conn) {
	io.Copy(to, from)
	to.(*net.TCPConn).CloseWrite()
}

// sessionsResume is TLS-11 and TLS-19 (RFC 8446 section 2.2, RFC 5077): a client that
// comes back by a balancer resumes at whichever front it meets, every time.
func (f *secondFront) sessionsResume(t *testing.T) {
	region := f.region("eu")
	f.in(t).within(patience, func() error { // a front that starts waits a few seconds for etcd, not longer
		for _, metrics := range append(region.Metrics, string(f.cfg.HTTP.Listen)) {
			if strings.Contains(scrape(t, metrics), "postern_front_ticket_key_shared 0") {
				return fmt.Errorf("%s: a front has no keys of the region", metrics)
			}
		}
		return nil
	})
	b := balance(t, 0, region.POP3S, string(f.cfg.Front.POP3S.Listen))
	const reconnects = 20
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		config := f.in(t).tls(region)
		config.MinVersion, config.MaxVersion = version, version
		config.ClientSessionCache = tls.NewLRUClientSessionCache(1)
		resumed := 0
		for range 1 + reconnects {
			pop, err := mailclient.DialPOP(t.Context(), b.address(), config)
			if err != nil {
				t.Fatal(err)
			}
			if pop.Conn().(*tls.Conn).ConnectionState().DidResume {
				resumed++
			}
			if err := pop.Quit(); err != nil {
				t.Fatal(err)
			}
		}
		if resumed != reconnects {
			t.Errorf("%s: %d of %d resumed", tls.VersionName(version), resumed, reconnects)
		}
	}
	for i := range b.served {
		if n := b.served[i].Load(); n != 1+reconnects {
			t.Errorf("front %d had %d of %d connections", i+1, n, 2*(1+reconnects))
		}
	}
}

// from dials with an address of this machine as the client's.
func (f *secondFront) from(t *testing.T, client, address string) (*mailclient.POP, error) {
	t.Helper()
	dialer := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(client)}}
	conn, err := (&tls.Dialer{NetDialer: dialer, Config: f.in(t).tls(f.region("eu"))}).DialContext(t.Context(), "tcp", address)
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { conn.Close() })
	return mailclient.NewPOP(conn)
}

// behindProxies: the client's own address is what permitted networks and the log go
// by; whoever isn't a balancer doesn't get in; balancers that only look leave no line.
func (f *secondFront) behindProxies(t *testing.T) {
	anna := f.user("eu", kindLocal)
	door := string(f.cfg.Front.POP3SProxy.Listen)
	r := f.in(t)
	r.postern("account", "set", anna.Account, "--network", "127.0.0.77/32")
	defer r.postern("account", "set", anna.Account, "--any-network")
	for _, version := range []byte{1, 2} {
		b := balance(t, version, door)
		r.within(patience, func() error {
			pop, err := f.from(t, "127.0.0.77", b.address())
			if err == nil {
				err = pop.Login(anna.Address, anna.Password)
			}
			if err == nil {
				err = pop.Quit()
			}
			return err
		})
		r.within(patience, func() error {
			pop, err := f.from(t, "127.0.0.78", b.address())
			if err != nil {
				return err
			}
			if err = pop.Login(anna.Address, anna.Password); err == nil || !strings.Contains(err.Error(), "SYS/PERM") {
				return fmt.Errorf("v%d: from a network that isn't permitted: %w", version, err)
			}
			return nil
		})
	}
	if !strings.Contains(f.logged(), `"remote":"127.0.0.77"`) {
		t.Error("the client's address isn't in the log")
	}
	if pop, err := f.from(t, "127.0.0.79", door); err == nil {
		t.Errorf("somebody who is no balancer got %q", pop.Greeting)
	}
	if pop, err := f.from(t, "127.0.0.1", door); err == nil {
		t.Errorf("a balancer without a header got %q", pop.Greeting)
	}
	sessions := func() int { return strings.Count(f.logged(), `"msg":"session"`) }
	before := sessions()
	for range 20 {
		for _, door := range []config.HostPort{f.cfg.Front.POP3SProxy.Listen, f.cfg.Front.POP3Proxy.Listen, f.cfg.Front.POP3S.Listen, f.cfg.Front.POP3.Listen} {
			conn, err := net.Dial("tcp", string(door))
			if err != nil {
				t.Fatal(err)
			}
			conn.Close()
		}
	}
	r.within(patience, func() error {
		if !strings.Contains(f.scrape(t), `postern_front_proxy_connections_total{door="pop3_proxy",result="closed"} 20`) {
			return fmt.Errorf("20 looks are not counted")
		}
		return nil
	})
	if after := sessions(); after != before {
		t.Errorf("balancers that look whether the front is there left %d lines in the log", after-before)
	}
}

// stls is STLS-01 to STLS-03 (RFC 2595 section 4, RFC 8314 section 3.3), straight and
// behind a balancer.
func (f *secondFront) stls(t *testing.T) {
	anna := f.user("eu", kindLocal)
	for _, address := range []string{string(f.cfg.Front.POP3.Listen), balance(t, 2, string(f.cfg.Front.POP3Proxy.Listen)).address()} {
		raw, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer raw.Close()
		pop, err := mailclient.NewPOP(raw)
		if err != nil {
			t.Fatal(err)
		}
		if err := pop.Login(anna.Address, anna.Password); err == nil || !strings.Contains(err.Error(), "USER") {
			t.Errorf("USER in the clear: %v", err)
		}
		if _, err := pop.Command("STLS"); err != nil {
			t.Fatal(err)
		}
		secure := tls.Client(raw, f.in(t).tls(f.region("eu")))
		if err := secure.HandshakeContext(t.Context()); err != nil {
			t.Fatal(err)
		}
		fmt.Fprint(secure, "USER "+anna.Address+"\r\nPASS "+anna.Password+"\r\nQUIT\r\n")
		answer, err := io.ReadAll(secure)
		if err != nil || bytes.Count(answer, []byte("+OK")) != 3 {
			t.Errorf("%q, %v", answer, err)
		}
		f.curlBySTLS(t, address, anna)
	}
}

// curlBySTLS lists a maildrop with a client that people use.
func (f *secondFront) curlBySTLS(t *testing.T, address string, user demoUser) {
	t.Helper()
	curl, err := exec.LookPath("curl")
	if err != nil {
		if os.Getenv("POSTERN_TOOLS") == "required" {
			t.Fatal("no curl here, so no client that people use tries STLS: install curl")
		}
		t.Log("NOT TESTED: no curl")
		return
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	name := f.region("eu").Hostname
	out, err := exec.Command(curl, "-sS", "--ssl-reqd", "--cacert", f.report.CA, "--resolve", name+":"+port+":"+host,
		"--max-time", "30", "--user", user.Address+":"+user.Password, "pop3://"+net.JoinHostPort(name, port)+"/").CombinedOutput()
	if err != nil || !strings.HasPrefix(string(out), "1 ") {
		t.Errorf("curl: %v\n%s", err, out)
	}
}

// certificates is TLS-02 and TLS-07 to TLS-09 (RFC 8314 section 3, RFC 6066 section 3):
// each name has its own, others and none the region's, and a new one is shown while
// a session goes on.
func (f *secondFront) certificates(t *testing.T) {
	region := f.region("eu")
	shown := func(name string) *x509.Certificate {
		t.Helper()
		config := f.in(t).tls(region)
		config.ServerName, config.InsecureSkipVerify = name, true
		conn, err := (&tls.Dialer{Config: config}).DialContext(t.Context(), "tcp", string(f.cfg.Front.POP3S.Listen))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		return conn.(*tls.Conn).ConnectionState().PeerCertificates[0]
	}
	// TLS-16: from the first octet of TCP to the greeting. It takes milliseconds.
	began := time.Now()
	if _, err := f.from(t, "127.0.0.1", string(f.cfg.Front.POP3S.Listen)); err != nil || time.Since(began) > time.Second {
		t.Errorf("%v, greeted after %v", err, time.Since(began))
	}
	for name, verifies := range map[string]string{
		otherName: otherName, region.Hostname: region.Hostname, "nobody.example": region.Hostname, "": region.Hostname,
	} {
		if err := shown(name).VerifyHostname(verifies); err != nil {
			t.Errorf("SNI %q: %v", name, err)
		}
	}
	pop, err := f.from(t, "127.0.0.1", string(f.cfg.Front.POP3S.Listen))
	if err != nil {
		t.Fatal(err)
	}
	before := shown(otherName)
	if err := os.Remove(f.other.Cert); err != nil { // so that another one is issued
		t.Fatal(err)
	}
	install, err := openInstallation(f.dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := install.public.Issue(pki.Subject{Name: "other", Server: true, Hosts: []string{otherName}}); err != nil {
		t.Fatal(err)
	}
	f.in(t).within(patience, func() error {
		if shown(otherName).Equal(before) {
			return fmt.Errorf("the old certificate is still shown")
		}
		return nil
	})
	if _, err := pop.Command("CAPA"); err != nil {
		t.Errorf("a session over the replacement: %v", err)
	}
}

func (f *secondFront) scrape(t *testing.T) string {
	t.Helper()
	return scrape(t, string(f.cfg.HTTP.Listen))
}

func scrape(t *testing.T, address string) string {
	t.Helper()
	answer, err := http.Get("http://" + address + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func (f *secondFront) metrics(t *testing.T) {
	text := f.scrape(t)
	for _, want := range []string{
		"postern_front_ticket_key_shared 1\n", "postern_front_ticket_key_since_seconds ",
		`postern_certificate_not_after_seconds{file="` + f.other.Cert + `"}`, `postern_certificate_reloads_total{file="` + f.other.Cert + `",result="ok"} 1`,
		`postern_certificate_default_shown_total{sni="none"} `, `postern_front_proxy_connections_total{door="pop3s_proxy",result="network"} 1`,
		`postern_front_proxy_connections_total{door="pop3s_proxy",result="malformed"} 1`, `postern_front_proxy_connections_total{door="pop3s_proxy",result="ok"} `,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %s", want)
		}
	}
}
