package config

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/postern-pop/postern/regions"
)

const front = `role: front
name: front-1
region:
  name: eu
  title: Europe
  hostname: eu-pop.postern.example
  shards: 16
  cross_region: relay
  gateway: 127.0.0.1:9260
  storage:
    dir: {path: mail}
etcd:
  global: {endpoints: ["127.0.0.1:2379"]}
  regional:
    endpoints: ["127.0.0.1:2379"]
    tls: {ca: ca.pem, cert: /abs/cert.pem, key: key.pem}
tls: {ca: ca.pem, cert: cert.pem, key: key.pem}
gossip:
  bind: 127.0.0.1:7946
  key_file: gossip.key
http: {listen: "127.0.0.1:9300"}
front:
  pop3s: {listen: ":9951"}
  certificates: [{cert: pop.pem, key: pop.key}]
  gateway: {listen: "127.0.0.1:9260"}
`

const intake = `
intake:
  spool: spool
  lmtp:
    listen: ":9241"
    networks: ["127.0.0.0/8", "::1/128"]
`

func write(t *testing.T, name, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestLoad(t *testing.T) {
	file := write(t, "front.yaml", front)
	process, err := Load(file)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Dir(file)
	for _, c := range []struct{ got, want string }{
		{string(process.Name), "front-1"},
		{string(process.Front.POP3S.Listen), ":9951"},
		{string(process.TLS.Cert), filepath.Join(dir, "cert.pem")},
		{string(process.Etcd.Regional.TLS.Cert), "/abs/cert.pem"},
		{string(process.Region.Storage.Dir.Path), filepath.Join(dir, "mail")},
	} {
		if c.got != c.want {
			t.Errorf("got %q, want %q", c.got, c.want)
		}
	}
	if process.Etcd.Global.TLS != nil || process.Intake != nil {
		t.Error("a section appeared that the file doesn't have")
	}
}

// TestProblems changes one thing of a good file; every line of want must be
// one of the problems, and there are no others.
func TestProblems(t *testing.T) {
	swap := func(from, to string) string { return strings.Replace(front, from, to, 1) }
	for name, c := range map[string]struct{ text, want string }{
		"unknown key": {
			swap("bind: 127", "bnid: 127"),
			`:18: gossip.bind: found nothing, expected host:port, TCP and UDP
:19: gossip.bnid: found an unknown key, expected one of bind, advertise, key_file, seeds`,
		},
		"port name": {
			swap(`":9951"`, `":pop3s"`),
			`:23: front.pop3s.listen: found ":pop3s", expected host:port, such as :995`,
		},
		"number as text": {
			swap("name: front-1", "name: 7"),
			`:2: name: found 7, expected the process's name, unique in its region: letters a-z, digits and hyphens`,
		},
		"text as number": {
			swap("shards: 16", "shards: many"),
			`:7: region.shards: found "many", expected a whole number: 1 to 4096`,
		},
		"out of range": {
			swap("shards: 16", "shards: 0"),
			`:7: region.shards: found 0, expected 1 to 4096`,
		},
		"wrong word": {
			swap("cross_region: relay", "cross_region: maybe"),
			`:8: region.cross_region: found "maybe", expected relay or refuse`,
		},
		"wrong role": {
			swap("role: front", "role: frnt"),
			`:1: role: found "frnt", expected front, intake or mailbox`,
		},
		"drain": {
			swap("role: front", "drain_seconds: 1\nrole: front"),
			`:1: drain_seconds: found 1, expected 5 to 3600`,
		},
		"section of another role": {
			front + intake,
			`:27: intake: found a section, expected only the section of role front`,
		},
		"no section": {
			swap("role: front", "role: mailbox"),
			`:1: mailbox: found nothing, expected the section of role mailbox
:22: front: found a section, expected only the section of role mailbox`,
		},
		"twice": {
			swap("name: front-1", "name: front-1\nname: front-2"),
			`:3: name: found the key again, expected it once (it is in line 2)`,
		},
		"null": {
			swap("  key_file: gossip.key", "  key_file:"),
			`:20: gossip.key_file: found nothing, expected the path of a file of keys, one a line, the first in use: 16, 24 or 32 octets in base64`,
		},
		"list item": {
			swap(`regional:
    endpoints: ["127.0.0.1:2379"]`, `regional:
    endpoints: ["127.0.0.1:2379",
       nowhere]`),
			`:16: etcd.regional.endpoints[1]: found "nowhere", expected a list of host:port`,
		},
		"empty list": {
			swap(`global: {endpoints: ["127.0.0.1:2379"]}`, `global: {endpoints: []}`),
			`:13: etcd.global.endpoints: found an empty list, expected at least one host:port`,
		},
		"scalar for mapping": {
			swap(`http: {listen: "127.0.0.1:9300"}`, `http: 9300`),
			`:21: http: found 9300, expected a mapping: listen`,
		},
		"alias": {
			swap("title: Europe", "title: &a Europe"),
			`:5: region.title: found an anchor or alias, expected a plain value`,
		},
		"merge": {
			swap("http: {", "http: {<<: {a: b}, "),
			`:21: http.<<: found an unknown key, expected one of listen`,
		},
		"region file": {
			swap(front[strings.Index(front, "region:"):strings.Index(front, "etcd:")], "region: nowhere.yaml\n"),
			`:3: region: found a file that can't be read (open DIR/nowhere.yaml: no such file or directory), expected the path of a region file`,
		},
		"syntax":          {"role: front\nname: [\n", `:2: found did not find expected node content, expected YAML`},
		"empty":           {"# nothing\n", `:1: found an empty file, expected a mapping`},
		"second document": {front + "---\nrole: front\n", `:26: found a second document, expected one document`},
		"list as a file":  {"- a\n", `:1: found a list, expected a mapping: keys and values`},
		"all at once": {
			strings.NewReplacer("shards: 16", "shards: 16.5", "name: front-1", "name: Front_1", `":9951"`, "9951").Replace(front),
			`:2: name: found "Front_1", expected the process's name, unique in its region: letters a-z, digits and hyphens
:7: region.shards: found 16.5, expected a whole number: 1 to 4096
:23: front.pop3s.listen: found 9951, expected host:port, such as :995`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			file := write(t, "front.yaml", c.text)
			_, err := Load(file)
			if err == nil {
				t.Fatal("no problem found")
			}
			got := strings.ReplaceAll(strings.ReplaceAll(err.Error(), file, ""), filepath.Dir(file), "DIR")
			if got != c.want {
				t.Errorf("got\n%s\nwant\n%s", got, c.want)
			}
		})
	}
}

