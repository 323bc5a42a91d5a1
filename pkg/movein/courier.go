package movein

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/postern-pop/postern/pkg/maildrop"
)

// courierList is a courierpop3dsizelist, with the unique-ids that pop3d says of
// its lines:
//
//	version   header                      line                                   unique-id
//	3         /3 <next n> <validity>      <file> <size> <n>:<validity>:<utf8>    UID<n>-<validity>
//	2         /2 <next n> <validity>      <file> <size> <n>:<validity>           UID<n>-<validity>
//	1         /1 <next n>                 <file> <size> <n>                      UID<n>
//	0         none                        <file> <size>                          the file's name
//
// In any version n may be 0: then the unique-id is the file's name, and without a
// validity it is UID<n>. A list keeps what its messages had in earlier versions.
// The listing goes by the names of the files.
type courierList struct {
	version        int
	validity, next uint64
	records        map[string]courierRecord // by the file's base name
}

type courierRecord struct{ n, validity uint64 }

func (*courierList) String() string { return courierFile }

var errCourierLine = errors.New("expected a file, its size and its number")

func parseCourier(r io.Reader) (*courierList, error) {
	l := &courierList{next: 1, records: make(map[string]courierRecord)}
	err := lines(r, func(n int, line string) error {
		if n == 1 && strings.HasPrefix(line, "/") {
			return l.header(line[1:])
		}
		name, record, err := l.line(line)
		if err != nil {
			return err
		}
		l.records[base(name)] = record
		if record.validity == l.validity {
			l.next = max(l.next, record.n+1)
		}
		if len(l.records) > maxMessages {
			return fmt.Errorf("more than %d messages", maxMessages)
		}
		return nil
	})
	return l, err
}

func (l *courierList) header(text string) error {
	fields := strings.Fields(text)
	var numbers []uint64
	for _, field := range fields {
		n, err := strconv.ParseUint(field, 10, 64)
		if err != nil {
			return errors.New("expected /<version> <next number> <validity>")
		}
		numbers = append(numbers, n)
	}
	want := map[uint64]int{1: 2, 2: 3, 3: 3} // numbers in a header of each version
	if len(numbers) == 0 || len(numbers) != want[numbers[0]] {
		return errors.New("expected /<version> <next number> <validity>, of version 1, 2 or 3")
	}
	l.version, l.next = int(numbers[0]), max(numbers[1], 1)
	if l.version > 1 {
		l.validity = numbers[2]
	}
	return nil
}

// line takes a line apart from its end: a file's name may have spaces.
func (l *courierList) line(line string) (name string, r courierRecord, err error) {
	name, last, ok := cutLast(line, " ")
	if l.version == 0 {
		if !ok || name == "" || !isNumber(last) {
			return "", r, errors.New("expected a file and its size")
		}
		return name, r, nil
	}
	name, size, ok := cutLast(name, " ")
	numbers := strings.Split(last, ":")
	if !ok || name == "" || !isNumber(size) || len(numbers) != l.version { // 1, 2 and 3 numbers in versions 1, 2 and 3
		return "", r, errCourierLine
	}
	for i, into := range []*uint64{&r.n, &r.validity, new(uint64)}[:len(numbers)] {
		if *into, err = strconv.ParseUint(numbers[i], 10, 64); err != nil {
			return "", r, errCourierLine
		}
	}
	return name, r, nil
}

func cutLast(s, separator string) (before, after string, found bool) {
	if i := strings.LastIndex(s, separator); i >= 0 {
		return s[:i], s[i+len(separator):], true
	}
	return s, "", false
}

func isNumber(s string) bool {
	_, err := strconv.ParseUint(s, 10, 64)
	return err == nil
}

// listing gives files that the list doesn't have the numbers that Courier would
// give them next.
func (l *courierList) listing(files []maildirFile) []listed {
	all := make([]listed, 0, len(files))
	next := l.next
	for _, file := range files {
		record, ok := l.records[base(file.name)]
		if !ok && l.version > 0 {
			record = courierRecord{next, l.validity}
			next++
		}
		all = append(all, listed{file, record.uid(file)})
	}
	return all
}

func (r courierRecord) uid(file maildirFile) maildrop.UID {
	switch {
	case r.n == 0:
		return maildrop.UID(courierEncoded(base(file.name)))
	case r.validity == 0:
		return maildrop.UID(fmt.Sprintf("UID%d", r.n))
	}
	return maildrop.UID(fmt.Sprintf("UID%d-%d", r.n, r.validity))
}

// courierEncoded is a name as pop3d writes it: octets that aren't printable,
// quotation marks and the plus sign as a plus and two digits.
func courierEncoded(name string) string {
	var b strings.Builder
	for i := range len(name) {
		if c := name[i]; c < 0x21 || c > 0x7E || c == '\'' || c == '"' || c == '+' {
			fmt.Fprintf(&b, "+%02X", c)
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}
