package rpc

import (
	"crypto/tls"
	"net"
	"runtime"
	"slices"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/postern-pop/postern/pkg/maildrop"
	posternv1 "github.com/postern-pop/postern/proto/postern/v1"
)

// ServeWithoutFeed serves a service as versions did that had no Feed.
func ServeWithoutFeed(t testing.TB, config *tls.Config, service maildrop.Service) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	desc := posternv1.Maildrop_ServiceDesc
	desc.Streams = slices.DeleteFunc(slices.Clone(desc.Streams), func(s grpc.StreamDesc) bool { return s.StreamName == "Feed" })
	server := grpc.NewServer(grpc.Creds(gathering{credentials.NewTLS(config)}), grpc.ForceServerCodecV2(newCodec()))
	server.RegisterService(&desc, &maildropServer{service: service, room: &room{limit: defaultBodyBytes}})
	go server.Serve(l)
	t.Cleanup(server.Stop)
	return l.Addr().String()
}

// RetireFeeds retires the feed that a client has, as often as times, and reports how many
// it had.
func RetireFeeds(c *Client, times int) (feeds int) {
	var last *feed
	for range times {
		for {
			c.mu.Lock()
			f := c.feed
			c.mu.Unlock()
			if f != nil && f != last {
				f.retire()
				last = f
				feeds++
				break
			}
			runtime.Gosched()
		}
	}
	return feeds
}
