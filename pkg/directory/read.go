package directory

import (
	"context"
	"fmt"

	"github.com/postern-pop/postern/pkg/policy"
)

// Account reads an account from etcd; NotFound.
func (s *Store) Account(ctx context.Context, name string) (policy.Account, error) {
	return existing(ctx, s, "account", accountPrefix, name, accountName)
}

// Domain reads a domain from etcd; NotFound.
func (s *Store) Domain(ctx context.Context, name string) (policy.Domain, error) {
	return existing(ctx, s, "domain", domainPrefix, name, domainName)
}

// Accounts reads all accounts from etcd, in order of their names, and the keys
// of the records that cannot be read.
func (s *Store) Accounts(ctx context.Context) (accounts []policy.Account, corrupt []string, err error) {
	return all(ctx, s, "account", accountPrefix, accountName)
}

// Domains reads all domains from etcd, in order of their names, and the keys of
// the records that cannot be read.
func (s *Store) Domains(ctx context.Context) (domains []policy.Domain, corrupt []string, err error) {
	return all(ctx, s, "domain", domainPrefix, domainName)
}

func existing[T validator](ctx context.Context, s *Store, what, prefix, name string, nameOf func(T) string) (T, error) {
	op := "directory." + what
	record, revision, err := lookup(ctx, s, op, prefix, name, nameOf, false)
	if err == nil && revision == 0 {
		err = notFound(op, fmt.Sprintf("there is no %s %s", what, name))
	}
	return record, err
}

func all[T validator](ctx context.Context, s *Store, what, prefix string, nameOf func(T) string) (records []T, corrupt []string, err error) {
	kvs, _, err := rangeAll(ctx, s.client, prefix, requestTimeout)
	if err != nil {
		return nil, nil, readError("directory."+what+".list", err)
	}
	for _, kv := range kvs {
		record, err := decode(kv.Value, string(kv.Key[len(prefix):]), nameOf, false)
		if err != nil {
			corrupt = append(corrupt, printableKey(kv.Key))
			continue
		}
		records = append(records, record)
	}
	return records, corrupt, nil
}
