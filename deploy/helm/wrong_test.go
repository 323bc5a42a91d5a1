package helm

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// wrongValues are values that nobody should get a release of, and words that say why.
// Each is laid over regions/eu.yaml.
var wrongValues = map[string]struct{ values, words string }{
	// What the schema refuses.
	"unknown key":             {"frnt: {}", "'frnt' not allowed"},
	"unknown key below":       {"front: {replica: 3}", "'replica' not allowed"},
	"unknown limit":           {"front: {limits: {connection: 3}}", "'connection' not allowed"},
	"unknown storage":         {"storage: {nfs: {path: /x}}", "'nfs' not allowed"},
	"name":                    {"name: EU", "/name"},
	"hostname":                {"hostname: eu", "/hostname"},
	"no shards":               {"shards: 0", "/shards"},
	"too many shards":         {"shards: 5000", "/shards"},
	"half a shard":            {"shards: 1.5", "/shards"},
	"shards as text":          {"shards: '16'", "/shards"},
	"cross_region":            {"cross_region: maybe", "'relay', 'refuse'"},
	"gateway without a port":  {"gateway: eu-gateway.example", "/gateway"},
	"bucket":                  {"storage: {dir: null, s3: {endpoints: ['https://s3.example'], bucket: Mail}}", "/storage/s3/bucket"},
	"bucket without endpoint": {"storage: {dir: null, s3: {endpoints: [], bucket: mail}}", "/storage/s3/endpoints"},
	"endpoint":                {"storage: {dir: null, s3: {endpoints: [s3.example], bucket: mail}}", "/storage/s3/endpoints/0"},
	"drain of no time":        {"front: {drain_seconds: 1}", "/front/drain_seconds"},
	"SASL mechanism":          {"front: {sasl: [CRAM-MD5]}", "/front/sasl/0"},
	"limit as text":           {"front: {limits: {connections: many}}", "/front/limits/connections"},
	"balancers nowhere":       {"front: {pop3s_proxy: {networks: []}}", "/front/pop3s_proxy/networks"},
	"balancer without prefix": {"front: {pop3s_proxy: {networks: [10.0.0.1]}}", "/front/pop3s_proxy/networks/0"},
	"service type":            {"front: {service: {type: ExternalName}}", "/front/service/type"},
	"traffic policy":          {"front: {service: {externalTrafficPolicy: local}}", "/front/service/externalTrafficPolicy"},
	"replicas of an intake":   {"intake: {replicas: 0}", "/intake/replicas"},
	"message limit":           {"intake: {max_message_mib: 4096}", "/intake/max_message_mib"},
	"zone without replicas":   {"mailbox: {zones: {a: {}}}", "/mailbox/zones/a"},
	"zone in capitals":        {"mailbox: {zones: {A: {replicas: 1}}}", "invalid propertyName 'A'"},
	"zones as a list":         {"mailbox: {zones: [a, b]}", "/mailbox/zones"},
	"cache":                   {"mailbox: {cache_mib: 0}", "/mailbox/cache_mib"},
	"no etcd":                 {"etcd: {global: {endpoints: []}}", "/etcd/global/endpoints"},
	"etcd as URL":             {"etcd: {global: {endpoints: ['https://etcd']}}", "/etcd/global/endpoints/0"},
	"digest":                  {"image: {digest: latest}", "/image/digest"},
	"pull policy":             {"image: {pullPolicy: Sometimes}", "/image/pullPolicy"},
	"secret name":             {"secrets: {gossip: My_Secret}", "/secrets/gossip"},
	"log":                     {"log: {addresses: none}", "/log/addresses"},
	"test address":            {"test: {address: anna}", "/test/address"},
	"monitor":                 {"monitoring: {podMonitor: {enabled: 'yes'}}", "/monitoring/podMonitor/enabled"},
	"port of the DNS":         {"networkPolicy: {dnsPorts: [0]}", "/networkPolicy/dnsPorts/0"},

	// What the templates refuse.
	"two stores": {
		"storage: {s3: {endpoints: ['https://s3.example'], bucket: mail}}",
		"storage: has both s3 and dir; a region's mail is in one of them"},
	"no store": {
		"storage: {dir: null}",
		"storage: has neither s3 nor dir; where is the region's mail?"},
	"two keys": {
		"storage: {encryption: {key_file: a, key_uri: b}}",
		"storage.encryption: has both key_file and key_uri"},
	"no key": {
		"storage: {encryption: {allow_plain: true}}",
		"storage.encryption: has neither key_file nor key_uri"},
	"volume for a bucket": {
		"storage: {dir: null, s3: {endpoints: ['https://s3.example'], bucket: mail}}\nmailbox: {storageVolume: {emptyDir: {}}}",
		"mailbox.storageVolume: is for storage.dir"},
	"mail over the state": {
		"storage: {dir: {path: /var/lib/postern/state/}}",
		"storage.dir.path: /var/lib/postern/state is needed for something else"},
	"relative directory": {
		"storage: {dir: {path: mail}}",
		"storage.dir.path: mail is relative"},
	"one key for two files": {
		"storage: {dir: null, s3: {endpoints: ['https://s3.example'], bucket: mail, ca: /a/file, credentials_file: /b/file}}",
		"storage: /a/file and /b/file would be one key, file, of one Secret"},
	"replicas and autoscaling": {
		"front: {replicas: 3, autoscaling: {enabled: true}}",
		"front.replicas: is fixed while front.autoscaling is enabled"},
	"least above most": {
		"front: {autoscaling: {enabled: true, minReplicas: 11}}",
		"front.autoscaling: minReplicas 11 is more than maxReplicas 10"},
	"PROXY from anybody": {
		"front: {pop3s_proxy: {networks: [0.0.0.0/0]}}",
		"front.pop3s_proxy.networks: 0.0.0.0/0 is everybody"},
	"PROXY from anybody by STLS": {
		"front: {pop3_proxy: {networks: ['::/0']}}",
		"front.pop3_proxy.networks: ::/0 is everybody"},
	"balancer's sources without a balancer": {
		"front: {service: {type: ClusterIP, loadBalancerSourceRanges: [192.0.2.0/24]}}",
		"front.service: loadBalancerClass and loadBalancerSourceRanges are for type LoadBalancer, and it is ClusterIP"},
	"nobody delivers": {
		"intake: {clientCertificates: false}",
		"intake: no networks and no clientCertificates: nobody could deliver mail"},
	"anybody delivers": {
		"intake: {networks: [0.0.0.0/0]}",
		"intake.networks: 0.0.0.0/0 is everybody"},
	"replicas and zones": {
		"mailbox: {replicas: 3, zones: {a: {replicas: 1}}}",
		"mailbox.replicas: is for nodes without zones"},
	"long names": {
		"fullnameOverride: a-very-long-name-for-a-release\nmailbox: {zones: {a-rather-long-zone: {replicas: 1}}}",
		"choose a shorter fullnameOverride"},
	"etcd's secret without TLS": {
		"etcd: {global: {tls: false, secret: client}}",
		"etcd.global: has a secret, and tls is false"},
	"secret of no etcd": {
		"etcd: {regional: {secret: client}}",
		"etcd.regional: has a secret and no endpoints"},
	"names without an issuer": {
		"certManager: {pop: {dnsNames: [pop.example]}}",
		"certManager.pop: has dnsNames and no issuerRef"},
	"key of clear addresses": {
		"secrets: {log: key}",
		"secrets.log: is the key of hashed addresses"},
	"files of no store": {
		"secrets: {storage: files}",
		"secrets.storage: nothing below storage names a file of it"},
	"test without a gateway": {
		"test: {address: test@postern.example}",
		"test: neither test.gatewaySecret nor intake.networks"},
	"test without an address": {
		"test: {secret: password}",
		"test: has Secrets and no address"},
	"cache beyond the memory": {
		"mailbox: {cache_mib: 2048}",
		"mailbox: with cache_mib 2048 a node needs a memory limit of 2457Mi at least, and has 2Gi"},
}

func TestWrongValues(t *testing.T) {
	helmProgram(t)
	for name, c := range wrongValues {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			out, err := template(t, "eu", valuesFile(t, c.values))
			if err == nil {
				t.Fatalf("rendered:\n%s", out)
			}
			if !strings.Contains(err.Error(), c.words) {
				t.Errorf("it says\n%v\nand not %q", err, c.words)
			}
		})
	}
	t.Run("no region", func(t *testing.T) {
		for _, key := range []string{"name", "title", "hostname", "shards", "cross_region", "gateway", "storage"} {
			_, err := helm(t, "template", "eu", chart)
			if err == nil || !strings.Contains(err.Error(), "'"+key+"'") {
				t.Errorf("without a region's file it says %v", err)
			}
		}
	})
}

// TestBelowAnotherChart: a chart that has this one below it passes on what it likes in
// global, and enabled.
func TestBelowAnotherChart(t *testing.T) {
	if _, err := template(t, "eu", valuesFile(t, "enabled: true\nglobal: {anything: {at: all}}")); err != nil {
		t.Error(err)
	}
}

func valuesFile(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "values.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}
