package certificate

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
)

// pair is two files, and what was last taken from them.
type pair struct {
	Files
	kept    *tls.Certificate
	keptSum [sha256.Size]byte
	seen    [sha256.Size]byte // at the last look: what the files held, or how reading failed
	refused bool              // what was seen can't be used
	said    [sha256.Size]byte // what was seen when that was last said
}

// read takes the pair at the start.
func (p *pair) read() error {
	cert, key, err := p.octets()
	if err != nil {
		return err
	}
	return p.take(cert, key)
}

// look reads the files again. fresh: there is another pair, and it was taken. An
// error is one of a pair that stays as it is; the first look at a change says nothing.
// The hostname's certificate stays one for the hostname.
func (p *pair) look(now time.Time, hostname string) (fresh bool, err error) {
	cert, key, err := p.octets()
	sum := digest(cert, key, err)
	if err == nil && sum == p.keptSum {
		p.seen, p.refused = sum, false
		return false, nil
	}
	if sum != p.seen {
		p.seen = sum
		return false, nil
	}
	if err != nil {
		return false, err
	}
	next := &pair{Files: p.Files}
	if err := next.take(cert, key); err != nil {
		return false, err
	}
	if err := validAt(next.kept.Leaf, now); err != nil {
		return false, fmt.Errorf("%s: %w", p.Cert, err)
	}
	if names := next.kept.Leaf.DNSNames; p.isFor(hostname) && !next.isFor(hostname) {
		return false, fmt.Errorf("%s: the certificate is for %s, and no longer for %s, which clients ask for", p.Cert, strings.Join(names, ", "), hostname)
	}
	p.kept, p.keptSum, p.refused = next.kept, next.keptSum, false
	return true, nil
}

// isFor reports whether the certificate is one for a name.
func (p *pair) isFor(hostname string) bool {
	return hostname != "" && p.kept.Leaf.VerifyHostname(hostname) == nil
}

// complain reports whether what was seen hasn't been refused before.
func (p *pair) complain() bool {
	first := !p.refused || p.said != p.seen
	p.refused, p.said = true, p.seen
	return first
}

// take makes a certificate of the files' octets.
func (p *pair) take(cert, key []byte) error {
	if err := errors.Join(wholePEM(p.Cert, cert), wholePEM(p.Key, key)); err != nil {
		return err
	}
	made, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return fmt.Errorf("%s and %s are no pair: %w", p.Cert, p.Key, err)
	}
	p.kept, p.keptSum = &made, digest(cert, key, nil)
	return nil
}

func (p *pair) octets() (cert, key []byte, err error) {
	if cert, err = readFile(p.Cert); err != nil {
		return nil, nil, err
	}
	key, err = readFile(p.Key)
	return cert, key, err
}

func readFile(name string) ([]byte, error) {
	file, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, maxFile+1))
	if err == nil && len(text) > maxFile {
		err = fmt.Errorf("%s: longer than %d octets", name, maxFile)
	}
	return text, err
}

func digest(cert, key []byte, err error) [sha256.Size]byte {
	if err != nil {
		return sha256.Sum256([]byte(err.Error()))
	}
	certSum := sha256.Sum256(cert)
	return sha256.Sum256(append(certSum[:], key...))
}

// wholePEM refuses a file that is cut off inside a block. crypto/tls would take what
// is before it, a chain without its intermediates for example.
func wholePEM(name string, text []byte) error {
	for {
		block, rest := pem.Decode(text)
		if block == nil {
			break
		}
		text = rest
	}
	if bytes.Contains(text, []byte("-----BEGIN")) {
		return fmt.Errorf("%s: cut off, or damaged: a PEM block has a begin and no end", name)
	}
	return nil
}
