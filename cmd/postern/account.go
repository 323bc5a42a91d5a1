package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"time"

	"github.com/postern-pop/postern/pkg/maildrop"
	"github.com/postern-pop/postern/pkg/policy"
	posternv1 "github.com/postern-pop/postern/proto/postern/v1"
)

// accountCmd is "postern account".
type accountCmd struct {
	operator

	Create  accountCreateCmd  `cmd:"" help:"Make a new account."`
	List    accountListCmd    `cmd:"" help:"List all accounts."`
	Show    accountShowCmd    `cmd:"" help:"Show one account."`
	Set     accountSetCmd     `cmd:"" help:"Change an account."`
	Disable accountDisableCmd `cmd:"" help:"Let nobody of an account in, and take no mail for it."`
	Enable  accountEnableCmd  `cmd:"" help:"Undo disable."`
	Move    accountMoveCmd    `cmd:"" help:"Move an account's mailboxes to another region, with their unique-ids. It is served meanwhile, but for a pause of seconds."`
}

type accountView struct {
	Name        string      `json:"name"`
	Region      string      `json:"region"`
	Disabled    bool        `json:"disabled"`
	Override    string      `json:"override"`
	Continuity  bool        `json:"continuity"`
	LegacyUntil *time.Time  `json:"legacy_until"`
	Networks    []string    `json:"networks"`
	Lockout     lockoutView `json:"lockout"`
	LoginDelay  uint32      `json:"login_delay_seconds"`
	Events      []eventView `json:"events"`
	Moving      *movingView `json:"moving,omitempty"`
}

// movingView is a move to another region that is under way.
type movingView struct {
	From  string     `json:"from"`
	To    string     `json:"to"`
	Phase string     `json:"phase"`
	Since *time.Time `json:"since"`
	By    string     `json:"by"`
}

// lockoutView is when an address is locked out, and for how long.
type lockoutView struct {
	Tries   uint32 `json:"tries"`
	Minutes uint32 `json:"minutes"`
}

func viewAccount(a *posternv1.Account) accountView {
	v := accountView{Name: a.GetName(), Region: a.GetRegion(), Disabled: a.GetDisabled(), Override: a.GetOverride(),
		Continuity: a.GetContinuity(), LegacyUntil: moment(a.GetLegacyUntilMilli(), "UTC"),
		Networks: append([]string{}, a.GetNetworks()...), Events: []eventView{},
		Lockout: lockoutView{a.GetLockoutTries(), a.GetLockoutMinutes()}, LoginDelay: a.GetLoginDelaySeconds()}
	if m := a.GetMoving(); m != nil {
		v.Moving = &movingView{From: m.GetFrom(), To: m.GetTo(), Phase: m.GetPhase(), Since: moment(m.GetSinceMilli(), "UTC"), By: m.GetBy()}
	}
	for _, e := range a.GetEvents() {
		v.Events = append(v.Events, viewEvent(e))
	}
	return v
}

// legacy is the end of legacy fetching as it is typed: the last day, when it is
// the end of one.
func (v accountView) legacy() string {
	if v.LegacyUntil != nil && v.LegacyUntil.Equal(v.LegacyUntil.Truncate(24*time.Hour)) {
		return v.LegacyUntil.AddDate(0, 0, -1).Format(time.DateOnly)
	}
	return shown(v.LegacyUntil, "none")
}

func (v accountView) state() string {
	if v.Disabled {
		return "disabled"
	}
	return "enabled"
}

func (v accountView) network() string {
	if len(v.Networks) == 0 {
		return "any"
	}
	return strings.Join(v.Networks, " ")
}

func (v accountView) loginDelay() string {
	if v.LoginDelay == 0 {
		return "none"
	}
	return fmt.Sprintf("%d seconds", v.LoginDelay)
}

// event is the account's present in one word or few.
func (v accountView) event() string {
	for _, e := range v.Events {
		if e.State == "active" {
			return "on"
		}
	}
	return "-"
}

