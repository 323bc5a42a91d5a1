package movein

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Lists are where the unique-ids of a Maildir may come from.
type Lists string

const (
	ListsAuto    Lists = "auto"    // Dovecot's list if there is one, else Courier's, else names
	ListsDovecot Lists = "dovecot" // dovecot-uidlist
	ListsCourier Lists = "courier" // courierpop3dsizelist
	ListsNames   Lists = "names"   // a hash of the file's name
)

const (
	dovecotFile = "dovecot-uidlist"
	courierFile = "courierpop3dsizelist"
	scanTries   = 5 // of a Maildir that changes while it is read
)

// MaildirOptions say how to read a Maildir.
type MaildirOptions struct {
	Lists  Lists     // empty: ListsAuto
	Format UIDFormat // Dovecot's pop3_uidl_format; the zero one is its default
	Now    time.Time // no message arrived after it
}

// maildirFile is one file of a Maildir.
type maildirFile struct {
	dir      string // new or cur
	name     string
	received time.Time
}

// base is the part of a name that stays when flags change.
func base(name string) string {
	before, _, _ := strings.Cut(name, ":")
	return before
}

// unique is the part of a name that its maker chose: what follows are notes of
// sizes, which a server may correct.
func unique(name string) string {
	before, _, _ := strings.Cut(base(name), ",")
	return before
}

// trashed reports whether a name has the flag T: its user deleted the message.
func trashed(name string) bool {
	_, info, _ := strings.Cut(name, ":")
	flags, ok := strings.CutPrefix(info, "2,")
	return ok && strings.Contains(flags, "T")
}

// seconds is the time at which a file was named, in Unix time; 0 for a name that
// doesn't begin with one.
func seconds(name string) int64 {
	digits := 0
	for digits < len(name) && name[digits] >= '0' && name[digits] <= '9' {
		digits++
	}
	n, err := strconv.ParseInt(name[:digits], 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// byName orders files as Courier does: by the time in the name, then by octets.
func byName(a, b maildirFile) int {
	return cmp.Or(cmp.Compare(seconds(a.name), seconds(b.name)), strings.Compare(base(a.name), base(b.name)))
}

// OpenMaildir reads what a Maildir's INBOX has: new and cur, not its subfolders.
func OpenMaildir(dir string, options MaildirOptions) (*Maildrop, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	m, err := readMaildir(root, options)
	if err != nil {
		root.Close()
		return nil, fmt.Errorf("%s: %w", dir, err)
	}
	return m, nil
}

func readMaildir(root *os.Root, options MaildirOptions) (*Maildrop, error) {
	list, err := openList(root, options)
	if err != nil {
		return nil, err
	}
	m := &Maildrop{closer: root}
	files, err := m.scan(root, options.Now)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, l := range list.listing(files) {
		m.Messages = append(m.Messages, &Message{
			Name: path.Join(l.file.dir, l.file.name), UID: l.uid, Received: l.file.received,
			open: func() (io.ReadCloser, error) { return openFile(root, l.file) },
		})
		names = append(names, unique(l.file.name))
	}
	m.Listed = list.String()
	m.settle(names)
	return m, nil
}

// scan finds the messages, sorted by name. A directory that changes while it is
// read may show a file twice or not at all, so then it is read again.
func (m *Maildrop) scan(root *os.Root, now time.Time) ([]maildirFile, error) {
	for try := 1; ; try++ {
		before, err := changed(root)
		if err != nil {
			return nil, err
		}
		m.Skipped = nil
		files := make(map[string]maildirFile)
		for _, dir := range []string{"new", "cur"} { // a file moves from new to cur
			if err := m.scanDir(root, dir, now, files); err != nil {
				return nil, err
			}
		}
		if after, err := changed(root); err != nil || after == before || try == scanTries {
			return sorted(files), err
		}
	}
}

func sorted(files map[string]maildirFile) []maildirFile {
	all := make([]maildirFile, 0, len(files))
	for _, file := range files {
		all = append(all, file)
	}
	slices.SortFunc(all, byName)
	return all
}

// changed is when files came or went last.
func changed(root *os.Root) (at [2]time.Time, err error) {
	for i, dir := range []string{"new", "cur"} {
		info, err := root.Stat(dir)
		if err != nil {
			return at, fmt.Errorf("it is no Maildir: %w", err)
		}
		at[i] = info.ModTime()
	}
	return at, nil
}

func (m *Maildrop) scanDir(root *os.Root, dir string, now time.Time, files map[string]maildirFile) error {
	entries, err := fs.ReadDir(root.FS(), dir)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		name := entry.Name()
		info, err := entry.Info()
		switch {
		case strings.HasPrefix(name, "."), errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return err
		case !info.Mode().IsRegular():
			m.Skipped = append(m.Skipped, Skip{path.Join(dir, name), Damaged, "it is no regular file"})
		case trashed(name):
			m.Skipped = append(m.Skipped, Skip{Name: path.Join(dir, name), Why: Trashed})
		case len(files) == maxMessages:
			return fmt.Errorf("more than %d messages", maxMessages)
		default:
			files[base(name)] = maildirFile{dir, name, arrival(info.ModTime(), name, now)}
		}
	}
	return nil
}

// arrival is when a file's message arrived: Dovecot keeps it as the file's time.
func arrival(modified time.Time, name string, now time.Time) time.Time {
	if modified.Unix() <= 0 && seconds(name) > 0 {
		modified = time.Unix(seconds(name), 0)
	}
	if modified.After(now) || modified.Unix() <= 0 {
		return now
	}
	return modified
}

// openFile opens a message, also if it has been renamed since: a Maildir in use
// does that whenever flags change.
func openFile(root *os.Root, file maildirFile) (io.ReadCloser, error) {
	for range scanTries {
		opened, err := openRegular(root, path.Join(file.dir, file.name))
		if !errors.Is(err, fs.ErrNotExist) {
			return opened, err
		}
		again, ok := find(root, base(file.name))
		if !ok {
			return nil, ErrVanished
		}
		file = again
	}
	return nil, ErrVanished
}

// openRegular opens a regular file within the Maildir, and waits for nobody at
// one that is a pipe.
func openRegular(root *os.Root, name string) (io.ReadCloser, error) {
	file, err := root.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	if info, err := file.Stat(); err != nil || !info.Mode().IsRegular() {
		file.Close()
		return nil, errors.Join(err, errors.New("it is no regular file"))
	}
	return file, nil
}

// find looks for a file by the part of its name that stays.
func find(root *os.Root, wanted string) (maildirFile, bool) {
	for _, dir := range []string{"cur", "new"} {
		entries, err := fs.ReadDir(root.FS(), dir)
		if err != nil {
			continue
		}
		for _, entry := range entries {
			if base(entry.Name()) == wanted {
				return maildirFile{dir: dir, name: entry.Name()}, true
			}
		}
	}
	return maildirFile{}, false
}
