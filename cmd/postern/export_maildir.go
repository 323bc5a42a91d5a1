package main

import (
	"bufio"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/postern-pop/postern/pkg/maildrop"
)

// maildirWriter makes a Maildir:
//
//	add ─▶ tmp/<name>, fsync'ed ─ … ─▶ publish: dovecot-uidlist ─▶ link all to new/
//
// The list comes first, so that whoever finds a message finds its unique-id as
// well. Until then new/ is empty, and what is in tmp/ goes if it is given up.
//
// Line ends are LF, as the convention has it and every reader of a Maildir expects.
// A message with a CR before a CRLF can't be written so: the LF would take this CR for its
// own. It keeps its CRLFs, which servers and our import take as they are.
type maildirWriter struct {
	dir      string
	messages []exported
	done     bool
}

// exported is a message on its way out.
type exported struct {
	uid      maildrop.UID
	received time.Time
	size     uint64 // octets without dot-stuffing, with CRLF
	order    string // its place in the ledger: no two share one

	name string // of its file
}

var errNeedsCRLF = errors.New("a CR before CRLF")

// newMaildir makes the directory, or takes one that is a Maildir without anything in it.
func newMaildir(dir string) (*maildirWriter, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	for _, entry := range entries {
		switch entry.Name() {
		case "new", "cur", "tmp":
			inside, err := os.ReadDir(filepath.Join(dir, entry.Name()))
			if err != nil || len(inside) > 0 {
				return nil, errors.Join(err, fmt.Errorf("%s is in use: expected a Maildir without messages, or no directory", filepath.Join(dir, entry.Name())))
			}
		default:
			return nil, fmt.Errorf("%s has %s in it: expected a Maildir without messages, or no directory", dir, entry.Name())
		}
	}
	for _, sub := range []string{"new", "cur", "tmp"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o700); err != nil {
			return nil, err
		}
	}
	return &maildirWriter{dir: dir}, nil
}

// close takes away what wasn't published.
func (w *maildirWriter) close() {
	if w.done {
		return
	}
	for _, m := range w.messages {
		_ = os.Remove(filepath.Join(w.dir, "tmp", m.name))
	}
}

// add writes a message. open is asked for its body in wire form, perhaps twice.
func (w *maildirWriter) add(m exported, open func() (io.ReadCloser, error)) error {
	temp := filepath.Join(w.dir, "tmp", "postern."+strings.ReplaceAll(m.order, "/", "_"))
	length, err := writeContent(temp, m.received, open, true)
	if errors.Is(err, errNeedsCRLF) {
		length, err = writeContent(temp, m.received, open, false)
	}
	// S and W are sizes as Dovecot notes them: of the file, and with CRLF line ends.
	m.name = fmt.Sprintf("%d.%s.postern,S=%d,W=%d", m.received.Unix(), strings.ReplaceAll(m.order, "/", "_"), length, m.size)
	if err == nil {
		err = os.Rename(temp, filepath.Join(w.dir, "tmp", m.name))
	}
	if err != nil {
		return errors.Join(err, removeIfThere(temp))
	}
	w.messages = append(w.messages, m)
	return nil
}

func removeIfThere(file string) error {
	if err := os.Remove(file); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// writeContent writes a durable file of a message's content, as old as the message;
// errNeedsCRLF: it can't be written with LF line ends.
func writeContent(name string, received time.Time, open func() (io.ReadCloser, error), lf bool) (length int64, err error) {
	body, err := open()
	if err != nil {
		return 0, err
	}
	defer body.Close()
	file, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return 0, err
	}
	buffered := bufio.NewWriterSize(file, 256<<10)
	u := unstuffer{w: buffered, lf: lf, lineStart: true}
	_, err = io.CopyBuffer(&u, struct{ io.Reader }{body}, make([]byte, 256<<10))
	err = errors.Join(err, u.end(), buffered.Flush(), os.Chtimes(name, received, received), file.Sync(), file.Close())
	return u.written, err
}

// unstuffer takes wire form and writes content: without the dot that a line's
// first one was doubled by (RFC 1939 section 3), and with LF for CRLF if it shall.
type unstuffer struct {
	w         *bufio.Writer
	lf        bool
	lineStart bool
	cr        bool // the last octet was a CR, not written yet
	written   int64
}

// Write implements io.Writer.
func (u *unstuffer) Write(p []byte) (int, error) {
	for i, c := range p {
		if u.lineStart && c == '.' {
			u.lineStart = false
			continue
		}
		if err := u.octet(c); err != nil {
			return i, err
		}
	}
	return len(p), nil
}

func (u *unstuffer) octet(c byte) error {
	switch {
	case u.cr && c == '\n' && u.lf: // the CR is left out
		u.cr, u.lineStart = false, true
		return u.put('\n')
	case u.cr:
		u.cr = false
		if err := u.put('\r'); err != nil {
			return err
		}
		if u.lf && c == '\r' { // LF may follow
			return errNeedsCRLF
		}
		u.lineStart = c == '\n'
	default:
		u.lineStart = false
	}
	if c == '\r' {
		u.cr = true
		return nil
	}
	return u.put(c)
}

func (u *unstuffer) put(c byte) error {
	u.written++
	return u.w.WriteByte(c)
}

func (u *unstuffer) end() error {
	if u.cr {
		return u.put('\r')
	}
	return nil
}

// publish writes the list, and shows the messages.
func (w *maildirWriter) publish(now time.Time) error {
	if err := w.list(now); err != nil {
		return err
	}
	for i, m := range w.messages {
		from, to := filepath.Join(w.dir, "tmp", m.name), filepath.Join(w.dir, "new", m.name)
		if err := os.Link(from, to); err != nil {
			return errors.Join(err, w.withdraw(i))
		}
	}
	w.done = true
	for _, m := range w.messages {
		if err := os.Remove(filepath.Join(w.dir, "tmp", m.name)); err != nil {
			return err
		}
	}
	return w.sync()
}

// withdraw takes the messages before the i-th back.
func (w *maildirWriter) withdraw(i int) (err error) {
	for _, m := range w.messages[:i] {
		err = errors.Join(err, os.Remove(filepath.Join(w.dir, "new", m.name)))
	}
	return errors.Join(err, os.Remove(filepath.Join(w.dir, "dovecot-uidlist")))
}

func (w *maildirWriter) sync() (err error) {
	for _, sub := range []string{"new", "tmp", "."} {
		opened, failed := os.Open(filepath.Join(w.dir, sub))
		if err = errors.Join(err, failed); failed == nil {
			err = errors.Join(err, opened.Sync(), opened.Close())
		}
	}
	return err
}

// list writes dovecot-uidlist, version 3: P is the unique-id that POP3 says.
func (w *maildirWriter) list(now time.Time) error {
	var guid [16]byte
	rand.Read(guid[:]) // never fails: crypto/rand ends the process instead
	temp := filepath.Join(w.dir, "tmp", "postern.uidlist")
	file, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	buffered := bufio.NewWriter(file)
	_, err = fmt.Fprintf(buffered, "3 V%d N%d G%x\n", uint32(now.Unix()), len(w.messages)+1, guid)
	for i, m := range w.messages {
		_, failed := fmt.Fprintf(buffered, "%d P%s :%s\n", i+1, m.uid, m.name)
		err = errors.Join(err, failed)
	}
	err = errors.Join(err, buffered.Flush(), file.Sync(), file.Close())
	if err == nil {
		err = os.Rename(temp, filepath.Join(w.dir, "dovecot-uidlist"))
	}
	if err != nil {
		err = errors.Join(err, removeIfThere(temp))
	}
	return err
}
