package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/alecthomas/kong"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/postern-pop/postern/pkg/admin"
	"github.com/postern-pop/postern/pkg/auth"
	"github.com/postern-pop/postern/pkg/directory"
	"github.com/postern-pop/postern/pkg/embedetcd"
	"github.com/postern-pop/postern/pkg/maildrop"
	"github.com/postern-pop/postern/pkg/pki"
	"github.com/postern-pop/postern/pkg/policy"
	"github.com/postern-pop/postern/pkg/rpc"
)

// records is a registrar in memory, by the contract.
type records struct {
	maildrop.Service
	mu     sync.Mutex
	byName map[maildrop.Address]maildrop.AddressRecord
}

func (r *records) PutAddress(_ context.Context, record maildrop.AddressRecord) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if record.Hash == "" {
		record.Hash = r.byName[record.Address].Hash
	}
	r.byName[record.Address] = record
	return nil
}

func (r *records) Address(_ context.Context, address maildrop.Address) (maildrop.AddressRecord, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	record, ok := r.byName[address]
	if !ok {
		return record, &maildrop.Error{Op: "records", Kind: maildrop.NotFound}
	}
	record.Hash = "set"
	return record, nil
}

func (r *records) RemoveAddress(_ context.Context, address maildrop.Address) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.byName, address)
	return nil
}

func (r *records) Addresses(context.Context, string) ([]maildrop.AddressRecord, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var all []maildrop.AddressRecord
	for _, record := range r.byName {
		all = append(all, record)
	}
	slices.SortFunc(all, func(a, b maildrop.AddressRecord) int { return strings.Compare(string(a.Address), string(b.Address)) })
	return all, nil
}

// bench is a gateway with the Admin service, and an operator's files.
type bench struct {
	t       *testing.T
	dir     string
	context string
	server  string
	ca      *pki.Authority
	store   *directory.Store
	view    *directory.View
	records *records
	mail    *mailboxes // where imported mail goes
}

func newBench(t *testing.T) *bench {
	b := &bench{t: t, dir: t.TempDir(), records: &records{byName: make(map[maildrop.Address]maildrop.AddressRecord)}, mail: &mailboxes{}}
	var err error
	b.ca, err = pki.Open(filepath.Join(b.dir, "pki"), "test", time.Now)
	noError(t, err)
	client := b.etcd()
	b.store = directory.NewStore(client)
	noError(t, b.store.PublishRegion(t.Context(), directory.Region{Name: "eu", Title: "Europe", Hostname: "eu-pop.postern.example",
		Shards: 16, Gateway: "127.0.0.1:1", CrossRegion: directory.CrossRegionRelay}))
	view, err := directory.Open(t.Context(), client, slog.New(slog.DiscardHandler))
	noError(t, err)
	t.Cleanup(view.Close)
	b.view = view

	b.server = b.gateway("front-1", b.mail)
	b.context = b.write("operator.yaml", b.identity(rpc.RoleOperator, "ann"), closedPort(t), b.server)
	return b
}

// gateway is a front's gateway, with the Admin service.
func (b *bench) gateway(name string, mail maildrop.Deliverer) (address string) {
	b.t.Helper()
	config, err := rpc.ServerTLS(b.identity(rpc.RoleFront, name))
	noError(b.t, err)
	server := rpc.NewServer(rpc.ServerConfig{TLS: config, Service: b.records, Allow: rpc.GatewayAllow("eu")})
	admin.New(admin.Config{Store: b.store, Registrar: b.records, Deliverer: mail, Log: slog.New(slog.DiscardHandler)}).Register(server.GRPC())
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	noError(b.t, err)
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	b.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		server.Stop(ctx)
		<-served
	})
	return listener.Addr().String()
}

// etcd is a real one, with a client.
func (b *bench) etcd() *clientv3.Client {
	b.t.Helper()
	pair, err := b.ca.Issue(pki.Subject{Name: "etcd", Hosts: []string{"127.0.0.1", "localhost"}, Server: true, Client: true})
	noError(b.t, err)
	server, err := embedetcd.Start(b.t.Context(), embedetcd.Config{Dir: filepath.Join(b.dir, "etcd"), Listen: "127.0.0.1:0",
		CA: b.ca.CA(), Cert: pair.Cert, Key: pair.Key, Log: slog.New(slog.DiscardHandler)})
	noError(b.t, err)
	b.t.Cleanup(server.Close)
	cert, err := tls.LoadX509KeyPair(pair.Cert, pair.Key)
	noError(b.t, err)
	text, err := os.ReadFile(b.ca.CA())
	noError(b.t, err)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(text)
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{server.Endpoint()}, Logger: zap.NewNop(),
		TLS: &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS13}})
	noError(b.t, err)
	b.t.Cleanup(func() { client.Close() })
	return client
}

