package lmtp

import (
	"errors"
	"strings"

	"github.com/postern-pop/postern/pkg/wire"
)

// errSwallowed says that MaxSwallow octets of a message came that is refused
// anyway, and no end.
var errSwallowed = errors.New("message far too large, and no end in sight")

// intake takes one message's content from the wire into a spool.
type intake struct {
	data    *wire.Data
	spool   *spool
	limit   uint64 // octets, without dot-stuffing
	swallow uint64 // how many more are read, to get to the end
	header  headerScan
}

// read reads to the end of the content. Its errors are the connection's: what
// else may be wrong with the content is the spool's err.
func (in *intake) read() error {
	_, err := in.data.WriteTo(in)
	in.spool.seal()
	return err
}

// Write implements io.Writer for the content's wire form. The size counts what
// is in p, so a message of exactly the limit passes.
func (in *intake) Write(p []byte) (int, error) {
	size := in.data.Size()
	if size > in.limit {
		in.spool.fail(errTooLarge)
	}
	if size > in.limit+in.swallow {
		return 0, errSwallowed
	}
	in.header.write(p)
	return in.spool.Write(p)
}

// verdict is how the content came in, for metrics and the log, and, unless it
// is whole, what its recipients are answered.
func (in *intake) verdict() (result string, failed reply) {
	switch {
	case in.spool.err == nil:
		return "whole", reply{}
	case errors.Is(in.spool.err, errTooLarge):
		return "too_large", replyTooLarge
	case in.spool.full():
		return "spool_error", replySpoolFull
	}
	return "spool_error", replySpool
}

// content is the message, once it is whole.
func (in *intake) content() content {
	return content{spool: in.spool, size: in.data.Size(), sum: in.data.Sum(), received: in.header.found}
}

// senderDomain is as much of a sender as the log has; empty for the null sender.
func senderDomain(sender string) string {
	if at := strings.LastIndexByte(sender, '@'); at >= 0 {
		return strings.ToLower(sender[at+1:])
	}
	return ""
}
