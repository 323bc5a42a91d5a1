package helm

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
)

// composeFile is what the test looks at of ../compose.yaml.
type composeFile struct {
	Services map[string]composeService
}

type composeService struct {
	Image           string
	Command         []string
	User            string
	ReadOnly        bool     `yaml:"read_only"`
	CapDrop         []string `yaml:"cap_drop"`
	StopGracePeriod string   `yaml:"stop_grace_period"`
	Ports           []string
	Volumes         []struct {
		Type, Source, Target string
		ReadOnly             bool `yaml:"read_only"`
		Volume               struct{ Subpath string }
	}
}

// TestCompose starts what ../compose.yaml says, without Docker: init, etcd, three nodes, an
// intake and a front, with volumes at their targets.
func TestCompose(t *testing.T) {
	text := read(t, "../compose.yaml")
	var file composeFile
	must(t, yaml.Unmarshal(text, &file))
	m := &machine{t: t, binary: binary(t), dir: t.TempDir(), names: map[string]string{}, pods: map[string]*runningPod{}}

	initial := file.Services["init"].Command
	material := filepath.Join(m.dir, "material")
	place := slices.Index(initial, "/var/lib/postern")
	if place < 0 || initial[0] != "init" {
		t.Fatalf("init is %q", initial)
	}
	args := slices.Clone(initial)
	args[place] = material
	for i, arg := range args {
		args[i] = strings.Replace(arg, "/etc/postern/regions", "../../regions", 1)
	}
	m.run("", append(args, "--etcd-host", loopback)...)
	m.startEtcd(filepath.Join(material, "secrets/postern-etcd-server"), "etcd:2379")

	for name, s := range file.Services {
		if len(s.Command) > 0 && slices.Contains([]string{"front", "intake", "mailbox"}, s.Command[0]) {
			m.layService(name, s)
		}
	}
	if got := strings.Join(sortedKeys(m.pods), " "); got != "front intake mailbox-1 mailbox-2 mailbox-3" {
		t.Fatal(got)
	}
	for name, pod := range m.pods {
		m.names[name+":7946"], m.names[name+":9950"] = pod.at(7946), pod.at(9950)
	}
	for name, pod := range m.pods {
		pod.mountService(file.Services[name], material)
		pod.start()
	}
	for _, pod := range m.pods {
		pod.awaitReady()
	}
	m.makeAddress(filepath.Join(material, "operator/eu.yaml"))
	password := filepath.Join(m.dir, "password")
	must(t, os.WriteFile(password, []byte(testPassword), 0o600))
	secrets := filepath.Join(material, "secrets")
	try := func() {
		t.Helper()
		m.run("", "roundtrip", "--lmtp", m.pods["intake"].at(8024), "--pop3s", m.pods["front"].at(8995), "--server-name", "eu-pop.postern.example",
			"--ca", secrets+"/eu-postern-pop/ca.crt", "--cert", secrets+"/eu-postern-test-gateway/tls.crt", "--key", secrets+"/eu-postern-test-gateway/tls.key",
			"--password-file", password, testAddress)
	}
	try()
	m.pods["mailbox-1"].stop()
	m.pods["mailbox-2"].stop()
	try()
}

// layService makes a service a pod that this test can run.
func (m *machine) layService(name string, s composeService) {
	m.t.Helper()
	if s.User != "65532:65532" || !s.ReadOnly || !slices.Equal(s.CapDrop, []string{"ALL"}) || !strings.HasPrefix(s.Image, "${POSTERN_IMAGE:-postern:") {
		m.t.Errorf("%s: %+v", name, s)
	}
	grace, err := time.ParseDuration(s.StopGracePeriod)
	must(m.t, err)
	c := container{Name: name}
	for _, arg := range s.Command {
		if arg == name && s.Command[0] != name { // a name that Docker resolves
			arg = "$(POD_NAME)"
		}
		c.Args = append(c.Args, arg)
	}
	// Behind --advertise stands a host.
	c.Args[slices.Index(c.Args, "--advertise")+1] = "$(POD_IP)"
	c.Ports = []containerPort{{"pop3s", 8995, "TCP"}, {"lmtp", 8024, "TCP"}, {"gateway", 9950, "TCP"}, {"grpc", 9940, "TCP"}, {"gossip", 7946, "TCP"}, {"http", 9260, "TCP"}}
	c.ReadinessProbe.HTTPGet.Path, c.ReadinessProbe.HTTPGet.Port = "/readyz", "http"
	c.LivenessProbe.HTTPGet.Path, c.LivenessProbe.HTTPGet.Port = "/healthz", "http"
	m.lay(name, nil, podSpec{Containers: []container{c}, TerminationGracePeriodSeconds: int(grace.Seconds())})
	for _, published := range s.Ports {
		_, inside, _ := strings.Cut(published, ":")
		if !strings.Contains(string(read(m.t, "../compose/"+s.Command[0]+".yaml")), `":`+inside+`"`) {
			m.t.Errorf("%s publishes %s, and doesn't listen there", name, published)
		}
	}
}

// mountService fills a service's volumes.
func (p *runningPod) mountService(s composeService, material string) {
	t := p.m.t
	t.Helper()
	for _, v := range s.Volumes {
		target := filepath.Join(p.root, v.Target)
		must(t, os.MkdirAll(filepath.Dir(target), 0o700))
		switch {
		case v.Type == "tmpfs":
			must(t, os.Mkdir(target, 0o700))
		case v.Type == "volume" && v.Source == "material":
			must(t, os.Symlink(filepath.Join(material, v.Volume.Subpath), target))
		case v.Type == "volume" && !v.ReadOnly:
			shared := filepath.Join(p.m.dir, "volume-"+v.Source)
			must(t, os.MkdirAll(shared, 0o700))
			must(t, os.Symlink(shared, target))
		case v.Type == "bind" && v.ReadOnly:
			files, err := filepath.Glob(filepath.Join("..", v.Source, "*.yaml"))
			if err != nil || len(files) == 0 {
				t.Fatalf("%s: no files in %s, %v", p.name, v.Source, err)
			}
			here := map[string][]byte{}
			for _, file := range files {
				text := string(read(t, file))
				if filepath.Base(file) == s.Command[0]+".yaml" || v.Source == "../regions" {
					text = p.here(text)
				}
				here[filepath.Base(file)] = []byte(text)
			}
			p.write(target, here)
		default:
			t.Fatalf("%s: %+v is nothing that this test knows", p.name, v)
		}
	}
}