func (v accountView) write(w io.Writer) {
	row(w, "account", v.Name)
	row(w, "region", v.Region)
	if m := v.Moving; m != nil {
		row(w, "is being moved", fmt.Sprintf("from %s to %s, %s, since %s by %s", m.From, m.To, m.Phase, shown(m.Since, "?"), m.By))
	}
	row(w, "state", v.state())
	row(w, "override", v.Override)
	row(w, "continuity package", yesNo(v.Continuity))
	row(w, "legacy POP until", v.legacy())
	row(w, "networks", v.network())
	minutes := maildrop.Counted(int(v.Lockout.Minutes), "minute")
	row(w, "lock-out", fmt.Sprintf("after %s in %s, for %s", maildrop.Counted(int(v.Lockout.Tries), "wrong password"), minutes, minutes))
	row(w, "login delay", v.loginDelay())
	if len(v.Events) > 0 {
		fmt.Fprintln(w)
		writeEvents(w, v.Events)
	}
}

type accountCreateCmd struct {
	Name        string   `arg:"" help:"1 to 63 of a-z, 0-9 and hyphens."`
	Region      string   `required:"" help:"Its home: where its mail is kept. account move changes it."`
	Continuity  bool     `help:"It has the continuity package."`
	LegacyUntil string   `placeholder:"DATE" help:"The last day (UTC) of POP that is a leftover of the past, such as 2027-01-31."`
	Network     []string `placeholder:"CIDR" help:"A network that its users may log in from; may be repeated. None: anywhere."`
}

// Run makes the account.
func (c *accountCreateCmd) Run(ctx context.Context, cl *client) error {
	legacy, err := parseLegacy(c.LegacyUntil)
	if err != nil {
		return err
	}
	networks, err := parseNetworks(c.Network)
	if err != nil {
		return err
	}
	in := &posternv1.CreateAccountRequest{Name: c.Name, Region: c.Region, Continuity: c.Continuity,
		LegacyUntilMilli: legacy, Networks: networks}
	return cl.account(ctx, true, func(ctx context.Context, admin posternv1.AdminClient) (*posternv1.Account, error) {
		return admin.CreateAccount(ctx, in)
	})
}

// account shows the account that a call answers with.
func (c *client) account(ctx context.Context, changes bool, ask func(context.Context, posternv1.AdminClient) (*posternv1.Account, error)) error {
	var answer *posternv1.Account
	err := c.call(ctx, changes, func(ctx context.Context, admin posternv1.AdminClient) (err error) {
		answer, err = ask(ctx, admin)
		return err
	})
	if err != nil {
		return err
	}
	view := viewAccount(answer)
	return c.reply(view, view.write)
}

type accountListCmd struct{}

// Run lists the accounts.
func (c *accountListCmd) Run(ctx context.Context, cl *client) error {
	var accounts []accountView
	failed := cl.call(ctx, false, func(ctx context.Context, admin posternv1.AdminClient) error {
		stream, err := admin.ListAccounts(ctx, &posternv1.ListAccountsRequest{})
		if err != nil {
			return err
		}
		accounts, err = received(stream, viewAccount)
		return err
	})
	if failed != nil && len(accounts) == 0 {
		return failed
	}
	return errors.Join(cl.reply(accounts, func(w io.Writer) {
		row(w, "ACCOUNT", "REGION", "STATE", "OVERRIDE", "CONTINUITY", "EVENT", "LEGACY UNTIL", "NETWORKS")
		for _, a := range accounts {
			row(w, a.Name, a.Region, a.state(), a.Override, yesNo(a.Continuity), a.event(), a.legacy(), a.network())
		}
	}), failed)
}

type accountShowCmd struct {
	Name string `arg:"" help:"The account."`
}

// Run shows the account.
func (c *accountShowCmd) Run(ctx context.Context, cl *client) error {
	return cl.account(ctx, false, func(ctx context.Context, admin posternv1.AdminClient) (*posternv1.Account, error) {
		return admin.ShowAccount(ctx, &posternv1.ShowAccountRequest{Name: c.Name})
	})
}

