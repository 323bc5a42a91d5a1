package s3

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/postern-pop/postern/pkg/blob"
	"github.com/postern-pop/postern/pkg/blob/s3test"
)

// openThrough opens a store behind a proxy.
func openThrough(t *testing.T, change ...func(*Config)) (*Store, *proxy) {
	t.Helper()
	server := s3test.Start(t)
	p := startProxy(t, server)
	s := open(t, server, append([]func(*Config){func(c *Config) { c.Endpoints = []string{p.url()} }}, change...)...)
	return s, p
}

// What is said of a create is true wherever the connection breaks, and one that
// was done and whose answer is lost is never called "exists".
func TestLostAnswers(t *testing.T) {
	s, p := openThrough(t)
	large := strings.Repeat("postern!", 1<<17)
	for i, c := range []struct {
		where cut
		there bool
	}{{atOnce, false}, {inRequest, false}, {afterwards, true}, {inAnswer, true}} {
		for name, body := range map[string]string{"small": "content", "large": large} {
			key := fmt.Sprintf("lost/%d-%s", i, name)
			p.cut(c.where)
			err := create(s, key, body)
			p.cut(nowhere)
			if err == nil || errors.Is(err, blob.ErrExists) {
				t.Fatalf("cut %s, %s: %v", c.where, name, err)
			}
			// Before all of the body was on its way, it may also be called clean.
			if c.there && !errors.Is(err, blob.ErrMaybe) {
				t.Errorf("cut %s, %s: %v", c.where, name, err)
			}
			if n := p.puts(s, key); n > 1 || c.there && n == 0 {
				t.Errorf("cut %s, %s: sent %d times", c.where, name, n)
			}
			again := create(s, key, body)
			if there := errors.Is(again, blob.ErrExists); there != c.there || !there && again != nil {
				t.Errorf("cut %s, %s: repeated: %v", c.where, name, again)
			}
			if got := read(t, s, key, len(body)); got != body {
				t.Errorf("cut %s, %s: read %d octets", c.where, name, len(got))
			}
		}
	}
}

// The same for the last step of an object in parts.
func TestLostAnswerOfACompletion(t *testing.T) {
	s, p := openThrough(t)
	const body = "content"
	for name, c := range map[string]struct {
		where cut
		times int
		want  error
	}{
		"done":          {afterwards, -1, blob.ErrMaybe},
		"half-answered": {inAnswer, -1, blob.ErrMaybe},
		"one-lost":      {afterwards, 1, nil},
		"one-half":      {inAnswer, 1, nil},
	} {
		creation := newCreation("parts/" + name)
		id, err := s.beginUpload(t.Context(), creation)
		if err != nil {
			t.Fatal(err)
		}
		parts, err := s.upload(t.Context(), creation.name, id, &exact{src: strings.NewReader(body), size: int64(len(body))})
		if err != nil {
			t.Fatal(err)
		}
		p.cutTimes(c.where, c.times)
		if err := s.complete(t.Context(), creation, id, parts); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
		p.cut(nowhere)
		if got := read(t, s, creation.name, len(body)); got != body {
			t.Errorf("%s: read %q", name, got)
		}
		if err := (inParts{s}).Create(t.Context(), creation.name, strings.NewReader(body), int64(len(body))); !errors.Is(err, blob.ErrExists) {
			t.Errorf("%s: repeated: %v", name, err)
		}
	}
}

