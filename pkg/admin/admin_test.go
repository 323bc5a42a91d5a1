package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	xdg "github.com/xdg-go/scram"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	"github.com/postern-pop/postern/pkg/auth"
	"github.com/postern-pop/postern/pkg/directory"
	"github.com/postern-pop/postern/pkg/internal/etcdtest"
	"github.com/postern-pop/postern/pkg/maildrop"
	"github.com/postern-pop/postern/pkg/policy"
	"github.com/postern-pop/postern/pkg/rpc"
	"github.com/postern-pop/postern/pkg/scram"
	posternv1 "github.com/postern-pop/postern/proto/postern/v1"
)

// memory is a Registrar that keeps its records in a map, by the contract.
type memory struct {
	mu      sync.Mutex
	records map[maildrop.Address]maildrop.AddressRecord
	fail    error // of every call, when set
}

func (m *memory) PutAddress(_ context.Context, record maildrop.AddressRecord) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail != nil {
		return m.fail
	}
	if record.Hash == "" {
		record.Hash, record.Scram = m.records[record.Address].Hash, m.records[record.Address].Scram
	}
	m.records[record.Address] = record
	return nil
}

func (m *memory) Address(_ context.Context, address maildrop.Address) (maildrop.AddressRecord, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail != nil {
		return maildrop.AddressRecord{}, m.fail
	}
	record, ok := m.records[address]
	if !ok {
		return record, &maildrop.Error{Op: "memory", Kind: maildrop.NotFound}
	}
	return withoutHash(record), nil
}

// keysAreOf wants keys for SCRAM that a client with the password passes.
func keysAreOf(t *testing.T, text, password string) {
	t.Helper()
	keys, err := scram.ParseKeys(text)
	must(t, err)
	client, err := xdg.SHA256.NewClient("user", password, "")
	must(t, err)
	client = client.WithNonceGenerator(func() string { return "c" })
	c := client.NewConversation()
	first, err := c.Step("")
	must(t, err)
	answer, err := c.Step(scram.ServerFirst("cs", keys.Salt[:], keys.Iterations))
	must(t, err)
	final, err := scram.ParseFinal([]byte(answer))
	must(t, err)
	transcript, err := scram.Transcript(strings.TrimPrefix(first, "n,,"), final.Without, "s", &keys)
	if must(t, err); !keys.Verify(transcript, final.Proof) {
		t.Fatal("the keys are of another password")
	}
}

func withoutHash(r maildrop.AddressRecord) maildrop.AddressRecord {
	if r.Hash != "" {
		r.Hash = "set"
	}
	if r.Scram != "" {
		r.Scram = "set"
	}
	return r
}

func (m *memory) RemoveAddress(_ context.Context, address maildrop.Address) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.records, address)
	return m.fail
}

func (m *memory) Addresses(_ context.Context, account string) ([]maildrop.AddressRecord, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var records []maildrop.AddressRecord
	for _, r := range m.records {
		if r.Account == account {
			records = append(records, withoutHash(r))
		}
	}
	slices.SortFunc(records, func(a, b maildrop.AddressRecord) int { return strings.Compare(string(a.Address), string(b.Address)) })
	return records, m.fail
}

// rig is the service with all around it.
type rig struct {
	t         *testing.T
	admin     posternv1.AdminClient
	store     *directory.Store
	memory    *memory
	mailboxes *mailboxes
	desk      *desk
	places    *directory.View
	audit     *bytes.Buffer
	who       string
	now       time.Time
}

var noon = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

func newRig(t *testing.T) *rig {
	client, _ := etcdtest.Start(t)
	r := &rig{t: t, store: directory.NewStore(client), audit: new(bytes.Buffer), who: "postern://ops/operator/ann", now: noon,
		memory: &memory{records: make(map[maildrop.Address]maildrop.AddressRecord)}, mailboxes: &mailboxes{}, desk: &desk{}}
	must(t, r.store.PublishRegion(t.Context(), directory.Region{Name: "eu", Title: "Europe", Hostname: "eu-pop.postern.example",
		Shards: 16, Gateway: "127.0.0.1:1", CrossRegion: directory.CrossRegionRelay}))
	view, err := directory.Open(t.Context(), client, slog.New(slog.DiscardHandler))
	must(t, err)
	t.Cleanup(view.Close)
	r.places = view
	server := grpc.NewServer()
	New(Config{Store: r.store, Registrar: r.memory, Deliverer: r.mailboxes, Log: slog.New(slog.NewJSONHandler(r.audit, nil)),
		Helpdesk: r.desk, Places: view, Reply: func(a maildrop.Attempt) string { return "reply to " + string(a.Reason) },
		Now: func() time.Time { return r.now },
		Who: func(context.Context) (string, bool) { return r.who, r.who != "" },
	}).Register(server)
	listener := bufconn.Listen(1 << 20)
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	conn, err := grpc.NewClient("passthrough:///admin", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))
	must(t, err)
	t.Cleanup(func() {
		conn.Close()
		server.Stop()
		<-served
	})
	r.admin = posternv1.NewAdminClient(conn)
	return r
}

