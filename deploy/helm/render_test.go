package helm

import (
	"bytes"
	"errors"
	"flag"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

var update = flag.Bool("update", false, "write the golden files anew")

const (
	chart     = "postern"
	namespace = "mail"
)

// skipInShort is for what happens in other programs: the race detector sees none of it.
func skipInShort(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("helm and the built binary are other programs, in which -race sees nothing; make test runs them")
	}
}

// helmProgram finds helm, or skips the test.
func helmProgram(t *testing.T) string {
	t.Helper()
	skipInShort(t)
	if file, err := filepath.Abs("../../bin/tools/helm"); err == nil {
		if info, err := os.Stat(file); err == nil && info.Mode()&0o111 != 0 {
			return file
		}
	}
	if file, err := exec.LookPath("helm"); err == nil {
		return file
	}
	const words = "no helm here, so the chart isn't tested: make bin/tools/helm"
	if os.Getenv("POSTERN_TOOLS") == "required" {
		t.Fatal(words)
	}
	t.Skip(words)
	return ""
}

// helm runs helm, apart from whatever configuration there is.
func helm(t *testing.T, args ...string) (stdout string, err error) {
	t.Helper()
	home := t.TempDir()
	cmd := exec.CommandContext(t.Context(), helmProgram(t), args...)
	cmd.Env = []string{"HOME=" + home, "KUBECONFIG=" + filepath.Join(home, "none"), "PATH=" + os.Getenv("PATH")}
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return out.String(), errors.New(errs.String() + out.String())
	}
	return out.String(), nil
}

// template renders the chart for a region.
func template(t *testing.T, region string, values ...string) (string, error) {
	t.Helper()
	args := []string{"template", region, chart, "--namespace", namespace, "--values", regionFile(region)}
	for _, file := range values {
		args = append(args, "--values", file)
	}
	return helm(t, args...)
}

func regionFile(region string) string { return filepath.Join("../../regions", region+".yaml") }

// regionNames are the names of all region files.
func regionNames(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob("../../regions/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for i, file := range files {
		files[i] = strings.TrimSuffix(filepath.Base(file), ".yaml")
	}
	return files
}

// The parts of Kubernetes's objects that the tests look at.
type (
	object struct {
		Kind     string
		Metadata metadata
		Data     map[string]string
		Spec     spec
	}
	metadata struct {
		Name        string
		Labels      map[string]string
		Annotations map[string]string
	}
	spec struct {
		Replicas *int
		Selector yaml.Node
		Ports    []servicePort
		Template struct {
			Metadata metadata
			Spec     podSpec
		}
		podSpec `yaml:",inline"`
	}
	servicePort struct {
		Name       string
		Port       int
		TargetPort string `yaml:"targetPort"`
		Protocol   string
	}
	podSpec struct {
		AutomountServiceAccountToken  *bool    `yaml:"automountServiceAccountToken"`
		TerminationGracePeriodSeconds int      `yaml:"terminationGracePeriodSeconds"`
		SecurityContext               security `yaml:"securityContext"`
		Containers                    []container
		Volumes                       []volume
		Affinity                      yaml.Node
	}
	security struct {
		RunAsNonRoot             bool  `yaml:"runAsNonRoot"`
		RunAsUser                int   `yaml:"runAsUser"`
		ReadOnlyRootFilesystem   bool  `yaml:"readOnlyRootFilesystem"`
		AllowPrivilegeEscalation *bool `yaml:"allowPrivilegeEscalation"`
		Capabilities             struct{ Drop, Add []string }
		SeccompProfile           struct{ Type string } `yaml:"seccompProfile"`
	}
	container struct {
		Name            string
		Image           string
		Command         []string
		Args            []string
		Env             []struct{ Name, Value string }
		Ports           []containerPort
		Lifecycle       lifecycle
		ReadinessProbe  probe    `yaml:"readinessProbe"`
		LivenessProbe   probe    `yaml:"livenessProbe"`
		SecurityContext security `yaml:"securityContext"`
		VolumeMounts    []struct {
			Name      string
			MountPath string `yaml:"mountPath"`
			ReadOnly  bool   `yaml:"readOnly"`
		} `yaml:"volumeMounts"`
	}
	containerPort struct {
		Name          string
		ContainerPort int `yaml:"containerPort"`
		Protocol      string
	}
	probe struct {
		HTTPGet struct{ Path, Port string } `yaml:"httpGet"`
	}
	lifecycle struct {
		PreStop struct{ Sleep struct{ Seconds int } } `yaml:"preStop"`
	}
	volume struct {
		Name   string
		Secret *struct {
			SecretName string `yaml:"secretName"`
			Items      []struct{ Key, Path string }
		}
		ConfigMap             *struct{ Name string } `yaml:"configMap"`
		EmptyDir              *yaml.Node             `yaml:"emptyDir"`
		PersistentVolumeClaim *struct {
			ClaimName string `yaml:"claimName"`
		} `yaml:"persistentVolumeClaim"`
	}
)

// objects are the documents of a rendering.
func objects(t *testing.T, text string) []object {
	t.Helper()
	var all []object
	for d := yaml.NewDecoder(strings.NewReader(text)); ; {
		var o object
		err := d.Decode(&o)
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatalf("%v in\n%s", err, text)
		}
		if o.Kind != "" {
			all = append(all, o)
		}
	}
}

// pods are the pods of a rendering, by the name of what makes them.
func pods(all []object) map[string]podSpec {
	found := map[string]podSpec{}
	for _, o := range all {
		switch o.Kind {
		case "Deployment", "StatefulSet":
			found[o.Metadata.Name] = o.Spec.Template.Spec
		case "Pod":
			found[o.Metadata.Name] = o.Spec.podSpec
		}
	}
	return found
}