func closedPort(t *testing.T) string {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	noError(t, err)
	defer listener.Close()
	return listener.Addr().String()
}

func (b *bench) identity(role, name string) rpc.TLSFiles {
	b.t.Helper()
	uri := &url.URL{Scheme: rpc.Scheme, Host: "eu", Path: "/" + role + "/" + name}
	pair, err := b.ca.Issue(pki.Subject{Name: name, URI: uri, Hosts: []string{name + ".example"}, Server: true, Client: true})
	noError(b.t, err)
	return rpc.TLSFiles{CA: b.ca.CA(), Cert: pair.Cert, Key: pair.Key}
}

// write makes a context file, with paths relative to it.
func (b *bench) write(name string, files rpc.TLSFiles, servers ...string) string {
	b.t.Helper()
	relative := func(path string) string {
		r, err := filepath.Rel(b.dir, path)
		noError(b.t, err)
		return r
	}
	file := filepath.Join(b.dir, name)
	noError(b.t, os.WriteFile(file, []byte("servers: ["+strings.Join(servers, ", ")+"]\ntls: {ca: "+relative(files.CA)+
		", cert: "+relative(files.Cert)+", key: "+relative(files.Key)+"}\n"), 0o600))
	return file
}

// run runs one command line of an operator.
func (b *bench) run(input string, args ...string) (string, error) {
	b.t.Helper()
	var out bytes.Buffer
	var grammar struct {
		Account    accountCmd    `cmd:""`
		Domain     domainCmd     `cmd:""`
		Address    addressCmd    `cmd:""`
		Continuity continuityCmd `cmd:""`
		Override   overrideCmd   `cmd:""`
	}
	parser, err := kong.New(&grammar, kong.Name("postern"), kong.Writers(&out, &out),
		kong.BindTo(b.t.Context(), (*context.Context)(nil)))
	noError(b.t, err)
	stdin := os.Stdin
	defer func() { os.Stdin = stdin }()
	file := filepath.Join(b.t.TempDir(), "stdin")
	noError(b.t, os.WriteFile(file, []byte(input), 0o600))
	os.Stdin, err = os.Open(file)
	noError(b.t, err)
	defer os.Stdin.Close()
	parsed, err := parser.Parse(append(args, "--context", b.context))
	if err != nil {
		return out.String(), err
	}
	err = parsed.Run()
	return out.String(), err
}