// Reads, lists, deletes and parts are simply done again.
func TestBrokenConnectionsAreTriedAgain(t *testing.T) {
	s, p := openThrough(t)
	content := strings.Repeat("postern!", 1<<15)
	if err := create(s, "a/1", content); err != nil {
		t.Fatal(err)
	}
	for _, where := range []cut{atOnce, inRequest, afterwards, inAnswer} {
		heal := func() { p.cutTimes(where, 1) }
		heal()
		if got := read(t, s, "a/1", len(content)); got != content {
			t.Errorf("cut %s: read %d octets", where, len(got))
		}
		heal()
		count := 0
		for _, err := range s.List(t.Context(), "", "") {
			if count++; err != nil {
				t.Errorf("cut %s: list: %v", where, err)
			}
		}
		if count != 1 {
			t.Errorf("cut %s: %d objects", where, count)
		}
		heal()
		if err := s.Delete(t.Context(), "none"); err != nil {
			t.Errorf("cut %s: delete: %v", where, err)
		}
		heal()
		key := "parts/" + strings.ReplaceAll(strings.Trim(string(where), ","), " ", "-")
		if err := (inParts{s}).Create(t.Context(), key, strings.NewReader(content), int64(len(content))); err != nil {
			t.Errorf("cut %s: parts: %v", where, err)
		}
		if err := s.Delete(t.Context(), key); err != nil {
			t.Fatal(err)
		}
	}
	for _, op := range []string{opCreate, opRead, opList, opDelete} {
		if n := s.Retries(op); n < 4 {
			t.Errorf("%s: %d retries counted, want one for each cut", op, n)
		}
	}
}

// One answer lost, and the next one not: the create finds its own object, or
// another's, and is in no doubt.
func TestOneLostAnswer(t *testing.T) {
	s, p := openThrough(t)
	for name, c := range map[string]struct {
		create func(key string) error
		size   int
	}{
		"small": {func(key string) error { return create(s, key, "content") }, 7},
		"large": {func(key string) error { return create(s, key, strings.Repeat("x", 1<<20)) }, 1 << 20},
	} {
		for _, where := range []cut{afterwards, inAnswer} {
			key := fmt.Sprintf("one/%s-%d", name, len(where))
			p.cutTimes(where, 1)
			if err := c.create(key); err != nil {
				t.Errorf("cut %s, %s: %v", where, name, err)
			}
			if got := read(t, s, key, c.size); len(got) != c.size {
				t.Errorf("cut %s, %s: read %d octets", where, name, len(got))
			}
			p.cutTimes(where, 1)
			if err := create(s, key, "another"); !errors.Is(err, blob.ErrExists) || errors.Is(err, blob.ErrMaybe) {
				t.Errorf("cut %s, %s: another's create: %v", where, name, err)
			}
		}
	}
}

// A read that is always cut short is an error, never the end of the object.
func TestShortAnswer(t *testing.T) {
	s, p := openThrough(t)
	content := strings.Repeat("postern!", 1<<10)
	if err := create(s, "a/1", content); err != nil {
		t.Fatal(err)
	}
	p.cut(inAnswer)
	n, err := s.ReadAt(t.Context(), "a/1", make([]byte, len(content)), 0)
	if err == nil || errors.Is(err, io.EOF) || errors.Is(err, blob.ErrNotFound) {
		t.Errorf("%d octets, %v", n, err)
	}
}

// A server that says nothing is left, also one that stops in the middle of a
// body, and a create is then in doubt.
func TestStandstill(t *testing.T) {
	s, p := openThrough(t, func(c *Config) { c.Stall = 200 * time.Millisecond })
	p.cut(neverAnswer)
	for name, size := range map[string]int{"small": 10, "large": 12 << 20} {
		err := create(s, "still/"+name, strings.Repeat("x", size))
		var late interface{ Timeout() bool }
		if !errors.As(err, &late) || !late.Timeout() || errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", name, err)
		}
		// The connection swallows a small body whole, but not a large one.
		if errors.Is(err, blob.ErrMaybe) != (name == "small") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := s.ReadAt(t.Context(), "a", make([]byte, 1), 0); err == nil || errors.Is(err, blob.ErrNotFound) {
		t.Errorf("read: %v", err)
	}
}

