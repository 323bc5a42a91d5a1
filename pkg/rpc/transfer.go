package rpc

import (
	"context"

	"google.golang.org/grpc"

	"github.com/postern-pop/postern/pkg/maildrop"
	posternv1 "github.com/postern-pop/postern/proto/postern/v1"
)

// transferServer serves moves of accounts between regions.
type transferServer struct {
	posternv1.UnimplementedTransferServer
	mover    maildrop.Mover
	receiver maildrop.Receiver
	room     *room // for bodies held in memory
}

var (
	_ maildrop.Mover    = (*Client)(nil)
	_ maildrop.Receiver = (*Client)(nil)
)

func moveFromWire(op string, in *posternv1.MoveName) (maildrop.Move, error) {
	move := maildrop.Move{Account: in.GetAccount(), ID: in.GetId()}
	if move.Account == "" || len(move.Account) > maxName || move.ID == 0 {
		return move, invalid(op, "a move has an account and a number")
	}
	return move, nil
}

func moveToWire(move maildrop.Move) *posternv1.MoveName {
	return &posternv1.MoveName{Account: move.Account, Id: move.ID}
}

func (s *transferServer) Survey(ctx context.Context, in *posternv1.SurveyRequest) (*posternv1.SurveyResponse, error) {
	move, err := moveFromWire("rpc.survey", in.GetMove())
	if err != nil {
		return nil, err
	}
	v, err := s.mover.Survey(ctx, int(in.GetShard()), move)
	if err != nil {
		return nil, err
	}
	return &posternv1.SurveyResponse{
		Stage: uint32(v.Stage), Addresses: v.Addresses, Mailboxes: v.Mailboxes, Messages: v.Messages, Octets: v.Octets,
	}, nil
}

// Survey asks what a shard has of the account.
func (c *Client) Survey(ctx context.Context, shard int, move maildrop.Move) (maildrop.Survey, error) {
	var out posternv1.SurveyResponse
	in := &posternv1.SurveyRequest{Move: moveToWire(move), Shard: uint32(shard)}
	if err := c.call(ctx, "rpc.survey", posternv1.Transfer_Survey_FullMethodName, in, &out, false); err != nil {
		return maildrop.Survey{}, err
	}
	return maildrop.Survey{
		Stage: maildrop.Stage(out.GetStage()), Addresses: out.GetAddresses(), Mailboxes: out.GetMailboxes(),
		Messages: out.GetMessages(), Octets: out.GetOctets(),
	}, nil
}

func (s *transferServer) Push(in *posternv1.PushRequest, stream grpc.ServerStreamingServer[posternv1.PushResponse]) error {
	move, err := moveFromWire("rpc.push", in.GetMove())
	if err != nil {
		return err
	}
	sum, err := s.mover.Push(stream.Context(), int(in.GetShard()), move, in.GetFinal(), func(sum maildrop.Pushed) {
		_ = stream.Send(pushedToWire(sum)) // who asked may have left: then the context ends
	})
	if err != nil {
		return err
	}
	return stream.Send(pushedToWire(sum))
}

// Push asks for one pass over a shard's mailboxes.
func (c *Client) Push(ctx context.Context, shard int, move maildrop.Move, final bool, progress func(maildrop.Pushed)) (sum maildrop.Pushed, err error) {
	in := &posternv1.PushRequest{Move: moveToWire(move), Shard: uint32(shard), Final: final}
	err = c.answers(ctx, "rpc.push", posternv1.Transfer_Push_FullMethodName, in, func(stream grpc.ClientStream) error {
		var out posternv1.PushResponse
		if err := stream.RecvMsg(&out); err != nil {
			return err
		}
		if sum = pushedFromWire(&out); progress != nil {
			progress(sum)
		}
		return nil
	})
	return sum, err
}

func pushedToWire(p maildrop.Pushed) *posternv1.PushResponse {
	return &posternv1.PushResponse{
		Mailboxes: p.Mailboxes, Records: p.Records, Messages: p.Messages, Octets: p.Octets, Withdrawn: p.Withdrawn, Damaged: p.Damaged,
	}
}

func pushedFromWire(in *posternv1.PushResponse) maildrop.Pushed {
	return maildrop.Pushed{
		Mailboxes: in.GetMailboxes(), Records: in.GetRecords(), Messages: in.GetMessages(), Octets: in.GetOctets(),
		Withdrawn: in.GetWithdrawn(), Damaged: in.GetDamaged(),
	}
}

func (s *transferServer) Stage(ctx context.Context, in *posternv1.StageRequest) (*posternv1.StageResponse, error) {
	move, err := moveFromWire("rpc.stage", in.GetMove())
	if err != nil {
		return nil, err
	}
	stage := maildrop.Stage(min(in.GetStage(), 255))
	if !stage.Known() || stage == maildrop.StageNone {
		return nil, invalid("rpc.stage", "there is no such stage of a move")
	}
	return &posternv1.StageResponse{}, s.mover.Stage(ctx, int(in.GetShard()), move, stage)
}