// customer makes account acme with the package, and domain acme.example.
func (r *rig) customer() *rig {
	r.t.Helper()
	_, err := r.admin.CreateAccount(r.t.Context(), &posternv1.CreateAccountRequest{Name: "acme", Region: "eu", Continuity: true})
	must(r.t, err)
	r.domain("acme.example", "acme", "hosted")
	return r
}

func (r *rig) domain(name, account, kind string) {
	r.t.Helper()
	_, err := r.admin.AddDomain(r.t.Context(), &posternv1.AddDomainRequest{Name: name, Account: account, Kind: kind})
	must(r.t, err)
}

func (r *rig) account() *posternv1.Account {
	r.t.Helper()
	a, err := r.admin.ShowAccount(r.t.Context(), &posternv1.ShowAccountRequest{Name: "acme"})
	must(r.t, err)
	return a
}

// lastAudit is the newest line of the audit, and how many there are.
func (r *rig) lastAudit() (map[string]string, int) {
	r.t.Helper()
	lines := strings.Split(strings.TrimSpace(r.audit.String()), "\n")
	if lines[0] == "" {
		return nil, 0
	}
	var last map[string]string
	must(r.t, json.Unmarshal([]byte(lines[len(lines)-1]), &last))
	return last, len(lines)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(rpc.FromStatus("test", err, false))
	}
}

// refusedWith holds that a call was refused, in what words, and without a line
// in the audit.
func (r *rig) refusedWith(err error, kind maildrop.Kind, words string) {
	r.t.Helper()
	fault := rpc.FromStatus("test", err, false)
	if fault == nil || maildrop.KindOf(fault) != kind || !strings.Contains(maildrop.TextOf(fault), words) {
		r.t.Errorf("got %v (%q), want %v with %q", fault, maildrop.TextOf(fault), kind, words)
	}
	if strings.ContainsAny(maildrop.TextOf(fault), "\r\n") {
		r.t.Errorf("more than one line: %q", maildrop.TextOf(fault))
	}
}

func drain[T any](t *testing.T, stream grpc.ServerStreamingClient[T], err error) []*T {
	t.Helper()
	must(t, err)
	var all []*T
	for {
		one, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return all
		}
		must(t, err)
		all = append(all, one)
	}
}

func ptr[T any](v T) *T { return &v }

