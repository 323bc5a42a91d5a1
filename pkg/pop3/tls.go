package pop3

import (
	"context"
	"crypto/tls"
	"time"
)

// handshakeTimeout is for the whole TLS handshake.
const handshakeTimeout = 30 * time.Second

// TLSConfig is how a POP3S server talks TLS (RFC 8314, RFC 9325): 1.2 and 1.3 only,
// forward secrecy and AEAD only, ALPN "pop3" or none. certificate picks one by the
// client's SNI and must have a default for names it doesn't know and for clients
// that send none.
//
// Use one Config for all connections, and don't Clone it for each: its ticket keys
// are its own, and sessions resume only where the keys are the same.
func TLSConfig(certificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)) *tls.Config {
	return &tls.Config{
		GetCertificate: remembering(certificate),
		MinVersion:     tls.VersionTLS12,
		CipherSuites: []uint16{ // of TLS 1.2; those of 1.3 are all good
			tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
			tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
			tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
			tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
			tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
			tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
		},
		// A client that offers other protocols only is refused (RFC 7301 section 3.2):
		// it is a browser that somebody sent here (ALPACA).
		NextProtos: []string{"pop3"},
		// Records are cut by output, which knows where they must not be.
		DynamicRecordSizingDisabled: true,
	}
}

// handshake makes TLS of the connection.
func (c *conn) handshake(ctx context.Context) error {
	began := time.Now()
	c.setRead(began.Add(handshakeTimeout))
	c.setWrite(began.Add(handshakeTimeout))
	t := tls.Server(c.below, c.server.config.TLS)
	if err := t.HandshakeContext(ctx); err != nil {
		c.server.metrics.handshakeFailed(err)
		c.failure = err
		return err
	}
	state := t.ConnectionState()
	c.server.metrics.handshake(&state, time.Since(began))
	c.tls = t
	return nil
}
