package movein

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/postern-pop/postern/pkg/maildrop"
)

// dovecotList is a dovecot-uidlist, version 1 or 3:
//
//	3 V<uidvalidity> N<next uid> G<mailbox guid>     1 <uidvalidity> <next uid>
//	<uid> [<key><value> …] :<file name>              <uid> <file name>
//
// Of the keys these matter: P, the unique-id that POP3 says (empty: the file's
// name); O, the message's place in POP3's listing; G, its guid. Messages with a
// place go first.
type dovecotList struct {
	validity, next uint32
	records        map[string]dovecotRecord // by the file's base name
	format         UIDFormat
}

type dovecotRecord struct {
	uid   uint32
	pop3  *string // nil: not said
	guid  string
	order uint32 // math.MaxUint32: not said
}

func (*dovecotList) String() string { return dovecotFile }

var errDovecotHeader = errors.New("expected 3 V<uidvalidity> N<next uid>, or 1 <uidvalidity> <next uid>")

func parseDovecot(r io.Reader) (*dovecotList, error) {
	l := &dovecotList{records: make(map[string]dovecotRecord)}
	version, last := "", uint32(0)
	err := lines(r, func(n int, line string) error {
		if n == 1 {
			var rest string
			version, rest, _ = strings.Cut(line, " ")
			return l.header(version, rest)
		}
		name, record, err := parseDovecotLine(version, line)
		if err != nil {
			return err
		}
		if record.uid <= last {
			return fmt.Errorf("uid %d behind %d", record.uid, last)
		}
		last = record.uid
		l.records[base(name)] = record // a later line replaces an earlier one
		if len(l.records) > maxMessages {
			return fmt.Errorf("more than %d messages", maxMessages)
		}
		return nil
	})
	if err == nil && version == "" {
		err = errDovecotHeader
	}
	l.next = max(l.next, last+1)
	return l, err
}

func (l *dovecotList) header(version, rest string) (err error) {
	validity, next := "", ""
	switch version {
	case "1":
		validity, next, _ = strings.Cut(rest, " ")
	case "3":
		for _, field := range strings.Fields(rest) {
			switch field[0] {
			case 'V':
				validity = field[1:]
			case 'N':
				next = field[1:]
			}
		}
	default:
		return errDovecotHeader
	}
	if l.validity, err = number(validity); err == nil {
		l.next, err = number(next)
	}
	if err != nil || l.validity == 0 || l.next == 0 {
		return errDovecotHeader
	}
	return nil
}

// number is a 32-bit number in decimal digits alone.
func number(text string) (uint32, error) {
	n, err := strconv.ParseUint(text, 10, 32)
	return uint32(n), err
}

func parseDovecotLine(version, line string) (name string, r dovecotRecord, err error) {
	r.order = math.MaxUint32
	uid, rest, _ := strings.Cut(line, " ")
	if r.uid, err = number(uid); err != nil || r.uid == 0 || r.uid == math.MaxUint32 {
		return "", r, errors.New("expected a uid")
	}
	name = rest
	if version == "3" {
		if name, err = r.fields(rest); err != nil {
			return "", r, err
		}
	}
	if name == "" || strings.Contains(name, "/") {
		return "", r, errors.New("expected the name of a file")
	}
	return name, r, nil
}

// fields takes what is said of a message, and returns the file's name behind it.
func (r *dovecotRecord) fields(rest string) (name string, err error) {
	for !strings.HasPrefix(rest, ":") {
		field, after, more := strings.Cut(rest, " ")
		if !more {
			return "", errors.New("expected a colon and the name of a file")
		}
		rest = after
		if field == "" {
			continue
		}
		value := field[1:]
		switch field[0] {
		case 'P':
			r.pop3 = &value
		case 'G':
			r.guid = value
		case 'O':
			if r.order, err = number(value); err != nil {
				return "", errors.New("expected a number behind O")
			}
		}
	}
	return rest[1:], nil
}

// listing gives files that the list doesn't have the uids that Dovecot would give
// them next: in the order of the times in their names, to the microsecond.
func (l *dovecotList) listing(files []maildirFile) []listed {
	type numbered struct {
		file   maildirFile
		record dovecotRecord
	}
	var all, fresh []numbered
	for _, file := range files {
		if record, ok := l.records[base(file.name)]; ok {
			all = append(all, numbered{file, record})
		} else {
			fresh = append(fresh, numbered{file: file})
		}
	}
	slices.SortStableFunc(fresh, func(a, b numbered) int {
		return cmp.Or(cmp.Compare(seconds(a.file.name), seconds(b.file.name)),
			cmp.Compare(microseconds(a.file.name), microseconds(b.file.name)))
	})
	for i, n := range fresh {
		n.record = dovecotRecord{uid: l.next + uint32(i), order: math.MaxUint32}
		all = append(all, n)
	}
	slices.SortFunc(all, func(a, b numbered) int {
		return cmp.Or(cmp.Compare(a.record.order, b.record.order), cmp.Compare(a.record.uid, b.record.uid))
	})
	order := make([]listed, 0, len(all))
	for _, n := range all {
		order = append(order, listed{n.file, l.uid(n.file, n.record)})
	}
	return order
}

// microseconds is the M of a name such as 1700000000.M123P45.host; 0 without.
func microseconds(name string) int64 {
	_, rest, _ := strings.Cut(name, ".")
	if after, ok := strings.CutPrefix(rest, "M"); ok {
		return seconds(after)
	}
	return 0
}

func (l *dovecotList) uid(file maildirFile, record dovecotRecord) maildrop.UID {
	switch {
	case record.pop3 != nil && *record.pop3 != "":
		return maildrop.UID(*record.pop3)
	case record.pop3 != nil:
		return maildrop.UID(base(file.name))
	}
	guid := record.guid
	if guid == "" {
		guid = base(file.name)
	}
	return maildrop.UID(l.format.expand(l.validity, record.uid, base(file.name), guid))
}