func noError(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// ok runs a command line that must succeed and hold the words.
func (b *bench) ok(words string, line string) string {
	b.t.Helper()
	out, err := b.run("", arguments(line)...)
	if err != nil || !strings.Contains(out, words) {
		b.t.Fatalf("postern %s: %v\n%s\nwant %q", line, err, out, words)
	}
	return out
}

func (b *bench) fails(words string, line string) {
	b.t.Helper()
	out, err := b.run("", arguments(line)...)
	if err == nil || !strings.Contains(err.Error(), words) {
		b.t.Fatalf("postern %s: %v\n%s\nwant an error with %q", line, err, out, words)
	}
}

// arguments splits a line at spaces; an underscore is a space in an argument.
func arguments(line string) []string {
	fields := strings.Fields(line)
	for i, field := range fields {
		fields[i] = strings.ReplaceAll(field, "_", " ")
	}
	return fields
}

func TestOperatorsDay(t *testing.T) {
	b := newBench(t)
	b.fails("region mars is not known", "account create acme --region mars")
	b.ok("acme", "account create acme --region eu --continuity --legacy-until 2027-01-31 --network 192.0.2.0/24 --network 2001:db8::1")
	b.ok("legacy POP until    2027-01-31", "account show acme")
	b.ok("192.0.2.0/24 2001:db8::1/128", "account list")
	b.ok("networks            any", "account set acme --any-network --legacy-until none")
	b.ok("continuity package  no", "account set acme --no-continuity")
	b.fails("no continuity package", "continuity start acme")
	b.ok("continuity package  yes", "account set acme --continuity")
	b.fails("nothing to set", "account set acme")
	b.ok("state               disabled", "account disable acme")
	b.ok("state               enabled", "account enable acme")

	b.ok("domain acme.example added: hosted, of account acme", "domain add acme.example --account acme --kind hosted")
	b.fails("no account nobody", "domain add b.example --account nobody --kind local")
	b.fails("must be one of", "domain add b.example --account acme --kind pop")
	b.ok("acme.example  acme     hosted", "domain list --account acme")

	out := b.ok("It is shown this once", "address add ann@acme.example --group sales")
	password := regexp.MustCompile(`password: (\S+)\n`).FindStringSubmatch(out)[1]
	verifier := auth.New(auth.Config{})
	defer verifier.Close()
	noError(t, verifier.Verify(t.Context(), maildrop.Login{Address: "ann@acme.example", Password: password}, b.records.byName["ann@acme.example"].Hash))
	_, err := b.run("se cret\r\n", "address", "set", "ann@acme.example", "--password-stdin", "--access", "deny")
	noError(t, err)
	noError(t, verifier.Verify(t.Context(), maildrop.Login{Address: "ann@acme.example", Password: "se cret"}, b.records.byName["ann@acme.example"].Hash))
	b.ok("an alias of ann@acme.example", "address add info@acme.example --alias-of ann@acme.example")
	b.ok("ann@acme.example   deny    sales   -", "address list --account acme")
	b.fails("exists already", "address add ann@acme.example")
	b.fails("is an alias of", "address remove ann@acme.example")
	b.ok("removed", "address remove info@acme.example")
	b.fails("remove them first", "domain remove acme.example")
	b.ok("removed", "address remove ann@acme.example")
	b.ok("removed", "domain remove acme.example")

	b.ok("override            block", "override set acme block")
	b.ok("WARNING: the override is block", "continuity start acme --for 1d2h --note mail_server_down")
	b.ok("override            none", "override set acme none")
	b.ok("is ON for everyone until", "continuity status acme")
	b.ok("mail server down", "continuity status acme")
	b.ok("is ON", "continuity extend acme --for 90m")
	b.ok("has ended", "continuity end acme")
	b.ok("no continuity event is on for account acme", "continuity status acme")
	b.fails("in which time zone?", "continuity start acme --until 2099-01-01_18:00")
	b.fails("comes twice in Europe/London", "continuity schedule acme --from 2026-10-25_01:30 --until 2026-10-25_06:00 --zone Europe/London")
	b.ok("is scheduled for group sales from 2099-07-01 18:00 +01:00", "continuity schedule acme --from 2099-07-01_18:00 --until 2099-07-01_20:00 --zone Europe/London --group sales")
}

// TestChangesAreInForce: what a command says is done is in every process's view
// within 2 seconds.
func TestChangesAreInForce(t *testing.T) {
	b := newBench(t)
	b.ok("acme", "account create acme --region eu --continuity")
	b.ok("added", "domain add acme.example --account acme --kind hosted")
	in := func(want maildrop.Class) bool {
		domain, account, ok := b.view.Domain("acme.example")
		return ok && policy.Decide(account, domain, maildrop.AddressRecord{}, time.Now()).Class == want
	}
	wait := func(want maildrop.Class) {
		t.Helper()
		deadline := time.After(2 * time.Second)
		for {
			changed := b.view.Changed()
			if in(want) {
				return
			}
			select {
			case <-changed:
			case <-deadline:
				t.Fatalf("%v isn't in force after 2 s", want)
			}
		}
	}
	wait(maildrop.ClassNone)
	b.ok("is ON", "continuity start acme")
	wait(maildrop.ClassContinuity)
	b.ok("has ended", "continuity end acme")
	wait(maildrop.ClassNone)
}

func TestJSONOutput(t *testing.T) {
	b := newBench(t)
	if out := b.ok("[]", "account list -o json"); strings.TrimSpace(out) != "[]" {
		t.Fatalf("an empty list: %s", out)
	}
	b.ok(`"name": "acme"`, "account create acme --region eu --continuity -o json")
	b.ok(`"kind": "local"`, "domain add acme.example --account acme --kind local -o json")
	var address addressView
	noError(t, json.Unmarshal([]byte(b.ok("password", "address add ann@acme.example -o json")), &address))
	if address.Address != "ann@acme.example" || address.Account != "acme" || len(address.Password) != 19 || address.Access != "inherit" {
		t.Fatalf("%+v", address)
	}
	var event eventReply
	noError(t, json.Unmarshal([]byte(b.ok("active", "continuity start acme --zone Africa/Johannesburg -o json")), &event))
	if event.State != "active" || event.End != nil || event.Start.IsZero() {
		t.Fatalf("%+v", event)
	}
	var status statusView
	noError(t, json.Unmarshal([]byte(b.ok("active", "continuity status acme -o json")), &status))
	if !status.Active || len(status.Events) != 1 || status.Events[0].ID != event.ID {
		t.Fatalf("%+v", status)
	}
}

func TestWhoMayCall(t *testing.T) {
	b := newBench(t)
	for _, role := range []string{rpc.RoleFront, rpc.RoleIntake, rpc.RoleMailbox} {
		b.context = b.write(role+".yaml", b.identity(role, "x-"+role), b.server)
		b.fails("does the certificate name an operator?", "account list")
	}
	other, err := pki.Open(filepath.Join(b.dir, "other"), "other", time.Now)
	noError(t, err)
	ours := b.ca
	b.ca = other
	stranger := b.identity(rpc.RoleOperator, "stranger")
	b.ca = ours
	b.context = b.write("stranger.yaml", stranger, b.server)
	b.fails("no server can be reached", "account list")
}

func TestServerMustBeAFront(t *testing.T) {
	b := newBench(t)
	operator := b.identity(rpc.RoleOperator, "ann")
	config, err := rpc.ServerTLS(b.identity(rpc.RoleMailbox, "mailbox-1"))
	noError(t, err)
	server := rpc.NewServer(rpc.ServerConfig{TLS: config, Service: b.records, Allow: rpc.NodeAllow("eu")})
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	noError(t, err)
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	b.context = b.write("wrong.yaml", operator, listener.Addr().String())
	b.fails("not a front", "account list")
	server.Stop(t.Context())
	<-served
}

func TestContextFile(t *testing.T) {
	const files = "tls: {ca: a, cert: b, key: c}\n"
	for text, want := range map[string]string{
		"servers: [h:1]\n" + files:                       "",
		"servers: [h:1]\nserver_name: n\n" + files:       "",
		"servers: [h:1]\nserver: x\n" + files:            "line 2: field server not found",
		"servers: []\n" + files:                          "at least one",
		"servers: [h]\n" + files:                         `found "h", expected host:port`,
		"servers: [h:1]\ntls: {ca: a, cert: b}":          "tls.key: expected a file",
		"servers: [h:1]\n" + files + "---\nservers: []n": "one YAML document",
		"": "EOF",
	} {
		_, err := parseContext([]byte(text))
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q", text, err, want)
		}
	}
	if _, err := readContext(""); err == nil || !strings.Contains(err.Error(), "POSTERN_CONTEXT") {
		t.Errorf("no context: %v", err)
	}
}

