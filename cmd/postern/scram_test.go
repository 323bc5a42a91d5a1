package main

import (
	"encoding/base64"
	"errors"
	"strings"
	"testing"

	"github.com/xdg-go/scram"

	"github.com/postern-pop/postern/pkg/mailclient"
)

// prover is an independent implementation of a client's side of SCRAM.
func prover(t testing.TB, u demoUser) *scram.Client {
	t.Helper()
	client, err := scram.SHA256.NewClient(u.Address, u.Password, "")
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// prove logs in by SCRAM-SHA-256, and wants the server to prove itself, too.
func prove(pop *mailclient.POP, client *scram.Client) error {
	talk := client.NewConversation()
	for verb, in := "AUTH SCRAM-SHA-256 ", ""; ; verb = "" {
		out, err := talk.Step(in)
		if err != nil {
			return err
		}
		if talk.Done() {
			break
		}
		challenge, err := pop.Challenge(verb + base64.StdEncoding.EncodeToString([]byte(out)))
		if err != nil {
			return err
		}
		in = string(challenge)
	}
	if !talk.Valid() {
		return errors.New("the server has other keys")
	}
	_, err := pop.Command("")
	return err
}

// proofs: a user logs in by SCRAM where his mailbox is and elsewhere, with the password of
// the moment; nobody else does.
func (r *running) proofs() {
	r.t.Helper()
	ben := r.user("eu", kindLocal)
	for _, region := range []string{"eu", "us"} {
		pop := r.connect(region)
		if err := prove(pop, prover(r.t, ben)); err != nil {
			r.t.Fatalf("at %s: %v", region, err)
		}
		if count, _, err := pop.Stat(); err != nil || count != len(samples()) {
			r.t.Errorf("at %s: %d messages, %v", region, count, err)
		}
	}
	for _, u := range []demoUser{{Address: ben.Address, Password: "guess"}, {Address: "nobody@eu-demo.example", Password: ben.Password}} {
		if err := prove(r.connect("eu"), prover(r.t, u)); err == nil || !strings.Contains(err.Error(), "[AUTH]") {
			r.t.Errorf("%s with %s: %v", u.Address, u.Password, err)
		}
	}
}
