package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/alecthomas/kong"

	"github.com/postern-pop/postern/pkg/blob"
	"github.com/postern-pop/postern/pkg/blob/blobtest"
	"github.com/postern-pop/postern/pkg/blob/sealed"
	"github.com/postern-pop/postern/pkg/config"
	"github.com/postern-pop/postern/pkg/fsck"
	"github.com/postern-pop/postern/pkg/ledger"
	"github.com/postern-pop/postern/pkg/maildrop"
	"github.com/postern-pop/postern/pkg/maildroptest"
	"github.com/postern-pop/postern/pkg/policy"
	"github.com/postern-pop/postern/pkg/shard"
)

// audited is a region with mail in a directory, and no process.
type audited struct {
	t      *testing.T
	file   string // of the region
	store  string // directory
	region *config.Region
}

const (
	auditedUser = maildrop.Address("anna@local.example")
	auditedHash = "$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHRzYWx0c2FsdA$dGFndGFndGFndGFndGFndGFndGFndGFndGFndGFndGE"
)

func newAudited(t *testing.T, more string) *audited {
	t.Helper()
	dir := t.TempDir()
	a := &audited{t: t, file: filepath.Join(dir, "eu.yaml"), store: filepath.Join(dir, "store")}
	noError(t, os.WriteFile(a.file, fmt.Appendf(nil, "name: eu\ntitle: Europe\nhostname: eu-pop.example.com\nshards: 4\ncross_region: relay\n"+
		"gateway: eu.example.com:9950\nstorage:\n  dir:\n    path: %s\n%s", a.store, more), 0o600))
	noError(t, os.Mkdir(a.store, 0o700))
	var err error
	a.region, err = config.LoadRegion(a.file)
	noError(t, err)
	return a
}

// owns opens an address's shard as its node does, for as long as use takes.
func (a *audited) owns(address maildrop.Address, use func(*shard.Shard)) {
	a.t.Helper()
	store, closer, err := openStore(context.Background(), a.region.Storage, noLog, nil)
	noError(a.t, err)
	defer closer.Close()
	rules := maildroptest.NewRules()
	rules.PutAccount(policy.Account{Name: "customer", Region: "eu"})
	rules.PutDomain(policy.Domain{Name: "local.example", Account: "customer", Kind: policy.DomainLocal})
	c := shard.Config{
		Region: "eu", Number: address.Shard(a.region.Shards), Node: "eu-mailbox-1", Store: store, Rules: rules,
		Verify: func(context.Context, maildrop.Login, string) error { return nil },
	}
	encrypt, err := seal(a.region.Storage.Encryption, noLog)
	noError(a.t, err)
	if encrypt != nil {
		c.Store, err = encrypt(context.Background(), store, c.Prefix(), nil)
		noError(a.t, err)
	}
	s, err := shard.Open(context.Background(), c, 0)
	noError(a.t, err)
	use(s)
	noError(a.t, s.Close(context.Background()))
}

func (a *audited) record(s *shard.Shard, r maildrop.AddressRecord) {
	a.t.Helper()
	r.Account = "customer"
	if r.Primary == "" {
		r.Hash = auditedHash
	}
	noError(a.t, s.PutAddress(context.Background(), r))
}

// fill delivers some messages, one of them large.
func (a *audited) fill() {
	a.t.Helper()
	a.owns(auditedUser, func(s *shard.Shard) {
		a.record(s, maildrop.AddressRecord{Address: auditedUser})
		for i := range 6 {
			noError(a.t, s.Deliver(context.Background(), maildrop.Envelope{ID: maildrop.RandomID(), To: auditedUser}, maildroptest.Filled(300_000*(i+1), byte(i))))
		}
	})
}

// files are the paths of the store's objects of one kind.
func (a *audited) files(kind string) (files []string) {
	a.t.Helper()
	files, err := filepath.Glob(filepath.Join(a.store, "objects", "eu", "*", kind, "*"))
	noError(a.t, err)
	return files
}

