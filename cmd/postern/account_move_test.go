package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	mathrand "math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/postern-pop/postern/pkg/config"
	"github.com/postern-pop/postern/pkg/mailclient"
	"github.com/postern-pop/postern/pkg/maildrop"
	"github.com/postern-pop/postern/pkg/shard"
)

// startRegions starts a demo of several regions, with so many shards each.
func startRegions(t *testing.T, shards map[string]int) *running {
	t.Helper()
	files := t.TempDir()
	for name, n := range shards {
		region, err := config.LoadRegion("../../regions/" + name + ".yaml")
		noError(t, err)
		region.File, region.Shards = "", n
		text, err := yaml.Marshal(region)
		noError(t, err)
		noError(t, os.WriteFile(filepath.Join(files, name+".yaml"), text, 0o600))
	}
	return startDemo(t, t.TempDir(), freePorts(t), "--regions", files)
}

// movingMail is what the users of an account that moves send, fetch and remove meanwhile.
type movingMail struct {
	d     *running
	at    demoRegionReport // whose hostname they use
	users []demoUser

	mu      sync.Mutex
	serial  int
	there   map[string]map[string]bool // by address: tokens that were acknowledged
	removed map[string]map[string]bool // that were removed with +OK
	unsure  map[string]map[string]bool // whose removal had no answer, or an error
	longest time.Duration              // of a login
}

var tokenOf = regexp.MustCompile(`(?m)^Subject: (token-\d+)\r$`)

func newMovingMail(d *running, region string, users []demoUser) *movingMail {
	m := &movingMail{d: d, at: d.region(region), users: users,
		there: map[string]map[string]bool{}, removed: map[string]map[string]bool{}, unsure: map[string]map[string]bool{}}
	for _, u := range users {
		m.there[u.Address], m.removed[u.Address], m.unsure[u.Address] = map[string]bool{}, map[string]bool{}, map[string]bool{}
	}
	return m
}

// send delivers a message, and again until it is acknowledged, as a gateway does.
func (m *movingMail) send(user demoUser, octets int) error {
	m.mu.Lock()
	m.serial++
	token := fmt.Sprintf("token-%06d", m.serial)
	m.mu.Unlock()
	text := fmt.Appendf(nil, "Received: from a by b with ESMTP id %s; Mon, 2 Nov 2026 10:00:00 +0000\r\nSubject: %s\r\n\r\n.dot\r\n%s",
		token, token, strings.Repeat("0123456789abcdef\r\n", octets/18))
	until := time.Now().Add(time.Minute)
	for {
		err := deliverOnce(m.d.t.Context(), m.at.LMTP, user.Address, text)
		if err == nil {
			m.mu.Lock()
			defer m.mu.Unlock()
			m.there[user.Address][token] = true
			return nil
		}
		var refused *mailclient.ReplyError
		if errors.As(err, &refused) && !strings.HasPrefix(refused.Reply, "4") || time.Now().After(until) {
			return fmt.Errorf("delivery to %s: %w", user.Address, err)
		}
	}
}

// poll logs in, looks at a message, and removes it if asked to. Anything but success or a
// temporary answer is an error.
func (m *movingMail) poll(user demoUser, remove bool) error {
	began := time.Now()
	pop, err := mailclient.DialPOP(m.d.t.Context(), m.at.POP3S, m.d.tls(m.at))
	if err != nil {
		return nil // its front was killed
	}
	defer pop.Close()
	if err := pop.Login(user.Address, user.Password); err != nil {
		return permanent("login of "+user.Address, err)
	}
	m.mu.Lock()
	m.longest = max(m.longest, time.Since(began))
	m.mu.Unlock()
	var text bytes.Buffer
	count, _, err := pop.Stat()
	if err != nil || count == 0 {
		return permanent("STAT", err)
	}
	if _, err := pop.Retr(count, &text); err != nil { // the latest: those that were there before the move stay

		return permanent("RETR", err)
	}
	found := tokenOf.FindStringSubmatch(text.String())
	if found == nil || !remove {
		return permanent("QUIT", pop.Quit())
	}
	m.mu.Lock()
	again := m.removed[user.Address][found[1]]
	m.mu.Unlock()
	if again {
		return fmt.Errorf("%s: %s was removed with +OK and is back", user.Address, found[1])
	}
	if err := pop.Dele(count); err != nil {
		return permanent("DELE", err)
	}
	err = pop.Quit()
	m.mu.Lock()
	defer m.mu.Unlock()
	if err == nil {
		m.removed[user.Address][found[1]] = true
	} else {
		m.unsure[user.Address][found[1]] = true
	}
	return permanent("QUIT", err)
}

