package policy

import (
	"encoding/json"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestNames(t *testing.T) {
	for name, ok := range map[string]bool{
		"a": true, "acme": true, "acme-2": true, "2acme": true, strings.Repeat("a", 63): true,
		"": false, strings.Repeat("a", 64): false, "-acme": false, "acme-": false, "Acme": false,
		"ac me": false, "ac/me": false, "ac.me": false, "acm\u00e9": false, "acme\n": false, "..": false,
	} {
		err := CheckName("account", name)
		if (err == nil) != ok {
			t.Errorf("%q: %v", name, err)
		}
		if err != nil && (strings.ContainsAny(err.Error(), "\n\r") || len(err.Error()) > 400) {
			t.Errorf("%q: the error doesn't fit a line: %q", name, err)
		}
	}
}

func event(change func(*Event)) Event {
	e := Event{ID: "a", Start: noon, End: noon.Add(time.Hour), Zone: "Europe/London"}
	change(&e)
	return e
}

func TestValidate(t *testing.T) {
	account := Account{Name: "acme", Region: "eu", Events: []Event{event(func(*Event) {})},
		Networks: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}}
	changed := func(change func(*Account)) Account {
		a := account
		change(&a)
		return a
	}
	type checked interface{ Validate() error }
	for name, c := range map[string]struct {
		value checked
		want  string // part of the error; empty: none
	}{
		"account":        {account, ""},
		"name":           {changed(func(a *Account) { a.Name = "A" }), `account "A": expected`},
		"region":         {changed(func(a *Account) { a.Region = "" }), `region ""`},
		"override":       {changed(func(a *Account) { a.Override = "yes" }), "expected none, allow or block"},
		"no network":     {changed(func(a *Account) { a.Networks = make([]netip.Prefix, 1) }), "network 1"},
		"host bits":      {changed(func(a *Account) { a.Networks = []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24")} }), "did you mean 192.0.2.0/24?"},
		"networks":       {changed(func(a *Account) { a.Networks = make([]netip.Prefix, MaxNetworks+1) }), "at most 256"},
		"events":         {changed(func(a *Account) { a.Events = make([]Event, MaxEvents+1) }), "at most 128"},
		"lock-out":       {changed(func(a *Account) { a.LockoutTries, a.LockoutMinutes, a.LoginDelaySeconds = 3, 1440, 3600 }), ""},
		"few tries":      {changed(func(a *Account) { a.LockoutTries = 2 }), "lockout_tries 2: expected 3 to 100"},
		"long lock-out":  {changed(func(a *Account) { a.LockoutMinutes = 1441 }), "lockout_minutes 1441: expected 1 to 1440"},
		"login delay":    {changed(func(a *Account) { a.LoginDelaySeconds = -1 }), "login_delay_seconds -1: expected 1 to 3600"},
		"twice":          {changed(func(a *Account) { a.Events = append(a.Events, a.Events[0]) }), "two of that id"},
		"event in it":    {changed(func(a *Account) { a.Events = []Event{{}} }), "has no start"},
		"event":          {event(func(*Event) {}), ""},
		"open end":       {event(func(e *Event) { e.End = time.Time{} }), ""},
		"end = start":    {event(func(e *Event) { e.End = e.Start }), "after its start"},
		"no zone":        {event(func(e *Event) { e.Zone = "" }), "Europe/London"},
		"group":          {event(func(e *Event) { e.Group = "Sales" }), `group "Sales"`},
		"note":           {event(func(e *Event) { e.Note = "a\nb" }), "one line"},
		"long note":      {event(func(e *Event) { e.Note = strings.Repeat("a", MaxNote+1) }), "200 octets"},
		"domain":         {Domain{"acme.example", "acme", DomainLocal}, ""},
		"spelling":       {Domain{"Acme.example", "acme", DomainLocal}, "is written acme.example"},
		"no domain":      {Domain{"", "acme", DomainLocal}, "domain"},
		"domain account": {Domain{"acme.example", "", DomainLocal}, "account"},
		"kind":           {Domain{"acme.example", "acme", "pop"}, "expected local, hosted or send-only"},
	} {
		err := c.value.Validate()
		if (err == nil) != (c.want == "") || (err != nil && !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		}
	}
}

// TestJSONKeepsAnAccount: what is stored is what is decided on.
func TestJSONKeepsAnAccount(t *testing.T) {
	in := Account{Name: "acme", Region: "eu", Override: OverrideAllow, Continuity: true, LegacyUntil: noon,
		Networks: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}, Events: []Event{event(func(e *Event) { e.End = time.Time{} })}}
	text, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	var out Account
	if err := json.Unmarshal(text, &out); err != nil || !reflect.DeepEqual(in, out) {
		t.Fatalf("%v\nin  %+v\nout %+v\n%s", err, in, out, text)
	}
	if !out.Events[0].Active(noon.AddDate(50, 0, 0)) {
		t.Fatalf("an event without end ended on its way: %s", text)
	}
}
