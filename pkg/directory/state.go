package directory

import (
	"maps"
	"slices"
	"strings"

	"github.com/postern-pop/postern/pkg/policy"
)

// state is what a View knows. It is a plain machine: puts and deletions go in,
// answers come out. It has no lock, clock or etcd.
type state struct {
	regions  table[Region]
	accounts table[policy.Account]
	domains  table[policy.Domain]
	owned    map[string]map[string]struct{} // account → its domains
	corrupt  map[string]struct{}            // keys whose newest value could not be read
}

// table is the records of one kind. A record is replaced whole and never
// changed, so it may be handed out.
type table[T validator] struct {
	prefix string
	nameOf func(T) string
	byName map[string]T
}

func newTable[T validator](prefix string, nameOf func(T) string) table[T] {
	return table[T]{prefix: prefix, nameOf: nameOf, byName: make(map[string]T)}
}

func newState() *state {
	return &state{
		regions:  newTable(regionPrefix, regionName),
		accounts: newTable(accountPrefix, accountName),
		domains:  newTable(domainPrefix, domainName),
		owned:    make(map[string]map[string]struct{}),
		corrupt:  make(map[string]struct{}),
	}
}

func (t *table[T]) put(name string, value []byte) error {
	record, err := decode(value, name, t.nameOf, false)
	if err == nil {
		t.byName[name] = record
	}
	return err
}

// sorted are the records in order of their names.
func (t *table[T]) sorted() []T {
	records := make([]T, 0, len(t.byName))
	for _, name := range slices.Sorted(maps.Keys(t.byName)) {
		records = append(records, t.byName[name])
	}
	return records
}

// put takes a key's value. An error says that the value cannot be read; then
// what was known of it stays. Keys of unknown kinds are none of ours.
func (s *state) put(key string, value []byte) error {
	var err error
	switch {
	case strings.HasPrefix(key, regionPrefix):
		err = s.regions.put(key[len(regionPrefix):], value)
	case strings.HasPrefix(key, accountPrefix):
		err = s.accounts.put(key[len(accountPrefix):], value)
	case strings.HasPrefix(key, domainPrefix):
		err = s.putDomain(key[len(domainPrefix):], value)
	default:
		return nil
	}
	if err != nil {
		s.corrupt[key] = struct{}{}
		return err
	}
	delete(s.corrupt, key)
	return nil
}

func (s *state) putDomain(name string, value []byte) error {
	before, had := s.domains.byName[name]
	if err := s.domains.put(name, value); err != nil {
		return err
	}
	if had {
		s.disown(before)
	}
	s.own(s.domains.byName[name])
	return nil
}

func (s *state) own(d policy.Domain) {
	names := s.owned[d.Account]
	if names == nil {
		names = make(map[string]struct{})
		s.owned[d.Account] = names
	}
	names[d.Name] = struct{}{}
}

func (s *state) disown(d policy.Domain) {
	names := s.owned[d.Account]
	delete(names, d.Name)
	if len(names) == 0 {
		delete(s.owned, d.Account)
	}
}

// remove takes a key's deletion.
func (s *state) remove(key string) {
	delete(s.corrupt, key)
	switch {
	case strings.HasPrefix(key, regionPrefix):
		delete(s.regions.byName, key[len(regionPrefix):])
	case strings.HasPrefix(key, accountPrefix):
		delete(s.accounts.byName, key[len(accountPrefix):])
	case strings.HasPrefix(key, domainPrefix):
		name := key[len(domainPrefix):]
		if before, had := s.domains.byName[name]; had {
			s.disown(before)
			delete(s.domains.byName, name)
		}
	}
}

// inherit takes from an older state the last good records of the keys whose
// newest values cannot be read.
func (s *state) inherit(older *state) {
	for key := range s.corrupt {
		switch {
		case strings.HasPrefix(key, regionPrefix):
			s.regions.inherit(older.regions, key)
		case strings.HasPrefix(key, accountPrefix):
			s.accounts.inherit(older.accounts, key)
		case strings.HasPrefix(key, domainPrefix):
			if s.domains.inherit(older.domains, key) {
				s.own(s.domains.byName[key[len(domainPrefix):]])
			}
		}
	}
}

func (t *table[T]) inherit(older table[T], key string) bool {
	record, ok := older.byName[key[len(t.prefix):]]
	if ok {
		t.byName[key[len(t.prefix):]] = record
	}
	return ok
}

// customers reports whether anything is known that mail depends on.
func (s *state) customers() bool { return len(s.accounts.byName)+len(s.domains.byName) > 0 }