// A server killed in the middle of a body: nothing is there when it is back, and
// the body can be created.
func TestKilledInMidPut(t *testing.T) {
	server := s3test.Start(t)
	s := open(t, server)
	const size = 3*partSize + 17
	for name, store := range map[string]blob.Store{"parts": s, "stream": streaming{s}} {
		t.Run(name, func(t *testing.T) {
			body := io.MultiReader(newNoise(2*partSize), readerFunc(func([]byte) (int, error) { server.Kill(); return 0, io.EOF }), newNoise(size-2*partSize))
			err := store.Create(t.Context(), "killed/"+name, body, size)
			if err == nil || errors.Is(err, blob.ErrExists) {
				t.Fatalf("%v", err)
			}
			server.Restart()
			if n, err := s.ReadAt(t.Context(), "killed/"+name, make([]byte, 1), 0); !errors.Is(err, blob.ErrNotFound) {
				t.Fatalf("read %d octets, %v", n, err)
			}
			if err := store.Create(t.Context(), "killed/"+name, newNoise(size), size); err != nil {
				t.Fatal(err)
			}
			same(t, s, "killed/"+name, newNoise(size), size)
		})
	}
}

// scripted is an endpoint that answers creates of keys below "said/" as it is
// told, and everything else as the real server does.
func scripted(t *testing.T, answer http.HandlerFunc) *Store {
	t.Helper()
	server := s3test.Start(t)
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "/said/") {
			answer(w, r)
			return
		}
		pass(w, r, server.Address())
	}))
	t.Cleanup(front.Close)
	return open(t, server, func(c *Config) { c.Endpoints = []string{front.URL} })
}

func pass(w http.ResponseWriter, r *http.Request, server string) {
	out := r.Clone(r.Context())
	out.URL.Scheme, out.URL.Host, out.RequestURI = "http", server, ""
	answer, err := http.DefaultTransport.RoundTrip(out)
	if err != nil {
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	defer answer.Body.Close()
	for name, values := range answer.Header {
		w.Header()[name] = values
	}
	w.WriteHeader(answer.StatusCode)
	io.Copy(w, answer.Body)
}

func say(w http.ResponseWriter, status int, code string) {
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(status)
	if code != "" {
		fmt.Fprintf(w, "<Error><Code>%s</Code><Message>words</Message><RequestId>r1</RequestId></Error>", code)
	}
}

// What a create means by the server's answer, and that it is asked once.
func TestAnswers(t *testing.T) {
	var status atomic.Int64
	var code atomic.Value
	var puts atomic.Int64
	var there atomic.Bool
	s := scripted(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodHead {
			if there.Load() {
				w.Header().Set("Last-Modified", time.Now().UTC().Format(http.TimeFormat))
				say(w, http.StatusOK, "")
				return
			}
			say(w, http.StatusNotFound, "")
			return
		}
		io.Copy(io.Discard, r.Body)
		puts.Add(1)
		if status.Load() >= 300 && status.Load() < 400 {
			w.Header().Set("Location", "/other/place")
		}
		say(w, int(status.Load()), code.Load().(string))
	})
	clean := errors.New("clean")
	for _, c := range []struct {
		status int
		code   string
		there  bool
		want   error // clean: not created, and no word for it
	}{
		{412, "PreconditionFailed", true, blob.ErrExists},
		{412, "", true, blob.ErrExists},
		{409, "ConditionalRequestConflict", true, blob.ErrExists},
		{409, "ConditionalRequestConflict", false, blob.ErrMaybe},
		{409, "", false, blob.ErrMaybe},
		{412, "PreconditionFailed", false, blob.ErrExists}, // deleted since
		{500, "InternalError", false, blob.ErrMaybe},
		{502, "", false, blob.ErrMaybe},
		{503, "SlowDown", false, blob.ErrMaybe},
		{503, "SlowDown", false, blob.ErrThrottled},
		{504, "", false, blob.ErrMaybe},
		{408, "", false, blob.ErrMaybe},
		{499, "", false, blob.ErrMaybe},
		{200, "", false, blob.ErrMaybe}, // without an ETag: not an S3 store's success
		{307, "", false, blob.ErrMaybe},
		{400, "XAmzContentSHA256Mismatch", false, clean},
		{403, "AccessDenied", false, ErrDenied},
		{403, "InvalidAccessKeyId", false, ErrCredentials},
		{404, "NoSuchBucket", false, ErrNoBucket},
		{429, "TooManyRequests", false, blob.ErrThrottled},
		{501, "NotImplemented", false, ErrPromise},
		{507, "", false, blob.ErrFull},
		{507, "InsufficientStorage", false, blob.ErrFull},
		{403, "QuotaExceeded", false, blob.ErrFull},
		{400, "XMinioAdminBucketQuotaExceeded", false, blob.ErrFull},
	} {
		status.Store(int64(c.status))
		code.Store(c.code)
		there.Store(c.there)
		puts.Store(0)
		err := create(s, "said/x", "content")
		if c.want != clean && !errors.Is(err, c.want) || err == nil {
			t.Errorf("%d %s: %v; want %v", c.status, c.code, err, c.want)
		}
		maybe := c.want == blob.ErrMaybe || errors.Is(err, blob.ErrThrottled) && c.status >= 500
		if errors.Is(err, blob.ErrMaybe) != maybe {
			t.Errorf("%d %s: in doubt: %v", c.status, c.code, err)
		}
		if n := puts.Load(); n != 1 {
			t.Errorf("%d %s: sent %d times", c.status, c.code, n)
		}
	}
}