func TestIntakeRules(t *testing.T) {
	common, _, _ := strings.Cut(front, "front:\n")
	base := strings.Replace(common, "role: front", "role: intake", 1)
	for name, c := range map[string]struct{ text, want string }{
		"fine":         {intake, ""},
		"limit":        {intake + "  max_message_mib: 4096\n", `:28: intake.max_message_mib: found 4096, expected 1 to 2048`},
		"nobody":       {"intake: {spool: s, lmtp: {listen: ':1'}}\n", `intake.lmtp: found neither networks nor client_ca`},
		"half":         {intake + "    cert: a.pem\n", `intake.lmtp: found one of cert and key`},
		"without TLS":  {intake + "    client_ca: a.pem\n", `:28: intake.lmtp.client_ca: found a client CA without cert and key`},
		"no network":   {strings.Replace(intake, "::1/128", "::1", 1), `:27: intake.lmtp.networks[1]: found "::1"`},
		"not a number": {intake + "  max_message_mib: '5'\n", `:28: intake.max_message_mib: found "5"`},
	} {
		t.Run(name, func(t *testing.T) {
			process, err := Load(write(t, "intake.yaml", base+c.text))
			switch {
			case c.want == "" && err != nil:
				t.Fatal(err)
			case c.want == "" && process.Intake.MaxMessageMiB != 150:
				t.Errorf("max_message_mib is %d by default, want 150", process.Intake.MaxMessageMiB)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
				t.Errorf("got %v, want %s", err, c.want)
			}
		})
	}
}

