package helm

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// A machine does with a rendering what a cluster does, as far as a process can tell:
// volumes from Secrets and ConfigMaps at the paths of their mounts, below a directory of
// the pod's own; arguments with their variables; Services by their selectors and ports.
// All on loopback, so each pod's ports are others.
type machine struct {
	t       *testing.T
	binary  string
	dir     string
	objects []object
	secrets map[string]map[string][]byte // by name and key
	names   map[string]string            // host:port in files: where it is here
	pods    map[string]*runningPod
}

// runningPod is one container of one pod.
type runningPod struct {
	m      *machine
	name   string
	labels map[string]string
	spec   podSpec
	root   string
	ports  map[int]int // a container's port: the one here
	output lockedBuffer
	cmd    *exec.Cmd
	ended  chan struct{}
}

// buildOnce builds the binary, once for all tests; TestMain removes it.
var buildOnce = sync.OnceValues(func() (file string, err error) {
	dir, err := os.MkdirTemp("", "postern-chart-")
	if err != nil {
		return "", err
	}
	file = filepath.Join(dir, "postern")
	if out, err := exec.Command("go", "build", "-o", file, "../../cmd/postern").CombinedOutput(); err != nil {
		err = fmt.Errorf("%w: %s", err, out)
		return file, errors.Join(err, os.RemoveAll(dir))
	}
	builtIn.Store(&dir)
	return file, nil
})

var builtIn atomic.Pointer[string]

func TestMain(m *testing.M) {
	code := m.Run()
	if dir := builtIn.Load(); dir != nil {
		_ = os.RemoveAll(*dir)
	}
	os.Exit(code)
}

func binary(t *testing.T) string {
	t.Helper()
	skipInShort(t)
	file, err := buildOnce()
	must(t, err)
	return file
}

type lockedBuffer struct {
	mu sync.Mutex
	bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.Write(p)
}

func (b *lockedBuffer) text() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.String()
}

const loopback = "127.0.0.1"

// lay makes the pod's file system, and its ports.
func (m *machine) lay(name string, labels map[string]string, spec podSpec) *runningPod {
	m.t.Helper()
	p := &runningPod{m: m, name: name, labels: labels, spec: spec, root: filepath.Join(m.dir, name), ports: map[int]int{}}
	for _, port := range spec.Containers[0].Ports {
		if p.ports[port.ContainerPort] == 0 {
			p.ports[port.ContainerPort] = freePort(m.t)
		}
	}
	m.pods[name] = p
	return p
}

// mount fills the mounts of the pod's only container.
func (p *runningPod) mount() {
	t := p.m.t
	t.Helper()
	volumes := map[string]volume{}
	for _, v := range p.spec.Volumes {
		volumes[v.Name] = v
	}
	for _, mount := range p.spec.Containers[0].VolumeMounts {
		v, there := volumes[mount.Name]
		if !there {
			t.Fatalf("%s mounts %s, which is no volume of it", p.name, mount.Name)
		}
		dir := filepath.Join(p.root, mount.MountPath)
		switch {
		case v.Secret != nil:
			p.write(dir, p.m.secret(p.name, v))
		case v.ConfigMap != nil:
			files := map[string][]byte{}
			for name, text := range configOf(t, p.m.objects, p.spec).Data {
				files[name] = []byte(p.here(text))
			}
			p.write(dir, files)
		case v.PersistentVolumeClaim != nil:
			shared := filepath.Join(p.m.dir, "claim-"+v.PersistentVolumeClaim.ClaimName)
			must(t, os.MkdirAll(shared, 0o700))
			must(t, os.MkdirAll(filepath.Dir(dir), 0o700))
			must(t, os.Symlink(shared, dir))
		case v.EmptyDir != nil && !mount.ReadOnly:
			must(t, os.MkdirAll(dir, 0o700))
		default:
			t.Fatalf("%s: volume %s is nothing that this test knows", p.name, v.Name)
		}
	}
}

func (m *machine) secret(pod string, v volume) map[string][]byte {
	m.t.Helper()
	all, there := m.secrets[v.Secret.SecretName]
	if !there {
		m.t.Fatalf("%s: there is no Secret %s", pod, v.Secret.SecretName)
	}
	if v.Secret.Items == nil {
		return all
	}
	some := map[string][]byte{}
	for _, item := range v.Secret.Items {
		some[item.Path] = all[item.Key]
	}
	return some
}

func (p *runningPod) write(dir string, files map[string][]byte) {
	p.m.t.Helper()
	must(p.m.t, os.MkdirAll(dir, 0o700))
	for name, data := range files {
		must(p.m.t, os.WriteFile(filepath.Join(dir, name), data, 0o400))
	}
}

var (
	absolute = regexp.MustCompile(`/(etc|var/lib)/postern\b`)
	listens  = regexp.MustCompile(`":(\d+)"`)
)

// here is a file's text or an argument with the paths and addresses of this machine.
// Whatever listens has to be a port of the container's.
func (p *runningPod) here(text string) string {
	for name, address := range p.m.names {
		text = strings.ReplaceAll(text, name, address)
	}
	text = absolute.ReplaceAllStringFunc(text, func(path string) string { return filepath.Join(p.root, path) })
	return listens.ReplaceAllStringFunc(text, func(found string) string {
		port, _ := strconv.Atoi(listens.FindStringSubmatch(found)[1])
		if p.ports[port] == 0 {
			p.m.t.Errorf("%s listens on %d, which is no port of its container", p.name, port)
		}
		return strconv.Quote(p.at(port))
	})
}

