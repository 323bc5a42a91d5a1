package helm

import (
	"flag"
	"io"
	"strings"
	"testing"

	"go.etcd.io/etcd/server/v3/embed"
)

// TestEtcdRecipe holds ../etcd/etcd.yaml to what etcd understands, to the names that the
// chart and postern init have for it, and to the restricted profile.
func TestEtcdRecipe(t *testing.T) {
	all := objects(t, string(read(t, "../etcd/etcd.yaml")))
	pod := pods(all)["postern-etcd"]
	if len(pod.Containers) != 1 {
		t.Fatalf("%+v", pod)
	}
	c := pod.Containers[0]
	cfg := embed.NewConfig()
	flags := flag.NewFlagSet("etcd", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	cfg.AddFlags(flags)
	if err := flags.Parse(c.Args); err != nil {
		t.Fatal(err)
	}
	if s := c.SecurityContext; !s.ReadOnlyRootFilesystem || s.AllowPrivilegeEscalation == nil || *s.AllowPrivilegeEscalation || pod.SecurityContext.RunAsUser != 65532 {
		t.Errorf("%+v", s)
	}
	if !cfg.ClientTLSInfo.ClientCertAuth || !cfg.PeerTLSInfo.ClientCertAuth || cfg.ClientTLSInfo.CertFile != "/etc/etcd/tls/tls.crt" {
		t.Errorf("client %+v, peer %+v", cfg.ClientTLSInfo, cfg.PeerTLSInfo)
	}
	for _, member := range strings.Split(flags.Lookup("initial-cluster").Value.String(), ",") {
		if !strings.HasPrefix(member, "postern-etcd-") || !strings.HasSuffix(member, ".postern-etcd:2380") {
			t.Errorf("member %q", member)
		}
	}
	if pod.Volumes[0].Secret == nil || pod.Volumes[0].Secret.SecretName != "postern-etcd-server" {
		t.Errorf("%+v", pod.Volumes)
	}
}