func TestStorageRules(t *testing.T) {
	const dir = "    dir: {path: mail}\n"
	const s3 = `    s3:
      endpoints: ["https://s3.example.net", "http://127.0.0.1:9000"]
      bucket: postern-mail
      prefix: eu/mail
      region: eu-central-1
      path_style: true
      ca: ca.pem
      credentials_file: /abs/credentials
`
	swap := func(from, to string) string { return strings.Replace(s3, from, to, 1) }
	for name, c := range map[string]struct{ text, want string }{
		"dir":               {dir, ""},
		"s3":                {s3, ""},
		"key file":          {dir + "    encryption: {key_file: key}\n", ""},
		"key service":       {dir + "    encryption: {key_uri: 'kms://a/b'}\n", ""},
		"nothing":           {"    encryption: {key_file: key}\n", `:10: region.storage: found neither s3 nor dir, expected one of them: where the mail is`},
		"both":              {s3 + dir, `:19: region.storage.dir: found a directory besides s3, expected one of them: where the mail is`},
		"no endpoint":       {swap(`["https://s3.example.net", "http://127.0.0.1:9000"]`, "[]"), `:12: region.storage.s3.endpoints: found an empty list, expected at least one URL, such as https://s3.example.net`},
		"host only":         {swap(`"http://127.0.0.1:9000"`, "\n       s3.example.net"), `:13: region.storage.s3.endpoints[1]: found "s3.example.net", expected a list of URLs, such as https://s3.example.net`},
		"other scheme":      {swap("https:", "s3:"), `:12: region.storage.s3.endpoints[0]: found "s3://s3.example.net"`},
		"path":              {swap(".net\"", ".net/bucket\""), `:12: region.storage.s3.endpoints[0]: found "https://s3.example.net/bucket"`},
		"password":          {swap("https://", "https://me:you@"), `:12: region.storage.s3.endpoints[0]: found`},
		"no host":           {swap("https://s3.example.net", "https://:443"), `:12: region.storage.s3.endpoints[0]: found "https://:443"`},
		"bucket":            {swap("postern-mail", "Postern"), `:13: region.storage.s3.bucket: found "Postern", expected 3 to 63 of a-z, 0-9, hyphen and dot, such as postern-mail`},
		"no bucket":         {swap("      bucket: postern-mail\n", ""), `:11: region.storage.s3.bucket: found nothing, expected the bucket's name`},
		"prefix":            {swap("eu/mail", "/eu/"), `:14: region.storage.s3.prefix: found "/eu/", expected segments of a-z`},
		"prefix of dots":    {swap("eu/mail", "eu/.."), `:14: region.storage.s3.prefix: found "eu/.."`},
		"style":             {swap("path_style: true", "path_style: yes please"), `:16: region.storage.s3.path_style: found "yes please", expected true or false`},
		"style as text":     {swap("path_style: true", "path_style: 'true'"), `:16: region.storage.s3.path_style: found "true", expected true or false`},
		"no key":            {dir + "    encryption: {}\n", `:12: region.storage.encryption: found neither key_file nor key_uri, expected one of them: where the key is`},
		"two keys":          {dir + "    encryption:\n      key_file: key\n      key_uri: 'kms://a'\n", `:14: region.storage.encryption.key_uri: found a key_uri besides key_file`},
		"key in the bucket": {swap("      bucket", "      key_file: x\n      bucket"), `:13: region.storage.s3.key_file: found an unknown key`},
	} {
		t.Run(name, func(t *testing.T) {
			file := write(t, "front.yaml", strings.Replace(front, dir, c.text, 1))
			process, err := Load(file)
			switch {
			case c.want == "" && err != nil:
				t.Fatal(err)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n")):
				t.Errorf("got %v, want %s", err, c.want)
			}
			if name != "s3" || err != nil {
				return
			}
			want := S3{
				Endpoints: []Endpoint{"https://s3.example.net", "http://127.0.0.1:9000"}, Bucket: "postern-mail", Prefix: "eu/mail",
				Region: "eu-central-1", PathStyle: true, CA: Path(filepath.Join(filepath.Dir(file), "ca.pem")), CredentialsFile: "/abs/credentials",
			}
			if got := *process.Region.Storage.S3; !reflect.DeepEqual(got, want) {
				t.Errorf("got %+v, want %+v", got, want)
			}
		})
	}
}

