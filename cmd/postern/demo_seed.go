package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/postern-pop/postern/pkg/maildrop"
	"github.com/postern-pop/postern/pkg/policy"
	"github.com/postern-pop/postern/pkg/rpc"
	posternv1 "github.com/postern-pop/postern/proto/postern/v1"
)

// demoUser is a user of the demo as demo.json has it.
type demoUser struct {
	Address  string `json:"address"`
	Password string `json:"password"`
	Account  string `json:"account"`
	Region   string `json:"region"`
	Kind     string `json:"kind"` // "local" or "continuity"
}

// demoCustomer is a customer that a demo makes, with one domain.
type demoCustomer struct {
	account policy.Account
	domain  policy.Domain
	users   []string // local parts
}

const (
	kindLocal      = "local"
	kindContinuity = "continuity"
)

// demoCustomers are those of one region: one with a local domain in each, and
// in us another one with the continuity package.
func demoCustomers(region string) []demoCustomer {
	local := demoCustomer{
		account: policy.Account{Name: region + "-demo", Region: region},
		domain:  policy.Domain{Name: region + "-demo.example", Account: region + "-demo", Kind: policy.DomainLocal},
		users:   []string{"anna", "ben", "carla"},
	}
	if region != "us" {
		return []demoCustomer{local}
	}
	return []demoCustomer{local, {
		account: policy.Account{Name: "us-continuity", Region: "us", Continuity: true},
		domain:  policy.Domain{Name: "us-continuity.example", Account: "us-continuity", Kind: policy.DomainHosted},
		users:   []string{"dora", "emil"},
	}}
}

func (c demoCustomer) kind() string {
	if c.account.Continuity {
		return kindContinuity
	}
	return kindLocal
}

// seeder fills a demo with customers, users and mail, as an operator and a
// gateway do. Everything it does may be done again.
type seeder struct {
	dir     string
	regions []*demoRegion
	lifted  bool
	admin   posternv1.AdminClient // of some region's gateway: each reaches all regions
}

// seed makes what a demo begins with, or finds it there, and returns the users.
func seed(ctx context.Context, layout *demoLayout) ([]demoUser, error) {
	operator := identityTLS(layout.dir, systemRegion, operatorName)
	with, err := rpc.ClientTLS(tlsFiles(operator, nil))
	if err != nil {
		return nil, err
	}
	conn, err := grpc.NewClient(string(layout.regions[0].gateway), grpc.WithTransportCredentials(credentials.NewTLS(with)))
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	s := &seeder{layout.dir, layout.regions, layout.lifted, posternv1.NewAdminClient(conn)}
	users, err := s.users(ctx)
	if err != nil {
		return nil, err
	}
	return users, s.samples(ctx, users)
}

