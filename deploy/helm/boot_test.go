package helm

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/postern-pop/postern/pkg/embedetcd"
	"github.com/postern-pop/postern/pkg/mailclient"
)

const (
	testAddress  = "test@eu.example"
	testPassword = "correct horse battery staple"
)

// TestBoot starts all that the chart renders for a region, outside of any cluster, has
// helm's own test deliver and fetch through its Services, and ends it as a cluster does.
func TestBoot(t *testing.T) {
	text, err := template(t, "eu", "testdata/boot.yaml")
	if err != nil {
		t.Fatal(err)
	}
	m := &machine{
		t: t, binary: binary(t), dir: t.TempDir(), objects: objects(t, text), names: map[string]string{},
		secrets: map[string]map[string][]byte{}, pods: map[string]*runningPod{},
	}
	m.makeSecrets()

	for _, o := range m.objects {
		switch o.Kind {
		case "Deployment":
			m.lay(o.Metadata.Name+"-5d8f7c9b6d-x2x4z", o.Spec.Template.Metadata.Labels, o.Spec.Template.Spec)
		case "StatefulSet":
			m.lay(o.Metadata.Name+"-0", o.Spec.Template.Metadata.Labels, o.Spec.Template.Spec)
		}
	}
	if got := strings.Join(sortedKeys(m.pods), " "); got != "eu-postern-front-5d8f7c9b6d-x2x4z eu-postern-intake-5d8f7c9b6d-x2x4z eu-postern-mailbox-a-0 eu-postern-mailbox-b-0" {
		t.Fatal(got)
	}
	for _, o := range m.objects {
		if o.Kind == "Service" {
			m.resolve(o)
		}
	}
	m.names["eu-gateway.postern.example:9950"] = m.names["eu-postern-gateway:9950"]
	for _, pod := range m.pods {
		pod.mount()
		pod.start()
	}
	for _, pod := range m.pods {
		pod.awaitReady()
	}
	m.makeAddress(m.dir + "/init/operator/eu.yaml")

	m.helmTest()
	m.throughBalancer()
	m.withSTLS()
	m.upgrade(m.pods["eu-postern-mailbox-a-0"], m.pods["eu-postern-mailbox-b-0"])
	m.helmTest()
	for _, name := range []string{"eu-postern-front-5d8f7c9b6d-x2x4z", "eu-postern-intake-5d8f7c9b6d-x2x4z"} {
		m.pods[name].stop()
	}
}

// upgrade ends the nodes of two zones at once, as a change of both StatefulSets does: the
// second one goes on until the first one is back.
func (m *machine) upgrade(a, b *runningPod) {
	m.t.Helper()
	a.terminate()
	b.terminate()
	first, second := a, b
	select {
	case <-a.ended:
	case <-b.ended:
		first, second = b, a
	}
	first.awaitEnd()
	m.helmTest() // its shards are the other node's
	select {
	case <-second.ended:
		m.t.Fatalf("%s left before %s was back\n%s", second.name, first.name, second.output.text())
	default:
	}
	first.start()
	second.awaitEnd()
	if strings.Contains(second.output.text(), "out of turn") {
		m.t.Errorf("%s left out of turn\n%s", second.name, second.output.text())
	}
	first.awaitReady()
}

// makeSecrets makes what docs/install.md tells to make, and starts etcd.
func (m *machine) makeSecrets() {
	t := m.t
	t.Helper()
	m.run("", "init", m.dir+"/init", "--region", regionFile("eu"), "--host", "pop.customer.example", "--etcd-host", loopback)
	dirs, err := os.ReadDir(m.dir + "/init/secrets")
	must(t, err)
	for _, dir := range dirs {
		m.secrets[dir.Name()] = map[string][]byte{}
		keys, err := os.ReadDir(filepath.Join(m.dir, "init/secrets", dir.Name()))
		must(t, err)
		for _, key := range keys {
			m.secrets[dir.Name()][key.Name()] = read(t, filepath.Join(m.dir, "init/secrets", dir.Name(), key.Name()))
		}
	}
	m.secrets["eu-postern-etcd-regional"] = m.secrets["eu-postern-etcd"]
	m.secrets["pop-more"] = m.secrets["eu-postern-pop"]
	m.secrets["eu-postern-test"] = map[string][]byte{"password": []byte(testPassword + "\n")}

	m.startEtcd(filepath.Join(m.dir, "init/secrets/postern-etcd-server"), "postern-etcd:2379")
}

