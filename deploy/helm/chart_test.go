package helm

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/postern-pop/postern/pkg/config"
)

// everything is the example that turns on all there is.
const everything = "examples/everything.yaml"

// bucket is what everything can't have as well.
const bucket = "testdata/bucket.yaml"

// TestGolden renders every region, twice, and the example with everything.
func TestGolden(t *testing.T) {
	for _, region := range regionNames(t) {
		golden(t, region, region)
	}
	golden(t, "everything", "eu", everything)
	golden(t, "bucket", "eu", bucket)
}

func golden(t *testing.T, name, region string, values ...string) {
	t.Run(name, func(t *testing.T) {
		t.Parallel()
		first, err := template(t, region, values...)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := template(t, region, values...); err != nil || again != first {
			t.Errorf("rendering again gives something else: %v", err)
		}
		file := filepath.Join("testdata/golden", name+".yaml")
		if *update {
			if err := os.WriteFile(file, []byte(first), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil || string(want) != first {
			t.Errorf("%s isn't what is rendered (%v); if that is as it should be: go test ./deploy/helm -run Golden -update, and look at git diff", file, err)
		}
	})
}

// TestFilesOfTheStore: what the region's file names below storage is where the pod has it.
func TestFilesOfTheStore(t *testing.T) {
	text, err := template(t, "eu", bucket)
	if err != nil {
		t.Fatal(err)
	}
	all := objects(t, text)
	pod := pods(all)["eu-postern-mailbox"]
	storage := loadedIn(t, configOf(t, all, pod).Data, "mailbox.yaml").Region.Storage
	if storage.Dir != nil || storage.S3 == nil || storage.Encryption == nil || !storage.Encryption.AllowPlain || !storage.S3.PathStyle {
		t.Fatalf("%+v", storage)
	}
	mounted := ""
	for _, v := range pod.Volumes {
		for _, mount := range pod.Containers[0].VolumeMounts {
			if v.Secret != nil && v.Secret.SecretName == "mail-files" && mount.Name == v.Name {
				mounted = mount.MountPath
			}
		}
	}
	for file, got := range map[string]config.Path{"s3-ca.pem": storage.S3.CA, "s3-credentials": storage.S3.CredentialsFile, "mail.keyset": storage.Encryption.KeyFile} {
		if want := mounted + "/" + file; string(got) != want {
			t.Errorf("the file says %s, and the Secret's key is at %s", got, want)
		}
	}
	if pod.SecurityContext.RunAsUser != 0 || !pod.SecurityContext.RunAsNonRoot {
		t.Errorf("OpenShift's own user: %+v", pod.SecurityContext)
	}
	for _, o := range all {
		if o.Kind == "PodDisruptionBudget" && o.Metadata.Name == "eu-postern-mailbox" {
			t.Error("a budget for one node would keep its machine from being drained for ever")
		}
	}
}

// TestLint is helm's own look at the chart.
func TestLint(t *testing.T) {
	for _, values := range [][]string{{}, {"--values", everything}} {
		out, err := helm(t, append([]string{"lint", "--strict", chart, "--values", regionFile("eu")}, values...)...)
		if err != nil || strings.Contains(out, "[WARNING]") {
			t.Errorf("%v: %v\n%s", values, err, out)
		}
	}
}

var madeUp = regexp.MustCompile(`\b(rand\w+|gen[A-Z]\w+|derivePassword|uuidv4|lookup|now|htpasswd|bcrypt|getHostByName|Capabilities)\b`)

// TestNothingIsMadeUp: a template that makes something up, or looks into the cluster,
// renders another thing each time, or another thing than the one that was looked at.
func TestNothingIsMadeUp(t *testing.T) {
	files, _ := filepath.Glob(chart + "/templates/*")
	more, _ := filepath.Glob(chart + "/templates/*/*")
	for _, file := range append(files, more...) {
		text, err := os.ReadFile(file)
		if err != nil { // a directory
			continue
		}
		if found := madeUp.FindString(string(text)); found != "" {
			t.Errorf("%s has %q", file, found)
		}
	}
}

// TestRestricted holds every pod to Kubernetes's restricted profile, and to what the
// chart promises besides: nothing is written but where a volume is, and no token of the cluster.
func TestRestricted(t *testing.T) {
	text, err := template(t, "eu", everything)
	if err != nil {
		t.Fatal(err)
	}
	all := pods(objects(t, text))
	if len(all) != 6 { // front, intake, three zones, test
		t.Errorf("%d kinds of pods", len(all))
	}
	for name, pod := range all {
		if pod.AutomountServiceAccountToken == nil || *pod.AutomountServiceAccountToken {
			t.Errorf("%s has the service account's token", name)
		}
		if s := pod.SecurityContext; !s.RunAsNonRoot || s.RunAsUser != 65532 || s.SeccompProfile.Type != "RuntimeDefault" {
			t.Errorf("%s: %+v", name, s)
		}
		for _, c := range pod.Containers {
			s := c.SecurityContext
			if s.AllowPrivilegeEscalation == nil || *s.AllowPrivilegeEscalation || !s.ReadOnlyRootFilesystem || !s.RunAsNonRoot ||
				!slices.Equal(s.Capabilities.Drop, []string{"ALL"}) || len(s.Capabilities.Add) > 0 || s.SeccompProfile.Type != "RuntimeDefault" {
				t.Errorf("%s, %s: %+v", name, c.Name, s)
			}
			for _, port := range c.Ports {
				if port.ContainerPort < 1024 {
					t.Errorf("%s listens on %d, which takes a capability", name, port.ContainerPort)
				}
			}
		}
	}
}

// TestDrainHasItsTime: the kubelet kills nobody who is still draining.
func TestDrainHasItsTime(t *testing.T) {
	text, err := template(t, "eu", everything)
	if err != nil {
		t.Fatal(err)
	}
	all := objects(t, text)
	for _, o := range all {
		if o.Kind != "Deployment" && o.Kind != "StatefulSet" {
			continue
		}
		pod := o.Spec.Template.Spec
		file := configOf(t, all, pod)
		process := loadedIn(t, file.Data, argument(t, pod.Containers[0].Args, "--config"))
		asleep := pod.Containers[0].Lifecycle.PreStop.Sleep.Seconds
		turn := 0
		if process.Mailbox != nil {
			turn = process.Mailbox.TurnSeconds
		}
		if least := asleep + turn + process.DrainSeconds + 10; pod.TerminationGracePeriodSeconds < least || process.DrainSeconds < 30 {
			t.Errorf("%s: %d s until it is killed, and it needs %d", o.Metadata.Name, pod.TerminationGracePeriodSeconds, least)
		}
		if o.Kind == "Deployment" && asleep == 0 {
			t.Errorf("%s stops listening while balancers still send", o.Metadata.Name)
		}
	}
}

// TestNotesNameEverySecret: whoever installs is told all that has to be there.
func TestNotesNameEverySecret(t *testing.T) {
	for _, values := range [][]string{nil, {everything}, {bucket}} {
		said := notes(t, values...)
		text, err := template(t, "eu", values...)
		if err != nil {
			t.Fatal(err)
		}
		for name, pod := range pods(objects(t, text)) {
			for _, v := range pod.Volumes {
				if v.Secret != nil && !strings.HasSuffix(name, "-test") && !strings.Contains(said, "  "+v.Secret.SecretName+": ") {
					t.Errorf("%s needs the Secret %s, and the notes don't say so:\n%s", name, v.Secret.SecretName, said)
				}
			}
		}
	}
	if said := notes(t); !strings.Contains(said, "- helm test tests nothing: test.address is empty") || !strings.Contains(said, "PersistentVolumeClaim eu-postern-mail") {
		t.Error(said)
	}
}

// notes are what helm install says. Without a cluster it says nothing, so a copy of the
// chart renders them as one more object.
func notes(t *testing.T, values ...string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), chart)
	must(t, os.CopyFS(dir, os.DirFS(chart)))
	must(t, os.Rename(filepath.Join(dir, "templates/NOTES.txt"), filepath.Join(dir, "notes")))
	must(t, os.WriteFile(filepath.Join(dir, "templates/notes.yaml"), []byte(`kind: Notes
data:
  text: {{ tpl (.Files.Get "notes") . | quote }}
`), 0o600))
	args := []string{"template", "eu", dir, "--namespace", namespace, "--values", regionFile("eu"), "--show-only", "templates/notes.yaml"}
	for _, file := range values {
		args = append(args, "--values", file)
	}
	out, err := helm(t, args...)
	if err != nil {
		t.Fatal(err)
	}
	return objects(t, out)[0].Data["text"]
}