func flip(t *testing.T, file string, at int) {
	t.Helper()
	content, err := os.ReadFile(file)
	noError(t, err)
	content[(at+len(content))%len(content)] ^= 1
	noError(t, os.Chmod(file, 0o600))
	noError(t, os.WriteFile(file, content, 0o600))
}

// tool runs one of the commands on a region's store, as main does.
func tool(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	var line struct {
		Fsck   fsckCmd   `cmd:""`
		Ledger ledgerCmd `cmd:""`
		Export exportCmd `cmd:""`
	}
	parser, err := kong.New(&line, kong.BindTo(t.Context(), (*context.Context)(nil)), kong.Writers(&out, &errs))
	noError(t, err)
	parsed, err := parser.Parse(args)
	if err != nil {
		return exitUsage, "", err.Error()
	}
	var problems config.Problems
	if err = parsed.Run(); errors.As(err, &problems) {
		return exitUsage, out.String(), problems.Error()
	}
	if err != nil {
		return exitFailed, out.String(), err.Error()
	}
	return 0, out.String(), errs.String()
}

// Exit codes, and the words that go with them.
func TestFsckCommand(t *testing.T) {
	a := newAudited(t, "")
	state := filepath.Join(t.TempDir(), "state")
	if code, _, said := tool(t, "fsck", "--region", a.file); code != exitFailed || !strings.Contains(said, "check storage in") {
		t.Errorf("an empty store: %d, %s", code, said)
	}
	a.fill()
	code, out, said := tool(t, "fsck", "--region", a.file, "--state", state)
	if code != 0 || !strings.Contains(out, "shards in use: 1, never used: 3;") || !strings.HasSuffix(out, "Nothing is damaged: there is nothing to do.\n") {
		t.Errorf("%d\n%s%s", code, out, said)
	}
	var report struct {
		fsck.Report
		Total   fsck.Shard `json:"total"`
		Damages int        `json:"damages"`
	}
	code, out, _ = tool(t, "fsck", "--region", a.file, "-o", "json", "--parallel", "1", "--shard", fmt.Sprint(auditedUser.Shard(4)))
	noError(t, json.Unmarshal([]byte(out), &report))
	if code != 0 || report.Total.Classes["local"].Messages != 6 || report.Damages != 0 || len(report.Shards) != 1 {
		t.Errorf("%d, %s", code, out)
	}
	body := a.files("body")[0]
	flip(t, body, 300_000)
	code, out, said = tool(t, "fsck", "--region", a.file, "--state", state)
	if code != exitFailed || !strings.Contains(out, filepath.Base(body)+": octet 262148: checksum of the block is wrong (") ||
		!strings.Contains(out, " of anna@local.example)\n") || !strings.Contains(said, "damaged places: 1, of them in what somebody needs: 1;") {
		t.Errorf("%d\n%s%s", code, out, said)
	}
	for _, args := range [][]string{
		{"--region", a.file, "--shard", "4"}, {"--region", a.file, "--parallel", "0"}, {}, {"--region", a.file + "x"}, {"--region", a.file, "-o", "table"},
	} {
		if code, _, said := tool(t, append([]string{"fsck"}, args...)...); code != exitUsage {
			t.Errorf("%q: %d, %s", args, code, said)
		}
	}
	noError(t, os.RemoveAll(a.store))
	if code, _, said := tool(t, "fsck", "--region", a.file); code != exitFailed || !strings.Contains(said, "no store of region eu") {
		t.Errorf("no directory: %d, %s", code, said)
	}
	if _, err := os.Stat(a.store); err == nil {
		t.Error("a store was made")
	}
}

