package pop3

import (
	"bytes"
	"crypto/tls"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// TestScriptsOverTLS runs the conversations line by line through TLS.
func TestScriptsOverTLS(t *testing.T) {
	for _, s := range scripts(t) {
		t.Run(s.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBox(s.drop)
				server := testServer(t, b, nil)
				c := s.connect(t, server)
				for i, step := range s.steps {
					c.step(t, b, step, i > 0 && s.steps[i-1].verb == "C")
				}
				c.raw.Close()
				stop(t, server)
				if b.closed != b.opened {
					t.Errorf("%d Drops were closed of %d", b.closed, b.opened)
				}
			})
		})
	}
}

func (c *client) step(t *testing.T, b *box, step scriptStep, said bool) {
	switch step.verb {
	case "C":
		if _, err := io.WriteString(c.top(), step.text+"\r\n"); err != nil {
			t.Logf("line %d: %v", step.line, err) // after the end
		}
	case "S":
		c.expect(step.text)
	case "wait":
		pause, _ := time.ParseDuration(step.text)
		time.Sleep(pause)
	case "fault":
		b.fault(step.text)
	case "tls":
		c.secure(&tls.Config{})
	case "cut":
		c.top().Close()
		synctest.Wait()
	case "end":
		if !said {
			c.expectEnd()
		}
	default:
		synctest.Wait()
		b.check(t, step)
	}
}

// connect is a client of a script.
func (s script) connect(t *testing.T, server *Server) *client {
	if s.clear {
		return pipeCleartext(t, server)
	}
	return pipe(t, server)
}

// TestScriptsPipelined sends whole conversations at once, and octet by octet, each
// its own TLS record (PIPE-01, PIPE-06).
func TestScriptsPipelined(t *testing.T) {
	for _, s := range scripts(t) {
		if !s.pure() {
			continue
		}
		said, want := s.talk()
		for _, size := range []int{1 << 20, 7, 1} {
			t.Run(s.name, func(t *testing.T) {
				var pieces []string
				for piece := range slices.Chunk([]byte(said), size) {
					pieces = append(pieces, string(piece))
				}
				s.runPieces(t, pieces, want)
			})
		}
	}
}

// talk is all that the client says and the lines that the server does.
func (s script) talk() (said string, want []string) {
	for _, step := range s.steps {
		switch step.verb {
		case "C":
			said += step.text + "\r\n"
		case "S":
			want = append(want, step.text)
		}
	}
	return said, want
}

// runPieces sends a conversation in pieces, whatever is answered.
func (s script) runPieces(t *testing.T, pieces, want []string) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		b := newBox(s.drop)
		server := testServer(t, b, nil)
		c := s.connect(t, server)
		go func() {
			for _, piece := range pieces {
				if _, err := io.WriteString(c.top(), piece); err != nil {
					return // the server has closed
				}
			}
		}()
		c.expect(want...)
		if rest, _ := io.ReadAll(c.lines); len(rest) > 0 {
			t.Errorf("the server said too much: %q", rest)
		}
		c.raw.Close()
		stop(t, server)
		for _, step := range s.steps {
			if step.verb == "removed" && step == s.steps[len(s.steps)-1] {
				b.check(t, step)
			}
		}
	})
}

// TestIdle is LIM-05 to LIM-07: ten minutes of silence, by any measure; then closed
// without a word and without UPDATE.
// See RFC 1939 section 3.
func TestIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBox("five")
		server := testServer(t, b, nil)
		c := pipe(t, server)
		c.login()
		c.say("DELE 1\r\n")
		c.expect("+OK *")
		for range 3 {
			time.Sleep(9*time.Minute + 50*time.Second)
			c.say("NOOP\r\n")
			c.expect("+OK *")
		}
		began := time.Now()
		c.expectEnd()
		if d := time.Since(began); d < 10*time.Minute || d > 10*time.Minute+10*time.Second {
			t.Errorf("closed after %v", d)
		}
		if len(b.gone()) > 0 {
			t.Error("removed without QUIT")
		}
		stop(t, server)
	})
}

// TestPreLogin is LIM-08, also for a stranger whose octets drip in.
// The ten minutes of RFC 1939 section 3 are for those who have logged in.
func TestPreLogin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := testServer(t, newBox("five"), nil)
		c := pipe(t, server)
		c.expect("+OK *")
		began := time.Now()
		go func() {
			for {
				if _, err := c.Write([]byte("x")); err != nil {
					return
				}
				time.Sleep(time.Second)
			}
		}()
		c.expectEnd()
		if d := time.Since(began); d != 60*time.Second {
			t.Errorf("closed after %v", d)
		}
		c.raw.Close()

		// No handshake at all.
		near, far := net.Pipe()
		began = time.Now()
		server.admit(far)
		if _, err := near.Read(make([]byte, 1)); err != io.EOF || time.Since(began) != handshakeTimeout {
			t.Errorf("no handshake: %v after %v", err, time.Since(began))
		}
		stop(t, server)
	})
}

// TestSlowReader is ROB-01: octets that a slow client takes are life, however long
// the whole takes.
func TestSlowReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBox("five")
		b.wire[0] = strings.Repeat("0123456789abcde\r\n", 1<<20/17)
		server := testServer(t, b, nil)
		c := pipe(t, server)
		c.login()
		c.say("RETR 1\r\n")
		c.expect("+OK *")
		var got int
		for got < len(b.wire[0])+3 {
			time.Sleep(3 * time.Minute) // a record takes up to three of these
			n, err := c.lines.Read(make([]byte, 64<<10))
			if got += n; err != nil {
				t.Fatalf("after %d octets: %v", got, err)
			}
		}
		c.say("STAT\r\nQUIT\r\n")
		c.expect("+OK 5 *", "+OK *")
		c.expectEnd()
		stop(t, server)
	})
}

