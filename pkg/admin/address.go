package admin

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/grpc"

	"github.com/postern-pop/postern/pkg/maildrop"
	"github.com/postern-pop/postern/pkg/policy"
	posternv1 "github.com/postern-pop/postern/proto/postern/v1"
)

// AddAddress makes an address of a domain that we know: a mailbox with a
// password, or an alias of one.
func (s *Server) AddAddress(ctx context.Context, in *posternv1.AddAddressRequest) (*posternv1.AddressInfo, error) {
	return audited(ctx, s, "address.add", func(c *change) (*posternv1.AddressInfo, error) {
		record, err := s.newRecord(ctx, in)
		if err != nil {
			return nil, err
		}
		c.target, c.after = string(record.Address), recordFacts(record)
		if err := s.registrar.PutAddress(ctx, record); err != nil {
			return nil, worded("admin.address.add", "address "+string(record.Address), err)
		}
		return addressMessage(record), nil
	})
}

// newRecord makes a record of a request, checked against all that is known.
func (s *Server) newRecord(ctx context.Context, in *posternv1.AddAddressRequest) (maildrop.AddressRecord, error) {
	const op = "admin.address.add"
	var record maildrop.AddressRecord
	address, err := parseAddress(in.GetAddress())
	if err != nil {
		return record, err
	}
	domain, err := s.store.Domain(ctx, address.Domain())
	if err != nil {
		return record, err
	}
	if domain.Kind == policy.DomainSendOnly {
		return record, refused(op, fmt.Sprintf("domain %s is send-only, so its addresses could neither take nor fetch mail", domain.Name))
	}
	switch _, err := s.registrar.Address(ctx, address); {
	case err == nil:
		return record, refused(op, fmt.Sprintf("address %s exists already: change it with address set", address))
	case maildrop.KindOf(err) != maildrop.NotFound:
		return record, worded(op, "address "+string(address), err)
	}
	record = maildrop.AddressRecord{Address: address, Account: domain.Account, Changed: s.now()}
	if in.GetAliasOf() != "" {
		return s.alias(ctx, record, in)
	}
	if record.Access, err = parseAccess(in.GetAccess()); err != nil {
		return record, err
	}
	if record.Groups, err = parseGroups(in.GetGroups()); err != nil {
		return record, err
	}
	err = s.secure(ctx, &record, in.GetPassword())
	return record, err
}

// alias completes the record of an alias, which has nothing of its own.
func (s *Server) alias(ctx context.Context, record maildrop.AddressRecord, in *posternv1.AddAddressRequest) (maildrop.AddressRecord, error) {
	const op = "admin.address.add"
	if in.GetPassword() != "" || len(in.GetGroups()) > 0 || in.GetAccess() != "" {
		return record, refused(op, "an alias has no password, groups or access of its own: it has those of its primary address")
	}
	primary, err := parseAddress(in.GetAliasOf())
	if err != nil {
		return record, err
	}
	if primary == record.Address {
		return record, refused(op, "an address cannot be an alias of itself")
	}
	there, err := s.registrar.Address(ctx, primary)
	switch {
	case err != nil && maildrop.KindOf(err) == maildrop.NotFound:
		return record, refused(op, fmt.Sprintf("there is no address %s: add it first", primary))
	case err != nil:
		return record, worded(op, "address "+string(primary), err)
	case there.Account != record.Account:
		return record, refused(op, fmt.Sprintf("%s is of another account than %s", primary, record.Address))
	case there.Primary != "":
		return record, refused(op, fmt.Sprintf("%s is an alias itself: name its primary address, %s", primary, there.Primary))
	}
	record.Primary = primary
	return record, nil
}

// ListAddresses sends an account's addresses, sorted.
func (s *Server) ListAddresses(in *posternv1.ListAccountAddressesRequest, out grpc.ServerStreamingServer[posternv1.AddressInfo]) error {
	ctx := out.Context()
	return s.known(ctx, func() error {
		account, err := s.account(ctx, in.GetAccount())
		if err != nil {
			return err
		}
		records, err := s.registrar.Addresses(ctx, account.Name)
		if err != nil {
			return worded("admin.address.list", "the list of addresses", err)
		}
		for _, record := range records {
			if err := out.Send(addressMessage(record)); err != nil {
				return err
			}
		}
		return nil
	})
}

