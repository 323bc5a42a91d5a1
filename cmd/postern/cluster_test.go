package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	mathrand "math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
	"golang.org/x/time/rate"

	"github.com/postern-pop/postern/pkg/blob/s3test"
	"github.com/postern-pop/postern/pkg/blob/sealed"
	"github.com/postern-pop/postern/pkg/config"
	"github.com/postern-pop/postern/pkg/mailclient"
)

// torture is how much nothingAcknowledgedIsLost does.
type torture struct {
	messages, mailboxes int
	killEvery           time.Duration // a mailbox node
}

// usualTorture is the whole of it with POSTERN_TORTURE=full.
func usualTorture() torture {
	if os.Getenv("POSTERN_TORTURE") == "full" {
		return torture{10_000, 500, 10 * time.Second}
	}
	return torture{4_000, 24, 3 * time.Second}
}

const tortureConnections = 8

// TestCluster is a demo's region under load and loss.
func TestCluster(t *testing.T) {
	dir := t.TempDir()
	d := startDemo(t, dir, freePorts(t))
	t.Run("slow reader of a large message", func(t *testing.T) { slowReaderOfALargeMessage(t, d.in(t)) })
	t.Run("nothing acknowledged is lost", func(t *testing.T) { nothingAcknowledgedIsLost(t, d.in(t), usualTorture()) })
	d.stop()
	soundStore(t, filepath.Join(dir, "eu", "region.yaml"))
}

// soundStore verifies all that a region has stored.
func soundStore(t *testing.T, region string) {
	t.Helper()
	out, err := exec.Command(binary, "fsck", "--region", region).CombinedOutput()
	if err != nil {
		t.Errorf("fsck: %v\n%s", err, out)
	}
}

// TestClusterInBucket is the same on an S3 server, with encryption, where the
// server dies now and then as well.
func TestClusterInBucket(t *testing.T) {
	server := s3test.Start(t)
	s3test.Environment(t)
	files, key := t.TempDir(), filepath.Join(t.TempDir(), "mail.keyset")
	if _, err := sealed.CreateKeyFile(key); err != nil {
		t.Fatal(err)
	}
	region, err := config.LoadRegion("../../regions/eu.yaml")
	if err != nil {
		t.Fatal(err)
	}
	region.File, region.Shards = "", 4
	region.Storage = config.Storage{
		S3: &config.S3{
			Endpoints: []config.Endpoint{config.Endpoint(server.URL())}, Bucket: server.Bucket(), Prefix: "mail", PathStyle: true,
		},
		Encryption: &config.Encryption{KeyFile: config.Path(key)},
	}
	text, err := yaml.Marshal(region)
	if err == nil {
		err = os.WriteFile(filepath.Join(files, "eu.yaml"), text, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	d := startDemo(t, t.TempDir(), freePorts(t), "--regions", files, "--keep-storage")
	much := torture{2_000, 16, 9 * time.Second}
	nothingAcknowledgedIsLost(t, d, much, func(ctx context.Context) {
		for sleep(ctx, 5*time.Second); ctx.Err() == nil; sleep(ctx, 13*time.Second) {
			server.Kill()
			sleep(ctx, time.Second)
			server.Restart()
		}
	})
	d.stop()
	soundStore(t, filepath.Join(files, "eu.yaml"))
}

// nothingAcknowledgedIsLost delivers from several connections while one
// mailbox node after the other is killed and comes back, and then fetches
// everything: each message that was acknowledged is there exactly once and as it
// was sent, and nothing is there that nobody sent.
func nothingAcknowledgedIsLost(t *testing.T, d *running, much torture, also ...func(ctx context.Context)) {
	post := &postOffice{region: d.region("eu"), sent: map[string]*letter{}}
	post.boxes = d.makeUsers("eu", much.mailboxes)

	ctx, stop := context.WithCancel(t.Context())
	killer := make(chan int)
	go func() { killer <- d.killInTurns(ctx, "eu", much.killEvery) }()
	var others sync.WaitGroup
	for _, harm := range also {
		others.Go(func() { harm(ctx) })
	}
	post.deliverAll(t, much.messages)
	stop()
	others.Wait()
	t.Logf("%d messages acknowledged through %d kills, %d repeated", len(post.sent), <-killer, post.repeats.Load())

	for _, box := range post.boxes {
		post.check(t, d, box)
	}
	for token, l := range post.sent {
		if l.seen != 1 {
			t.Errorf("%s to %s was acknowledged and is there %d times", token, l.to, l.seen)
		}
	}
}

// letter is a message that was acknowledged.
type letter struct {
	to   string
	sum  [32]byte
	seen int
}

type postOffice struct {
	region  demoRegionReport
	boxes   []demoUser
	repeats atomic.Int64

	mu   sync.Mutex
	sent map[string]*letter
}

func (p *postOffice) deliverAll(t *testing.T, messages int) {
	var next atomic.Int64
	var group sync.WaitGroup
	for worker := range tortureConnections {
		group.Go(func() {
			random := mathrand.New(mathrand.NewPCG(1, uint64(worker)))
			for n := next.Add(1); n <= int64(messages); n = next.Add(1) {
				token := fmt.Sprintf("token-%06d", n)
				box := p.boxes[random.IntN(len(p.boxes))]
				text := composed(token, box.Address, random)
				p.deliver(t, box.Address, text)
				p.mu.Lock()
				p.sent[token] = &letter{to: box.Address, sum: sha256.Sum256(text)}
				p.mu.Unlock()
			}
		})
	}
	group.Wait()
}

// composed is a message as a gateway hands it over: with a Received field that
// names its queue id, by which a repetition is known.
func composed(token, to string, random *mathrand.Rand) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "Received: from mx.example by gate.example with ESMTPS id %s; Mon, 2 Nov 2026 10:00:00 +0000\r\n", token)
	fmt.Fprintf(&b, "From: sender@example.net\r\nTo: %s\r\nSubject: %s\r\n\r\n", to, token)
	for range random.IntN(300) {
		fmt.Fprintf(&b, "%s%x\r\n", strings.Repeat(".", random.IntN(3)), random.Uint64())
	}
	return b.Bytes()
}

