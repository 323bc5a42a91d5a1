package s3

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"go.uber.org/goleak"

	"github.com/postern-pop/postern/pkg/blob"
	"github.com/postern-pop/postern/pkg/blob/blobtest"
	"github.com/postern-pop/postern/pkg/blob/s3test"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// open opens a store on a new bucket of the server.
func open(t *testing.T, server *s3test.Server, change ...func(*Config)) *Store {
	t.Helper()
	s3test.Environment(t)
	cfg := Config{Endpoints: []string{server.URL()}, Bucket: server.Bucket()}
	for _, c := range change {
		c(&cfg)
	}
	s, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func create(s *Store, key, content string) error {
	return s.Create(context.Background(), key, strings.NewReader(content), int64(len(content)))
}

func read(t testing.TB, s blob.Store, key string, size int) string {
	t.Helper()
	p := make([]byte, size+1)
	n, err := s.ReadAt(context.Background(), key, p, 0)
	if !errors.Is(err, io.EOF) {
		t.Fatalf("read %s: %d octets, %v", key, n, err)
	}
	return string(p[:n])
}

func TestContract(t *testing.T) {
	server := s3test.Start(t)
	blobtest.Run(t, func(t *testing.T) blob.Store {
		return open(t, server, func(c *Config) { c.Prefix = "eu/mail" })
	})
}

// inParts makes every body above an octet count as large.
type inParts struct{ *Store }

func (s inParts) Create(ctx context.Context, key string, body io.Reader, size int64) error {
	name, err := s.name(key)
	if err == nil && size < 1 {
		err = errors.New("empty")
	}
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return err
	}
	return s.createInParts(ctx, newCreation(name), body, size)
}

func TestContractInParts(t *testing.T) {
	server := s3test.Start(t)
	blobtest.Run(t, func(t *testing.T) blob.Store { return inParts{open(t, server)} })
}

// streaming sends every body as it comes, as to stores that can't do parts.
type streaming struct{ *Store }

func (s streaming) Create(ctx context.Context, key string, body io.Reader, size int64) error {
	name, err := s.name(key)
	if err == nil && size < 1 {
		err = errors.New("empty")
	}
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return err
	}
	return s.createStreaming(ctx, newCreation(name), body, size)
}

func TestContractStreaming(t *testing.T) {
	server := s3test.Start(t)
	blobtest.Run(t, func(t *testing.T) blob.Store { return streaming{open(t, server)} })
}

// The same over TLS, trusting the authority that the configuration names.
func TestTLS(t *testing.T) {
	cert, key := certificate(t)
	server := s3test.StartTLS(t, cert, key)
	s := open(t, server, func(c *Config) { c.CA = cert })
	for name, store := range map[string]blob.Store{"put": s, "parts": inParts{s}, "stream": streaming{s}} {
		bodies := [][]byte{bytes.Repeat([]byte("1"), 200<<10), bytes.Repeat([]byte("2"), 200<<10), []byte("3")}
		race(t, store, "tls/"+name, bodies)
	}
}

// certificate writes a server's certificate for 127.0.0.1, which is its own
// authority, and the key.
func certificate(t *testing.T) (cert, key string) {
	t.Helper()
	lender := httptest.NewTLSServer(nil)
	defer lender.Close()
	pair := lender.TLS.Certificates[0]
	private, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	cert, key = filepath.Join(t.TempDir(), "cert.pem"), filepath.Join(t.TempDir(), "key.pem")
	for file, block := range map[string]*pem.Block{
		cert: {Type: "CERTIFICATE", Bytes: pair.Certificate[0]},
		key:  {Type: "PRIVATE KEY", Bytes: private},
	} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key
}

