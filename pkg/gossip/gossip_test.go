package gossip

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/postern-pop/postern/pkg/maildrop"
)

var key = bytes.Repeat([]byte{7}, 32)

func join(t *testing.T, config Config) *Member {
	t.Helper()
	if config.Region == "" {
		config.Region = "eu"
	}
	if config.Bind == "" {
		config.Bind = "127.0.0.1:0"
	}
	config.Role, config.Log = "mailbox", slog.New(slog.DiscardHandler)
	if config.Keys == nil {
		config.Keys = [][]byte{key}
	}
	m, err := Join(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

// await waits until a condition of a member's view holds.
func await(t *testing.T, m *Member, what string, holds func() bool) {
	t.Helper()
	deadline := time.After(30 * time.Second)
	for {
		changed := m.Changed()
		if holds() {
			return
		}
		select {
		case <-changed:
		case <-deadline:
			t.Fatalf("%s: never; members: %v", what, m.Members())
		}
	}
}

func present(m *Member) string {
	var names []string
	for _, p := range m.Members() {
		names = append(names, p.Name)
	}
	return strings.Join(names, " ")
}

func TestDeathAndComeBack(t *testing.T) {
	a := join(t, Config{Name: "a", Meta: map[string]string{"grpc": "a:1"}})
	seeds := []string{a.Self().Address}
	b := join(t, Config{Name: "b", Seeds: seeds})
	c := join(t, Config{Name: "c", Seeds: seeds})
	for _, m := range []*Member{a, b, c} {
		await(t, m, "all three", func() bool { return present(m) == "a b c" })
	}
	if a.Dead("c") || a.Dead("never heard of") {
		t.Fatal("dead without a death")
	}
	if i := slices.IndexFunc(b.Members(), func(p Peer) bool { return p.Name == "a" }); b.Members()[i].Meta["grpc"] != "a:1" {
		t.Fatalf("a's metadata is %v at b", b.Members()[i])
	}

	first := c.Self().Instance
	c.Close() // without a word
	for _, m := range []*Member{a, b} {
		await(t, m, "c's death", func() bool { return m.Dead("c") && m.Gone("c", first) && present(m) == "a b" })
	}

	again := join(t, Config{Name: "c", Seeds: seeds})
	for _, m := range []*Member{a, b} {
		await(t, m, "c's return", func() bool { return !m.Dead("c") && present(m) == "a b c" })
		if !m.Gone("c", first) || m.Gone("c", again.Self().Instance) {
			t.Fatal("the two processes of c are taken for one")
		}
	}

	if err := again.Leave(t.Context()); err != nil {
		t.Fatal(err)
	}
	await(t, a, "c's leave", func() bool { return a.Dead("c") })
}

// The seed isn't there yet when the others look for it.
func TestJoinGoesOnAsking(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	seed := l.Addr().String()
	l.Close()
	b := join(t, Config{Name: "b", Seeds: []string{seed}})
	a := join(t, Config{Name: "a", Bind: seed})
	await(t, b, "the seed", func() bool { return present(b) == "a b" })
	await(t, a, "b", func() bool { return present(a) == "a b" })
}

func TestRegionsStayApart(t *testing.T) {
	a := join(t, Config{Name: "a", Region: "eu"})
	b := join(t, Config{Name: "b", Region: "us"})
	if _, err := b.list.Join([]string{a.Self().Address}); err == nil {
		t.Fatal("a member of us joined eu")
	}
	if present(a) != "a" || present(b) != "b" {
		t.Fatalf("eu has %q, us has %q", present(a), present(b))
	}
}

func TestJoinRefuses(t *testing.T) {
	good := Config{Name: "a", Region: "eu", Bind: "127.0.0.1:0", Keys: [][]byte{key}, Log: slog.New(slog.DiscardHandler)}
	cases := map[string]func(*Config){
		"no name":       func(c *Config) { c.Name = "" },
		"slash in name": func(c *Config) { c.Name = "a/b" },
		"no region":     func(c *Config) { c.Region = "" },
		"no key":        func(c *Config) { c.Keys = nil },
		"short key":     func(c *Config) { c.Keys = [][]byte{key, key[:15]} },
		"much metadata": func(c *Config) { c.Meta = map[string]string{"a": strings.Repeat("x", 512)} },
		"no bind":       func(c *Config) { c.Bind = "" },
		"bad advertise": func(c *Config) { c.Advertise = "here" },
	}
	for name, spoil := range cases {
		config := good
		spoil(&config)
		m, err := Join(config)
		if err == nil {
			m.Close()
			t.Errorf("%s: accepted", name)
		} else if maildrop.KindOf(err) != maildrop.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestLeaveTwice(t *testing.T) {
	a := join(t, Config{Name: "a"})
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	for range 2 {
		if err := a.Leave(ctx); err != nil {
			t.Fatal(err)
		}
	}
}

// A process that is wrongly reported dead and comes back does not become its
// name's latest again.
func TestBookKnowsTheLatest(t *testing.T) {
	b := newBook()
	one, two := &memberlist.Node{Name: "a/1"}, &memberlist.Node{Name: "a/2"}
	b.NotifyJoin(one)
	b.NotifyJoin(two)
	b.NotifyLeave(one)
	if b.dead("a", "") || !b.dead("a", "1") || b.dead("a", "2") {
		t.Fatal("the first process's death is the second's")
	}
	b.NotifyJoin(one)
	b.NotifyLeave(two)
	if !b.dead("a", "") {
		t.Fatal("the first process's life is the second's")
	}
}

func TestBookForgets(t *testing.T) {
	b := newBook()
	b.NotifyJoin(&memberlist.Node{Name: "me/1"})
	for i := range 2 * maxForgone {
		n := &memberlist.Node{Name: fmt.Sprintf("n%d/1", i)}
		b.NotifyJoin(n)
		b.NotifyLeave(n)
	}
	if len(b.pages) > maxForgone || len(b.latest) > maxForgone {
		t.Fatalf("%d processes remembered", len(b.pages))
	}
	if len(b.alive()) != 1 || b.dead("n0", "") || !b.dead(fmt.Sprintf("n%d", 2*maxForgone-1), "") {
		t.Fatal("forgot the wrong ones")
	}
}

// hearsay is an Exchange that says one thing, and collects what it hears.
type hearsay struct {
	word  string
	heard chan string
}

func (h *hearsay) Say() [][]byte { return [][]byte{[]byte(h.word)} }
func (h *hearsay) Hear(packet []byte) {
	select {
	case h.heard <- string(packet):
	default:
	}
}

// TestShare: those of a role tell each other within two seconds, and nobody else.
func TestShare(t *testing.T) {
	a := joinRole(t, Config{Name: "a", Role: "front"})
	seeds := []string{a.Self().Address}
	b := joinRole(t, Config{Name: "b", Role: "front", Seeds: seeds})
	c := joinRole(t, Config{Name: "c", Role: "intake", Seeds: seeds})
	for _, m := range []*Member{a, b, c} {
		await(t, m, "all three", func() bool { return present(m) == "a b c" })
	}
	exchanges := map[string]*hearsay{}
	for name, m := range map[string]*Member{"a": a, "b": b, "c": c} {
		exchanges[name] = &hearsay{word: "of " + name, heard: make(chan string, 100)}
		m.Share(exchanges[name])
	}
	began := time.Now()
	for hearer, word := range map[string]string{"a": "of b", "b": "of a"} {
		for range 3 {
			if got := <-exchanges[hearer].heard; got != word {
				t.Errorf("%s hears %q", hearer, got)
			}
		}
	}
	if took := time.Since(began); took > 20*time.Second { // 750 ms on a machine with nothing else to do
		t.Errorf("three packets took %v", took)
	}
	if n := len(exchanges["c"].heard); n > 0 {
		t.Errorf("another role hears %d packets", n)
	}
}

func joinRole(t *testing.T, config Config) *Member {
	t.Helper()
	config.Region, config.Bind, config.Keys, config.Log = "eu", "127.0.0.1:0", [][]byte{key}, slog.New(slog.DiscardHandler)
	m, err := Join(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

// TestKeysAreReplaced replaces the key of a region in its three phases. Nobody is lost in
// any of them, and who has only the old key is not heard afterwards.
func TestKeysAreReplaced(t *testing.T) {
	next := bytes.Repeat([]byte{8}, 32)
	a := join(t, Config{Name: "a"})
	seeds := []string{a.Self().Address}
	b := join(t, Config{Name: "b", Seeds: seeds})
	await(t, a, "b", func() bool { return present(a) == "a b" })
	for phase, keys := range [][][]byte{{key, next}, {next, key}, {next}} {
		for _, m := range []*Member{a, b} { // between the two the region is in two phases
			if err := m.SetKeys(keys); err != nil {
				t.Fatal(err)
			}
			for _, ask := range []*Member{a, b} {
				if _, err := ask.list.Join([]string{a.Self().Address, b.Self().Address}); err != nil {
					t.Fatalf("phase %d: %v", phase, err)
				}
			}
		}
		late := join(t, Config{Name: fmt.Sprintf("late-%d", phase), Seeds: seeds, Keys: keys})
		await(t, a, "one that comes late", func() bool { return strings.Contains(present(a), late.Self().Name) })
	}
	old := join(t, Config{Name: "old"})
	if _, err := old.list.Join(seeds); err == nil {
		t.Fatal("a process with the old key alone has joined")
	}
	if strings.Contains(present(a), "old") || !strings.HasPrefix(present(a), "a b ") {
		t.Fatalf("members: %s", present(a))
	}
	if err := a.SetKeys(nil); err == nil {
		t.Fatal("no key is taken")
	}
}
