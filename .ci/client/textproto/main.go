// The textproto command is a POP3 client on Go's net/textproto, which has its
// own reader of dot-stuffed text: it makes LF of CRLF, as Go programs that fetch
// mail do. Arguments and environment are those of all of these clients:
//
//	POP_HOST POP_PORT POP_USER POP_PASSWORD POP_CA textproto DIR keep|delete
//
// Each message becomes a file in DIR, named by its number.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log"
	"net"
	"net/textproto"
	"os"
	"path/filepath"
	"strings"
)

func main() {
	if err := fetch(os.Args[1], os.Args[2] == "delete"); err != nil {
		log.Fatal(err)
	}
}

// fetch writes all messages of the maildrop to dir.
func fetch(dir string, remove bool) error {
	c, err := dial()
	if err != nil {
		return err
	}
	defer c.Close()
	sizes, err := c.many("LIST")
	if err != nil {
		return err
	}
	for n := 1; n <= strings.Count(string(sizes), "\n"); n++ {
		message, err := c.many(fmt.Sprint("RETR ", n))
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("%03d", n)), message, 0o600); err != nil { //nolint:gosec // a directory named by who runs it
			return err
		}
		if remove {
			if err := c.say(fmt.Sprint("DELE ", n)); err != nil {
				return err
			}
		}
	}
	return c.say("QUIT")
}

// client is a connection after login.
type client struct{ *textproto.Conn }

func dial() (client, error) {
	pem, err := os.ReadFile(os.Getenv("POP_CA")) //nolint:gosec // a file named by who runs it
	if err != nil {
		return client{}, err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	host := os.Getenv("POP_HOST")
	dialer := tls.Dialer{Config: &tls.Config{RootCAs: pool}}
	conn, err := dialer.DialContext(context.Background(), "tcp", net.JoinHostPort(host, os.Getenv("POP_PORT")))
	if err != nil {
		return client{}, err
	}
	c := client{textproto.NewConn(conn)}
	if err := c.reply("greeting"); err != nil {
		return client{}, err
	}
	if err := c.say("USER " + os.Getenv("POP_USER")); err != nil {
		return client{}, err
	}
	return c, c.say("PASS " + os.Getenv("POP_PASSWORD"))
}

// say sends a command and reads a reply of one line.
func (c client) say(command string) error {
	if err := c.PrintfLine("%s", command); err != nil {
		return err
	}
	return c.reply(command)
}

func (c client) reply(command string) error {
	line, err := c.ReadLine()
	if err == nil && !strings.HasPrefix(line, "+OK") {
		err = fmt.Errorf("%.4s: %s", command, line)
	}
	return err
}

// many sends a command and reads a reply of many lines.
func (c client) many(command string) ([]byte, error) {
	if err := c.say(command); err != nil {
		return nil, err
	}
	return c.ReadDotBytes()
}