func TestServerName(t *testing.T) {
	b := newBench(t)
	text, err := os.ReadFile(b.context)
	noError(t, err)
	for name, works := range map[string]bool{"front-1.example": true, "front-2.example": false} {
		noError(t, os.WriteFile(b.context, append([]byte("server_name: "+name+"\n"), text...), 0o600))
		if _, err := b.run("", "account", "list"); (err == nil) != works {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestParseSpan(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"4h": 4 * time.Hour, "90m": 90 * time.Minute, "2d": 48 * time.Hour, "1d12h": 36 * time.Hour, "366d": maxSpan,
		"": 0, "0s": 0, "-1h": 0, "2": 0, "367d": 0, "1d-2h": 0, "9999999999h": 0, "d": 0, "1h1d": 0, "1ms": 0,
	} {
		got, err := parseSpan(text)
		if (err == nil) != (want != 0) || err == nil && got != want {
			t.Errorf("%q: got %v, %v; want %v", text, got, err, want)
		}
	}
}

func TestReadPassword(t *testing.T) {
	for text, want := range map[string]string{"a\n": "a", "a": "a", "a b\r\n": "a b", " a ": " a ", "": "", "\n": "", "a\nb": "", strings.Repeat("a", 5000): ""} {
		got, err := readPassword(strings.NewReader(text))
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%.20q: got %q, %v", text, got, err)
		}
	}
}