// SetAddress changes what the request has.
func (s *Server) SetAddress(ctx context.Context, in *posternv1.SetAddressRequest) (*posternv1.AddressInfo, error) {
	return audited(ctx, s, "address.set", func(c *change) (*posternv1.AddressInfo, error) {
		record, err := s.record(ctx, "admin.address.set", in.GetAddress())
		if err != nil {
			return nil, err
		}
		c.target, c.before = string(record.Address), recordFacts(record)
		if err := s.editRecord(ctx, &record, in); err != nil {
			return nil, err
		}
		c.after = recordFacts(record)
		if in.Password != nil {
			c.after += " password=changed"
		}
		if err := s.registrar.PutAddress(ctx, record); err != nil {
			return nil, worded("admin.address.set", "address "+string(record.Address), err)
		}
		answer := addressMessage(record)
		answer.Password = true
		return answer, nil
	})
}

func (s *Server) editRecord(ctx context.Context, record *maildrop.AddressRecord, in *posternv1.SetAddressRequest) (err error) {
	if record.Primary != "" {
		return refused("admin.address.set", fmt.Sprintf("%s is an alias and has nothing of its own to set: set its primary address, %s",
			record.Address, record.Primary))
	}
	record.Hash, record.Scram = "", "" // keeps those that are there
	if in.Access != nil {
		if record.Access, err = parseAccess(in.GetAccess()); err != nil {
			return err
		}
	}
	if in.GetGroups() != nil {
		if record.Groups, err = parseGroups(in.GetGroups().GetNames()); err != nil {
			return err
		}
	}
	record.Changed = s.now()
	if in.Password != nil {
		return s.secure(ctx, record, in.GetPassword())
	}
	return nil
}

// RemoveAddress ends an address that nothing is an alias of.
func (s *Server) RemoveAddress(ctx context.Context, in *posternv1.EndAddressRequest) (*posternv1.EndAddressResponse, error) {
	const op = "admin.address.remove"
	return audited(ctx, s, "address.remove", func(c *change) (*posternv1.EndAddressResponse, error) {
		record, err := s.record(ctx, op, in.GetAddress())
		if err != nil {
			return nil, err
		}
		c.target, c.before = string(record.Address), recordFacts(record)
		all, err := s.registrar.Addresses(ctx, record.Account)
		if err != nil {
			return nil, worded(op, "the list of the account's addresses", err)
		}
		for _, other := range all {
			if other.Primary == record.Address {
				return nil, refused(op, fmt.Sprintf("%s is an alias of %s: remove it first", other.Address, record.Address))
			}
		}
		if err := s.registrar.RemoveAddress(ctx, record.Address); err != nil {
			return nil, worded(op, "address "+string(record.Address), err)
		}
		return &posternv1.EndAddressResponse{}, nil
	})
}

// record reads the record of an address that must be there.
func (s *Server) record(ctx context.Context, op, text string) (maildrop.AddressRecord, error) {
	address, err := parseAddress(text)
	if err != nil {
		return maildrop.AddressRecord{}, err
	}
	if _, err := s.store.Domain(ctx, address.Domain()); err != nil {
		return maildrop.AddressRecord{}, err
	}
	record, err := s.registrar.Address(ctx, address)
	if err != nil {
		return record, worded(op, "address "+string(address), err)
	}
	return record, nil
}

func parseAddress(text string) (maildrop.Address, error) {
	address, err := maildrop.ParseAddress(text)
	if err != nil {
		return "", refused("admin.address", fmt.Sprintf("%+.80q is %s", text, err))
	}
	return address, nil
}

func parseAccess(text string) (maildrop.Access, error) {
	switch text {
	case "", "inherit":
		return maildrop.AccessInherit, nil
	case "allow":
		return maildrop.AccessAllow, nil
	case "deny":
		return maildrop.AccessDeny, nil
	}
	return 0, refused("admin.address", fmt.Sprintf("access %+.40q: expected inherit, allow or deny", text))
}

// parseGroups brings groups into order, each once.
func parseGroups(names []string) ([]string, error) {
	for _, name := range names {
		if err := policy.CheckName("group", name); err != nil {
			return nil, refusedBy("admin.address", err)
		}
	}
	groups := slices.Compact(slices.Sorted(slices.Values(names)))
	if len(groups) > policy.MaxGroups {
		return nil, refused("admin.address", fmt.Sprintf("%d groups: at most %d", len(groups), policy.MaxGroups))
	}
	return groups, nil
}

// recordFacts is a record in the audit.
func recordFacts(r maildrop.AddressRecord) string {
	if r.Primary != "" {
		return fmt.Sprintf("account=%s alias_of=%s", r.Account, r.Primary)
	}
	return fmt.Sprintf("account=%s access=%s groups=%s", r.Account, r.Access, strings.Join(r.Groups, ","))
}

func addressMessage(r maildrop.AddressRecord) *posternv1.AddressInfo {
	return &posternv1.AddressInfo{Address: string(r.Address), Account: r.Account, Primary: string(r.Primary),
		Access: r.Access.String(), Groups: r.Groups, Password: r.Hash != "", ChangedMilli: toMilli(r.Changed)}
}
