package config

import (
	"net/netip"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func TestFrontRules(t *testing.T) {
	swap := func(from, to string) string { return strings.Replace(front, from, to, 1) }
	for name, c := range map[string]struct{ text, want string }{
		"fine":              {front, ""},
		"every door":        {front + "  pop3: {listen: ':110'}\n  pop3s_proxy: {listen: ':9995', networks: [192.0.2.0/24, '2001:db8::/32']}\n  pop3_proxy: {listen: ':9110', networks: [192.0.2.7/32]}\n", ""},
		"no certificate":    {swap("[{cert: pop.pem, key: pop.key}]", "[]"), `:24: front.certificates: found an empty list, expected at least one cert and key`},
		"half":              {swap("{cert: pop.pem, key: pop.key}", "{cert: pop.pem}"), `:24: front.certificates[0].key: found nothing, expected the path of a PEM file`},
		"twice":             {swap("{cert: pop.pem, key: pop.key}", "{cert: pop.pem, key: a}, {cert: pop.pem, key: b}"), `:24: front.certificates: found cert DIR/pop.pem twice, expected each file once`},
		"where they were":   {swap(`{listen: ":9951"}`, `{listen: ":9951", cert: a, key: b}`), `:23: front.pop3s.cert: found an unknown key, expected one of listen`},
		"no balancer":       {front + "  pop3s_proxy: {listen: ':9995', networks: []}\n", `:26: front.pop3s_proxy.networks: found an empty list, expected at least one network`},
		"mechanisms":        {front + "  sasl: [PLAIN, SCRAM-SHA-256-PLUS]\n", ""},
		"anonymous":         {front + "  anonymous: true\n", ""},
		"half anonymous":    {front + "  anonymous: a bit\n", `:26: front.anonymous: found "a bit", expected true or false`},
		"no such mechanism": {front + "  sasl: [PLAIN, CRAM-MD5]\n", `:26: front.sasl: found "CRAM-MD5", expected a list of PLAIN, LOGIN, SCRAM-SHA-256, SCRAM-SHA-256-PLUS`},
		"mechanism twice":   {front + "  sasl: [PLAIN, PLAIN]\n", `:26: front.sasl: found PLAIN twice, expected each mechanism once`},
		"no mechanism":      {front + "  sasl: []\n", `:26: front.sasl: found an empty list, expected a list of PLAIN`},
		"networks left out": {front + "  pop3s_proxy: {listen: ':9995'}\n", `:26: front.pop3s_proxy.networks: found nothing, expected a list of the balancers' networks`},
		"everybody":         {front + "  pop3_proxy: {listen: ':9995', networks: [192.0.2.0/24, '::/0']}\n", `:26: front.pop3_proxy.networks: found ::/0, everybody, expected the balancers' networks only`},
	} {
		t.Run(name, func(t *testing.T) {
			file := write(t, "front.yaml", c.text)
			process, err := Load(file)
			switch {
			case c.want == "" && err != nil:
				t.Fatal(err)
			case c.want != "" && (err == nil || !strings.Contains(strings.ReplaceAll(err.Error(), filepath.Dir(file), "DIR"), c.want)):
				t.Errorf("got %v, want %s", err, c.want)
			}
			if name != "every door" || err != nil {
				return
			}
			want := &ProxyListener{":9995", []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8::/32")}}
			if got := process.Front; got.POP3.Listen != ":110" || !reflect.DeepEqual(got.POP3SProxy, want) || got.POP3Proxy.Listen != ":9110" {
				t.Errorf("read %+v", got)
			}
		})
	}
}

// TestShippedFront: what people copy from is right.
func TestShippedFront(t *testing.T) {
	process, err := Load("../../examples/front.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if process.Region.Hostname != "eu-pop.postern.example" || len(process.Front.Certificates) != 3 || process.Front.POP3SProxy == nil {
		t.Errorf("read %+v", process.Front)
	}
}
