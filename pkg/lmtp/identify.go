package lmtp

import (
	"bufio"
	"errors"
	"io"
	"strings"

	"github.com/postern-pop/postern/pkg/maildrop"
	"github.com/postern-pop/postern/pkg/wire"
)

// maxTraceLine is the longest line that our trace header has, in octets: a sender of 256, or
// an address, and what is around it, with room.
const maxTraceLine = 4096

// Identify works out which ID a stored message had when it was delivered, from its trace header
// and its octets: of one with a Received field of its gateway's, for of others it was
// random, and theirs is never asked for again. ok is false for a message that isn't ours.
func Identify(stored io.Reader) (id maildrop.EnvelopeID, ok bool) {
	r := bufio.NewReaderSize(stored, maxTraceLine)
	sender, ok := traceLine(r, "Return-Path: <", ">")
	if !ok {
		return id, false
	}
	shown, ok := traceLine(r, "Delivered-To: ", "")
	if !ok {
		return id, false
	}
	to, ok := undisplayed(shown)
	if !ok {
		return id, false
	}
	if _, ok := traceLine(r, "Received: from ", ""); !ok {
		return id, false
	}
	for range 2 { // the field's further lines
		if _, ok := traceLine(r, "\t", ""); !ok {
			return id, false
		}
	}
	// What is stored is what came, but for the line that ends it: read so once more, it has
	// the same sum.
	content := wire.NewReader(io.MultiReader(r, strings.NewReader(".\r\n")), maxTraceLine).Data()
	if _, err := io.Copy(io.Discard, content); err != nil {
		return id, false
	}
	return maildrop.RepeatableID(sender, to, content.Sum()), true
}

// traceLine reads a line, and returns what is between its beginning and its end.
func traceLine(r *bufio.Reader, begin, end string) (string, bool) {
	line, err := r.ReadSlice('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return "", false
	}
	text, ok := strings.CutPrefix(string(line), begin)
	if !ok {
		return "", false
	}
	return strings.CutSuffix(text, end+"\r\n")
}

// undisplayed is what displayed made its text of.
func undisplayed(text string) (maildrop.Address, bool) {
	if !strings.HasPrefix(text, `"`) {
		address, err := maildrop.ParseAddress(text)
		return address, err == nil
	}
	end := strings.LastIndex(text, `"@`)
	if end < 1 {
		return "", false
	}
	local := strings.NewReplacer(`\\`, `\`, `\"`, `"`).Replace(text[1:end])
	address := maildrop.Address(local + text[end+1:])
	return address, displayed(address) == text
}
