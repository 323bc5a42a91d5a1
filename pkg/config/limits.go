package config

import "strconv"

// Limits are what mail clients may take up at a front. A limit that isn't named has
// its usual value, and 0 lifts it, but for connections.
type Limits struct {
	// Off lifts all limits but connections, for tests of protocols and loads.
	Off bool `yaml:"off,omitempty" want:"true or false"`

	Connections      int `yaml:"connections,omitempty" want:"connections open at a time at this front"`
	ConnectionsPerIP int `yaml:"connections_per_ip,omitempty" want:"connections of one IPv4 address, at all fronts of the region"`
	ConnectionsPer64 int `yaml:"connections_per_64,omitempty" want:"connections of one IPv6 /64, at all fronts of the region"`
	SessionsPerAddr  int `yaml:"sessions_per_address,omitempty" want:"sessions on one mailbox, at this front"`

	LinesBeforeLogin  int `yaml:"lines_before_login,omitempty" want:"lines of one connection"`
	OctetsBeforeLogin int `yaml:"octets_before_login,omitempty" want:"octets of one connection"`
	FailedLogins      int `yaml:"failed_logins,omitempty" want:"wrong passwords of one connection"`
	LoginSeconds      int `yaml:"login_seconds,omitempty" want:"seconds from a connection to its login"`

	FreeFailures        int `yaml:"free_failures,omitempty" want:"wrong passwords of one source until its logins wait"`
	LongestDelaySeconds int `yaml:"longest_delay_seconds,omitempty" want:"seconds that a login waits at most"`
	DelayedLogins       int `yaml:"delayed_logins,omitempty" want:"logins that wait at a time, at this front"`
}

// DefaultLimits are those of a front whose file names none.
func DefaultLimits() *Limits {
	return &Limits{
		Connections: 20000, ConnectionsPerIP: 200, ConnectionsPer64: 100, SessionsPerAddr: 100,
		LinesBeforeLogin: 100, OctetsBeforeLogin: 64 << 10, FailedLogins: 3, LoginSeconds: 180,
		FreeFailures: 10, LongestDelaySeconds: 8, DelayedLogins: 2000,
	}
}

func (l *Limits) setDefaults() { *l = *DefaultLimits() }

// Validate reports numbers out of range.
func (l *Limits) Validate(report Report) {
	const many = 1000000
	between(report, "connections", l.Connections, 1, many)
	between(report, "connections_per_ip", l.ConnectionsPerIP, 0, many)
	between(report, "connections_per_64", l.ConnectionsPer64, 0, many)
	between(report, "sessions_per_address", l.SessionsPerAddr, 0, many)
	between(report, "lines_before_login", l.LinesBeforeLogin, 0, many)
	between(report, "octets_before_login", l.OctetsBeforeLogin, 0, 1<<30)
	between(report, "failed_logins", l.FailedLogins, 0, 1000)
	if l.LoginSeconds != 0 && (l.LoginSeconds < 10 || l.LoginSeconds > 3600) {
		report("login_seconds", strconv.Itoa(l.LoginSeconds), "0, or 10 to 3600")
	}
	between(report, "free_failures", l.FreeFailures, 0, 1000)
	between(report, "longest_delay_seconds", l.LongestDelaySeconds, 0, 30)
	between(report, "delayed_logins", l.DelayedLogins, 0, many)
}

// How the log names mail addresses.
const (
	AddressesClear  = "clear"
	AddressesHashed = "hashed"
)

// Log is what the log may hold.
type Log struct {
	Addresses string `yaml:"addresses" want:"clear or hashed"`
	// KeyFile has the key of the hashes, at least 32 octets. The same key gives the same
	// hashes, at every front.
	KeyFile Path `yaml:"key_file,omitempty" want:"the path of a file with at least 32 octets"`
}

// Validate reports another word, and hashes without a key.
func (l *Log) Validate(report Report) {
	switch {
	case l.Addresses != AddressesClear && l.Addresses != AddressesHashed:
		report("addresses", strconv.Quote(l.Addresses), "clear or hashed")
	case l.Addresses == AddressesHashed && l.KeyFile == "":
		report("key_file", "nothing", "a file with at least 32 octets: without a key whoever has the log could try addresses")
	case l.Addresses == AddressesClear && l.KeyFile != "":
		report("key_file", "a key besides addresses: clear", "addresses: hashed, or no key")
	}
}
