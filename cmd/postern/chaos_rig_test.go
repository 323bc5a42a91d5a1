package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/postern-pop/postern/pkg/blob/s3test"
	"github.com/postern-pop/postern/pkg/config"
	"github.com/postern-pop/postern/pkg/link"
	"github.com/postern-pop/postern/pkg/run"
)

// chaosRig is two regions of real processes in which everything that connects two of them can be
// cut: eu on an S3 server, us on a directory.
//
//	front, intake ──grpc──▶ node ──store──▶ sickStore ──▶ S3 server
//	    └──────────etcd────────┴─────▶ etcd (a process of its own)
//	front (eu) ──gateway──▶ front (us), and back
type chaosRig struct {
	t        *testing.T
	dir      string
	layout   *demoLayout
	nursery  *nursery
	children map[string]*child // by title; "etcd"
	order    []string          // titles, as they were started
	links    map[string]*link.Link
	stores   map[string]*sickStore // by the node's way to it
	server   *s3test.Server
	disk     string // where us keeps its mail, a file system of its own; empty: it has none
	switches string
	clocks   struct{ told, off int } // steps of clocks that were asked for, and seen
	users    []demoUser
	live     context.CancelFunc
}

const chaosEtcd = "etcd"

// startChaos starts a program's two regions. They end with the test.
func startChaos(t *testing.T, program string) *chaosRig {
	t.Helper()
	r := &chaosRig{t: t, dir: t.TempDir(), switches: t.TempDir(), server: s3test.Start(t),
		children: map[string]*child{}, links: map[string]*link.Link{}, stores: map[string]*sickStore{}}
	s3test.Environment(t)
	t.Setenv("POSTERN_CHAOS_SWITCHES", r.switches)
	r.mountDisk()
	r.layOut()
	r.cable()
	noError(t, r.layout.write())
	r.writeNodeRegions()
	r.raise(program)
	return r
}

// layOut has three nodes in eu and two in us.
func (r *chaosRig) layOut() {
	r.t.Helper()
	files := r.t.TempDir()
	for _, name := range []string{"eu", "us"} {
		region, err := config.LoadRegion("../../regions/" + name + ".yaml")
		noError(r.t, err)
		region.File, region.Shards = "", 8
		region.Storage = config.Storage{Dir: &config.Dir{Path: config.Path(filepath.Join(r.disk, "store"))}}
		if name == "eu" {
			region.Storage = r.bucket(r.server.URL(), r.server.Bucket())
		}
		noError(r.t, writeYAML(filepath.Join(files, name+".yaml"), region))
	}
	layout, err := (&demoCmd{Data: r.dir, BasePort: freePorts(r.t), Regions: files, Nodes: 3, KeepStorage: true}).layout()
	noError(r.t, err)
	r.layout = layout
	us := layout.regions[1]
	us.processes = append(us.processes[:2:2], us.processes[3:]...)
}

func (r *chaosRig) bucket(endpoint, bucket string) config.Storage {
	return config.Storage{S3: &config.S3{Endpoints: []config.Endpoint{config.Endpoint(endpoint)}, Bucket: bucket, Prefix: "mail", PathStyle: true}}
}

// mountDisk gives us a file system of its own, where that is possible.
func (r *chaosRig) mountDisk() {
	r.disk = r.t.TempDir()
	if err := syscall.Mount("postern-chaos", r.disk, "tmpfs", 0, "size="+wholeDisk); err != nil {
		r.t.Logf("NOT TESTED: a full disk: nothing can be mounted here: %v", err)
		return
	}
	disk := r.disk
	r.t.Cleanup(func() {
		if err := syscall.Unmount(disk, syscall.MNT_DETACH); err != nil {
			r.t.Error(err)
		}
	})
}

const wholeDisk = "4g" // at most; a file system in memory takes what is in it

// mounted says that the disk is a file system of its own.
func (r *chaosRig) mounted() bool {
	var disk, above syscall.Stat_t
	return syscall.Stat(r.disk, &disk) == nil && syscall.Stat(filepath.Dir(r.disk), &above) == nil && disk.Dev != above.Dev
}

// fillDisk leaves the disk no more room than is taken, or all.
func (r *chaosRig) fillDisk(full bool) {
	size := wholeDisk
	if full {
		var now syscall.Statfs_t
		noError(r.t, syscall.Statfs(r.disk, &now))
		size = fmt.Sprint((now.Blocks - now.Bfree + 8) * uint64(now.Bsize))
	}
	if err := syscall.Mount("postern-chaos", r.disk, "tmpfs", syscall.MS_REMOUNT, "size="+size); err != nil {
		r.t.Logf("the disk's size %s: %v", size, err) // it has grown meanwhile
	}
}