// A proxy's page isn't the word that mail is gone, and a range other than the
// one asked for isn't taken.
func TestForeignAnswers(t *testing.T) {
	var answer atomic.Value
	s := scripted(t, func(w http.ResponseWriter, r *http.Request) { answer.Load().(http.HandlerFunc)(w, r) })
	headers := func(w http.ResponseWriter) {
		w.Header().Set("Last-Modified", time.Now().UTC().Format(http.TimeFormat))
		w.Header().Set("ETag", `"x"`)
	}
	for name, say := range map[string]http.HandlerFunc{
		"page": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/html")
			w.WriteHeader(http.StatusNotFound)
			io.WriteString(w, "<html>no such host</html>")
		},
		"other range": func(w http.ResponseWriter, _ *http.Request) {
			headers(w)
			w.Header().Set("Content-Range", "bytes 0-9/100")
			w.WriteHeader(http.StatusPartialContent)
			io.WriteString(w, "0123456789")
		},
		"no range": func(w http.ResponseWriter, _ *http.Request) {
			headers(w)
			io.WriteString(w, "0123456789")
		},
		"no size": func(w http.ResponseWriter, _ *http.Request) {
			headers(w)
			w.Header().Set("Content-Range", "bytes 7-9/*")
			w.WriteHeader(http.StatusPartialContent)
			io.WriteString(w, "789")
		},
	} {
		answer.Store(say)
		n, err := s.ReadAt(t.Context(), "said/x", make([]byte, 3), 7)
		if err == nil || errors.Is(err, io.EOF) || errors.Is(err, blob.ErrNotFound) {
			t.Errorf("%s: %d octets, %v", name, n, err)
		}
	}
	answer.Store(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { headers(w); io.WriteString(w, "0123456789") }))
	p := make([]byte, 4)
	if n, err := s.ReadAt(t.Context(), "said/x", p, 0); n != 4 || err != nil || string(p) != "0123" {
		t.Errorf("the range ignored from octet 0: %q, %v", p[:n], err)
	}
}

