package node

import (
	"testing"

	"github.com/postern-pop/postern/pkg/maildrop"
	"github.com/postern-pop/postern/pkg/maildroptest"
	"github.com/postern-pop/postern/pkg/placement"
	"github.com/postern-pop/postern/pkg/policy"
)

// current is a Service that is whichever node runs now.
type current struct{ maildrop.Service }

// A node keeps what package maildrop promises, and its successor does.
func TestContract(t *testing.T) {
	maildroptest.Run(t, func(tb testing.TB, rules policy.Rules) maildroptest.Harness {
		r := newRegion(t)
		follow := func(c *Config) { c.Rules = rules }
		node := r.start("a", follow)
		r.awaitServed("a's shards", node)
		now := &current{node}
		return maildroptest.Harness{Service: now, TakeOver: func(tb testing.TB) {
			heir := r.start("a", follow)
			r.await("the successor's shards", func(v placement.View) bool { return served(v, heir) })
			now.Service = heir
		}}
	})
}
