package main

import (
	"crypto/tls"
	"fmt"
	"os"
	"sync"
	"time"
)

// certificate is a pair of PEM files that is read again when it changes, so a
// certificate is replaced without a restart.
type certificate struct {
	cert, key string

	mu     sync.Mutex
	looked time.Time    // when the files were last looked at
	stamps [2]time.Time // when they had changed, at the last reading
	kept   *tls.Certificate
}

// lookEvery is how often the files are looked at, when there are handshakes.
const lookEvery = time.Second

func newCertificate(cert, key string) *certificate { return &certificate{cert: cert, key: key} }

// current is the pair as it is now, within a second. A pair that can't be read
// or whose halves don't fit (one is replaced before the other) changes nothing.
func (c *certificate) current() (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.kept != nil && time.Since(c.looked) < lookEvery {
		return c.kept, nil
	}
	c.looked = time.Now()
	if err := c.reload(); err != nil && c.kept == nil {
		return nil, err
	}
	return c.kept, nil
}

func (c *certificate) reload() error {
	var stamps [2]time.Time
	for i, name := range []string{c.cert, c.key} {
		info, err := os.Stat(name)
		if err != nil {
			return err
		}
		stamps[i] = info.ModTime()
	}
	if c.kept != nil && stamps == c.stamps {
		return nil
	}
	pair, err := tls.LoadX509KeyPair(c.cert, c.key)
	if err != nil {
		return fmt.Errorf("%s, %s: %w", c.cert, c.key, err)
	}
	c.kept, c.stamps = &pair, stamps
	return nil
}

// shownTo is the certificate for whoever connects, read once already.
func shownTo(cert, key string) (func(*tls.ClientHelloInfo) (*tls.Certificate, error), error) {
	own := newCertificate(cert, key)
	_, err := own.current()
	return func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return own.current() }, err
}