// cable puts a link wherever two processes meet.
func (r *chaosRig) cable() {
	for _, region := range r.layout.regions {
		front := region.processes[len(region.processes)-1]
		region.Gateway = r.link("gateway of "+string(region.Name), front.config.Front.Gateway.Listen, false)
		var seeds []config.HostPort
		for _, p := range region.processes {
			at := r.link("gossip to "+p.title(), p.config.Gossip.Bind, true)
			p.config.Gossip.Advertise, seeds = at, append(seeds, at)
		}
		for _, p := range region.processes {
			etcd := []config.HostPort{r.link("etcd of "+p.title(), r.layout.etcd, false)}
			p.config.Etcd.Global.Endpoints, p.config.Etcd.Regional.Endpoints = etcd, etcd
			p.config.Gossip.Seeds, p.config.Region = seeds, region.Region
			if p.config.Mailbox != nil {
				p.config.Mailbox.GRPC.Advertise = r.link("calls to "+p.title(), p.config.Mailbox.GRPC.Listen, false)
			}
		}
	}
}

func (r *chaosRig) link(name string, far config.HostPort, udp bool) config.HostPort {
	r.t.Helper()
	l, err := link.Open(string(far), udp)
	noError(r.t, err)
	r.t.Cleanup(l.Close)
	r.links[name] = l
	return config.HostPort(l.Address())
}

// writeNodeRegions gives each node that keeps its mail in the bucket a way of its own to it.
func (r *chaosRig) writeNodeRegions() {
	r.t.Helper()
	for _, p := range r.layout.regions[0].processes {
		if p.config.Mailbox == nil {
			continue
		}
		store := startSickStore(r.t, r.server)
		at := r.link("store of "+p.title(), config.HostPort(store.address()), false)
		region := r.layout.regions[0].Region
		region.File = ""
		region.Storage = r.bucket("http://"+string(at), region.Storage.S3.Bucket)
		file := filepath.Join(r.dir, "eu", "region-"+string(p.config.Name)+".yaml")
		noError(r.t, writeYAML(file, region))
		p.config.Region.File = config.Path(file)
		noError(r.t, writeYAML(p.file, p.config))
		r.stores["the store of "+p.title()] = store
	}
}

// raise starts etcd, then all the others, and makes users.
func (r *chaosRig) raise(program string) {
	r.t.Helper()
	r.nursery = newNursery(program, r.t.Logf)
	r.t.Cleanup(r.nursery.close)
	self, err := os.Executable()
	noError(r.t, err)
	own := newNursery(self, r.t.Logf) // etcd is embedded in this test's program, as it is in a demo's
	r.t.Cleanup(own.close)
	ctx, cancel := context.WithCancel(context.Background())
	r.live = cancel
	r.t.Cleanup(r.end)
	noError(r.t, writeFile(filepath.Join(r.dir, etcdAddress), []byte(r.layout.etcd)))
	r.start(ctx, own, &demoProcess{
		config: &config.Process{Role: etcdAlone, Name: chaosEtcd}, file: r.dir, log: filepath.Join(r.dir, "log", "etcd.log"),
	})
	for _, p := range r.layout.all() {
		r.start(ctx, r.nursery, p)
	}
	for _, c := range r.children {
		if c.title() != chaosTitle(chaosEtcd) {
			noError(r.t, c.awaitReady(r.t.Context()))
		}
	}
	if r.users, err = seed(r.t.Context(), r.layout); err != nil {
		r.t.Fatal(err)
	}
	r.nursery.upkeep.Store(upkeepRestart)
	own.upkeep.Store(upkeepRestart)
}

// chaosTitle is how the nursery calls a process that is of no region.
func chaosTitle(name string) string { return "/" + name }

func (r *chaosRig) start(ctx context.Context, n *nursery, p *demoProcess) {
	r.t.Helper()
	c, err := n.raise(ctx, p)
	noError(r.t, err)
	title := strings.TrimPrefix(p.title(), "/")
	r.children[title], r.order = c, append(r.order, title)
}

// end kills everything: what is to be known is known by then.
func (r *chaosRig) end() {
	r.live()
	for _, c := range r.children {
		c.signal(syscall.SIGKILL)
		<-c.last
	}
}

