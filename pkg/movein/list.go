package movein

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/postern-pop/postern/pkg/maildrop"
)

// uidList is what a server wrote down of the unique-ids of a Maildir.
type uidList interface {
	// listing is the files in the order of the server's listing. They come sorted
	// by name.
	listing(files []maildirFile) []listed
	// String says where the unique-ids come from, for people.
	String() string
}

// listed is a file and its unique-id.
type listed struct {
	file maildirFile
	uid  maildrop.UID
}

// nameList is for a Maildir without a list.
type nameList struct{}

func (nameList) String() string { return "the names of the files" }

func (nameList) listing(files []maildirFile) []listed {
	all := make([]listed, 0, len(files))
	for _, file := range files {
		all = append(all, listed{file, hashed("maildir", unique(file.name))})
	}
	return all
}

// openList reads the list that the options ask for.
func openList(root *os.Root, options MaildirOptions) (uidList, error) {
	switch options.Lists {
	case ListsNames:
		return nameList{}, nil
	case ListsDovecot:
		return readListFile(root, dovecotFile, options.dovecot)
	case ListsCourier:
		return readListFile(root, courierFile, options.courier)
	case ListsAuto, "":
		list, err := readListFile(root, dovecotFile, options.dovecot)
		if errors.Is(err, fs.ErrNotExist) {
			list, err = readListFile(root, courierFile, options.courier)
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nameList{}, nil
		}
		return list, err
	}
	return nil, fmt.Errorf("unique-ids from %q: expected auto, dovecot, courier or names", options.Lists)
}

func (o MaildirOptions) dovecot(r io.Reader) (uidList, error) {
	list, err := parseDovecot(r)
	if err != nil {
		return nil, err
	}
	list.format = o.Format
	return list, nil
}

func (MaildirOptions) courier(r io.Reader) (uidList, error) { return parseCourier(r) }

func readListFile(root *os.Root, name string, parse func(io.Reader) (uidList, error)) (uidList, error) {
	file, err := openRegular(root, name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	list, err := parse(file)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return list, nil
}

// lines reads the lines of a list, each with its number, but for a last one that
// has no end: its server is still writing it.
func lines(r io.Reader, take func(n int, line string) error) error {
	limited := &io.LimitedReader{R: r, N: maxListFile}
	buffered := bufio.NewReaderSize(limited, maxListLine)
	for n := 1; ; n++ {
		line, err := buffered.ReadSlice('\n')
		switch {
		case errors.Is(err, io.EOF) && limited.N == 0:
			return fmt.Errorf("longer than %d octets", maxListFile)
		case errors.Is(err, io.EOF):
			return nil
		case errors.Is(err, bufio.ErrBufferFull):
			return fmt.Errorf("line %d: longer than %d octets", n, maxListLine)
		case err != nil:
			return err
		}
		if err := take(n, string(line[:len(line)-1])); err != nil {
			return fmt.Errorf("line %d: %w", n, err)
		}
	}
}
