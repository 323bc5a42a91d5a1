// Package gossip says who seems alive in a region, and says it fast. It is the
// only place that knows memberlist.
//
//	Join ──▶ alone ──a seed answers──▶ member ──Leave──▶ (left, the others know)
//	                                     │
//	                                     └─Close, crash─▶ (the others find out in about 1.5 s)
//
// What it says is a hint and decides nothing alone: it may be wrong about a
// node that is slow or cut off, and everything done on its word must be safe when
// it was wrong.
//
// All roles of a region join one cluster. Packets are encrypted and carry the
// region as a label, so the clusters of two regions cannot grow together, even
// with one key.
//
// # Decisions
//
//   - 2026-11-23: memberlist's name for a member is "<name>/<instance>", a new
//     one for each start of a process. memberlist holds names dearer than
//     addresses: a process that came back quickly under its old name, with
//     another address, would be refused, and one with the same address would have
//     to out-argue the news of its own death.
//   - 2026-11-25: keys are replaced in three phases, each at all processes before the
//     next: the new key is added, then put first, then the old one is dropped. No phase
//     cuts anybody off who is one behind. Refused: sending keys over gossip itself, which
//     misses who is away at the moment.
//   - 2026-11-23: joining is tried again for ever, in the background. A region
//     that starts as a whole has nobody to join at first; and two halves of one
//     that was cut apart for long have forgotten each other and meet again only
//     if somebody asks the seeds.
//   - 2026-11-23: timing is tuned for a region's network, not memberlist's
//     preset for it: a crash is seen in 1.1 to 1.4 s instead of 5.8 s. More false
//     alarms are the price, and harmless here.
//   - 2026-11-25: an Exchange sends to each process of the role directly, four times
//     a second when there is news. Refused: memberlist's broadcasts, which go to some
//     processes of all roles and are passed on by none of ours, and its exchange of whole
//     states, which happens every 30 s.
package gossip

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/postern-pop/postern/pkg/maildrop"
)

// Limits and times of this package.
const (
	maxMeta    = memberlist.MetaMaxSize // octets of a member's encoded metadata
	maxForgone = 1024                   // members that are gone and still remembered

	streamTimeout   = 2 * time.Second        // one exchange with a seed
	lonelyInterval  = 500 * time.Millisecond // between attempts to join while alone
	rejoinInterval  = 20 * time.Second       // between visits to the seeds afterwards
	farewellTimeout = 2 * time.Second        // for Leave without a deadline
)

// Config is what a process says of itself, and where it finds the others.
type Config struct {
	Name      string            // the process's name, unique in its region
	Instance  string            // random, another one for each start; empty: made here
	Region    string            //
	Role      string            // front, intake, mailbox
	Bind      string            // host:port for UDP and TCP; port 0: any
	Advertise string            // host:port that the others reach it at; empty: as bound
	Keys      [][]byte          // 16, 24 or 32 octets each; the first one encrypts, all are understood; see SetKeys
	Seeds     []string          // host:port; host may be a name of many addresses
	Meta      map[string]string // told to the others; with the above at most 512 octets as JSON
	Log       *slog.Logger
}

// Validate reports what can't be right.
func (c Config) Validate() error {
	if c.Name == "" || strings.Contains(c.Name, "/") || strings.Contains(c.Instance, "/") {
		return fmt.Errorf("name %q: expected one without a slash", c.Name)
	}
	if c.Region == "" || len(c.Region) > memberlist.LabelMaxSize {
		return fmt.Errorf("region %q: expected 1 to %d octets", c.Region, memberlist.LabelMaxSize)
	}
	return checkKeys(c.Keys)
}

// Peer is one member that seems alive.
type Peer struct {
	Name     string            `json:"name"`
	Instance string            `json:"instance"`
	Role     string            `json:"role"`
	Address  string            `json:"-"` // host:port of its gossip
	Meta     map[string]string `json:"meta,omitempty"`
}

// Member is this process's membership.
type Member struct {
	self Peer
	list *memberlist.Memberlist
	keys *memberlist.Keyring
	log  *slog.Logger
	book *book
	life context.Context //nolint:containedctx // the membership's own
	stop context.CancelFunc
	once sync.Once

	tasks    sync.WaitGroup
	exchange atomic.Pointer[Exchange]
}

// Join starts to gossip. That no seed answers is no error: it goes on asking.
// Errors are Invalid for a Config that can't be right, and Transient when the
// address can't be bound.
func Join(config Config) (*Member, error) {
	const op = "gossip.join"
	if config.Instance == "" {
		config.Instance = rand.Text()
	}
	if err := config.Validate(); err != nil {
		return nil, &maildrop.Error{Op: op, Kind: maildrop.Invalid, Err: err}
	}
	self := Peer{Name: config.Name, Instance: config.Instance, Role: config.Role, Meta: maps.Clone(config.Meta)}
	meta, err := json.Marshal(self)
	if err == nil && len(meta) > maxMeta {
		err = fmt.Errorf("metadata of %d octets: at most %d", len(meta), maxMeta)
	}
	if err != nil {
		return nil, &maildrop.Error{Op: op, Kind: maildrop.Invalid, Err: err}
	}
	m := &Member{self: self, log: config.Log, book: newBook()}
	if m.keys, err = memberlist.NewKeyring(config.Keys, config.Keys[0]); err != nil {
		return nil, &maildrop.Error{Op: op, Kind: maildrop.Invalid, Err: err}
	}
	settings, err := m.settings(config, meta)
	if err != nil {
		return nil, &maildrop.Error{Op: op, Kind: maildrop.Invalid, Err: err}
	}
	if m.list, err = memberlist.Create(settings); err != nil {
		return nil, &maildrop.Error{Op: op, Kind: maildrop.Transient, Err: err}
	}
	m.self.Address = m.list.LocalNode().Address()
	m.life, m.stop = context.WithCancel(context.Background())
	m.tasks.Go(func() { m.seek(m.life, config.Seeds) })
	return m, nil
}