// titled are the processes of a role, of a region or of all.
func (r *chaosRig) titled(role string, regions ...string) (titles []string) {
	for _, title := range r.order {
		region, name, _ := strings.Cut(title, "/")
		if strings.HasPrefix(name, role+"-") && (len(regions) == 0 || region == regions[0]) {
			titles = append(titles, title)
		}
	}
	return titles
}

// tls is how a mail client trusts any region's front.
func (r *chaosRig) tls() *tls.Config {
	r.t.Helper()
	pool, err := readPool(filepath.Join(publicDir(r.dir), "ca.pem"))
	noError(r.t, err)
	return &tls.Config{RootCAs: pool, ServerName: "localhost"}
}

// throw throws one of the switches of a process's present life: by how many seconds its wall clock
// is off, or by how many nanoseconds its disk is late.
func (r *chaosRig) throw(title, which string, to int64) (pid int) {
	pid = r.children[title].pid()
	noError(r.t, writeFile(filepath.Join(r.switches, fmt.Sprintf("%d.%s", pid, which)), fmt.Appendf(nil, "%d\n", to)))
	return pid
}

// wasOff reports whether a process said that its clock is off as it was told. One that is stopped, or
// was killed, says nothing.
func (r *chaosRig) wasOff(pid int, step int64) bool {
	text, err := os.ReadFile(filepath.Join(r.switches, fmt.Sprintf("%d.time", pid)))
	if err != nil {
		return false
	}
	var told int64
	if _, err := fmt.Sscan(string(text), &told); err != nil {
		return false
	}
	off := told - time.Now().Unix() - step
	return -60 < off && off < 60
}

// sickStore is a node's way to the S3 server, which may fail requests.
type sickStore struct {
	server  *httptest.Server
	illness atomic.Int64 // one of the constants below
}

// What a store may have.
const (
	storeWell    int64 = iota
	storeErrors        // half of the requests are answered 500, and were not heard
	storeForgets       // a third of them are done, and answered 500
	storeSlow          // each takes up to a second more
	storeDown          // all are answered 503
)

func startSickStore(t *testing.T, server *s3test.Server) *sickStore {
	t.Helper()
	to, err := url.Parse(server.URL())
	noError(t, err)
	s := &sickStore{}
	proxy := &httputil.ReverseProxy{
		// The host that was asked for is signed, so it stays.
		Rewrite:   func(p *httputil.ProxyRequest) { p.Out.URL.Scheme, p.Out.URL.Host = to.Scheme, to.Host },
		Transport: &http.Transport{DisableKeepAlives: true, DisableCompression: true},
		ErrorLog:  slog.NewLogLogger(slog.DiscardHandler, slog.LevelError),
	}
	s.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) { s.serve(proxy, w, request) }))
	t.Cleanup(func() { s.server.CloseClientConnections(); s.server.Close() })
	return s
}

func (s *sickStore) address() string { return s.server.Listener.Addr().String() }

func (s *sickStore) serve(proxy http.Handler, w http.ResponseWriter, request *http.Request) {
	switch s.illness.Load() {
	case storeErrors:
		if rand.IntN(2) == 0 {
			refuse(w, request, http.StatusInternalServerError)
			return
		}
	case storeForgets:
		if rand.IntN(3) == 0 {
			proxy.ServeHTTP(httptest.NewRecorder(), request)
			refuse(w, request, http.StatusInternalServerError)
			return
		}
	case storeSlow:
		if !sleep(request.Context(), time.Duration(rand.Int64N(int64(time.Second)))) {
			return
		}
	case storeDown:
		refuse(w, request, http.StatusServiceUnavailable)
		return
	}
	proxy.ServeHTTP(w, request)
}

func refuse(w http.ResponseWriter, request *http.Request, status int) {
	_, _ = io.Copy(io.Discard, request.Body) // a client that writes hears nothing yet
	w.WriteHeader(status)
}

// etcdAlone is the command by which this test's program is etcd and nothing else; etcdAddress is the file
// that says where it listens.
const (
	etcdAlone   = "etcd-alone"
	etcdAddress = "etcd-address"
)

// runEtcdAlone is the life of an etcd in a process of its own.
func runEtcdAlone(dir string) int {
	address, err := os.ReadFile(filepath.Join(dir, etcdAddress))
	if err == nil {
		log := slog.New(slog.NewJSONHandler(os.Stderr, nil))
		err = run.Main(context.Background(), run.Options{Log: log}, func(ctx context.Context, p *run.Process) error {
			return startEtcd(ctx, p, dir, string(address), log)
		})
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}
