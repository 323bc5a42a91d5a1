package rpc

import (
	"context"
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/postern-pop/postern/pkg/maildrop"
	posternv1 "github.com/postern-pop/postern/proto/postern/v1"
)

// maildropServer is a maildrop.Service behind the generated server. It keeps
// nothing between calls: a session is its token.
type maildropServer struct {
	posternv1.UnimplementedMaildropServer
	service maildrop.Service
	room    *room // for bodies held in memory
	meter   *meter
	// stopping is closed when the server takes no more calls.
	stopping chan struct{}
	chunks   *chunks
	small    *chunks // for readers who ask for small ones
}

func (s *maildropServer) Challenge(ctx context.Context, in *posternv1.ChallengeRequest) (*posternv1.ChallengeResponse, error) {
	login, err := loginFromWire("rpc.challenge", &posternv1.OpenRequest{
		Address: in.GetAddress(), Remote: in.GetRemote(), Session: in.GetSession(),
	})
	if err != nil {
		return nil, err
	}
	c, err := s.service.Challenge(ctx, login)
	if err != nil {
		return nil, err
	}
	return &posternv1.ChallengeResponse{Nonce: c.Nonce, Salt: c.Salt, Iterations: uint32(c.Iterations)}, nil
}

func (s *maildropServer) Open(ctx context.Context, in *posternv1.OpenRequest) (*posternv1.OpenResponse, error) {
	login, err := loginFromWire("rpc.open", in)
	if err != nil {
		return nil, err
	}
	drop, err := s.service.Open(ctx, login)
	if err != nil {
		return nil, err
	}
	defer drop.Close()
	info := drop.Info()
	out := infoToWire(info, drop.Token())
	if info.Count <= inlineListing {
		// Trouble here is no trouble of Open: the client asks again, by List.
		if l, err := drop.List(ctx); err == nil && l.Len() <= inlineListing {
			out.Listing = listingToWire(l, 0, l.Len())
		}
	}
	return out, nil
}

// resume makes the Drop that a call of a session is for.
func (s *maildropServer) resume(ctx context.Context, op, addr string, token []byte) (maildrop.Drop, error) {
	address, err := addressFromWire(op, addr)
	if err != nil {
		return nil, err
	}
	if len(token) > maxToken {
		return nil, invalid(op, "token too long")
	}
	return s.service.Resume(ctx, maildrop.Info{Address: address}, token)
}

func (s *maildropServer) List(in *posternv1.ListRequest, stream grpc.ServerStreamingServer[posternv1.Listing]) error {
	drop, err := s.resume(stream.Context(), "rpc.list", in.GetAddress(), in.GetToken())
	if err != nil {
		return err
	}
	defer drop.Close()
	l, err := drop.List(stream.Context())
	if err != nil {
		return err
	}
	return sendListing(stream, l)
}

func sendListing(stream grpc.ServerStreamingServer[posternv1.Listing], l *maildrop.Listing) error {
	for from := 0; from < l.Len(); from += listingChunk {
		if err := stream.Send(listingToWire(l, from, min(from+listingChunk, l.Len()))); err != nil {
			return err
		}
	}
	return nil
}

func (s *maildropServer) Read(in *posternv1.ReadRequest, stream grpc.ServerStreamingServer[posternv1.ReadResponse]) error {
	drop, err := s.resume(stream.Context(), "rpc.read", in.GetAddress(), in.GetToken())
	if err != nil {
		return err
	}
	defer drop.Close()
	if len(in.GetThen()) > maxThen {
		return invalid("rpc.read", "too many messages at once")
	}
	w := &chunkWriter{stream: stream, field: fieldReadData, chunks: s.chunks}
	if in.GetSmall() {
		w.chunks = s.small
	}
	defer w.close()
	if err := readOne(stream, drop, in.GetUid(), in.GetOffset(), w); err != nil || len(in.GetThen()) == 0 {
		return err
	}
	end := &posternv1.ReadResponse{End: true}
	for _, uid := range in.GetThen() {
		if err := stream.Send(end); err != nil {
			return err
		}
		if err := readOne(stream, drop, uid, 0, w); err != nil {
			return err
		}
	}
	return stream.Send(end)
}

// readOne sends one message. What was read before an error counts: the caller goes on
// behind it.
func readOne(stream grpc.ServerStream, drop maildrop.Drop, uid string, offset uint64, w *chunkWriter) error {
	_, err := drop.Read(stream.Context(), maildrop.UID(uid), offset, w)
	if flushed := w.flush(); err == nil {
		err = flushed
	}
	return err
}

func (s *maildropServer) Remove(ctx context.Context, in *posternv1.RemoveRequest) (*posternv1.RemoveResponse, error) {
	drop, err := s.resume(ctx, "rpc.remove", in.GetAddress(), in.GetToken())
	if err != nil {
		return nil, err
	}
	defer drop.Close()
	return &posternv1.RemoveResponse{}, drop.Remove(ctx, uidsFromWire(in.GetUids()))
}

func (s *maildropServer) Check(ctx context.Context, in *posternv1.CheckRequest) (*posternv1.CheckResponse, error) {
	drop, err := s.resume(ctx, "rpc.check", in.GetAddress(), in.GetToken())
	if err != nil {
		return nil, err
	}
	defer drop.Close()
	if err := drop.Check(ctx); err != nil {
		return nil, err
	}
	return &posternv1.CheckResponse{Token: drop.Token()}, nil
}

func (s *maildropServer) Accept(ctx context.Context, in *posternv1.AcceptRequest) (*posternv1.AcceptResponse, error) {
	address, err := addressFromWire("rpc.accept", in.GetAddress())
	if err != nil {
		return nil, err
	}
	return &posternv1.AcceptResponse{}, s.service.Accept(ctx, maildrop.Recipient{Address: address, Session: in.GetSession()})
}