func (m *Member) settings(config Config, meta []byte) (*memberlist.Config, error) {
	s := memberlist.DefaultLANConfig()
	s.Name = config.Name + "/" + config.Instance
	s.Label = "postern/" + config.Region
	s.Keyring = m.keys
	s.ProbeInterval = 250 * time.Millisecond
	s.ProbeTimeout = 120 * time.Millisecond
	s.SuspicionMult = 3
	s.SuspicionMaxTimeoutMult = 2
	s.GossipInterval = 100 * time.Millisecond
	s.TCPTimeout = streamTimeout
	s.Events = m.book
	s.Delegate = delegate{m, meta}
	s.Logger = log.New(logWriter{config.Log}, "", 0)
	var err error
	if s.BindAddr, s.BindPort, err = split(config.Bind); err != nil {
		return nil, fmt.Errorf("bind address: %w", err)
	}
	if config.Advertise == "" {
		s.AdvertisePort = s.BindPort
		return s, nil
	}
	if s.AdvertiseAddr, s.AdvertisePort, err = split(config.Advertise); err != nil {
		return nil, fmt.Errorf("advertised address: %w", err)
	}
	return s, nil
}

func split(address string) (host string, port int, err error) {
	host, digits, err := net.SplitHostPort(address)
	if err != nil {
		return "", 0, err
	}
	n, err := strconv.ParseUint(digits, 10, 16)
	return host, int(n), err
}

// seek asks the seeds, often while nobody is there and now and then
// afterwards.
func (m *Member) seek(ctx context.Context, seeds []string) {
	for {
		for _, seed := range seeds {
			if ctx.Err() != nil {
				return
			}
			if _, err := m.list.Join([]string{seed}); err != nil {
				m.log.Debug("gossip: seed doesn't answer", "seed", seed, "error", err)
			}
		}
		wait := rejoinInterval
		if m.list.NumMembers() < 2 {
			wait = lonelyInterval
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
	}
}

// Self is what the others are told of this process.
func (m *Member) Self() Peer { return m.self }

// Members are those that seem alive, this process among them, by name.
func (m *Member) Members() []Peer { return m.book.alive() }

// Dead reports whether the latest process of that name has died or left, and
// has not come back. It is false for a name that was never heard of.
func (m *Member) Dead(name string) bool { return m.book.dead(name, "") }

// Gone is Dead for one process: its successor's life doesn't count for it.
func (m *Member) Gone(name, instance string) bool { return m.book.dead(name, instance) }

// Changed is closed when somebody joins, dies, leaves or comes back. Ask for it
// before asking anything else, or a change between the two is missed.
func (m *Member) Changed() <-chan struct{} { return m.book.next() }

// Leave tells the others, and ends the membership. The others were not told if
// it returns an error; the membership has ended all the same.
func (m *Member) Leave(ctx context.Context) error {
	m.stop()
	m.tasks.Wait()
	timeout := farewellTimeout
	if deadline, ok := ctx.Deadline(); ok {
		timeout = max(time.Until(deadline), time.Millisecond) // memberlist takes 0 for "for ever"
	}
	var err error
	m.once.Do(func() {
		err = errors.Join(m.list.Leave(timeout), m.list.Shutdown())
	})
	if err != nil {
		return &maildrop.Error{Op: "gossip.leave", Kind: maildrop.Transient, Err: err}
	}
	return nil
}

// Close ends the membership without a word, as a crash would.
func (m *Member) Close() error {
	m.stop()
	m.tasks.Wait()
	var err error
	m.once.Do(func() { err = m.list.Shutdown() })
	if err != nil {
		return &maildrop.Error{Op: "gossip.close", Kind: maildrop.Transient, Err: err}
	}
	return nil
}

// logWriter turns memberlist's lines into ours. Its errors are about single
// packets and peers, so they are warnings here and everything else is detail.
type logWriter struct{ log *slog.Logger }

func (w logWriter) Write(line []byte) (int, error) {
	text := strings.TrimSpace(string(line))
	level := slog.LevelDebug
	if rest, ok := strings.CutPrefix(text, "[ERR] "); ok {
		level, text = slog.LevelWarn, rest
	}
	w.log.Log(context.Background(), level, "gossip: "+text)
	return len(line), nil
}

func sortPeers(peers []Peer) {
	slices.SortFunc(peers, func(a, b Peer) int {
		return strings.Compare(a.Name+"/"+a.Instance, b.Name+"/"+b.Instance)
	})
}