func TestAccounts(t *testing.T) {
	r, ctx := newRig(t), t.Context()
	_, err := r.admin.CreateAccount(ctx, &posternv1.CreateAccountRequest{Name: "acme", Region: "mars"})
	r.refusedWith(err, maildrop.NotFound, "region mars is not known")
	_, err = r.admin.CreateAccount(ctx, &posternv1.CreateAccountRequest{Name: "Acme\n", Region: "eu"})
	r.refusedWith(err, maildrop.Invalid, "a-z, 0-9")
	_, err = r.admin.CreateAccount(ctx, &posternv1.CreateAccountRequest{Name: "acme", Region: "eu", Networks: []string{"10.0.0.1/8"}})
	r.refusedWith(err, maildrop.Invalid, "did you mean 10.0.0.0/8?")
	if _, lines := r.lastAudit(); lines != 0 {
		t.Fatalf("refusals were audited as changes: %s", r.audit)
	}
	r.customer()
	_, err = r.admin.CreateAccount(ctx, &posternv1.CreateAccountRequest{Name: "acme", Region: "eu"})
	r.refusedWith(err, maildrop.Invalid, "exists already")

	set := func(in *posternv1.SetAccountRequest) *posternv1.Account {
		in.Name = "acme"
		a, err := r.admin.SetAccount(ctx, in)
		must(t, err)
		return a
	}
	a := set(&posternv1.SetAccountRequest{Disabled: ptr(true), Networks: &posternv1.Networks{Prefixes: []string{"192.0.2.0/24"}},
		LegacyUntilMilli: ptr(noon.UnixMilli())})
	if !a.Disabled || !a.Continuity || a.Override != "none" || a.LegacyUntilMilli != noon.UnixMilli() || !slices.Equal(a.Networks, []string{"192.0.2.0/24"}) {
		t.Fatalf("after set: %v", a)
	}
	line, _ := r.lastAudit()
	for key, want := range map[string]string{
		"msg": "audit", "who": r.who, "action": "account.set", "target": "acme", "outcome": "done",
		"before": "disabled=false override=none continuity=true legacy_until=never networks=[] lockout=5/15min login_delay=0s",
		"after":  "disabled=true override=none continuity=true legacy_until=2026-11-23T12:00:00Z networks=[192.0.2.0/24] lockout=5/15min login_delay=0s",
	} {
		if line[key] != want {
			t.Errorf("audit: %s is %q, want %q", key, line[key], want)
		}
	}
	if a = set(&posternv1.SetAccountRequest{Override: ptr("block")}); a.Override != "block" || !a.Disabled || len(a.Networks) != 1 {
		t.Fatalf("a set of one thing changed others: %v", a)
	}
	a = set(&posternv1.SetAccountRequest{Disabled: ptr(false), Networks: &posternv1.Networks{}, LegacyUntilMilli: ptr(int64(0))})
	if a.Disabled || len(a.Networks) != 0 || a.LegacyUntilMilli != 0 {
		t.Fatalf("taken back: %v", a)
	}
	_, err = r.admin.SetAccount(ctx, &posternv1.SetAccountRequest{Name: "acme", Override: ptr("on")})
	r.refusedWith(err, maildrop.Invalid, "none, allow or block")
	_, err = r.admin.SetAccount(ctx, &posternv1.SetAccountRequest{Name: "nobody"})
	r.refusedWith(err, maildrop.NotFound, "no account nobody")
	stream, err := r.admin.ListAccounts(ctx, &posternv1.ListAccountsRequest{})
	if all := drain(t, stream, err); len(all) != 1 || all[0].Name != "acme" || all[0].Override != "block" {
		t.Fatalf("list: %v", all)
	}
}

func TestNobodyIsRefused(t *testing.T) {
	r := newRig(t).customer()
	_, before := r.lastAudit()
	r.who = ""
	_, err := r.admin.SetAccount(t.Context(), &posternv1.SetAccountRequest{Name: "acme", Disabled: ptr(true)})
	r.refusedWith(err, maildrop.Denied, "certificate")
	_, err = r.admin.ShowAccount(t.Context(), &posternv1.ShowAccountRequest{Name: "acme"})
	r.refusedWith(err, maildrop.Denied, "certificate")
	r.who = "ann"
	if _, after := r.lastAudit(); r.account().Disabled || after != before {
		t.Fatal("nobody changed something")
	}
}

func TestDomains(t *testing.T) {
	r, ctx := newRig(t).customer(), t.Context()
	r.domain("Ümlaut.Example.", "acme", "local")
	list := func(account string) []string {
		stream, err := r.admin.ListDomains(ctx, &posternv1.ListDomainsRequest{Account: account})
		var names []string
		for _, d := range drain(t, stream, err) {
			names = append(names, d.Name+" "+d.Kind)
		}
		return names
	}
	if got := list("acme"); !slices.Equal(got, []string{"acme.example hosted", "xn--mlaut-jva.example local"}) {
		t.Fatalf("list: %v", got)
	}
	_, err := r.admin.CreateAccount(ctx, &posternv1.CreateAccountRequest{Name: "other", Region: "eu"})
	must(t, err)
	if len(list("other")) != 0 || len(list("")) != 2 {
		t.Fatalf("another's: %v, all: %v", list("other"), list(""))
	}
	for words, in := range map[string]*posternv1.AddDomainRequest{
		"acme.example is account acme's already": {Name: "acme.example", Account: "other", Kind: "local"},
		"no account nobody":                      {Name: "x.example", Account: "nobody", Kind: "local"},
		"expected local, hosted":                 {Name: "x.example", Account: "acme", Kind: "pop"},
		"is not a domain name":                   {Name: "x..example", Account: "acme", Kind: "local"},
	} {
		_, err := r.admin.AddDomain(ctx, in)
		kind := maildrop.Invalid
		if strings.HasPrefix(words, "no account") {
			kind = maildrop.NotFound
		}
		r.refusedWith(err, kind, words)
	}
	d, err := r.admin.SetDomain(ctx, &posternv1.SetDomainRequest{Name: "ACME.example", Kind: "send-only"})
	must(t, err)
	line, _ := r.lastAudit()
	if d.Kind != "send-only" || line["before"] != "kind=hosted" || line["after"] != "kind=send-only" || line["target"] != "acme.example" {
		t.Fatalf("%v, audit %v", d, line)
	}
	_, err = r.admin.AddAddress(ctx, &posternv1.AddAddressRequest{Address: "ann@acme.example", Password: "x"})
	r.refusedWith(err, maildrop.Invalid, "send-only")
	_, err = r.admin.AddAddress(ctx, &posternv1.AddAddressRequest{Address: "ann@xn--mlaut-jva.example", Password: "x"})
	must(t, err)
	_, err = r.admin.RemoveDomain(ctx, &posternv1.RemoveDomainRequest{Name: "ümlaut.example"})
	r.refusedWith(err, maildrop.Invalid, "still has 1 addresses, such as ann@xn--mlaut-jva.example")
	_, err = r.admin.RemoveDomain(ctx, &posternv1.RemoveDomainRequest{Name: "acme.example"})
	must(t, err)
	_, err = r.admin.RemoveDomain(ctx, &posternv1.RemoveDomainRequest{Name: "acme.example"})
	r.refusedWith(err, maildrop.NotFound, "no domain acme.example")
}