// deliver repeats until the message is acknowledged, as a gateway does.
func (p *postOffice) deliver(t *testing.T, to string, text []byte) {
	until := time.Now().Add(time.Minute)
	for attempt := 0; ; attempt++ {
		err := deliverOnce(t.Context(), p.region.LMTP, to, text)
		if err == nil {
			p.repeats.Add(int64(attempt))
			return
		}
		var refused *mailclient.ReplyError
		if errors.As(err, &refused) && !strings.HasPrefix(refused.Reply, "4") || time.Now().After(until) {
			t.Errorf("delivery to %s: %v", to, err)
			return
		}
	}
}

func deliverOnce(ctx context.Context, address, to string, text []byte) error {
	l, err := mailclient.DialLMTP(ctx, address, nil)
	if err != nil {
		return err
	}
	defer l.Close()
	verdicts, err := l.Deliver("sender@example.net", []string{to}, text)
	return errors.Join(err, verdicts[0])
}

var (
	subject     = regexp.MustCompile(`(?m)^Subject: (token-\d+)\r$`)
	traceFields = regexp.MustCompile(`\A(?:(?:Return-Path|Delivered-To):[^\r\n]*\r\n(?:[ \t][^\r\n]*\r\n)*)+Received:[^\r\n]*\r\n(?:[ \t][^\r\n]*\r\n)*`)
)

// check fetches a mailbox and marks what it finds.
func (p *postOffice) check(t *testing.T, d *running, box demoUser) {
	t.Helper()
	pop := d.patientLogin(p.region, box)
	defer pop.Quit()
	uids, err := pop.UIDs()
	if err != nil {
		t.Fatal(err)
	}
	named := map[string]bool{}
	for n := 1; n <= len(uids); n++ {
		if named[uids[n]] {
			t.Errorf("%s: two messages are %s", box.Address, uids[n])
		}
		named[uids[n]] = true
		var text bytes.Buffer
		if _, err := pop.Retr(n, &text); err != nil {
			t.Fatalf("%s, message %d: %v", box.Address, n, err)
		}
		p.recognize(t, box, text.Bytes())
	}
}