// hold makes calls of op wait until the returned function is called.
func (b *box) holdCalls(op Op) func() {
	hold := make(chan struct{})
	b.set(func() { b.hold[op] = hold })
	return func() { close(hold) }
}

// TestHangUp: a client that is gone takes its call with it; but not when it has only
// finished speaking, not when commands are waiting, and not a QUIT.
func TestHangUp(t *testing.T) {
	for _, test := range []struct {
		name, say string
		op        Op
		close     func(*client)
		cancelled bool
		removed   int
	}{
		{"cut", "RETR 1\r\n", OpRead, func(c *client) { c.raw.Close() }, true, 0},
		{"cut at List", "LIST\r\n", OpList, func(c *client) { c.raw.Close() }, true, 0},
		{"half-close", "RETR 1\r\n", OpRead, func(c *client) { c.CloseWrite() }, false, 0},
		{"commands waiting", "DELE 1\r\nLIST\r\nQUIT\r\n", OpList, func(c *client) { c.CloseWrite() }, false, 1},
		{"commands waiting, cut", "DELE 1\r\nLIST\r\nSTAT\r\n", OpList, func(c *client) { c.raw.Close() }, false, 0},
		{"listing for QUIT", "DELE 1\r\nQUIT\r\n", OpList, func(c *client) { c.raw.Close() }, false, 1},
		{"QUIT", "DELE 1\r\nQUIT\r\n", OpRemove, func(c *client) { c.raw.Close() }, false, 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBox("five")
				server := testServer(t, b, nil)
				c := pipe(t, server)
				c.login()
				release := b.holdCalls(test.op)
				c.say(test.say)
				time.Sleep(3 * watchAfter)
				go io.Copy(io.Discard, c.lines)
				test.close(c)
				time.Sleep(3 * watchAfter)
				b.set(func() {
					if cancelled := len(b.ended) > 0; cancelled != test.cancelled {
						t.Errorf("cancelled: %v, want %v", cancelled, test.cancelled)
					}
				})
				release()
				time.Sleep(time.Second)
				if len(b.gone()) != test.removed {
					t.Errorf("removed %v, want %d", b.gone(), test.removed)
				}
				c.raw.Close()
				stop(t, server)
			})
		})
	}
}

// TestAhead: commands that come while a call lasts aren't lost.
func TestAhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBox("five")
		server := testServer(t, b, nil)
		c := pipe(t, server)
		c.login()
		release := b.holdCalls(OpList)
		c.say("LIST 1\r\n")
		time.Sleep(2 * watchAfter)
		go c.say("NOOP\r\n" + strings.Repeat("LIST 2\r\n", 2000) + "QUIT\r\n")
		time.Sleep(time.Second)
		release()
		c.expect("+OK 1 17", "+OK still here")
		c.expect(slices.Repeat([]string{"+OK 2 23"}, 2000)...)
		c.expect("+OK goodbye*")
		c.expectEnd()
		stop(t, server)
	})
}

// TestBrokenMessage: a message that breaks off must not seem to end.
func TestBrokenMessage(t *testing.T) {
	for name, damage := range map[string]func(*box){
		"back end breaks off":  func(b *box) { b.fault("read transient"); b.cutAt = 6000 },
		"no CRLF at the end":   func(b *box) { b.wire[0] += "x" },
		"breaks after a line":  func(b *box) { b.fault("read corrupt"); b.cutAt = len("Subject: 1\r\n") },
		"only one octet comes": func(b *box) { b.fault("read corrupt"); b.cutAt = 1 },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBox("five")
				b.wire[0] = "Subject: 1\r\n\r\n" + strings.Repeat("x\r\n", 30000)
				damage(b)
				server := testServer(t, b, nil)
				c := pipe(t, server)
				c.login()
				c.say("DELE 2\r\nRETR 1\r\n")
				rest, err := io.ReadAll(c.lines)
				if err == nil && !c.raw.fin || bytes.Contains(rest, []byte("\r\n.\r\n")) || !bytes.HasPrefix(rest, []byte("+OK marked")) && len(rest) > 0 {
					t.Errorf("got %d octets, %v; want a broken connection", len(rest), err)
				}
				stop(t, server)
				if len(b.gone()) > 0 {
					t.Error("removed without QUIT")
				}
			})
		})
	}
}

// TestStalledBackEnd: a back end that falls silent in mid-message is given up.
func TestStalledBackEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBox("five")
		server := testServer(t, b, nil)
		c := pipe(t, server)
		c.login()
		defer b.holdCalls(OpRead)()
		began := time.Now()
		c.say("RETR 1\r\n")
		c.expect("-ERR [SYS/TEMP] this message can't be read*")
		if d := time.Since(began); d != stallTimeout {
			t.Errorf("after %v", d)
		}
		c.say("QUIT\r\n")
		c.expect("+OK*")
		c.expectEnd()
		stop(t, server)
	})
}

// TestOverlong is LIM-02 and TXN-24: a line that is too long is refused whole, whatever it
// ends in; a bare LF ends a line.
func TestOverlong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBox("five")
		server := testServer(t, b, nil)
		c := pipe(t, server)
		c.login()
		for _, size := range []int{256, 1 << 10, 8 << 10, 60 << 10} {
			go c.say(strings.Repeat("x", size-9) + " DELE 1\r\nNOOP\nNOOP\r\n")
			c.expect("-ERR line too long", "+OK still here", "+OK still here")
		}
		go io.WriteString(c.Conn, strings.Repeat("DELE 1 ", 20<<10))
		c.expect("-ERR line too long")
		c.expectEnd()
		c.raw.Close()
		stop(t, server)
		if b.gone() != nil {
			t.Error("removed", b.gone())
		}
	})
}