type accountSetCmd struct {
	Name        string   `arg:"" help:"The account."`
	Continuity  *bool    `negatable:"" help:"It has the continuity package."`
	LegacyUntil *string  `placeholder:"DATE" help:"The last day (UTC) of legacy POP, or none."`
	Network     []string `placeholder:"CIDR" xor:"networks" help:"A network that its users may log in from, in place of those before; may be repeated."`
	AnyNetwork  bool     `xor:"networks" help:"Let its users log in from anywhere."`

	LockoutTries   *uint32 `placeholder:"N" help:"Lock an address out after so many different wrong passwords; 0: the default, 5."`
	LockoutMinutes *uint32 `placeholder:"N" help:"Within, and for, so many minutes; 0: the default, 15."`
	LoginDelay     *uint32 `placeholder:"SECONDS" help:"The least time between two logins of one user; 0: none."`
}

// Run changes the account.
func (c *accountSetCmd) Run(ctx context.Context, cl *client) error {
	in := &posternv1.SetAccountRequest{Name: c.Name, Continuity: c.Continuity,
		LockoutTries: c.LockoutTries, LockoutMinutes: c.LockoutMinutes, LoginDelaySeconds: c.LoginDelay}
	if c.LegacyUntil != nil {
		legacy, err := parseLegacy(*c.LegacyUntil)
		if err != nil {
			return err
		}
		in.LegacyUntilMilli = &legacy
	}
	if len(c.Network) > 0 || c.AnyNetwork {
		networks, err := parseNetworks(c.Network)
		if err != nil {
			return err
		}
		in.Networks = &posternv1.Networks{Prefixes: networks}
	}
	if in.Continuity == nil && in.LegacyUntilMilli == nil && in.Networks == nil &&
		in.LockoutTries == nil && in.LockoutMinutes == nil && in.LoginDelaySeconds == nil {
		return errors.New("nothing to set: give --[no-]continuity, --legacy-until, --network, --any-network, " +
			"--lockout-tries, --lockout-minutes or --login-delay")
	}
	return cl.setAccount(ctx, in)
}

func (c *client) setAccount(ctx context.Context, in *posternv1.SetAccountRequest) error {
	return c.account(ctx, true, func(ctx context.Context, admin posternv1.AdminClient) (*posternv1.Account, error) {
		return admin.SetAccount(ctx, in)
	})
}

type accountDisableCmd struct {
	Name string `arg:"" help:"The account."`
}

// Run disables the account.
func (c *accountDisableCmd) Run(ctx context.Context, cl *client) error {
	disabled := true
	return cl.setAccount(ctx, &posternv1.SetAccountRequest{Name: c.Name, Disabled: &disabled})
}

type accountEnableCmd struct {
	Name string `arg:"" help:"The account."`
}

// Run enables the account.
func (c *accountEnableCmd) Run(ctx context.Context, cl *client) error {
	disabled := false
	return cl.setAccount(ctx, &posternv1.SetAccountRequest{Name: c.Name, Disabled: &disabled})
}

// parseLegacy reads the end of legacy POP: a day means through its end, in UTC.
func parseLegacy(text string) (milli int64, err error) {
	if text == "" || text == "none" {
		return 0, nil
	}
	if day, err := time.Parse(time.DateOnly, text); err == nil {
		return day.AddDate(0, 0, 1).UnixMilli(), nil
	}
	t, err := policy.ParseTime(text, time.UTC)
	if err != nil {
		return 0, fmt.Errorf("legacy-until %q: expected a day such as 2027-01-31, or none", text)
	}
	return t.UnixMilli(), nil
}

// parseNetworks checks networks before they go out; a bare address is one of a
// single host.
func parseNetworks(texts []string) ([]string, error) {
	networks := make([]string, 0, len(texts))
	for _, text := range texts {
		if address, err := netip.ParseAddr(text); err == nil && address.Zone() == "" {
			text = netip.PrefixFrom(address, address.BitLen()).String()
		}
		if _, err := netip.ParsePrefix(text); err != nil {
			return nil, fmt.Errorf("network %q: expected an address and a prefix length such as 192.0.2.0/24", text)
		}
		networks = append(networks, text)
	}
	return networks, nil
}
