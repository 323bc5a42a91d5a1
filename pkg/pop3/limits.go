package pop3

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/postern-pop/postern/pkg/maildrop"
	"github.com/postern-pop/postern/pkg/throttle"
)

// Limits are what clients may take up. Of each but Connections, 0 means no limit.
type Limits struct {
	Connections int // open at a time, at this server
	PerIP       int // of them from one IPv4 address, at all fronts of the region
	Per64       int // the same from one IPv6 /64
	PerAddress  int // sessions open at a time on one maildrop, at this server

	LinesBeforeLogin  int           // of one connection
	OctetsBeforeLogin int           // of one connection, within TLS
	FailedLogins      int           // of one connection; the last one closes it
	Login             time.Duration // from accepting a connection to its login

	FreeFailures int           // of a source, before its logins are delayed: see package throttle
	MaxDelay     time.Duration // of a login; 0: none is delayed
	Delayed      int           // logins that wait at a time
}

// DefaultLimits are those of a server that isn't told any.
func DefaultLimits() *Limits {
	return &Limits{
		Connections: 20000, PerIP: 200, Per64: 100, PerAddress: 100,
		LinesBeforeLogin: 100, OctetsBeforeLogin: 64 << 10, FailedLogins: 3, Login: 3 * time.Minute,
		FreeFailures: 10, MaxDelay: 8 * time.Second, Delayed: 2000,
	}
}

func (l *Limits) validate() error {
	least := min(l.PerIP, l.Per64, l.PerAddress, l.LinesBeforeLogin, l.OctetsBeforeLogin, l.FailedLogins, l.FreeFailures, l.Delayed)
	switch {
	case l.Connections < 1:
		return fmt.Errorf("pop3: %d connections at most: at least 1", l.Connections)
	case least < 0 || l.Login < 0 || l.MaxDelay < 0:
		return errors.New("pop3: a limit below 0")
	}
	return nil
}

// sources are the limits that all fronts of a region hold together.
func (l *Limits) sources() throttle.Limits {
	return throttle.Limits{PerIP: l.PerIP, Per64: l.Per64, Free: l.FreeFailures, MaxDelay: l.MaxDelay}
}

// until is when the login of a connection that began at an instant must be done.
func (l *Limits) until(began time.Time) time.Time {
	if l.Login == 0 {
		return time.Time{}
	}
	return began.Add(l.Login)
}

// refusals is how many connections over a limit are told so at a time; more are
// closed without a word.
const refusals = 64

// The results of admission.
const (
	resultAccepted = "accepted"
	resultLimit    = "conn_limit"
	resultIP       = "ip_limit"
	resultNetwork  = "network_limit"
	resultDraining = "draining"
)

// Gate is what the server knows of its clients' networks. The fronts of a region
// tell each other of it.
func (s *Server) Gate() *throttle.Gate { return s.gate }

// add counts a connection under the lock that guards closed, so that Shutdown
// misses none.
func (s *Server) add(c *conn) (result string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return resultDraining
	}
	result, reason := s.room(c)
	if result != resultAccepted {
		if s.refusing >= refusals {
			return result
		}
		c.refuse = reason
		s.refusing++
	}
	s.conns[c] = struct{}{}
	s.done.Add(1)
	return result
}

// room says whether there is room for a connection, and if not, for want of what.
func (s *Server) room(c *conn) (result string, reason maildrop.Reason) {
	switch {
	case len(s.conns)-s.refusing >= s.config.Limits.Connections:
		return resultLimit, maildrop.ReasonFull
	case s.gate.Connect(c.remote):
		c.counted = true
		return resultAccepted, ""
	case throttle.SourceOf(c.remote).Wide():
		return resultNetwork, maildrop.ReasonFullNetwork
	}
	return resultIP, maildrop.ReasonFullIP
}

func (s *Server) remove(c *conn) {
	if c.counted {
		s.gate.Disconnect(c.remote)
	}
	s.mu.Lock()
	delete(s.conns, c)
	if c.refuse != "" {
		s.refusing--
	}
	s.mu.Unlock()
	s.done.Done()
}

// errSessions is for one who may log in, and has too many sessions already.
var errSessions = &maildrop.Error{Op: "pop3.open", Kind: maildrop.Denied, Reason: maildrop.ReasonSessions}

// enter counts a session on a maildrop, if there may be one more.
func (s *Server) enter(address maildrop.Address) bool {
	limit := s.config.Limits.PerAddress
	s.mu.Lock()
	defer s.mu.Unlock()
	if limit > 0 && s.sessions[address] >= limit {
		return false
	}
	s.sessions[address]++
	return true
}