// Several stores in one bucket see only what is theirs.
func TestPrefixes(t *testing.T) {
	server := s3test.Start(t)
	bucket := server.Bucket()
	at := func(prefix string) *Store {
		return open(t, server, func(c *Config) { c.Bucket, c.Prefix = bucket, prefix })
	}
	eu, e, us := at("eu"), at("e"), at("us")
	for _, s := range []*Store{eu, e, us} {
		if err := create(s, "a/b", s.prefix); err != nil {
			t.Fatal(err)
		}
	}
	for _, s := range []*Store{eu, e, us} {
		if got := read(t, s, "a/b", 10); got != s.prefix {
			t.Errorf("%s: read %q", s.prefix, got)
		}
		count := 0
		for info, err := range s.List(t.Context(), "", "") {
			if count++; err != nil || info.Key != "a/b" {
				t.Errorf("%s: listed %q, %v", s.prefix, info.Key, err)
			}
		}
		if count != 1 {
			t.Errorf("%s: %d objects", s.prefix, count)
		}
	}
	long := strings.TrimSuffix(strings.Repeat("a/", 511), "/")
	if err := create(eu, long, "x"); err != nil {
		t.Errorf("key of %d octets: %v", len(long), err)
	}
	if err := create(eu, long+"/a", "x"); err == nil {
		t.Error("a name longer than S3's limit is taken")
	}
}

// race lets writers create one key at once and returns what they were told.
func race(t *testing.T, s blob.Store, key string, bodies [][]byte) (winner int) {
	t.Helper()
	errs := make([]error, len(bodies))
	var start, done sync.WaitGroup
	start.Add(1)
	for i, body := range bodies {
		done.Go(func() {
			start.Wait()
			errs[i] = s.Create(context.Background(), key, bytes.NewReader(body), int64(len(body)))
		})
	}
	start.Done()
	done.Wait()
	winner = slices.Index(errs, nil)
	for i, err := range errs {
		if i != winner && !errors.Is(err, blob.ErrExists) {
			t.Errorf("%s: writer %d: %v; %d won", key, i, err, winner)
		}
	}
	if winner < 0 {
		t.Fatalf("%s: nobody won", key)
	}
	p := make([]byte, len(bodies[winner])+1)
	n, err := s.ReadAt(t.Context(), key, p, 0)
	if !errors.Is(err, io.EOF) || !bytes.Equal(p[:n], bodies[winner]) {
		t.Errorf("%s: read %d octets, %v; not what the winner wrote", key, n, err)
	}
	return winner
}

// 64 writers, one winner, again and again.
func TestRace(t *testing.T) {
	s := open(t, s3test.Start(t))
	rounds := 200
	if testing.Short() {
		rounds = 20
	}
	bodies := make([][]byte, 64)
	for i := range bodies {
		bodies[i] = bytes.Repeat([]byte{byte(i)}, 200+i)
	}
	winners := map[int]bool{}
	for round := range rounds {
		winners[race(t, s, fmt.Sprintf("race/%d", round), bodies)] = true
	}
	if len(winners) < 2 {
		t.Errorf("%d rounds have %d winners: no race", rounds, len(winners))
	}
}

// Bodies that are still on their way when another one wins.
func TestRaceOfLargeBodies(t *testing.T) {
	s := open(t, s3test.Start(t))
	bodies := make([][]byte, 8)
	for i := range bodies {
		bodies[i] = bytes.Repeat([]byte{byte(i)}, partSize-i)
	}
	for round := range 3 {
		race(t, s, fmt.Sprintf("race/%d", round), bodies)
	}
}

// The condition holds when parts become an object: 8 writers, one winner.
func TestRaceOfParts(t *testing.T) {
	s := open(t, s3test.Start(t))
	bodies := make([][]byte, 8)
	for i := range bodies {
		bodies[i] = bytes.Repeat([]byte{byte(i)}, partSize+1+i)
	}
	race(t, s, "race/large", bodies)
	if s.completes != kept {
		t.Fatal("the server was found to drop the condition")
	}
	for i := range bodies {
		bodies[i] = bodies[i][:1000+i]
	}
	for round := range 50 {
		race(t, inParts{s}, fmt.Sprintf("race/%d", round), bodies)
	}
	if n := uploads(t, s); n != 0 {
		t.Errorf("%d uploads are left", n)
	}
}

