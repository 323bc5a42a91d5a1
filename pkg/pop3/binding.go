package pop3

import (
	"crypto"
	"crypto/tls"
	"crypto/x509"
)

// Kinds of channel binding. tls-unique is refused by RFC 9266 section 3 for TLS 1.3, and
// has been unsafe before it.
const (
	bindExporter = "tls-exporter"         // RFC 9266
	bindEndPoint = "tls-server-end-point" // RFC 5929 section 4
)

// binding is the connection's Channel.
func (c *conn) binding(kind string) ([]byte, bool) {
	if c.tls == nil {
		return nil, false
	}
	switch state := c.tls.ConnectionState(); kind {
	case bindExporter:
		return exported(&state)
	case bindEndPoint:
		return endPoint(c.below.certificate)
	}
	return nil, false
}

// exported is RFC 9266 section 2. crypto/tls refuses connections of TLS 1.2 that
// have no extended master secret, as section 4.2 there asks for.
func exported(state *tls.ConnectionState) ([]byte, bool) {
	data, err := state.ExportKeyingMaterial("EXPORTER-Channel-Binding", nil, 32)
	return data, err == nil
}

// endPoint is the hash of the server's certificate (RFC 5929 section 4.1): with that of
// its signature, SHA-256 in place of MD5 and SHA-1, and undefined for one that has none.
// A connection that was resumed by TLS 1.3 showed no certificate, and has no such data.
func endPoint(certificate []byte) ([]byte, bool) {
	parsed, err := x509.ParseCertificate(certificate)
	if err != nil {
		return nil, false
	}
	hash := crypto.SHA256
	switch parsed.SignatureAlgorithm {
	case x509.SHA384WithRSA, x509.SHA384WithRSAPSS, x509.ECDSAWithSHA384:
		hash = crypto.SHA384
	case x509.SHA512WithRSA, x509.SHA512WithRSAPSS, x509.ECDSAWithSHA512:
		hash = crypto.SHA512
	case x509.PureEd25519, x509.UnknownSignatureAlgorithm:
		return nil, false
	}
	h := hash.New()
	h.Write(certificate)
	return h.Sum(nil), true
}

// remembering notes for each connection which certificate it was shown.
func remembering(choose func(*tls.ClientHelloInfo) (*tls.Certificate, error)) func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	return func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
		shown, err := choose(hello)
		if below, ours := hello.Conn.(*stream); ours && err == nil && shown != nil && len(shown.Certificate) > 0 {
			below.certificate = shown.Certificate[0]
		}
		return shown, err
	}
}