func (s *Server) exit(address maildrop.Address) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sessions[address]--; s.sessions[address] <= 0 {
		delete(s.sessions, address)
	}
}

// queue counts a login that waits, if there may be one more.
func (s *Server) queue() bool {
	limit := s.config.Limits.Delayed
	s.mu.Lock()
	defer s.mu.Unlock()
	if limit > 0 && s.delayed >= limit {
		return false
	}
	s.delayed++
	return true
}

func (s *Server) unqueue() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.delayed--
}

// attempt is who wanted to log in, and by what. It is forgotten when it has been
// judged.
type attempt struct{ user, secret string }

// pause holds up a login from a source that has failed often. The connection's own
// goroutine waits, and a hang-up ends it.
func (c *conn) pause(ctx context.Context) error {
	delay := c.server.gate.Delay(c.remote, c.attempt.user)
	if delay == 0 {
		return nil
	}
	if !c.server.queue() {
		c.attempt.secret = ""
		return &maildrop.Error{Op: "pop3.open", Kind: maildrop.Denied, Reason: maildrop.ReasonSlowDown, Wait: delay}
	}
	defer c.server.unqueue()
	c.server.metrics.delayed.Observe(delay.Seconds())
	c.paused += delay
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return &maildrop.Error{Op: "pop3.open", Kind: maildrop.Canceled, Err: ctx.Err()}
	}
}

// tally keeps what the log tells of a step, and what it says of the client.
func (c *conn) tally(step Step, err error) {
	if step.Command != "" {
		c.commands++
	}
	if step.Reason != maildrop.ReasonNone {
		c.reason = step.Reason
		c.tell(step, err)
	}
	c.judge(step.Login)
}

// tell tells of a refusal that the user's mailbox doesn't remember by itself. err is what
// the step is made of.
func (c *conn) tell(step Step, err error) {
	user := c.session.User()
	if c.server.config.Refused == nil || user == "" || remembered(step, err) {
		return
	}
	c.server.config.Refused(user, maildrop.Attempt{
		Time: time.Now(), Remote: c.remote, Mechanism: c.session.Mechanism(), Language: c.session.Language(), Session: c.id,
		Reason: step.Reason, Wait: maildrop.WaitOf(err), Text: maildrop.TextOf(err),
	})
}

// remembered reports whether it was the mailbox's owner who refused a login.
func remembered(step Step, err error) bool {
	if step.Login == LoginNone || maildrop.KindOf(err) != maildrop.Denied {
		return false
	}
	switch step.Reason {
	case maildrop.ReasonSlowDown, maildrop.ReasonSessions, maildrop.ReasonRegion: // here, or at the router
		return false
	}
	return true
}

// judge tells the gate how a login ended. Only refused credentials count: neither
// trouble of ours, nor a user who may not use POP now, is a guess.
func (c *conn) judge(login LoginResult) {
	switch login {
	case LoginOK:
		c.server.gate.Succeeded(c.remote, c.attempt.user)
	case LoginRefused:
		c.refused++
		c.server.gate.Failed(c.remote, c.attempt.user, c.attempt.secret)
	}
	if login != LoginNone {
		c.attempt = attempt{}
	}
}

// close ends the use of the maildrop.
func (c *conn) close() {
	if c.drop == nil {
		return
	}
	c.server.exit(c.drop.Info().Address)
	c.drop.Close()
	c.drop = nil
}

// stranger reports whether nobody has logged in.
func (c *conn) stranger() bool { return c.session.State()&(Cleartext|Authorization) != 0 }

// wordy reports whether a stranger has sent more than he may.
func (c *conn) wordy() bool {
	limit := c.server.config.Limits.OctetsBeforeLogin
	return limit > 0 && c.stranger() && c.in.octets > uint64(limit)
}

// deadline is when the line must be there that is waited for from now on. A login
// has to be done in time besides, however many lines it takes.
func (c *conn) deadline(now time.Time) time.Time {
	if !c.stranger() {
		return now.Add(c.server.config.Idle)
	}
	line := now.Add(c.server.config.PreLogin)
	if !c.until.IsZero() && c.until.Before(line) {
		return c.until
	}
	return line
}

// late reports whether the time for the login is over.
func (c *conn) late() bool {
	return c.stranger() && !c.until.IsZero() && !time.Now().Before(c.until)
}