// A body damaged on its way is refused by the server.
func TestDamageInFlight(t *testing.T) {
	server := s3test.Start(t)
	var damage atomic.Bool
	var sums sync.Map // what bodies are signed with, by path
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if damage.Load() && r.Method == http.MethodPut {
			_, key, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
			sums.Store(key, r.Header.Get("X-Amz-Content-Sha256"))
			body, _ := io.ReadAll(r.Body)
			body[len(body)/2] ^= 1
			r.Body = io.NopCloser(bytes.NewReader(body))
		}
		pass(w, r, server.Address())
	}))
	t.Cleanup(front.Close)
	s := open(t, server, func(c *Config) { c.Endpoints = []string{front.URL} })
	damage.Store(true)
	for name, store := range map[string]blob.Store{"put": s, "parts": inParts{s}, "stream": streaming{s}} {
		err := store.Create(t.Context(), "damaged/"+name, strings.NewReader(strings.Repeat("x", 100<<10)), 100<<10)
		if err == nil || errors.Is(err, blob.ErrExists) {
			t.Errorf("%s: %v", name, err)
		}
		if n, err := s.ReadAt(t.Context(), "damaged/"+name, make([]byte, 1), 0); !errors.Is(err, blob.ErrNotFound) {
			t.Errorf("%s: read %d octets, %v", name, n, err)
		}
		sum, _ := sums.Load("damaged/" + name)
		if hashed := len(sum.(string)) == 64; hashed != (name != "stream") {
			t.Errorf("%s: signed with %v", name, sum)
		}
	}
}

// A store that keeps the condition on a PUT and drops it at completion gets no
// parts.
func TestStoreThatDropsTheConditionOnParts(t *testing.T) {
	server := s3test.Start(t)
	var completions, dropped atomic.Int64
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost && r.URL.Query().Has("uploadId") {
			completions.Add(1)
			dropped.Add(1)
			w.Header().Set("Content-Type", "application/xml")
			io.WriteString(w, `<CompleteMultipartUploadResult><Bucket>b</Bucket><Key>k</Key><ETag>"e-1"</ETag></CompleteMultipartUploadResult>`)
			return
		}
		pass(w, r, server.Address())
	}))
	t.Cleanup(front.Close)
	s := open(t, server, func(c *Config) { c.Endpoints = []string{front.URL} })
	for i := range 2 {
		key := fmt.Sprintf("large/%d", i)
		if err := s.Create(t.Context(), key, newNoise(partSize+9), partSize+9); err != nil {
			t.Fatal(err)
		}
		same(t, s, key, newNoise(partSize+9), partSize+9)
		if err := s.Create(t.Context(), key, newNoise(partSize+9), partSize+9); !errors.Is(err, blob.ErrExists) {
			t.Errorf("again: %v", err)
		}
	}
	if n := completions.Load(); n != 1 {
		t.Errorf("%d completions, want the one that found it out", n)
	}
}

// A store that lets the second create succeed is refused.
func TestStoreThatDropsTheCondition(t *testing.T) {
	server := s3test.Start(t)
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPut {
			io.Copy(io.Discard, r.Body)
			w.Header().Set("ETag", `"e"`)
			return
		}
		pass(w, r, server.Address())
	}))
	t.Cleanup(front.Close)
	s3test.Environment(t)
	if _, err := Open(t.Context(), Config{Endpoints: []string{front.URL}, Bucket: server.Bucket()}); !errors.Is(err, ErrPromise) {
		t.Errorf("%v; want ErrPromise", err)
	}
}

// Each thing that is wrong at start has its own word.
func TestOpenSaysWhatIsWrong(t *testing.T) {
	server := s3test.Start(t)
	bucket := server.Bucket()
	nobody, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody.Close()
	untrusted := httptest.NewUnstartedServer(http.NotFoundHandler())
	untrusted.Config.ErrorLog = log.New(io.Discard, "", 0)
	untrusted.StartTLS()
	t.Cleanup(untrusted.Close)
	for name, c := range map[string]struct {
		cfg    Config
		secret string
		want   error
	}{
		"bucket":      {Config{Endpoints: []string{server.URL()}, Bucket: "no-such-bucket"}, s3test.SecretKey, ErrNoBucket},
		"secret":      {Config{Endpoints: []string{server.URL()}, Bucket: bucket}, "wrong", ErrCredentials},
		"port":        {Config{Endpoints: []string{"http://" + nobody.Addr().String()}, Bucket: bucket}, s3test.SecretKey, ErrUnreachable},
		"host":        {Config{Endpoints: []string{"http://no-such-host.invalid:1"}, Bucket: bucket}, s3test.SecretKey, ErrUnreachable},
		"certificate": {Config{Endpoints: []string{untrusted.URL}, Bucket: bucket}, s3test.SecretKey, ErrCertificate},
	} {
		s3test.Environment(t)
		t.Setenv("AWS_SECRET_ACCESS_KEY", c.secret)
		s, err := Open(t.Context(), c.cfg)
		if err == nil {
			s.Close()
		}
		if !errors.Is(err, c.want) || errors.Is(err, blob.ErrMaybe) {
			t.Errorf("%s: %v; want %v", name, err, c.want)
		}
		if err != nil && strings.Contains(err.Error(), s3test.SecretKey) {
			t.Errorf("%s: the secret is in %q", name, err)
		}
	}
}

