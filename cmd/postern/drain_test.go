package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/postern-pop/postern/pkg/mailclient"
)

// TestDrain hands a region's shards back and forth, as an operator does, under users
// who notice nothing.
func TestDrain(t *testing.T) {
	d := startEU(t, 16)
	region, users := d.region("eu"), d.makeUsers("eu", 8)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var group sync.WaitGroup
	for _, user := range users {
		group.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				if err := d.visit(region, user, n); err != nil {
					t.Errorf("%s: %v", user.Address, err)
					return
				}
			}
		})
	}

	var nodes []nodeView
	list := func() map[string]nodeView {
		t.Helper()
		if err := json.Unmarshal([]byte(d.postern("node", "list", "-r", "eu", "-o", "json")), &nodes); err != nil {
			t.Fatal(err)
		}
		byName := map[string]nodeView{}
		for _, n := range nodes {
			byName[n.Name] = n
		}
		return byName
	}
	if out := d.postern("node", "drain", "-r", "eu", "mailbox-1"); !strings.Contains(out, "drained, 0 shards left") {
		t.Errorf("drain says %q", out)
	}
	d.settled(t, "eu", 1) // its last shard is being taken
	if n := list(); n["mailbox-1"].State != "drained" || n["mailbox-1"].Shards != 0 || n["mailbox-2"].Shards != 16 {
		t.Errorf("after the drain: %+v", n)
	}
	if out, err := d.tryPostern("shard", "move", "-r", "eu", "3", "--to", "mailbox-1"); err == nil || !strings.Contains(out, "undrain it first") {
		t.Errorf("a move to a node that drains: %s, %v", out, err)
	}
	if out, err := d.tryPostern("node", "drain", "-r", "eu", "mailbox-9"); err == nil || !strings.Contains(out, "no node") {
		t.Errorf("a node that isn't there: %s, %v", out, err)
	}
	if out, err := d.tryPostern("node", "list", "-r", "us"); err == nil || !strings.Contains(out, "gateway of region eu") {
		t.Errorf("a region without a gateway: %s, %v", out, err)
	}
	d.postern("node", "undrain", "-r", "eu", "mailbox-1")
	for shard := range 3 {
		out := d.postern("shard", "move", "-r", "eu", fmt.Sprint(shard), "--to", "mailbox-1")
		if !strings.Contains(out, fmt.Sprintf("shard %d is at mailbox-1", shard)) {
			t.Errorf("move says %q", out)
		}
	}
	stop()
	group.Wait()

	var shards []shardView
	if err := json.Unmarshal([]byte(d.postern("shard", "list", "-r", "eu", "-o", "json")), &shards); err != nil || len(shards) != 16 {
		t.Fatal(len(shards), err)
	}
	addresses := uint64(0)
	for _, s := range shards {
		addresses += s.Addresses
		if !s.Serving || s.Shard < 3 && (s.Owner != "mailbox-1" || s.MovedTo != "mailbox-1") || s.Messages > 0 && s.Octets == 0 {
			t.Errorf("%+v", s)
		}
	}
	if addresses < uint64(len(users)) {
		t.Errorf("%d addresses in all shards", addresses)
	}
}

// visit delivers a message to a user, fetches and removes it, in one session each.
// Any answer but the right one is an error.
func (r *running) visit(region demoRegionReport, user demoUser, n int) error {
	text := fmt.Appendf(nil, "Received: from a by b with ESMTP id %s-%d; Mon, 2 Nov 2026 10:00:00 +0000\r\nSubject: %d\r\n\r\nx\r\n", user.Address, n, n)
	if err := deliverOnce(r.t.Context(), region.LMTP, user.Address, text); err != nil {
		return fmt.Errorf("delivery: %w", err)
	}
	pop, err := mailclient.DialPOP(r.t.Context(), region.POP3S, r.tls(region))
	if err != nil {
		return err
	}
	defer pop.Close()
	if err := pop.Login(user.Address, user.Password); err != nil {
		return fmt.Errorf("login: %w", err)
	}
	count, _, err := pop.Stat()
	if err != nil || count != 1 {
		return fmt.Errorf("STAT: %d messages, %w", count, err)
	}
	var got strings.Builder
	if _, err := pop.Retr(1, &got); err != nil || !strings.HasSuffix(got.String(), string(text)) {
		return fmt.Errorf("RETR: %q, %w", got.String(), err)
	}
	if err := pop.Dele(1); err != nil {
		return fmt.Errorf("DELE: %w", err)
	}
	if err := pop.Quit(); err != nil {
		return fmt.Errorf("QUIT: %w", err)
	}
	return nil
}