func (p *postOffice) recognize(t *testing.T, box demoUser, text []byte) {
	t.Helper()
	found := subject.FindSubmatch(text)
	if found == nil {
		t.Errorf("%s has a message that nobody sent: %.200q", box.Address, text)
		return
	}
	l := p.sent[string(found[1])]
	if l == nil || l.to != box.Address || sha256.Sum256(traceFields.ReplaceAll(text, nil)) != l.sum {
		t.Errorf("%s has %s, which is not what was sent to it", box.Address, found[1])
		return
	}
	l.seen++
}

// killInTurns kills one mailbox node of a region after the other, and returns
// how many when ctx ends. The demo starts them again.
func (d *running) killInTurns(ctx context.Context, region string, every time.Duration) int {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for kills := 0; ; kills++ {
		select {
		case <-ctx.Done():
			return kills
		case <-ticker.C:
			d.killMailboxNode(region, kills%2)
		}
	}
}

// killMailboxNode ends the region's i-th mailbox node as a power cut does.
func (d *running) killMailboxNode(region string, i int) {
	d.t.Helper()
	d.reread()
	var nodes []demoProcessReport
	for _, process := range d.region(region).Processes {
		if process.Role == config.RoleMailbox {
			nodes = append(nodes, process)
		}
	}
	if err := syscall.Kill(nodes[i].PID, syscall.SIGKILL); err != nil {
		d.t.Logf("kill %s/%s (%d): %v", region, nodes[i].Name, nodes[i].PID, err)
	}
}

// slowReaderOfALargeMessage fetches 100 MB with a reader that takes its
// time; nobody on the way may keep the message in memory.
func slowReaderOfALargeMessage(t *testing.T, d *running) {
	const size, growth = 100 << 20, 32 << 20
	region, user := d.region("eu"), d.makeUsers("eu", 1)[0]
	line := strings.Repeat("0123456789abcdef", 62) + "\r\n"
	text := []byte("Subject: large\r\n\r\n" + strings.Repeat(line, size/len(line)))
	want := sha256.Sum256(text)
	if err := deliverOnce(t.Context(), region.LMTP, user.Address, text); err != nil {
		t.Fatal(err)
	}
	pop := d.patientLogin(region, user)
	defer pop.Quit()
	before := d.residentMemory()
	reader := &slowReader{hash: sha256.New(), limit: rate.NewLimiter(20<<20, 64<<10), watch: func() {
		for name, octets := range d.residentMemory() {
			if grown := octets - before[name]; grown > growth {
				t.Errorf("%s has grown by %d MiB", name, grown>>20)
			}
		}
	}}
	if _, err := pop.Retr(1, reader); err != nil {
		t.Fatal(err)
	}
	if got := [32]byte(reader.hash.Sum(nil)); got != want {
		t.Error("what was fetched is not what was delivered")
	}
}

// slowReader takes octets at a rate, and looks around every few MiB. It hashes
// what follows the trace headers.
type slowReader struct {
	hash    hash.Hash
	head    []byte // until the trace headers have passed
	body    bool
	limit   *rate.Limiter
	watch   func()
	watched int
}

func (s *slowReader) Write(p []byte) (int, error) {
	if err := s.limit.WaitN(context.Background(), len(p)); err != nil {
		return 0, err
	}
	if s.watched += len(p); s.watched > 8<<20 {
		s.watched = 0
		s.watch()
	}
	if s.body {
		return s.hash.Write(p)
	}
	s.head = append(s.head, p...)
	if trace := traceFields.Find(s.head); len(trace) > 0 && len(s.head) > len(trace) {
		s.hash.Write(s.head[len(trace):])
		s.body = true
	}
	return len(p), nil
}