func TestAddresses(t *testing.T) {
	r, ctx := newRig(t).customer(), t.Context()
	const secret = "pa ss\u00e9word"
	a, err := r.admin.AddAddress(ctx, &posternv1.AddAddressRequest{Address: "Ann@ACME.example", Password: secret,
		Groups: []string{"sales", "board", "sales"}, Access: "deny"})
	must(t, err)
	if a.Address != "ann@acme.example" || a.Access != "deny" || !slices.Equal(a.Groups, []string{"board", "sales"}) || !a.Password {
		t.Fatalf("added: %v", a)
	}
	stored := r.memory.records["ann@acme.example"]
	if auth.Check(stored.Hash) != nil || strings.Contains(r.audit.String(), secret) || strings.Contains(r.audit.String(), "argon2") {
		t.Fatalf("hash %q, audit %s", stored.Hash, r.audit)
	}
	verifier := auth.New(auth.Config{})
	defer verifier.Close()
	must(t, verifier.Verify(ctx, maildrop.Login{Address: stored.Address, Password: secret}, stored.Hash))
	keysAreOf(t, stored.Scram, secret)

	for words, in := range map[string]*posternv1.AddAddressRequest{
		"exists already":                   {Address: "ann@acme.example", Password: "x"},
		"no domain else.example":           {Address: "ann@else.example", Password: "x"},
		"is not a mail address":            {Address: "acme.example", Password: "x"},
		"password is empty":                {Address: "b@acme.example"},
		"control character":                {Address: "b@acme.example", Password: "x\r\nDELE 1"},
		"longer than 200":                  {Address: "b@acme.example", Password: strings.Repeat("x", 201)},
		"expected inherit, allow or deny":  {Address: "b@acme.example", Password: "x", Access: "yes"},
		`group "Sales"`:                    {Address: "b@acme.example", Password: "x", Groups: []string{"Sales"}},
		"at most 32":                       {Address: "b@acme.example", Password: "x", Groups: manyGroups()},
		"no address none@acme.example":     {Address: "b@acme.example", AliasOf: "none@acme.example"},
		"alias of itself":                  {Address: "b@acme.example", AliasOf: "B@acme.example"},
		"has no password, groups or acces": {Address: "b@acme.example", AliasOf: "ann@acme.example", Password: "x"},
	} {
		_, err := r.admin.AddAddress(ctx, in)
		kind := maildrop.Invalid
		if strings.HasPrefix(words, "no domain") {
			kind = maildrop.NotFound
		}
		r.refusedWith(err, kind, words)
	}
	if len(r.memory.records) != 1 {
		t.Fatalf("a refused address was made: %v", r.memory.records)
	}
}

func manyGroups() []string {
	groups := make([]string, policy.MaxGroups+1)
	for i := range groups {
		groups[i] = fmt.Sprintf("g%d", i)
	}
	return groups
}

