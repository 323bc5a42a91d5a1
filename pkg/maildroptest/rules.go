package maildroptest

import (
	"sync"

	"github.com/postern-pop/postern/pkg/policy"
)

// Rules are policy.Rules in memory that a test writes as it goes.
type Rules struct {
	mu       sync.RWMutex
	domains  map[string]policy.Domain
	accounts map[string]policy.Account
}

// NewRules are empty: no domain is ours.
func NewRules() *Rules {
	return &Rules{domains: make(map[string]policy.Domain), accounts: make(map[string]policy.Account)}
}

// Domain implements policy.Rules.
func (r *Rules) Domain(name string) (policy.Domain, policy.Account, bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	domain, ok := r.domains[name]
	if !ok {
		return policy.Domain{}, policy.Account{}, false
	}
	account, ok := r.accounts[domain.Account]
	return domain, account, ok
}

// PutDomain adds or changes a domain.
func (r *Rules) PutDomain(domain policy.Domain) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.domains[domain.Name] = domain
}

// RemoveDomain makes a domain nobody's.
func (r *Rules) RemoveDomain(name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.domains, name)
}

// PutAccount adds or changes an account.
func (r *Rules) PutAccount(account policy.Account) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.accounts[account.Name] = account
}