// Stage brings a shard to a stage of the move.
func (c *Client) Stage(ctx context.Context, shard int, move maildrop.Move, stage maildrop.Stage) error {
	in := &posternv1.StageRequest{Move: moveToWire(move), Shard: uint32(shard), Stage: uint32(stage)}
	return c.call(ctx, "rpc.stage", posternv1.Transfer_Stage_FullMethodName, in, &posternv1.StageResponse{}, true)
}

// mailbox is the move and the address that a call of the receiving side is about.
func mailbox(op string, name *posternv1.MoveName, addr string) (maildrop.Move, maildrop.Address, error) {
	move, err := moveFromWire(op, name)
	if err != nil {
		return move, "", err
	}
	address, err := addressFromWire(op, addr)
	return move, address, err
}

func (s *transferServer) Inventory(in *posternv1.InventoryRequest, stream grpc.ServerStreamingServer[posternv1.Listing]) error {
	move, address, err := mailbox("rpc.inventory", in.GetMove(), in.GetAddress())
	if err != nil {
		return err
	}
	entries, err := s.receiver.Inventory(stream.Context(), move, address)
	if err != nil {
		return err
	}
	return sendListing(stream, entries)
}

// Inventory lists the messages that a mailbox has received.
func (c *Client) Inventory(ctx context.Context, move maildrop.Move, address maildrop.Address) (*maildrop.Listing, error) {
	in := &posternv1.InventoryRequest{Move: moveToWire(move), Address: string(address)}
	return c.listing(ctx, "rpc.inventory", posternv1.Transfer_Inventory_FullMethodName, in, 0)
}

func (s *transferServer) Receive(stream deliveryStream) error {
	const op = "rpc.receive"
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	if len(first.GetData()) > 0 {
		return invalid(op, "body before the envelope's end")
	}
	head := first.GetEnvelope()
	envelope, err := envelopeFromWire(op, head)
	if err != nil {
		return err
	}
	move, err := moveFromWire(op, head.GetMove())
	if err != nil {
		return err
	}
	message := maildrop.Arrival{Envelope: envelope, Class: maildrop.Class(min(head.GetClass(), 255))}
	return s.room.arrive(op, stream, head, func(body maildrop.Body) error {
		return s.receiver.Receive(stream.Context(), move, message, body)
	})
}

// Receive hands a message over.
func (c *Client) Receive(ctx context.Context, move maildrop.Move, message maildrop.Arrival, body maildrop.Body) error {
	envelope := envelopeToWire(message.Envelope, body)
	envelope.Move, envelope.Class = moveToWire(move), uint32(message.Class)
	return c.deliver(ctx, "rpc.receive", posternv1.Transfer_Receive_FullMethodName, envelope, body)
}

func (s *transferServer) ReceiveAddress(ctx context.Context, in *posternv1.ReceiveAddressRequest) (*posternv1.ReceiveAddressResponse, error) {
	move, _, err := mailbox("rpc.receive-address", in.GetMove(), in.GetRecord().GetAddress())
	if err != nil {
		return nil, err
	}
	return &posternv1.ReceiveAddressResponse{}, s.receiver.ReceiveAddress(ctx, move, recordFromWire(in.GetRecord()))
}

// ReceiveAddress hands a record over.
func (c *Client) ReceiveAddress(ctx context.Context, move maildrop.Move, record maildrop.AddressRecord) error {
	in := &posternv1.ReceiveAddressRequest{Move: moveToWire(move), Record: recordToWire(record)}
	return c.call(ctx, "rpc.receive-address", posternv1.Transfer_ReceiveAddress_FullMethodName, in, &posternv1.ReceiveAddressResponse{}, true)
}

func (s *transferServer) Withdraw(ctx context.Context, in *posternv1.WithdrawRequest) (*posternv1.WithdrawResponse, error) {
	move, address, err := mailbox("rpc.withdraw", in.GetMove(), in.GetAddress())
	if err != nil {
		return nil, err
	}
	return &posternv1.WithdrawResponse{}, s.receiver.Withdraw(ctx, move, address, uidsFromWire(in.GetUids()))
}

// Withdraw takes messages back.
func (c *Client) Withdraw(ctx context.Context, move maildrop.Move, address maildrop.Address, uids []maildrop.UID) error {
	in := &posternv1.WithdrawRequest{Move: moveToWire(move), Address: string(address), Uids: uidsToWire(uids)}
	return c.call(ctx, "rpc.withdraw", posternv1.Transfer_Withdraw_FullMethodName, in, &posternv1.WithdrawResponse{}, true)
}