func TestAliases(t *testing.T) {
	r, ctx := newRig(t).customer(), t.Context()
	_, err := r.admin.CreateAccount(ctx, &posternv1.CreateAccountRequest{Name: "other", Region: "eu"})
	must(t, err)
	r.domain("other.example", "other", "local")
	_, err = r.admin.AddAddress(ctx, &posternv1.AddAddressRequest{Address: "ann@acme.example", Password: "x"})
	must(t, err)
	_, err = r.admin.AddAddress(ctx, &posternv1.AddAddressRequest{Address: "a@other.example", AliasOf: "ann@acme.example"})
	r.refusedWith(err, maildrop.Invalid, "of another account")
	_, err = r.admin.AddAddress(ctx, &posternv1.AddAddressRequest{Address: "info@acme.example", AliasOf: "ann@acme.example"})
	must(t, err)
	_, err = r.admin.AddAddress(ctx, &posternv1.AddAddressRequest{Address: "b@acme.example", AliasOf: "info@acme.example"})
	r.refusedWith(err, maildrop.Invalid, "name its primary address, ann@acme.example")
	_, err = r.admin.SetAddress(ctx, &posternv1.SetAddressRequest{Address: "info@acme.example", Access: ptr("deny")})
	r.refusedWith(err, maildrop.Invalid, "set its primary address, ann@acme.example")
	_, err = r.admin.RemoveAddress(ctx, &posternv1.EndAddressRequest{Address: "ann@acme.example"})
	r.refusedWith(err, maildrop.Invalid, "info@acme.example is an alias of ann@acme.example: remove it first")
	for _, address := range []string{"info@acme.example", "ann@acme.example"} {
		_, err = r.admin.RemoveAddress(ctx, &posternv1.EndAddressRequest{Address: address})
		must(t, err)
	}
	if len(r.memory.records) != 0 {
		t.Fatalf("left: %v", r.memory.records)
	}
	_, err = r.admin.RemoveAddress(ctx, &posternv1.EndAddressRequest{Address: "ann@acme.example"})
	r.refusedWith(err, maildrop.NotFound, "address ann@acme.example does not exist")
}

func TestSetAddress(t *testing.T) {
	r, ctx := newRig(t).customer(), t.Context()
	_, err := r.admin.AddAddress(ctx, &posternv1.AddAddressRequest{Address: "ann@acme.example", Password: "old", Groups: []string{"sales"}})
	must(t, err)
	first := r.memory.records["ann@acme.example"].Hash
	a, err := r.admin.SetAddress(ctx, &posternv1.SetAddressRequest{Address: "ann@acme.example", Access: ptr("deny")})
	must(t, err)
	if a.Access != "deny" || !slices.Equal(a.Groups, []string{"sales"}) || r.memory.records["ann@acme.example"].Hash != first {
		t.Fatalf("access alone: %v", a)
	}
	_, err = r.admin.SetAddress(ctx, &posternv1.SetAddressRequest{Address: "ann@acme.example", Password: ptr("new"), Groups: &posternv1.Groups{}})
	must(t, err)
	record := r.memory.records["ann@acme.example"]
	if record.Hash == first || len(record.Groups) != 0 || record.Access != maildrop.AccessDeny {
		t.Fatalf("password and groups: %+v", record)
	}
	keysAreOf(t, record.Scram, "new")
	line, _ := r.lastAudit()
	if line["before"] != "account=acme access=deny groups=sales" || line["after"] != "account=acme access=deny groups= password=changed" {
		t.Fatalf("audit: %v", line)
	}
	_, err = r.admin.SetAddress(ctx, &posternv1.SetAddressRequest{Address: "ann@acme.example", Password: ptr("")})
	r.refusedWith(err, maildrop.Invalid, "password is empty")
	stream, err := r.admin.ListAddresses(ctx, &posternv1.ListAccountAddressesRequest{Account: "acme"})
	if all := drain(t, stream, err); len(all) != 1 || all[0].Address != "ann@acme.example" || !all[0].Password {
		t.Fatalf("list: %v", all)
	}

	r.memory.fail = &maildrop.Error{Op: "router", Kind: maildrop.Maybe}
	_, err = r.admin.RemoveAddress(ctx, &posternv1.EndAddressRequest{Address: "ann@acme.example"})
	r.refusedWith(err, maildrop.Maybe, "not known whether")
	if line, _ := r.lastAudit(); line["outcome"] != "unknown" || line["action"] != "address.remove" {
		t.Fatalf("an unknown outcome in the audit: %v", line)
	}
	r.memory.fail = &maildrop.Error{Op: "router", Kind: maildrop.Transient}
	_, err = r.admin.SetAddress(ctx, &posternv1.SetAddressRequest{Address: "ann@acme.example", Access: ptr("allow")})
	r.refusedWith(err, maildrop.Transient, "cannot be reached")
}

func asFault(err error) error { return rpc.FromStatus("test", err, false) }
