package rpc

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"

	"github.com/postern-pop/postern/pkg/maildrop"
	posternv1 "github.com/postern-pop/postern/proto/postern/v1"
)

// ServerConfig is what a Server is made of.
type ServerConfig struct {
	TLS     *tls.Config      // of ServerTLS
	Service maildrop.Service // what is served
	// Allow says whether a peer may call a method, given by its full name; an
	// error refuses. nil refuses everything. See NodeAllow and GatewayAllow.
	Allow     func(peer Identity, method string) error
	Snapshots Snapshots                     // for processes that start without etcd; nil: none
	Holdings  func() []*posternv1.ShardInfo // what this node serves; nil: no node
	// Prepare makes this node ready for a shard that its owner will hand to it; nil: no node.
	Prepare  func(ctx context.Context, shard int) error
	Mover    maildrop.Mover    // with Receiver: moves accounts between regions; nil: none
	Receiver maildrop.Receiver //
	// BodyBytes is the memory for bodies of up to 1 MiB that are read whole before they
	// are delivered, in octets; beyond it Deliver is Busy. 0: 256 MiB.
	BodyBytes  int64
	Log        *slog.Logger          // nil: silence
	Registerer prometheus.Registerer // nil: no metrics
}

// Server serves a maildrop.Service. Make one with [NewServer].
type Server struct {
	config   ServerConfig
	meter    *meter
	grpc     *grpc.Server
	stopping chan struct{} // closed by the first Stop
	once     sync.Once
}

// NewServer makes a server that isn't serving yet.
func NewServer(config ServerConfig) *Server {
	if config.Log == nil {
		config.Log = slog.New(slog.DiscardHandler)
	}
	if config.BodyBytes <= 0 {
		config.BodyBytes = defaultBodyBytes
	}
	s := &Server{config: config, meter: newMeter(config.Registerer, "server", config.Log), stopping: make(chan struct{})}
	s.grpc = grpc.NewServer(
		grpc.Creds(gathering{credentials.NewTLS(config.TLS)}),
		grpc.ForceServerCodecV2(newCodec()),
		grpc.UnaryInterceptor(s.unary),
		grpc.StreamInterceptor(s.stream),
		grpc.MaxRecvMsgSize(maxMessage),
		grpc.MaxSendMsgSize(maxMessage),
		grpc.MaxConcurrentStreams(maxStreams),
		grpc.MaxHeaderListSize(maxHeader),
		grpc.StaticStreamWindowSize(streamWindow),
		grpc.StaticConnWindowSize(connWindow),
		grpc.ReadBufferSize(transportBuffer),
		grpc.WriteBufferSize(transportBuffer),
		grpc.ConnectionTimeout(handshakeTimeout),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: serverPingMin, PermitWithoutStream: true}),
		grpc.KeepaliveParams(keepalive.ServerParameters{
			MaxConnectionIdle: serverConnIdle, MaxConnectionAge: serverConnAge,
			Time: serverPing, Timeout: serverPingWait,
		}),
		grpc.WaitForHandlers(true),
	)
	bodies := &room{limit: config.BodyBytes}
	posternv1.RegisterMaildropServer(s.grpc, &maildropServer{
		service: config.Service, room: bodies,
		chunks: &chunks{size: chunkOctets}, small: &chunks{size: smallChunk},
		meter: s.meter, stopping: s.stopping,
	})
	if config.Snapshots != nil {
		posternv1.RegisterRoutesServer(s.grpc, &routesServer{snapshots: config.Snapshots})
	}
	if config.Mover != nil && config.Receiver != nil {
		posternv1.RegisterTransferServer(s.grpc, &transferServer{mover: config.Mover, receiver: config.Receiver, room: bodies})
	}
	if config.Holdings != nil {
		posternv1.RegisterCensusServer(s.grpc, &censusServer{holdings: config.Holdings})
	}
	if config.Prepare != nil {
		posternv1.RegisterHeirServer(s.grpc, &heirServer{prepare: config.Prepare})
	}
	return s
}

// GRPC is the server itself, to register further services before Serve. They
// pass the same Allow, and errors of package maildrop become statuses.
func (s *Server) GRPC() *grpc.Server { return s.grpc }

// Serve serves the connections of a listener, which it closes, until Stop. It
// returns nil then.
func (s *Server) Serve(l net.Listener) error {
	if err := s.grpc.Serve(l); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
		return &maildrop.Error{Op: "rpc.serve", Kind: maildrop.Internal, Err: err}
	}
	return nil
}

// Stop refuses new calls and waits for those that run. When ctx ends it cuts
// them off. It returns when no handler runs any more.
func (s *Server) Stop(ctx context.Context) {
	s.once.Do(func() { close(s.stopping) })
	cut := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(cut)
		s.grpc.Stop()
	})
	s.grpc.GracefulStop()
	if !stop() {
		<-cut
	}
}

func (s *Server) unary(ctx context.Context, in any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (out any, err error) {
	start := time.Now()
	if err = s.admit(ctx, info.FullMethod); err == nil {
		out, err = handler(ctx, in)
	}
	s.meter.observe(info.FullMethod, start, err)
	return out, ToStatus(err)
}

func (s *Server) stream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) (err error) {
	start := time.Now()
	if err = s.admit(stream.Context(), info.FullMethod); err == nil {
		err = handler(srv, stream)
	}
	if err != nil || info.FullMethod != posternv1.Maildrop_Feed_FullMethodName { // a feed counts its calls
		s.meter.observe(info.FullMethod, start, err)
	}
	return ToStatus(err)
}

// admit refuses whoever may not call the method.
func (s *Server) admit(ctx context.Context, method string) error {
	id, ok := PeerIdentity(ctx)
	err := errIdentity
	if ok && s.config.Allow != nil {
		err = s.config.Allow(id, method)
	} else if ok {
		err = errors.New("nobody may call this server")
	}
	if err == nil {
		return nil
	}
	s.config.Log.Warn("call refused", "peer", id.String(), "method", method, "err", err)
	var already *maildrop.Error
	if errors.As(err, &already) {
		return err
	}
	return &maildrop.Error{Op: "rpc.allow", Kind: maildrop.Internal, Err: err}
}

// room is how much of something is in use, up to a limit.
type room struct {
	limit int64
	used  atomic.Int64
}

func (r *room) take(n int64) bool {
	if r.used.Add(n) > r.limit {
		r.used.Add(-n)
		return false
	}
	return true
}

func (r *room) give(n int64) { r.used.Add(-n) }