// TestOneSchema: what the schema knows of a region's file, and of limits, is what
// pkg/config reads, key by key.
func TestOneSchema(t *testing.T) {
	text, err := os.ReadFile(chart + "/values.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	var schema schemaNode
	if err := json.Unmarshal(text, &schema); err != nil {
		t.Fatal(err)
	}
	region := schema
	region.Properties = map[string]*schemaNode{}
	for _, name := range schema.Required {
		region.Properties[name] = schema.Properties[name]
	}
	sameKeys(t, schema.Definitions, "region", &region, reflect.TypeFor[config.Region]())
	sameKeys(t, schema.Definitions, "limits", schema.Definitions["limits"], reflect.TypeFor[config.Limits]())
}

type schemaNode struct {
	Ref         string                 `json:"$ref"`
	Properties  map[string]*schemaNode `json:"properties"`
	Required    []string               `json:"required"`
	Definitions map[string]*schemaNode `json:"definitions"`
	Additional  any                    `json:"additionalProperties"`
	Description string                 `json:"description"`
}

// sameKeys compares a schema's object with a struct of pkg/config.
func sameKeys(t *testing.T, definitions map[string]*schemaNode, path string, node *schemaNode, of reflect.Type) {
	t.Helper()
	if node.Additional != false {
		t.Errorf("%s: the schema lets unknown keys in", path)
	}
	known := map[string]bool{}
	for i := range of.NumField() {
		field := of.Field(i)
		key, options, _ := strings.Cut(field.Tag.Get("yaml"), ",")
		if key == "-" {
			continue
		}
		known[key] = true
		property := node.Properties[key]
		if property == nil {
			t.Errorf("%s.%s: the schema doesn't know it", path, key)
			continue
		}
		if required := options != "omitempty"; required != slices.Contains(node.Required, key) {
			t.Errorf("%s.%s: required by pkg/config: %v; not so by the schema", path, key, required)
		}
		below := field.Type
		if below.Kind() == reflect.Pointer {
			below = below.Elem()
		}
		if below.Kind() == reflect.Struct {
			sameKeys(t, definitions, path+"."+key, definitions[strings.TrimPrefix(property.Ref, "#/definitions/")], below)
		} else if want := field.Tag.Get("want"); property.Ref == "" && property.Description != want && below.Kind() != reflect.Slice {
			t.Errorf("%s.%s: the schema calls it %q, and pkg/config %q", path, key, property.Description, want)
		}
	}
	for key := range node.Properties {
		if !known[key] {
			t.Errorf("%s.%s: the schema knows it, and pkg/config doesn't", path, key)
		}
	}
}

// TestRegionsAreRead: one file, for the binary and for the chart (TestGolden).
func TestRegionsAreRead(t *testing.T) {
	for _, region := range regionNames(t) {
		if _, err := config.LoadRegion(regionFile(region)); err != nil {
			t.Error(err)
		}
	}
}

// TestRenderedFilesAreRead lets pkg/config read all that every region's rendering, and
// the example's, has in ConfigMaps.
func TestRenderedFilesAreRead(t *testing.T) {
	for _, region := range regionNames(t) {
		for _, values := range [][]string{nil, {everything}, {bucket}} {
			text, err := template(t, region, values...)
			if err != nil {
				t.Fatal(err)
			}
			files := 0
			for _, o := range objects(t, text) {
				for name := range o.Data {
					if name == "region.yaml" {
						continue
					}
					files++
					process := loadedIn(t, o.Data, name)
					if string(process.Region.Name) != region {
						t.Errorf("%s: %s has region %s", region, name, process.Region.Name)
					}
				}
			}
			want := 3
			if slices.Contains(values, everything) {
				want += 2 // zones
			}
			if files != want {
				t.Errorf("%s: %d files, want %d", region, files, want)
			}
		}
	}
}

// loadedIn reads one of a ConfigMap's files, beside the others.
func loadedIn(t *testing.T, data map[string]string, name string) *config.Process {
	t.Helper()
	dir := t.TempDir()
	for file, text := range data {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	process, err := config.Load(filepath.Join(dir, filepath.Base(name)))
	if err != nil {
		t.Fatal(err)
	}
	return process
}

// configOf is the ConfigMap that a pod mounts.
func configOf(t *testing.T, all []object, pod podSpec) object {
	t.Helper()
	for _, v := range pod.Volumes {
		for _, o := range all {
			if v.ConfigMap != nil && o.Kind == "ConfigMap" && o.Metadata.Name == v.ConfigMap.Name {
				return o
			}
		}
	}
	t.Fatal("a pod without its ConfigMap")
	return object{}
}

// argument is what stands behind a flag.
func argument(t *testing.T, args []string, flag string) string {
	t.Helper()
	i := slices.Index(args, flag)
	if i < 0 || i+1 == len(args) {
		t.Fatalf("no %s in %q", flag, args)
	}
	return args[i+1]
}