// Deliver takes no envelope with a UID or a time of its own: who may call it is
// not asked for those.
func (s *maildropServer) Deliver(stream deliveryStream) error {
	return s.take("rpc.deliver", stream, notImported)
}

func notImported(e maildrop.Envelope) error {
	if imported(e) {
		return invalid("rpc.deliver", "a unique-id or a time of arrival can be given by Import only")
	}
	return nil
}

// Import takes such envelopes, and no others.
func (s *maildropServer) Import(stream deliveryStream) error {
	return s.take("rpc.import", stream, func(e maildrop.Envelope) error {
		if !imported(e) {
			return invalid("rpc.import", "neither a unique-id nor a time of arrival: this is no import")
		}
		return nil
	})
}

type deliveryStream = grpc.ClientStreamingServer[posternv1.DeliverRequest, posternv1.DeliverResponse]

// take takes one message whose envelope passes the check.
func (s *maildropServer) take(op string, stream deliveryStream, check func(maildrop.Envelope) error) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	if len(first.GetData()) > 0 {
		return invalid(op, "body before the envelope's end")
	}
	envelope, err := envelopeFromWire(op, first.GetEnvelope())
	if err == nil {
		err = check(envelope)
	}
	if err != nil {
		return err
	}
	return s.room.arrive(op, stream, first.GetEnvelope(), func(body maildrop.Body) error {
		return s.service.Deliver(stream.Context(), envelope, body)
	})
}

// arrive receives a body, whole if it is small, and answers when it was used.
func (r *room) arrive(op string, stream deliveryStream, envelope *posternv1.Envelope, use func(maildrop.Body) error) error {
	body := &arrival{stream: stream, wire: envelope.GetWire(), size: envelope.GetSize()}
	if body.wire <= maxBuffered {
		if err := r.hold(op, body); err != nil {
			return err
		}
		defer r.give(int64(body.wire))
		if err := body.readAll(); err != nil {
			return err
		}
	}
	defer body.close()
	if err := use(body); err != nil {
		return err
	}
	return stream.SendAndClose(&posternv1.DeliverResponse{})
}

// hold takes the memory for a body.
func (r *room) hold(op string, body *arrival) error {
	if !r.take(int64(body.wire)) {
		return &maildrop.Error{Op: op, Kind: maildrop.Busy, Err: fmt.Errorf("more than %d octets of mail are arriving", r.limit)}
	}
	return nil
}

func (s *maildropServer) PutAddress(ctx context.Context, in *posternv1.PutAddressRequest) (*posternv1.PutAddressResponse, error) {
	if _, err := addressFromWire("rpc.put-address", in.GetRecord().GetAddress()); err != nil {
		return nil, err
	}
	return &posternv1.PutAddressResponse{}, s.service.PutAddress(ctx, recordFromWire(in.GetRecord()))
}

// GetAddress answers with Registrar.Address.
func (s *maildropServer) GetAddress(ctx context.Context, in *posternv1.GetAddressRequest) (*posternv1.AddressRecord, error) {
	address, err := addressFromWire("rpc.address", in.GetAddress())
	if err != nil {
		return nil, err
	}
	record, err := s.service.Address(ctx, address)
	if err != nil {
		return nil, err
	}
	return recordToWire(record), nil
}

func (s *maildropServer) RemoveAddress(ctx context.Context, in *posternv1.RemoveAddressRequest) (*posternv1.RemoveAddressResponse, error) {
	address, err := addressFromWire("rpc.remove-address", in.GetAddress())
	if err != nil {
		return nil, err
	}
	return &posternv1.RemoveAddressResponse{}, s.service.RemoveAddress(ctx, address)
}

func (s *maildropServer) ListAddresses(in *posternv1.ListAddressesRequest, stream grpc.ServerStreamingServer[posternv1.AddressRecord]) error {
	if len(in.GetAccount()) > maxName {
		return invalid("rpc.addresses", "account name too long")
	}
	records, err := s.service.Addresses(stream.Context(), in.GetAccount())
	if err != nil {
		return err
	}
	for _, r := range records {
		if err := stream.Send(recordToWire(r)); err != nil {
			return err
		}
	}
	return nil
}

// sender is the part of a stream that a chunkWriter needs, on either side.
type sender interface{ SendMsg(m any) error }

// chunkWriter sends what is written to it in frames of chunkOctets. It copies
// once: a Writer may not keep what it is given, and gRPC does.
type chunkWriter struct {
	stream sender
	field  protowire.Number
	chunks *chunks
	chunk  *[]byte // being filled; its length is what is in it
}

func (w *chunkWriter) Write(p []byte) (n int, err error) {
	for n < len(p) {
		if w.chunk == nil {
			w.chunk = w.chunks.Get(0)
		}
		filled := len(*w.chunk)
		k := copy((*w.chunk)[filled:cap(*w.chunk)], p[n:])
		*w.chunk = (*w.chunk)[:filled+k]
		n += k
		if len(*w.chunk) == cap(*w.chunk) {
			if err := w.flush(); err != nil {
				return n, err
			}
		}
	}
	return n, nil
}

// flush sends the chunk that is being filled.
func (w *chunkWriter) flush() error {
	if w.chunk == nil || len(*w.chunk) == 0 {
		return nil
	}
	b := mem.NewBuffer(w.chunk, w.chunks)
	w.chunk = nil
	return w.stream.SendMsg(&frame{field: w.field, data: b})
}

// close gives back a chunk that was never sent.
func (w *chunkWriter) close() {
	if w.chunk != nil {
		w.chunks.Put(w.chunk)
		w.chunk = nil
	}
}
