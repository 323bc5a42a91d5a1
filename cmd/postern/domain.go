package main

import (
	"context"
	"errors"
	"io"

	posternv1 "github.com/postern-pop/postern/proto/postern/v1"
)

// domainCmd is "postern domain".
type domainCmd struct {
	operator

	Add    domainAddCmd    `cmd:"" help:"Give a domain to an account."`
	List   domainListCmd   `cmd:"" help:"List domains."`
	Set    domainSetCmd    `cmd:"" help:"Change what a domain is."`
	Remove domainRemoveCmd `cmd:"" help:"End a domain that has no addresses."`
}

type domainView struct {
	Domain  string `json:"domain"`
	Account string `json:"account"`
	Kind    string `json:"kind"`
}

func viewDomain(d *posternv1.Domain) domainView {
	return domainView{Domain: d.GetName(), Account: d.GetAccount(), Kind: d.GetKind()}
}

type domainAddCmd struct {
	Domain  string `arg:"" help:"The domain, such as example.com."`
	Account string `required:"" help:"Whose it is."`
	Kind    string `required:"" enum:"local,hosted,send-only" help:"local: POP is its users' only mailbox; hosted: it has a mail server of its own; send-only: it takes no mail."`
}

// Run adds the domain.
func (c *domainAddCmd) Run(ctx context.Context, cl *client) error {
	return cl.domain(ctx, "added", func(ctx context.Context, admin posternv1.AdminClient) (*posternv1.Domain, error) {
		return admin.AddDomain(ctx, &posternv1.AddDomainRequest{Name: c.Domain, Account: c.Account, Kind: c.Kind})
	})
}

// domain shows the domain that a call answers with.
func (c *client) domain(ctx context.Context, done string, ask func(context.Context, posternv1.AdminClient) (*posternv1.Domain, error)) error {
	var answer *posternv1.Domain
	err := c.call(ctx, true, func(ctx context.Context, admin posternv1.AdminClient) (err error) {
		answer, err = ask(ctx, admin)
		return err
	})
	if err != nil {
		return err
	}
	v := viewDomain(answer)
	return c.say(v, "domain %s %s: %s, of account %s", v.Domain, done, v.Kind, v.Account)
}

type domainListCmd struct {
	Account string `help:"Only this account's."`
}

// Run lists the domains.
func (c *domainListCmd) Run(ctx context.Context, cl *client) error {
	var domains []domainView
	failed := cl.call(ctx, false, func(ctx context.Context, admin posternv1.AdminClient) error {
		stream, err := admin.ListDomains(ctx, &posternv1.ListDomainsRequest{Account: c.Account})
		if err != nil {
			return err
		}
		domains, err = received(stream, viewDomain)
		return err
	})
	if failed != nil && len(domains) == 0 {
		return failed
	}
	return errors.Join(cl.reply(domains, func(w io.Writer) {
		row(w, "DOMAIN", "ACCOUNT", "KIND")
		for _, d := range domains {
			row(w, d.Domain, d.Account, d.Kind)
		}
	}), failed)
}

type domainSetCmd struct {
	Domain string `arg:"" help:"The domain."`
	Kind   string `required:"" enum:"local,hosted,send-only" help:"local, hosted or send-only."`
}

// Run changes the domain.
func (c *domainSetCmd) Run(ctx context.Context, cl *client) error {
	return cl.domain(ctx, "set", func(ctx context.Context, admin posternv1.AdminClient) (*posternv1.Domain, error) {
		return admin.SetDomain(ctx, &posternv1.SetDomainRequest{Name: c.Domain, Kind: c.Kind})
	})
}

type domainRemoveCmd struct {
	Domain string `arg:"" help:"The domain."`
}

// Run removes the domain.
func (c *domainRemoveCmd) Run(ctx context.Context, cl *client) error {
	err := cl.call(ctx, true, func(ctx context.Context, admin posternv1.AdminClient) error {
		_, err := admin.RemoveDomain(ctx, &posternv1.RemoveDomainRequest{Name: c.Domain})
		return err
	})
	if err != nil {
		return err
	}
	return cl.say(map[string]string{"removed": c.Domain}, "domain %s removed: mail for it is refused from now on", c.Domain)
}
