package gossip

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern-pop/postern/pkg/throttle"
)

// news is an Exchange with something to say from time to time.
type news struct {
	mu   sync.Mutex
	said []time.Time
}

func (n *news) happens() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.said = append(n.said, time.Now())
}

func (n *news) Say() (packets [][]byte) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, at := range n.said {
		packets = append(packets, []byte(at.Format(time.RFC3339Nano)))
	}
	n.said = nil
	return packets
}

func (*news) Hear([]byte) {}

// TestTellWithin: whenever there is news, it is sent at most 250 ms later, in real time's
// stead by a fake clock.
func TestTellWithin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		n, sent := &news{}, 0
		go tell(ctx, n, func(packets [][]byte) {
			for _, packet := range packets {
				at, err := time.Parse(time.RFC3339Nano, string(packet))
				if late := time.Since(at); err != nil || late > 250*time.Millisecond {
					t.Errorf("%v, %v", late, err)
				}
				sent++
			}
		})
		const times = 1000
		for range times {
			time.Sleep(37 * time.Millisecond)
			n.happens()
			synctest.Wait()
		}
		time.Sleep(exchangeInterval)
		synctest.Wait()
		if sent != times {
			t.Errorf("%d of %d were told", sent, times)
		}
	})
}

// TestPacketsFit: what a throttle says, an Exchange takes.
func TestPacketsFit(t *testing.T) {
	if throttle.MaxPacket > maxPacket {
		t.Errorf("packets of %d octets, and %d are sent at most", throttle.MaxPacket, maxPacket)
	}
}