// The same where mail at rest is encrypted: shards without mail have no key, and
// get none.
func TestFsckOfSealedMail(t *testing.T) {
	keys := filepath.Join(t.TempDir(), "mail.keyset")
	_, err := sealed.CreateKeyFile(keys)
	noError(t, err)
	a := newAudited(t, "  encryption:\n    key_file: "+keys+"\n")
	a.fill()
	code, out, said := tool(t, "fsck", "--region", a.file)
	if code != 0 || len(a.files("key")) != 1 {
		t.Errorf("%d, %d keys\n%s%s", code, len(a.files("key")), out, said)
	}
	for _, kind := range []string{"body", "ledger"} {
		file := a.files(kind)[len(a.files(kind))-1]
		flip(t, file, -50)
		code, out, said = tool(t, "fsck", "--region", a.file)
		if code != exitFailed || !strings.Contains(out, filepath.Base(file)) {
			t.Errorf("%s: %d\n%s%s", kind, code, out, said)
		}
		flip(t, file, -50)
	}
	dir := t.TempDir()
	if code, out, said := tool(t, "export", string(auditedUser), "--region", a.file, "--maildir", filepath.Join(dir, "M")); code != 0 || !strings.Contains(out, "6 messages") {
		t.Errorf("export: %d\n%s%s", code, out, said)
	}
	object := "eu/" + filepath.Base(filepath.Dir(filepath.Dir(a.files("ledger")[0]))) + "/ledger/00000000000000000001"
	if code, out, said := tool(t, "ledger", "dump", object, "--region", a.file); code != 0 || !strings.Contains(out, "fence of epoch 1") {
		t.Errorf("dump: %d\n%s%s", code, out, said)
	}
	if code, out, said := tool(t, "ledger", "dump", a.files("ledger")[0]); code != exitFailed || !strings.Contains(out, "data key 1") || !strings.Contains(said, "--region") {
		t.Errorf("dump of a sealed file: %d\n%s%s", code, out, said)
	}
	if code, out, said := tool(t, "ledger", "dump", a.files("key")[0]); code != 0 || !strings.Contains(out, "data key 1, wrapped by") {
		t.Errorf("dump of a key: %d\n%s%s", code, out, said)
	}
}

// A lost object keeps its shard from opening, until an operator says that there is
// no copy of it.
func TestLedgerForget(t *testing.T) {
	keys := filepath.Join(t.TempDir(), "mail.keyset")
	_, err := sealed.CreateKeyFile(keys)
	noError(t, err)
	a := newAudited(t, "  encryption:\n    key_file: "+keys+"\n")
	a.fill()
	number := strconv.Itoa(auditedUser.Shard(a.region.Shards))
	forget := func(args ...string) (int, string, string) {
		return tool(t, append([]string{"ledger", "forget", "--region", a.file, "--shard", number}, args...)...)
	}
	if code, out, said := forget("3", "--yes"); code != exitFailed || !strings.Contains(said, "doesn't wait") {
		t.Errorf("a sound object: %d\n%s%s", code, out, said)
	}
	noError(t, os.Remove(a.files("ledger")[2]))
	code, out, said := forget("3")
	if code != 0 || !strings.Contains(out, "nothing was written") || !strings.Contains(out, "sequence 2, epoch 1") || len(a.files("forgotten")) != 0 {
		t.Errorf("%d\n%s%s", code, out, said)
	}
	if code, out, said = forget("3", "--yes", "--by", "anna"); code != 0 || !strings.Contains(said, `"by":"anna"`) || !strings.Contains(said, `"msg":"audit"`) || len(a.files("forgotten")) != 1 {
		t.Errorf("%d\n%s%s", code, out, said)
	}
	a.owns(auditedUser, func(*shard.Shard) {})
	note := "eu/" + filepath.Base(filepath.Dir(filepath.Dir(a.files("forgotten")[0]))) + "/forgotten/00000000000000000003"
	if code, out, said := tool(t, "fsck", "--region", a.file); code != 0 || !strings.Contains(out, note) {
		t.Errorf("fsck: %d\n%s%s", code, out, said)
	}
	if code, out, said := tool(t, "ledger", "dump", note, "--region", a.file); code != 0 || !strings.Contains(out, `sequence 3`) || !strings.Contains(out, `"anna"`) {
		t.Errorf("dump: %d\n%s%s", code, out, said)
	}
}

