package admin

import (
	"context"
	"fmt"
	"strings"

	"google.golang.org/grpc"

	"github.com/postern-pop/postern/pkg/maildrop"
	"github.com/postern-pop/postern/pkg/policy"
	posternv1 "github.com/postern-pop/postern/proto/postern/v1"
)

// AddDomain gives a domain that is nobody's to an account.
func (s *Server) AddDomain(ctx context.Context, in *posternv1.AddDomainRequest) (*posternv1.Domain, error) {
	return audited(ctx, s, "domain.add", func(c *change) (*posternv1.Domain, error) {
		name, err := domainName(in.GetName())
		if err != nil {
			return nil, err
		}
		domain := policy.Domain{Name: name, Account: in.GetAccount(), Kind: policy.DomainKind(in.GetKind())}
		if err := s.store.CreateDomain(ctx, domain); err != nil {
			return nil, err
		}
		c.target, c.after = name, "account="+domain.Account+" kind="+string(domain.Kind)
		return domainMessage(domain), nil
	})
}

func domainName(text string) (string, error) {
	name, err := maildrop.ParseDomain(text)
	if err != nil {
		return "", refused("admin.domain", fmt.Sprintf("%+.80q is %s", text, err))
	}
	return name, nil
}

// ListDomains sends an account's domains, or all, in order of their names.
func (s *Server) ListDomains(in *posternv1.ListDomainsRequest, out grpc.ServerStreamingServer[posternv1.Domain]) error {
	ctx, account := out.Context(), in.GetAccount()
	return s.known(ctx, func() error {
		if account != "" {
			if _, err := s.account(ctx, account); err != nil {
				return err
			}
		}
		domains, corrupt, err := s.store.Domains(ctx)
		if err != nil {
			return err
		}
		for _, domain := range domains {
			if account != "" && domain.Account != account {
				continue
			}
			if err := out.Send(domainMessage(domain)); err != nil {
				return err
			}
		}
		return unreadable(corrupt)
	})
}

// SetDomain changes what a domain is to its account.
func (s *Server) SetDomain(ctx context.Context, in *posternv1.SetDomainRequest) (*posternv1.Domain, error) {
	return audited(ctx, s, "domain.set", func(c *change) (*posternv1.Domain, error) {
		name, err := domainName(in.GetName())
		if err != nil {
			return nil, err
		}
		var after policy.Domain
		c.target = name
		err = s.store.UpdateDomain(ctx, name, func(d *policy.Domain) error {
			c.before = "kind=" + string(d.Kind)
			d.Kind = policy.DomainKind(in.GetKind())
			after, c.after = *d, "kind="+string(d.Kind)
			return nil
		})
		if err != nil {
			return nil, err
		}
		return domainMessage(after), nil
	})
}

// RemoveDomain ends a domain that has no addresses any more.
func (s *Server) RemoveDomain(ctx context.Context, in *posternv1.RemoveDomainRequest) (*posternv1.RemoveDomainResponse, error) {
	return audited(ctx, s, "domain.remove", func(c *change) (*posternv1.RemoveDomainResponse, error) {
		name, err := domainName(in.GetName())
		if err != nil {
			return nil, err
		}
		domain, err := s.store.Domain(ctx, name)
		if err != nil {
			return nil, err
		}
		if err := s.checkEmpty(ctx, domain); err != nil {
			return nil, err
		}
		c.target, c.before = name, "account="+domain.Account+" kind="+string(domain.Kind)
		if err := s.store.RemoveDomain(ctx, name); err != nil {
			return nil, err
		}
		return &posternv1.RemoveDomainResponse{}, nil
	})
}

// checkEmpty refuses to end a domain that still has addresses.
func (s *Server) checkEmpty(ctx context.Context, domain policy.Domain) error {
	records, err := s.registrar.Addresses(ctx, domain.Account)
	if err != nil {
		return worded("admin.domain.remove", "the list of the domain's addresses", err)
	}
	var left []string
	for _, record := range records {
		if record.Address.Domain() == domain.Name {
			left = append(left, string(record.Address))
		}
	}
	if len(left) == 0 {
		return nil
	}
	const enough = 3
	return refused("admin.domain.remove", fmt.Sprintf("domain %s still has %d addresses, such as %s: remove them first",
		domain.Name, len(left), strings.Join(left[:min(len(left), enough)], ", ")))
}

func domainMessage(d policy.Domain) *posternv1.Domain {
	return &posternv1.Domain{Name: d.Name, Account: d.Account, Kind: string(d.Kind)}
}