// users makes the customers and their users, and returns these.
func (s *seeder) users(ctx context.Context) ([]demoUser, error) {
	users, fresh, err := s.passwords()
	if err != nil {
		return nil, err
	}
	for _, r := range s.regions {
		for _, c := range demoCustomers(string(r.Name)) {
			if err := patiently(ctx, func() error { return s.customer(ctx, c) }); err != nil {
				return nil, fmt.Errorf("customer %s: %w", c.account.Name, err)
			}
		}
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(2) // a password takes a tenth of a second of a processor
	for account, of := range byAccount(users) {
		group.Go(func() error {
			if err := patiently(ctx, func() error { return s.addresses(ctx, account, of, fresh) }); err != nil {
				return fmt.Errorf("users of %s: %w", account, err)
			}
			return nil
		})
	}
	return users, group.Wait()
}

func byAccount(users []demoUser) map[string][]demoUser {
	accounts := map[string][]demoUser{}
	for _, u := range users {
		accounts[u.Account] = append(accounts[u.Account], u)
	}
	return accounts
}

// passwords are all users with those of an earlier start; fresh are the users
// whose password was made now.
func (s *seeder) passwords() (users []demoUser, fresh map[string]bool, err error) {
	file := filepath.Join(s.dir, "demo-users.json")
	known, err := readDemoUsers(file)
	if err != nil {
		return nil, nil, err
	}
	fresh = map[string]bool{}
	for _, r := range s.regions {
		for _, c := range demoCustomers(string(r.Name)) {
			for _, local := range c.users {
				u := demoUser{local + "@" + c.domain.Name, "", c.account.Name, string(r.Name), c.kind()}
				if u.Password = known[u.Address]; u.Password == "" {
					u.Password, fresh[u.Address] = rand.Text()[:16], true
				}
				users = append(users, u)
			}
		}
	}
	text, err := json.MarshalIndent(users, "", "  ") //nolint:gosec // the file is for the passwords
	if err != nil {
		return nil, nil, err
	}
	// On disk before anything is told: nobody can read a password out of a shard.
	return users, fresh, writeFile(file, append(text, '\n'))
}

// A demo without limits has lock-outs that hardly anybody meets.
const (
	liftedTries   = uint32(policy.MaxLockoutTries)
	liftedMinutes = uint32(1)
)

// lockout makes an account's lock-outs what the demo is started with, and leaves
// those alone that somebody has set.
func (s *seeder) lockout(ctx context.Context, a *posternv1.Account) error {
	var tries, minutes uint32 // the defaults
	if s.lifted {
		tries, minutes = liftedTries, liftedMinutes
	}
	if isLifted := a.GetLockoutTries() == liftedTries && a.GetLockoutMinutes() == liftedMinutes; isLifted == s.lifted {
		return nil
	}
	_, err := s.admin.SetAccount(ctx, &posternv1.SetAccountRequest{Name: a.GetName(), LockoutTries: &tries, LockoutMinutes: &minutes})
	return err
}

// customer makes an account and its domain unless they are there.
func (s *seeder) customer(ctx context.Context, c demoCustomer) error {
	account, err := s.admin.ShowAccount(ctx, &posternv1.ShowAccountRequest{Name: c.account.Name})
	if isNotFound(err) {
		account, err = s.admin.CreateAccount(ctx, &posternv1.CreateAccountRequest{
			Name: c.account.Name, Region: c.account.Region, Continuity: c.account.Continuity,
		})
	}
	if err == nil {
		err = s.lockout(ctx, account)
	}
	if err != nil {
		return err
	}
	list, err := s.admin.ListDomains(ctx, &posternv1.ListDomainsRequest{Account: c.account.Name})
	if err != nil {
		return err
	}
	domains, err := received(list, (*posternv1.Domain).GetName)
	if err != nil || len(domains) > 0 {
		return err
	}
	_, err = s.admin.AddDomain(ctx, &posternv1.AddDomainRequest{
		Name: c.domain.Name, Account: c.domain.Account, Kind: string(c.domain.Kind),
	})
	return err
}

// addresses makes an account's addresses that aren't there, and gives those
// that are there their password if it was made now.
func (s *seeder) addresses(ctx context.Context, account string, users []demoUser, fresh map[string]bool) error {
	list, err := s.admin.ListAddresses(ctx, &posternv1.ListAccountAddressesRequest{Account: account})
	if err != nil {
		return err
	}
	known, err := received(list, (*posternv1.AddressInfo).GetAddress)
	if err != nil {
		return err
	}
	for _, u := range users {
		switch there := slices.Contains(known, u.Address); {
		case !there:
			_, err = s.admin.AddAddress(ctx, &posternv1.AddAddressRequest{Address: u.Address, Password: u.Password})
		case fresh[u.Address]:
			_, err = s.admin.SetAddress(ctx, &posternv1.SetAddressRequest{Address: u.Address, Password: &u.Password})
		}
		if err != nil {
			return fmt.Errorf("%s: %w", u.Address, rpc.FromStatus("demo.seed", err, true))
		}
	}
	return nil
}

func isNotFound(err error) bool {
	return err != nil && maildrop.KindOf(rpc.FromStatus("demo.seed", err, false)) == maildrop.NotFound
}

// seedPatience is how long a step of the seeding is repeated: until each
// process has heard of a domain that is new, and every shard has an owner.
const seedPatience = 30 * time.Second

// patiently repeats a step while it fails.
func patiently(ctx context.Context, step func() error) error {
	ctx, cancel := context.WithTimeout(ctx, seedPatience)
	defer cancel()
	for {
		err := step()
		if err == nil {
			return nil
		}
		if !sleep(ctx, 100*time.Millisecond) {
			return err
		}
	}
}

// samples delivers the sample messages, once for all starts of the demo.
func (s *seeder) samples(ctx context.Context, users []demoUser) error {
	marker := filepath.Join(s.dir, "samples-delivered")
	if _, err := os.Stat(marker); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	for _, r := range s.regions {
		if err := s.regionSamples(ctx, r, users); err != nil {
			return fmt.Errorf("samples of %s: %w", r.Name, err)
		}
	}
	return writeFile(marker, []byte("Delivered. Without this file they are delivered again.\n"))
}

// regionSamples delivers through the region's own intake: all samples to its
// first user of each customer, the first one to the others.
func (s *seeder) regionSamples(ctx context.Context, r *demoRegion, users []demoUser) error {
	seen := map[string]bool{}
	for _, u := range users {
		if u.Region != string(r.Name) {
			continue
		}
		list := samples()
		if seen[u.Account] {
			list = list[:1]
		}
		seen[u.Account] = true
		for _, sample := range list {
			err := patiently(ctx, func() error {
				return deliver(ctx, string(r.lmtp), sampleSender, []string{u.Address}, sample.message(u.Address))
			})
			if err != nil {
				return fmt.Errorf("%s to %s: %w", sample.name, u.Address, err)
			}
		}
	}
	return nil
}

// readDemoUsers returns the passwords of an earlier start, by address.
func readDemoUsers(file string) (map[string]string, error) {
	text, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var users []demoUser
	if err := json.Unmarshal(text, &users); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	passwords := make(map[string]string, len(users))
	for _, u := range users {
		passwords[u.Address] = u.Password
	}
	return passwords, nil
}