// startEtcd starts etcd, with the server's certificate in a directory, where name is.
func (m *machine) startEtcd(server, name string) {
	t := m.t
	t.Helper()
	running, err := embedetcd.Start(t.Context(), embedetcd.Config{
		Dir: filepath.Join(m.dir, "etcd"), Listen: loopback + ":0", Log: slog.New(slog.DiscardHandler),
		CA: server + "/ca.crt", Cert: server + "/tls.crt", Key: server + "/tls.key",
	})
	must(t, err)
	t.Cleanup(running.Close)
	m.names[name] = running.Endpoint()
}

// run runs a command of the binary.
func (m *machine) run(stdin string, args ...string) {
	m.t.Helper()
	cmd := exec.Command(m.binary, args...)
	cmd.Stdin = strings.NewReader(stdin)
	if out, err := cmd.CombinedOutput(); err != nil {
		m.t.Fatalf("%q: %v\n%s", args, err, out)
	}
}

// makeAddress makes the address for tests as an operator does, by the context that init
// has made.
func (m *machine) makeAddress(file string) {
	m.t.Helper()
	text := string(read(m.t, file))
	for name, address := range m.names {
		text = strings.ReplaceAll(text, `"`+name+`"`, `"`+address+`"`)
	}
	must(m.t, os.WriteFile(file, []byte(text), 0o600))
	m.run("", "account", "create", "tests", "--region", "eu", "--context", file)
	m.run("", "domain", "add", "eu.example", "--account", "tests", "--kind", "local", "--context", file)
	m.run(testPassword+"\n", "address", "add", testAddress, "--password-stdin", "--context", file)
}

// helmTest runs the pod that helm test runs.
func (m *machine) helmTest() {
	m.t.Helper()
	for _, o := range m.objects {
		if o.Kind != "Pod" || o.Metadata.Annotations["helm.sh/hook"] != "test" {
			continue
		}
		pod := m.lay(o.Metadata.Name, o.Metadata.Labels, o.Spec.podSpec)
		must(m.t, os.RemoveAll(pod.root))
		pod.mount()
		pod.start()
		<-pod.ended
		if out := pod.output.text(); pod.cmd.ProcessState.ExitCode() != 0 || strings.Count(out, " ok, ") != 4 {
			m.t.Fatalf("helm test: %v\n%s", pod.cmd.ProcessState, out)
		}
		delete(m.pods, pod.name)
		return
	}
	m.t.Fatal("the chart has no test")
}

// throughBalancer logs in behind a PROXY header, at the Service for that.
func (m *machine) throughBalancer() {
	m.t.Helper()
	conn, err := net.Dial("tcp", m.names["eu-postern-pop3s-proxy:995"])
	must(m.t, err)
	defer conn.Close()
	_, err = conn.Write([]byte("PROXY TCP4 192.0.2.1 192.0.2.2 40000 995\r\n"))
	must(m.t, err)
	pop, err := mailclient.NewPOP(tls.Client(conn, m.mailClient("pop.customer.example")))
	must(m.t, err)
	must(m.t, pop.Login(testAddress, testPassword))
	must(m.t, pop.Quit())
	front := m.pods["eu-postern-front-5d8f7c9b6d-x2x4z"]
	front.await("telling the client's own address", func() error {
		if !strings.Contains(front.output.text(), `"remote":"192.0.2.1"`) {
			return errors.New("no session's line has it")
		}
		return nil
	})
}

// withSTLS asks port 110 for what it offers.
func (m *machine) withSTLS() {
	m.t.Helper()
	conn, err := net.Dial("tcp", m.names["eu-postern-pop3s:110"])
	must(m.t, err)
	pop, err := mailclient.NewPOP(conn)
	must(m.t, err)
	defer pop.Close()
	offers, err := pop.Capabilities()
	if err != nil || !strings.Contains(strings.Join(offers, " "), "STLS") {
		m.t.Errorf("port 110 offers %q, %v", offers, err)
	}
}

func (m *machine) mailClient(name string) *tls.Config {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(m.secrets["eu-postern-pop"]["ca.crt"])
	return &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots, ServerName: name}
}

func read(t *testing.T, file string) []byte {
	t.Helper()
	text, err := os.ReadFile(file)
	must(t, err)
	return text
}
