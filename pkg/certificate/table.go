package certificate

import (
	"crypto/rsa"
	"crypto/tls"
	"slices"
	"strings"
)

// table finds certificates by name. It never changes.
type table struct {
	byName   map[string][]*tls.Certificate // in lower case, wildcards as they are
	fallback []*tls.Certificate
}

func (t *table) add(c *tls.Certificate) {
	for _, name := range c.Leaf.DNSNames {
		name = strings.ToLower(name)
		t.byName[name] = byPreference(append(t.byName[name], c))
	}
}

// find is nil for a name that isn't ours. A wildcard stands for one label (RFC 9525
// section 6.3).
func (t *table) find(name string) []*tls.Certificate {
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	if name == "" {
		return nil
	}
	if found := t.byName[name]; found != nil {
		return found
	}
	_, parent, ok := strings.Cut(name, ".")
	if !ok {
		return nil
	}
	return t.byName["*."+parent]
}

// byPreference puts RSA behind the others: its handshakes cost several times more.
func byPreference(all []*tls.Certificate) []*tls.Certificate {
	slices.SortStableFunc(all, func(a, b *tls.Certificate) int { return rank(a) - rank(b) })
	return all
}

func rank(c *tls.Certificate) int {
	if _, slow := c.Leaf.PublicKey.(*rsa.PublicKey); slow {
		return 1
	}
	return 0
}

// verifiable is the first certificate that the client says it can verify; else the
// first, with which crypto/tls says what is wrong.
func verifiable(all []*tls.Certificate, hello *tls.ClientHelloInfo) *tls.Certificate {
	if len(all) == 1 {
		return all[0]
	}
	anonymous := *hello
	anonymous.ServerName = "" // the name is chosen already, and may be nobody's
	for _, c := range all {
		if anonymous.SupportsCertificate(c) == nil {
			return c
		}
	}
	return all[0]
}