// A key that isn't the one of the mail in the store is refused before a node starts.
func TestAnotherKeyIsRefused(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"right", "wrong"} {
		_, err := sealed.CreateKeyFile(filepath.Join(dir, name))
		noError(t, err)
	}
	a := newAudited(t, "  encryption:\n    key_file: "+filepath.Join(dir, "right")+"\n")
	store, closer, err := openStore(t.Context(), a.region.Storage, noLog, nil)
	noError(t, err)
	defer closer.Close()
	if err := keyFits(t.Context(), store, a.region, noLog); err != nil {
		t.Errorf("an empty store: %v", err)
	}
	a.fill()
	if err := keyFits(t.Context(), store, a.region, noLog); err != nil {
		t.Errorf("the key: %v", err)
	}
	a.region.Storage.Encryption.KeyFile = config.Path(filepath.Join(dir, "wrong"))
	if err := keyFits(t.Context(), store, a.region, noLog); !errors.Is(err, sealed.ErrWrongKey) || !strings.Contains(err.Error(), "storage.encryption") {
		t.Errorf("another key: %v", err)
	}
}

// ledgerState takes nothing in.
type ledgerState struct{ secret [32]byte }

func (*ledgerState) Load([]byte) error { return nil }
func (s *ledgerState) Apply(e ledger.Entry) error {
	if f, ok := e.Record.(*ledger.Fence); ok {
		s.secret = f.Secret
	}
	return nil
}

// Every kind of object is told in words, from the store and from the disk, and
// neither secrets nor hashes nor mail ever are.
func TestLedgerDump(t *testing.T) {
	a := newAudited(t, "")
	secret := a.aged()
	var all strings.Builder
	kinds := map[string]bool{}
	noError(t, filepath.WalkDir(filepath.Join(a.store, "objects", "eu"), func(file string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		key, err := filepath.Rel(filepath.Join(a.store, "objects"), file)
		noError(t, err)
		code, fromDisk, said := tool(t, "ledger", "dump", file)
		if code != 0 || fromDisk == "" {
			t.Errorf("%s: %d, %s", key, code, said)
		}
		code, fromStore, said := tool(t, "ledger", "dump", key, "--region", a.file)
		if code != 0 || fromStore != fromDisk {
			t.Errorf("%s: %d, %s, other words:\n%s%s", key, code, said, fromDisk, fromStore)
		}
		var view dumpView
		_, asJSON, _ := tool(t, "ledger", "dump", file, "-o", "json")
		noError(t, json.Unmarshal([]byte(asJSON), &view))
		for _, line := range view.Lines {
			if !strings.Contains(fromDisk, line+"\n") {
				t.Errorf("%s: only JSON says %q", key, line)
			}
		}
		if kind := strings.Split(key, "/")[2]; string(view.Kind) != kind || view.Octets == 0 || !view.Sound || view.Epoch == 0 || view.Error != "" {
			t.Errorf("%s: %s", key, asJSON)
		}
		all.WriteString(fromDisk + asJSON)
		kinds[strings.Split(key, "/")[2]] = true
		return nil
	}))
	for _, want := range []string{
		"delivery to anna@local.example: 300000 octets", "address anna@local.example of \"customer\"", "hash set",
		"manifest: checkpoint of sequence", "mailbox anna@local.example: account \"customer\", access inherit", " messages from", "bodies in", "blocks", "covers all up to",
	} {
		if !strings.Contains(all.String(), want) {
			t.Errorf("nothing says %q:\n%s", want, all.String())
		}
	}
	for _, never := range []string{"c2FsdHNhbHRzYWx0", "dGFndGFn", "argon2id", string(secret[:]), fmt.Sprintf("%x", secret), "saltsalt", "tagtag"} {
		if strings.Contains(all.String(), never) {
			t.Errorf("something says %q", never)
		}
	}
	if len(kinds) != 5 {
		t.Errorf("kinds %v", kinds)
	}
	victim := a.files("ledger")[0]
	flip(t, victim, -10)
	if code, out, said := tool(t, "ledger", "dump", victim); code != exitFailed || !strings.Contains(said, "damaged") || out == "" {
		t.Errorf("a damaged one: %d, %s%s", code, out, said)
	}
	var broken dumpView
	code, out, said := tool(t, "ledger", "dump", victim, "-o", "json")
	noError(t, json.Unmarshal([]byte(out), &broken))
	if code != exitFailed || broken.Sound || len(broken.Damage) == 0 || broken.Damage[0].Octet == nil || broken.Error != said {
		t.Errorf("a damaged one in JSON: %d, %s\n%s", code, said, out)
	}
	for _, args := range [][]string{{"nowhere"}, {"eu/nowhere", "--region", a.file}, {auditedPrefix() + "/ledger/1", "--region", a.file}, {a.file}} {
		if code, _, said := tool(t, append([]string{"ledger", "dump"}, args...)...); code != exitFailed || said == "" {
			t.Errorf("%q: %d, %s", args, code, said)
		}
	}
}