// at is where a container's port is here.
func (p *runningPod) at(port int) string {
	return net.JoinHostPort(loopback, strconv.Itoa(p.ports[port]))
}

// named is the number of a container's port.
func (p *runningPod) named(name string) int {
	for _, port := range p.spec.Containers[0].Ports {
		if port.Name == name {
			return port.ContainerPort
		}
	}
	return 0
}

// start runs the container. Nothing of this process's environment reaches it, and
// there is nowhere to write but in its volumes.
func (p *runningPod) start() {
	p.m.t.Helper()
	c := p.spec.Containers[0]
	if len(c.Command) > 0 || len(p.spec.Containers) != 1 {
		p.m.t.Fatalf("%s has a command of its own, or several containers", p.name)
	}
	args := make([]string, len(c.Args))
	for i, arg := range c.Args {
		arg = strings.NewReplacer("$(POD_NAME)", p.name, "$(POD_IP)", loopback).Replace(arg)
		if strings.Contains(arg, "$(") {
			p.m.t.Errorf("%s: nothing says what %s is", p.name, arg)
		}
		args[i] = p.here(arg)
	}
	cmd, ended := exec.Command(p.m.binary, args...), make(chan struct{})
	cmd.Env = []string{"TMPDIR=" + filepath.Join(p.root, "nowhere")}
	cmd.Dir = p.root
	cmd.Stdout, cmd.Stderr = &p.output, &p.output
	must(p.m.t, cmd.Start())
	go func() { _ = cmd.Wait(); close(ended) }()
	p.m.t.Cleanup(func() { _ = cmd.Process.Kill(); <-ended })
	p.cmd, p.ended = cmd, ended
}

// awaitReady asks the readiness probe, and then the liveness probe.
func (p *runningPod) awaitReady() {
	t := p.m.t
	t.Helper()
	for _, probe := range []probe{p.spec.Containers[0].ReadinessProbe, p.spec.Containers[0].LivenessProbe} {
		p.await("ready", func() error {
			answer, err := http.Get("http://" + p.at(p.named(probe.HTTPGet.Port)) + probe.HTTPGet.Path)
			if err != nil {
				return err
			}
			defer answer.Body.Close()
			if answer.StatusCode != http.StatusOK {
				text, _ := io.ReadAll(answer.Body)
				return fmt.Errorf("%s: %s", answer.Status, text)
			}
			return nil
		})
	}
}

// await tries until it succeeds.
func (p *runningPod) await(what string, try func() error) {
	p.m.t.Helper()
	err := try()
	for deadline := time.Now().Add(90 * time.Second); err != nil; err = try() {
		select {
		case <-p.ended:
			p.m.t.Fatalf("%s ended: %v\n%s", p.name, p.cmd.ProcessState, p.output.text())
		case <-time.After(100 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			p.m.t.Fatalf("%s: not %s: %v\n%s", p.name, what, err, p.output.text())
		}
	}
}

// stop ends the pod as the kubelet does, but for the sleep ahead, and holds it to its time.
func (p *runningPod) stop() {
	p.m.t.Helper()
	p.terminate()
	p.awaitEnd()
}

func (p *runningPod) terminate() {
	p.m.t.Helper()
	must(p.m.t, p.cmd.Process.Signal(syscall.SIGTERM))
}

func (p *runningPod) awaitEnd() {
	p.m.t.Helper()
	select {
	case <-p.ended:
	case <-time.After(time.Duration(p.spec.TerminationGracePeriodSeconds) * time.Second):
		p.m.t.Fatalf("%s would have been killed\n%s", p.name, p.output.text())
	}
	if code := p.cmd.ProcessState.ExitCode(); code != 0 {
		p.m.t.Errorf("%s ended with %d\n%s", p.name, code, p.output.text())
	}
}

// resolve finds where a Service's port leads, and makes its name known.
func (m *machine) resolve(service object) {
	m.t.Helper()
	var selector map[string]string
	must(m.t, service.Spec.Selector.Decode(&selector))
	for _, port := range service.Spec.Ports {
		for _, pod := range m.pods {
			if !selects(selector, pod.labels) || pod.named(port.TargetPort) == 0 {
				continue
			}
			m.names[service.Metadata.Name+":"+strconv.Itoa(port.Port)] = pod.at(pod.named(port.TargetPort))
		}
	}
}

func selects(selector, labels map[string]string) bool {
	for key, value := range selector {
		if labels[key] != value {
			return false
		}
	}
	return len(selector) > 0
}

// freePort is a port that nobody listens on, below those that the kernel gives out.
func freePort(t *testing.T) int {
	t.Helper()
	for range 1000 {
		port := 15000 + rand.N(15000)
		address := net.JoinHostPort(loopback, strconv.Itoa(port))
		tcp, err := net.Listen("tcp", address)
		if err != nil {
			continue
		}
		udp, err := net.ListenPacket("udp", address)
		tcp.Close()
		if err == nil {
			udp.Close()
			return port
		}
	}
	t.Fatal("no free port")
	return 0
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
