package admin

import (
	"context"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"

	"github.com/postern-pop/postern/pkg/policy"
	posternv1 "github.com/postern-pop/postern/proto/postern/v1"
)

// CreateAccount makes a new account. Its region must be known.
func (s *Server) CreateAccount(ctx context.Context, in *posternv1.CreateAccountRequest) (*posternv1.Account, error) {
	return audited(ctx, s, "account.create", func(c *change) (*posternv1.Account, error) {
		networks, err := parseNetworks(in.GetNetworks())
		if err != nil {
			return nil, err
		}
		account := policy.Account{Name: in.GetName(), Region: in.GetRegion(), Continuity: in.GetContinuity(),
			LegacyUntil: fromMilli(in.GetLegacyUntilMilli()), Networks: networks}
		if err := s.store.CreateAccount(ctx, account); err != nil {
			return nil, err
		}
		c.target, c.after = account.Name, "region="+account.Region+" "+facts(account)
		return accountMessage(account, s.now()), nil
	})
}

// ListAccounts sends all accounts in order of their names.
func (s *Server) ListAccounts(_ *posternv1.ListAccountsRequest, out grpc.ServerStreamingServer[posternv1.Account]) error {
	return s.known(out.Context(), func() error {
		accounts, corrupt, err := s.store.Accounts(out.Context())
		if err != nil {
			return err
		}
		for _, account := range accounts {
			if err := out.Send(accountMessage(account, s.now())); err != nil {
				return err
			}
		}
		return unreadable(corrupt)
	})
}

// unreadable is the error of a list that isn't complete.
func unreadable(keys []string) error {
	if len(keys) == 0 {
		return nil
	}
	const enough = 3
	shown := strings.Join(keys[:min(len(keys), enough)], ", ")
	return refused("admin.list", fmt.Sprintf("the list is not complete: %d records cannot be read, such as %s", len(keys), shown))
}

// ShowAccount answers with one account.
func (s *Server) ShowAccount(ctx context.Context, in *posternv1.ShowAccountRequest) (*posternv1.Account, error) {
	var answer *posternv1.Account
	return answer, s.known(ctx, func() error {
		account, err := s.account(ctx, in.GetName())
		answer = accountMessage(account, s.now())
		return err
	})
}

// account reads an account whose name came from outside.
func (s *Server) account(ctx context.Context, name string) (policy.Account, error) {
	if err := policy.CheckName("account", name); err != nil {
		return policy.Account{}, refusedBy("admin.account", err)
	}
	return s.store.Account(ctx, name)
}

// SetAccount changes what the request has.
func (s *Server) SetAccount(ctx context.Context, in *posternv1.SetAccountRequest) (*posternv1.Account, error) {
	return audited(ctx, s, "account.set", func(c *change) (*posternv1.Account, error) {
		networks, err := parseNetworks(in.GetNetworks().GetPrefixes())
		if err != nil {
			return nil, err
		}
		account, err := s.updateAccount(ctx, c, in.GetName(), func(a *policy.Account) error {
			setAccount(a, in, networks)
			return nil
		})
		if err != nil {
			return nil, err
		}
		return accountMessage(account, s.now()), nil
	})
}

func setAccount(a *policy.Account, in *posternv1.SetAccountRequest, networks []netip.Prefix) {
	if in.Disabled != nil {
		a.Disabled = in.GetDisabled()
	}
	if in.Override != nil {
		a.Override = policy.Override(in.GetOverride())
	}
	if in.Continuity != nil {
		a.Continuity = in.GetContinuity()
	}
	if in.LegacyUntilMilli != nil {
		a.LegacyUntil = fromMilli(in.GetLegacyUntilMilli())
	}
	if in.GetNetworks() != nil {
		a.Networks = networks
	}
	if in.LockoutTries != nil {
		a.LockoutTries = number(in.GetLockoutTries())
	}
	if in.LockoutMinutes != nil {
		a.LockoutMinutes = number(in.GetLockoutMinutes())
	}
	if in.LoginDelaySeconds != nil {
		a.LoginDelaySeconds = number(in.GetLoginDelaySeconds())
	}
}

// number is a setting as policy has it; one that doesn't fit is too large all the same.
func number(n uint32) int { return int(min(n, math.MaxInt32)) }

// updateAccount changes an account and fills in what the audit says of it.
func (s *Server) updateAccount(ctx context.Context, c *change, name string, edit func(*policy.Account) error) (policy.Account, error) {
	var after policy.Account
	if err := policy.CheckName("account", name); err != nil {
		return after, refusedBy("admin.account", err)
	}
	c.target = name
	err := s.store.UpdateAccount(ctx, name, func(a *policy.Account) error {
		c.before = facts(*a)
		// Slices are shared with what was read: the edit may append, never overwrite.
		a.Events = slices.Clone(a.Events)
		if err := edit(a); err != nil {
			return err
		}
		after = *a
		c.after = facts(after)
		return nil
	})
	return after, err
}

// facts is an account in the audit: all that can be changed of it but its
// events, which have lines of their own.
func facts(a policy.Account) string {
	legacy := "never"
	if !a.LegacyUntil.IsZero() {
		legacy = a.LegacyUntil.UTC().Format(time.RFC3339)
	}
	tries, window := a.Lockout()
	return fmt.Sprintf("disabled=%t override=%s continuity=%t legacy_until=%s networks=%v lockout=%d/%.0fmin login_delay=%ds",
		a.Disabled, override(a), a.Continuity, legacy, a.Networks, tries, window.Minutes(), a.LoginDelaySeconds)
}

func override(a policy.Account) policy.Override {
	if a.Override == "" {
		return policy.OverrideNone
	}
	return a.Override
}

func parseNetworks(texts []string) ([]netip.Prefix, error) {
	networks := make([]netip.Prefix, 0, min(len(texts), policy.MaxNetworks))
	for _, text := range texts {
		network, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, refused("admin.account", fmt.Sprintf("network %+.60q: expected an address and a prefix length such as 192.0.2.0/24", text))
		}
		networks = append(networks, network)
	}
	return networks, nil
}

func accountMessage(a policy.Account, now time.Time) *posternv1.Account {
	out := &posternv1.Account{Name: a.Name, Region: a.Region, Disabled: a.Disabled, Override: string(override(a)),
		Continuity: a.Continuity, LegacyUntilMilli: toMilli(a.LegacyUntil), LoginDelaySeconds: uint32(a.LoginDelaySeconds)}
	if m := a.Moving; m.Phase != policy.MoveNone {
		out.Moving = &posternv1.Moving{From: m.From, To: m.To, Phase: string(m.Phase), SinceMilli: toMilli(m.Since), By: m.By}
	}
	tries, window := a.Lockout()
	out.LockoutTries, out.LockoutMinutes = uint32(tries), uint32(window/time.Minute)
	for _, network := range a.Networks {
		out.Networks = append(out.Networks, network.String())
	}
	events := slices.SortedStableFunc(slices.Values(a.Events), func(a, b policy.Event) int { return a.Start.Compare(b.Start) })
	for _, e := range events {
		out.Events = append(out.Events, eventMessage(e, now))
	}
	return out
}

// toMilli and fromMilli carry times; 0 is the zero time.
func toMilli(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

func fromMilli(milli int64) time.Time {
	if milli == 0 {
		return time.Time{}
	}
	return time.UnixMilli(milli).UTC()
}