// Credentials come from the file that the configuration names, and are read
// again when the store refuses them.
func TestCredentialsFile(t *testing.T) {
	server := s3test.Start(t)
	file := filepath.Join(t.TempDir(), "credentials")
	write := func(secret string) {
		text := fmt.Sprintf("[default]\naws_access_key_id = %s\naws_secret_access_key = %s\n", s3test.AccessKey, secret)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(s3test.SecretKey)
	for _, name := range []string{"AWS_ACCESS_KEY_ID", "AWS_ACCESS_KEY", "AWS_SECRET_ACCESS_KEY", "AWS_SECRET_KEY", "AWS_PROFILE"} {
		t.Setenv(name, "")
	}
	s, err := Open(t.Context(), Config{Endpoints: []string{server.URL()}, Bucket: server.Bucket(), CredentialsFile: file})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	write("wrong")
	s.keys.credentials.Expire()
	if err := create(s, "a", "x"); !errors.Is(err, ErrCredentials) || errors.Is(err, blob.ErrMaybe) {
		t.Errorf("%v; want ErrCredentials", err)
	}
	write(s3test.SecretKey)
	if err := create(s, "a", "x"); err != nil {
		t.Errorf("after the file was put right: %v", err)
	}
}

// An endpoint that can't be connected to is passed over, and comes back.
func TestEndpoints(t *testing.T) {
	server := s3test.Start(t)
	p := startProxy(t, server)
	gone, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone.Close()
	s := open(t, server, func(c *Config) { c.Endpoints = []string{"http://" + gone.Addr().String(), p.url(), server.URL()} })
	direct := func() bool { return s.order()[0].url == server.URL() }
	if s.order()[0].url != p.url() {
		t.Errorf("first is %s", s.order()[0].url)
	}
	for i := range 30 {
		p.cut([]cut{nowhere, atOnce, afterwards}[i%3])
		key := fmt.Sprintf("flap/%d", i)
		for try := 0; ; try++ {
			err := create(s, key, key)
			if err == nil || errors.Is(err, blob.ErrExists) && try > 0 {
				break
			}
			if errors.Is(err, blob.ErrExists) || try == 2 {
				t.Fatalf("%s: %v", key, err)
			}
		}
		if got := read(t, s, key, 10); got != key {
			t.Errorf("%s: read %q", key, got)
		}
	}
	if !direct() {
		t.Errorf("first is %s although the others fail", s.order()[0].url)
	}
	p.cut(nowhere)
	for _, e := range s.endpoints {
		e.close(time.Now().Add(-shut))
	}
	if err := create(s, "back", "x"); err != nil || direct() {
		t.Errorf("%v; first is %s", err, s.order()[0].url)
	}
}

// All endpoints gone: a create is known not to have happened.
func TestNoEndpoint(t *testing.T) {
	server := s3test.Start(t)
	s := open(t, server)
	server.Stop()
	if err := create(s, "a", "x"); !errors.Is(err, ErrUnreachable) || errors.Is(err, blob.ErrMaybe) {
		t.Errorf("%v", err)
	}
	server.Restart()
	if err := create(s, "a", "x"); err != nil {
		t.Errorf("back again: %v", err)
	}
}