// aged fills the store with what a shard has after some days, all kinds of objects, and
// returns the ledger's secret.
func (a *audited) aged() [32]byte {
	a.t.Helper()
	memory := blobtest.NewMemory()
	synctest.Test(a.t, func(t *testing.T) {
		s := agingShard(t, memory)
		for i := range 12 {
			noError(t, s.Deliver(context.Background(), maildrop.Envelope{ID: maildrop.RandomID(), To: auditedUser}, maildroptest.Filled(300_000*(i%6+1), byte(i))))
			if i == 5 {
				time.Sleep(30 * time.Hour)
				a.record(s, maildrop.AddressRecord{Address: auditedUser})
			}
		}
		noError(t, s.Close(context.Background()))
	})
	store, closer, err := openStore(context.Background(), a.region.Storage, noLog, nil)
	noError(a.t, err)
	defer closer.Close()
	for info, err := range memory.List(context.Background(), "", "") {
		noError(a.t, err)
		content := make([]byte, info.Size)
		_, err := memory.ReadAt(context.Background(), info.Key, content, 0)
		noError(a.t, err)
		noError(a.t, store.Create(context.Background(), info.Key, bytes.NewReader(content), info.Size))
	}
	state := &ledgerState{}
	_, err = ledger.Read(context.Background(), ledger.Config{Store: store, Prefix: auditedPrefix()}, func() ledger.State { return state })
	noError(a.t, err)
	return state.secret
}

func auditedPrefix() string { return shard.Config{Region: "eu", Number: auditedUser.Shard(4)}.Prefix() }

// agingShard is the user's shard in a bubble of fake time.
func agingShard(t *testing.T, store blob.Store) *shard.Shard {
	t.Helper()
	rules := maildroptest.NewRules()
	rules.PutAccount(policy.Account{Name: "customer", Region: "eu"})
	rules.PutDomain(policy.Domain{Name: "local.example", Account: "customer", Kind: policy.DomainLocal})
	s, err := shard.Open(context.Background(), shard.Config{
		Region: "eu", Number: auditedUser.Shard(4), Node: "eu-mailbox-1", Store: store, Rules: rules, CacheBytes: -1,
		Verify: func(context.Context, maildrop.Login, string) error { return nil },
		Clock:  func() time.Duration { return time.Duration(time.Now().UnixNano()) },
	}, 0)
	noError(t, err)
	noError(t, s.PutAddress(context.Background(), maildrop.AddressRecord{Address: auditedUser, Account: "customer", Hash: auditedHash}))
	return s
}
