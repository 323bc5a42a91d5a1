package gossip

import (
	"context"
	"time"

	"github.com/hashicorp/memberlist"
)

const (
	// maxPacket is the longest packet of an Exchange in octets.
	maxPacket = 1200
	// exchangeInterval is how often an Exchange is asked for news.
	exchangeInterval = 250 * time.Millisecond
)

// Exchange is something that the processes of one role tell each other. Packets may
// get lost, come twice, or in another order; what they change must not depend on it.
type Exchange interface {
	// Say returns what is to be told now: packets of at most 1200 octets. It is called
	// four times a second.
	Say() [][]byte
	// Hear takes a packet of another process. It must not keep it, nor block.
	Hear(packet []byte)
}

// Share tells the others of this process's role, and hears them, until the
// membership ends. It is called once at most.
func (m *Member) Share(e Exchange) {
	m.exchange.Store(&e)
	m.tasks.Go(func() { tell(m.life, e, m.send) })
}

// tell sends what there is to be told, until ctx ends. Nothing waits for longer than
// exchangeInterval.
func tell(ctx context.Context, e Exchange, send func(packets [][]byte)) {
	tick := time.NewTicker(exchangeInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if packets := e.Say(); len(packets) > 0 {
			send(packets)
		}
	}
}

// send sends packets to all others of the role. One that can't be sent is as good as
// lost.
func (m *Member) send(packets [][]byte) {
	for _, node := range m.list.Members() {
		peer := peerOf(node)
		if peer.Role != m.self.Role || node.Name == m.list.LocalNode().Name {
			continue
		}
		for _, packet := range packets {
			if len(packet) > maxPacket {
				m.log.Error("gossip: a packet is too long to be sent", "octets", len(packet))
				continue
			}
			if err := m.list.SendBestEffort(node, packet); err != nil {
				m.log.Debug("gossip: not told", "peer", peer.Name, "error", err)
			}
		}
	}
}

// hear passes a packet on.
func (m *Member) hear(packet []byte) {
	if e := m.exchange.Load(); e != nil && len(packet) <= maxPacket {
		(*e).Hear(packet)
	}
}

// delegate is what memberlist asks and tells a process besides who is alive: what it
// says of itself, and packets of an Exchange.
type delegate struct {
	member *Member
	meta   []byte
}

var _ memberlist.Delegate = delegate{}

// NodeMeta implements memberlist.Delegate, and so do the others.
func (d delegate) NodeMeta(int) []byte           { return d.meta }
func (d delegate) NotifyMsg(packet []byte)       { d.member.hear(packet) }
func (delegate) GetBroadcasts(_, _ int) [][]byte { return nil }
func (delegate) LocalState(bool) []byte          { return nil }
func (delegate) MergeRemoteState([]byte, bool)   {}