// permanent drops errors that pass: temporary answers, and connections that broke.
func permanent(what string, err error) error {
	var reply *mailclient.ReplyError
	if err == nil || !errors.As(err, &reply) || strings.Contains(err.Error(), "[SYS/TEMP]") {
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}

// load sends and polls until the context ends.
func (m *movingMail) load(ctx context.Context, t *testing.T) *sync.WaitGroup {
	var group sync.WaitGroup
	for i, user := range m.users {
		group.Go(func() {
			random := mathrand.New(mathrand.NewPCG(7, uint64(i)))
			for n := 0; ctx.Err() == nil; n++ {
				if err := errors.Join(m.send(user, random.IntN(3000)), m.poll(user, n%3 == 0)); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	return &group
}

// check wants each acknowledged message once, and none that was removed.
func (m *movingMail) check(t *testing.T, region string) {
	t.Helper()
	for _, user := range m.users {
		count := map[string]int{}
		_, messages := m.d.mailOf(region, user)
		for _, text := range messages {
			found := tokenOf.FindStringSubmatch(string(text))
			if found == nil {
				t.Errorf("%s has a message that nobody sent: %.100q", user.Address, text)
				continue
			}
			count[found[1]]++
		}
		for token, n := range count {
			if n != 1 || !m.there[user.Address][token] || m.removed[user.Address][token] {
				t.Errorf("%s has %s %d times; acknowledged %t, removed %t", user.Address, token, n, m.there[user.Address][token], m.removed[user.Address][token])
			}
		}
		for token := range m.there[user.Address] {
			if count[token] == 0 && !m.removed[user.Address][token] && !m.unsure[user.Address][token] {
				t.Errorf("%s: %s was acknowledged and is lost", user.Address, token)
			}
		}
	}
}

// atRest counts what a region's store has of a domain that its users could fetch, and the
// addresses that have a record.
func (r *running) atRest(region, domain string) (messages, records int) {
	r.t.Helper()
	store, err := openRegionStore(r.t.Context(), filepath.Join(r.dir, region, "region.yaml"), slog.New(slog.DiscardHandler))
	noError(r.t, err)
	defer store.close()
	for number := range store.Shards {
		config, err := store.shard(r.t.Context(), number)
		noError(r.t, err)
		view, err := shard.Read(r.t.Context(), config)
		if err != nil && maildrop.KindOf(err) == maildrop.NotFound {
			continue
		}
		noError(r.t, err)
		for _, address := range view.Addresses() {
			if address.Domain() != domain {
				continue
			}
			if _, ok := view.Record(address); ok {
				records++
			}
			for message := range view.Messages(address) {
				if message.Lives(time.Now()) {
					messages++
				}
			}
		}
	}
	return messages, records
}

// moveAccount runs the command in the background.
func (r *running) moveAccount(args ...string) (wait func() (moveView, string, error)) {
	cmd := exec.Command(binary, append([]string{"account", "move", "-o", "json", "--context", r.report.Context}, args...)...)
	var out, lines bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &lines
	noError(r.t, cmd.Start())
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	r.t.Cleanup(func() { cmd.Process.Kill() })
	return func() (view moveView, said string, err error) {
		err = <-ended
		if decoded := json.Unmarshal(out.Bytes(), &view); decoded != nil {
			err = errors.Join(err, decoded)
		}
		return view, lines.String(), err
	}
}

// killed ends a process of a region as a power cut does. The demo starts it again.
func (r *running) killed(region, role string) {
	r.t.Helper()
	r.reread()
	for _, process := range r.region(region).Processes {
		if process.Role == role {
			noError(r.t, syscall.Kill(process.PID, syscall.SIGKILL))
			return
		}
	}
	r.t.Fatalf("no %s in %s", role, region)
}

// phase is an account's, as account show says.
func (r *running) phase(account string) string {
	out, err := r.tryPostern("account", "show", account, "-o", "json")
	var view accountView
	if err != nil || json.Unmarshal([]byte(out), &view) != nil || view.Moving == nil {
		return ""
	}
	return view.Moving.Phase
}

// TestAccountMove moves an account while its mail comes and goes, and what drives and carries
// the move is killed; and then back.
func TestAccountMove(t *testing.T) {
	d := startRegions(t, map[string]int{"eu": 4, "us": 6})
	const account, domain = "eu-demo", "eu-demo.example"
	for _, seeded := range d.report.Users { // what the demo has put there is in nobody's way
		if seeded.Account == account {
			d.postern("address", "remove", seeded.Address)
		}
	}
	mail := newMovingMail(d, "eu", d.makeUsers("eu", 4))
	for i := range 600 {
		octets := 2000
		if i%100 == 0 {
			octets = 3 << 20 / 2 // an object of its own
		}
		noError(t, mail.send(mail.users[i%len(mail.users)], octets))
	}
	before := map[string][]string{}
	for _, user := range mail.users {
		before[user.Address], _ = d.mailOf("eu", user)
	}

	t.Run("dry run", func(t *testing.T) { movePlanned(t, d.in(t), account) })

	ctx, stop := context.WithCancel(t.Context())
	load := mail.load(ctx, t)
	wait := d.moveAccount(account, "--to", "us")
	for until := time.Now().Add(time.Minute); d.phase(account) != "copying"; {
		if time.Now().After(until) {
			t.Fatal("it doesn't begin")
		}
	}
	d.killed("eu", config.RoleMailbox)
	d.killed("us", config.RoleMailbox)
	d.killed("eu", config.RoleFront)
	view, said, err := wait()
	if err != nil { // as an operator does
		t.Logf("interrupted: %v\n%s", err, said)
		view, said, err = d.moveAccount(account, "--to", "us")()
	}
	stop()
	load.Wait()
	if err != nil || view.Phase != "done" {
		t.Fatalf("%+v, %v\n%s", view, err, said)
	}
	t.Logf("%d messages sent in %d passes, cut-over in %.2f s, longest login %v, %d sent meanwhile", view.Sent, view.Passes, view.Sealed, mail.longest, mail.serial-600)

	mail.check(t, "us")
	mail.check(t, "eu") // relayed
	for _, user := range mail.users {
		after, _ := d.mailOf("us", user)
		sameUIDs(t, user.Address, before[user.Address], after)
	}
	if messages, records := d.atRest("eu", domain); messages+records != 0 {
		t.Errorf("eu has %d messages and %d records of %s still", messages, records, domain)
	}
	if messages, records := d.atRest("us", domain); messages == 0 || records != len(mail.users) {
		t.Errorf("us has %d messages and %d records of %s", messages, records, domain)
	}
	t.Run("and back", func(t *testing.T) { moveBack(t, d.in(t), mail, account, domain) })
	d.stop()
	soundStore(t, filepath.Join(d.dir, "eu", "region.yaml"))
	soundStore(t, filepath.Join(d.dir, "us", "region.yaml"))
}

// sameUIDs wants what is left of a mailbox to have the UIDs that it had, in that order.
func sameUIDs(t *testing.T, address string, before, after []string) {
	t.Helper()
	known := map[string]bool{}
	for _, uid := range before {
		known[uid] = true
	}
	left := slices.DeleteFunc(slices.Clone(after), func(uid string) bool { return !known[uid] })
	is := map[string]bool{}
	for _, uid := range left {
		is[uid] = true
	}
	want := slices.DeleteFunc(slices.Clone(before), func(uid string) bool { return !is[uid] })
	if len(left) == 0 || !slices.Equal(left, want) || !slices.Equal(after[:len(left)], left) {
		t.Errorf("%s: of %d unique-ids %d are left, in another order or behind others", address, len(before), len(left))
	}
}

// movePlanned holds a dry run to its word: it says much, and changes nothing.
func movePlanned(t *testing.T, d *running, account string) {
	view, said, err := d.moveAccount(account, "--to", "us", "--dry-run")()
	if err != nil || view.Phase != "planned" || view.Messages < 600 || view.Addresses != 4 || view.Octets == 0 || len(view.Obstacles) > 0 {
		t.Errorf("%+v, %v\n%s", view, err, said)
	}
	if phase := d.phase(account); phase != "" {
		t.Errorf("after the dry run: %s", phase)
	}
	for _, wrong := range [][]string{
		{account, "--to", "mars"}, {account, "--to", "eu"}, {account, "--abort"}, {account}, {"nobody", "--to", "us"},
	} {
		if _, said, err := d.moveAccount(wrong...)(); err == nil {
			t.Errorf("%v: no error, and %q", wrong, said)
		}
	}
}

// moveBack gives one move up, and then moves the account to where it came from.
func moveBack(t *testing.T, d *running, mail *movingMail, account, domain string) {
	before := map[string][]string{}
	for _, user := range mail.users {
		before[user.Address], _ = d.mailOf("us", user)
	}
	// Interrupted while it copies, and given up: nothing of it is left over there.
	interrupted := exec.Command(binary, "account", "move", account, "--to", "eu", "--context", d.report.Context)
	noError(t, interrupted.Start())
	for until := time.Now().Add(time.Minute); d.phase(account) != "copying"; {
		if time.Now().After(until) {
			t.Fatal("it doesn't begin")
		}
	}
	noError(t, interrupted.Process.Kill())
	_ = interrupted.Wait() // it was killed
	view, said, err := d.moveAccount(account, "--abort")()
	if err != nil || view.Phase != "aborted" || d.phase(account) != "" {
		t.Fatalf("%+v, %v\n%s", view, err, said)
	}
	if messages, records := d.atRest("eu", domain); messages+records != 0 {
		t.Errorf("eu has %d messages and %d records of %s after the move was given up", messages, records, domain)
	}

	view, said, err = d.moveAccount(account, "--to", "eu")()
	if err != nil || view.Phase != "done" {
		t.Fatalf("%+v, %v\n%s", view, err, said)
	}
	for _, user := range mail.users {
		if after, _ := d.mailOf("eu", user); !slices.Equal(before[user.Address], after) {
			t.Errorf("%s had %d messages, has %d, or others", user.Address, len(before[user.Address]), len(after))
		}
	}
	mail.check(t, "eu")
	if messages, records := d.atRest("us", domain); messages+records != 0 {
		t.Errorf("us has %d messages and %d records of %s still", messages, records, domain)
	}
}