// uploads is how many uploads are open.
func uploads(t *testing.T, s *Store) int {
	t.Helper()
	page, err := s.endpoints[0].core.ListMultipartUploads(withExchange(t), s.cfg.Bucket, "", "", "", "", 1000)
	if err != nil {
		t.Fatal(err)
	}
	return len(page.Uploads)
}

// withExchange is the context of a request that a test makes by itself.
func withExchange(t *testing.T) context.Context {
	ctx, x := begin(context.WithoutCancel(t.Context()), time.Minute)
	t.Cleanup(x.end)
	return ctx
}

// noise is a body that isn't in memory.
type noise struct {
	random *rand.ChaCha8
	left   int64
}

func newNoise(size int64) *noise { return &noise{random: rand.NewChaCha8([32]byte{7}), left: size} }

func (n *noise) Read(p []byte) (int, error) {
	if n.left == 0 {
		return 0, io.EOF
	}
	p = p[:min(int64(len(p)), n.left)]
	n.left -= int64(len(p))
	return n.random.Read(p)
}

// A body of 200 MB never stands in memory as a whole, in parts or streaming.
func TestLargeBodyInBoundedMemory(t *testing.T) {
	s := open(t, s3test.Start(t))
	const size = 200e6
	for name, store := range map[string]blob.Store{"parts": s, "stream": streaming{s}} {
		t.Run(name, func(t *testing.T) {
			peak, stop := watchHeap()
			err := store.Create(t.Context(), "large/"+name, newNoise(size), size)
			stop()
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%s: %d MiB of heap at most for a body of %d MB", name, peak.Load()>>20, int(size/1e6))
			if peak.Load() > budget {
				t.Errorf("%d octets of heap, at most %d", peak.Load(), budget)
			}
			same(t, s, "large/"+name, newNoise(size), size)
		})
	}
}

// watchHeap follows the heap's growth until stop.
func watchHeap() (peak *atomic.Uint64, stop func()) {
	peak = new(atomic.Uint64)
	var stats runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&stats)
	before := stats.HeapAlloc
	end, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-end:
				return
			case <-tick.C:
				runtime.ReadMemStats(&stats)
				if stats.HeapAlloc > before {
					peak.Store(max(peak.Load(), stats.HeapAlloc-before))
				}
			}
		}
	}()
	return peak, func() { close(end); <-ended }
}

// same compares an object with what it was made from.
func same(t *testing.T, s blob.Store, key string, want io.Reader, size int64) {
	t.Helper()
	got, expected := make([]byte, 8<<20), make([]byte, 8<<20)
	for offset := int64(0); offset < size; {
		n, err := s.ReadAt(t.Context(), key, got, offset)
		if err != nil && !errors.Is(err, io.EOF) || n == 0 {
			t.Fatalf("octet %d: %d octets, %v", offset, n, err)
		}
		if _, err := io.ReadFull(want, expected[:n]); err != nil || !bytes.Equal(got[:n], expected[:n]) {
			t.Fatalf("octets %d to %d differ (%v)", offset, offset+int64(n), err)
		}
		offset += int64(n)
	}
	if n, err := s.ReadAt(t.Context(), key, got, size); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("%d octets behind the end, %v", n, err)
	}
}

// What dead processes left half uploaded goes; what is young stays, and so does
// what isn't ours.
func TestAbandonedUploads(t *testing.T) {
	server := s3test.Start(t)
	s := open(t, server, func(c *Config) { c.Prefix = "eu" })
	for _, name := range []string{"eu/ours/1", "eu/ours/2", "us/theirs", "eu/Not A Key"} {
		if _, err := s.beginUpload(t.Context(), newCreation(name)); err != nil {
			t.Fatal(err)
		}
	}
	for _, step := range []struct {
		age  time.Duration
		left int
	}{{abandoned, 4}, {-time.Hour, 2}} {
		if err := s.sweep(t.Context(), step.age); err != nil {
			t.Fatal(err)
		}
		if n := uploads(t, s); n != step.left {
			t.Errorf("%d uploads are left of those not older than %v, want %d", n, step.age, step.left)
		}
	}
}

