package directory

import (
	"context"
	"errors"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/postern-pop/postern/pkg/maildrop"
)

// rangeAll reads all keys with the prefix at one revision, in pages, each of
// which may take up to the limit.
func rangeAll(ctx context.Context, client *clientv3.Client, prefix string, limit time.Duration) ([]*mvccpb.KeyValue, int64, error) {
	var kvs []*mvccpb.KeyValue
	var revision int64
	end := clientv3.GetPrefixRangeEnd(prefix)
	for from := prefix; ; {
		page, err := rangePage(ctx, client, from, end, revision, limit)
		if err != nil {
			return nil, 0, err
		}
		if revision == 0 {
			revision = page.Header.GetRevision() // the others are read at the first one's
		}
		kvs = append(kvs, page.Kvs...)
		if !page.More || len(page.Kvs) == 0 {
			return kvs, revision, nil
		}
		from = string(page.Kvs[len(page.Kvs)-1].Key) + "\x00"
	}
}

func rangePage(ctx context.Context, client *clientv3.Client, from, end string, revision int64, limit time.Duration) (*clientv3.GetResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return client.Get(ctx, from, clientv3.WithRange(end), clientv3.WithLimit(pageSize), clientv3.WithRev(revision))
}

// readError is the error of a read that etcd didn't answer.
func readError(op string, err error) error {
	return &maildrop.Error{Op: op, Kind: maildrop.Transient, Text: "etcd does not answer; try again", Err: err}
}

// writeError is the error of a write that etcd didn't confirm. Unless etcd said
// that it refused, the write may have happened or may yet.
func writeError(op string, err error) error {
	switch {
	case errors.Is(err, rpctypes.ErrNoSpace):
		return &maildrop.Error{Op: op, Kind: maildrop.Full, Text: "etcd is full: compact it, and raise its quota; nothing was changed", Err: err}
	case errors.Is(err, rpctypes.ErrTooManyRequests):
		return &maildrop.Error{Op: op, Kind: maildrop.Busy, Text: "etcd is overloaded; nothing was changed, try again", Err: err}
	case errors.Is(err, rpctypes.ErrRequestTooLarge):
		return &maildrop.Error{Op: op, Kind: maildrop.Invalid, Text: "the record is too large for etcd; nothing was changed", Err: err}
	}
	return &maildrop.Error{Op: op, Kind: maildrop.Maybe,
		Text: "etcd did not answer, so it is not known whether the change was made; look, then try again", Err: err}
}

func invalid(op, text string) error {
	return &maildrop.Error{Op: op, Kind: maildrop.Invalid, Text: text}
}

func notFound(op, text string) error {
	return &maildrop.Error{Op: op, Kind: maildrop.NotFound, Text: text}
}