func TestRegionFileIsNamed(t *testing.T) {
	region := front[strings.Index(front, "  name: eu"):strings.Index(front, "etcd:")]
	dir := t.TempDir()
	text := strings.ReplaceAll("\n"+region, "\n  ", "\n")
	os.WriteFile(filepath.Join(dir, "eu.yaml"), []byte(strings.Replace(text, "shards: 16", "shards: none", 1)), 0o600)
	_, err := LoadRegion(filepath.Join(dir, "eu.yaml"))
	want := filepath.Join(dir, "eu.yaml") + `:5: shards: found "none", expected a whole number: 1 to 4096`
	if err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	os.WriteFile(filepath.Join(dir, "eu.yaml"), []byte(text), 0o600)
	os.Rename(filepath.Join(dir, "eu.yaml"), filepath.Join(dir, "us.yaml"))
	if _, err = Regions(os.DirFS(dir)); err == nil || !strings.Contains(err.Error(), "us, as the file is named") {
		t.Errorf("got %v for a file named otherwise than its region", err)
	}
}

func TestShippedRegions(t *testing.T) {
	all, err := Regions(regions.Files)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, region := range all {
		names = append(names, string(region.Name))
		if want := string(region.Name) == "je"; (region.CrossRegion == Refuse) != want {
			t.Errorf("%s: cross_region is %s", region.Name, region.CrossRegion)
		}
	}
	if got := strings.Join(names, " "); got != "au eu je us za" {
		t.Errorf("regions %s", got)
	}
	if _, err := Regions(os.DirFS(t.TempDir())); err == nil {
		t.Error("a directory without regions is fine")
	}
}

// TestWritten reads back what yaml.Marshal makes of a configuration: that is
// how a process's files are made by a program.
func TestWritten(t *testing.T) {
	file := write(t, "front.yaml", front)
	first, err := Load(file)
	if err != nil {
		t.Fatal(err)
	}
	text, err := yaml.Marshal(first)
	if err != nil {
		t.Fatal(err)
	}
	again, err := Load(write(t, "again.yaml", string(text)))
	if err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	if again.Front.POP3S != first.Front.POP3S || again.Region.Hostname != first.Region.Hostname || *again.Etcd.Regional.TLS != *first.Etcd.Regional.TLS {
		t.Errorf("read %+v, wrote %+v", again, first)
	}
}

func TestNoFile(t *testing.T) {
	if _, err := Load(filepath.Join(t.TempDir(), "none.yaml")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
	if _, err := Load(write(t, "long.yaml", strings.Repeat("#\n", MaxFile))); err == nil || !strings.Contains(err.Error(), "longer than") {
		t.Errorf("got %v for a file that is too long", err)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(front))
	f.Add([]byte("a: &a [*a]\n<<: *a"))
	f.Fuzz(func(t *testing.T, data []byte) {
		var process Process
		for _, problem := range decode("x.yaml", data, &process) {
			if problem.Line < 1 || strings.ContainsAny(problem.Found, "\n\r") {
				t.Errorf("%+v", problem)
			}
		}
	})
}