// A body that breaks, or a context that ends, in the middle of many parts leaves
// no object, and no upload unless a part was cut off on its way.
func TestBrokenInTheMiddleOfParts(t *testing.T) {
	server := s3test.Start(t)
	ctx, cancel := context.WithCancel(t.Context())
	broken := errors.New("broken")
	then := func(do readerFunc) io.Reader {
		return io.MultiReader(newNoise(2*partSize+5), do, newNoise(partSize))
	}
	for name, c := range map[string]struct {
		ctx  context.Context
		body io.Reader
		want error
	}{
		"body":    {t.Context(), then(func([]byte) (int, error) { return 0, broken }), broken},
		"short":   {t.Context(), newNoise(2*partSize + 5), io.ErrUnexpectedEOF},
		"context": {ctx, then(func([]byte) (int, error) { cancel(); return 0, io.EOF }), context.Canceled},
	} {
		s := open(t, server)
		err := s.Create(c.ctx, "large", c.body, 3*partSize)
		if !errors.Is(err, c.want) || errors.Is(err, blob.ErrMaybe) {
			t.Errorf("%s: %v", name, err)
		}
		if n := uploads(t, s); n != 0 && name != "context" {
			t.Errorf("%s: %d uploads are left", name, n)
		}
		if n, err := s.ReadAt(t.Context(), "large", make([]byte, 1), 0); !errors.Is(err, blob.ErrNotFound) {
			t.Errorf("%s: read %d octets, %v", name, n, err)
		}
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// A list longer than a page is one list.
func TestListOfManyPages(t *testing.T) {
	server := s3test.Start(t)
	s := open(t, server)
	const count = 2*pageSize + 7
	folder := filepath.Join(server.Data(), s.cfg.Bucket, "l")
	if err := os.Mkdir(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	for i := range count { // the server takes files for objects
		if err := os.WriteFile(filepath.Join(folder, fmt.Sprintf("%05d", i)), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	i := 0
	for info, err := range s.List(t.Context(), "l/", "") {
		if err != nil || info.Key != fmt.Sprintf("l/%05d", i) {
			t.Fatalf("object %d: %q, %v", i, info.Key, err)
		}
		i++
	}
	if i != count {
		t.Errorf("%d objects, want %d", i, count)
	}
}

// A page takes keys in order only, and none before where it was asked to begin.
func TestPageOfALaxServer(t *testing.T) {
	s := &Store{prefix: "eu/"}
	p := page{last: "b"}
	for _, name := range []string{"eu/a", "eu/b", "eu/c", "eu/c~", "eu/d"} {
		if err := p.add(s, minio.ObjectInfo{Key: name, Size: 1}, ""); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if want := []blob.Info{{Key: "c", Size: 1}, {Key: "d", Size: 1}}; !slices.Equal(p.infos, want) {
		t.Errorf("got %v, want %v", p.infos, want)
	}
	for _, name := range []string{"eu/c", "eu/d", "us/e", "e"} {
		if err := p.add(s, minio.ObjectInfo{Key: name}, ""); !errors.Is(err, errForeign) {
			t.Errorf("%s after d: %v", name, err)
		}
	}
}

// When all memory for bodies is in use, what is in memory already is created
// all the same, and the rest waits.
func TestCommitsDontWaitForLargeMail(t *testing.T) {
	s := open(t, s3test.Start(t))
	if err := s.memory.Acquire(t.Context(), budget); err != nil {
		t.Fatal(err)
	}
	if err := s.Create(t.Context(), "commit", bytes.NewReader([]byte("x")), 1); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := s.Create(ctx, "mail", strings.NewReader("x"), 1); !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, blob.ErrMaybe) {
		t.Errorf("%v", err)
	}
	s.memory.Release(budget)
	if err := create(s, "mail", "x"); err != nil {
		t.Error(err)
	}
	if !s.memory.TryAcquire(budget) {
		t.Error("memory wasn't given back")
	}
}
