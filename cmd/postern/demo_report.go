package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"text/tabwriter"

	"go.yaml.in/yaml/v3"
)

// demoReport is demo.json: what scripts need to know of a running demo.
type demoReport struct {
	CA      string             `json:"ca"`      // who signed what POP3S and LMTP show
	Context string             `json:"context"` // for the operator's commands
	Etcd    []string           `json:"etcd"`
	Regions []demoRegionReport `json:"regions"`
	Users   []demoUser         `json:"users"`
}

type demoRegionReport struct {
	Name      string              `json:"name"`
	Hostname  string              `json:"hostname"`
	POP3S     string              `json:"pop3s"`
	LMTP      string              `json:"lmtp"`
	Metrics   []string            `json:"metrics"`
	Processes []demoProcessReport `json:"processes"`
}

type demoProcessReport struct {
	Role string `json:"role"`
	Name string `json:"name"`
	PID  int    `json:"pid"`
	Log  string `json:"log"`
}

func demoFile(dir string) string    { return filepath.Join(dir, "demo.json") }
func contextFile(dir string) string { return filepath.Join(dir, "operator.yaml") }

// report is demo.json of a layout and its living processes.
func report(layout *demoLayout, children map[*demoProcess]*child, users []demoUser) demoReport {
	out := demoReport{
		CA:      filepath.Join(publicDir(layout.dir), "ca.pem"),
		Context: contextFile(layout.dir),
		Etcd:    []string{string(layout.etcd)},
		Users:   users,
	}
	for _, r := range layout.regions {
		region := demoRegionReport{Name: string(r.Name), Hostname: r.Hostname, POP3S: string(r.pop3s), LMTP: string(r.lmtp)}
		for _, p := range r.processes {
			region.Metrics = append(region.Metrics, string(p.config.HTTP.Listen))
			region.Processes = append(region.Processes, demoProcessReport{p.config.Role, string(p.config.Name), children[p].pid(), p.log})
		}
		out.Regions = append(out.Regions, region)
	}
	return out
}

func (r demoReport) write(dir string) error {
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	// It holds passwords.
	return writeFile(demoFile(dir), append(text, '\n'))
}

// print is the same for a person, with two lines to begin with.
func (r demoReport) print(w io.Writer, binary, stop string) {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "\nREGION\tHOSTNAME\tPOP3S\tLMTP")
	for _, region := range r.Regions {
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\n", region.Name, region.Hostname, region.POP3S, region.LMTP)
	}
	fmt.Fprintln(table, "\nUSER\tPASSWORD\tREGION\tKIND")
	for _, u := range r.Users {
		kind := u.Kind
		if kind == kindContinuity {
			kind += " (refused until an event is on)"
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\n", u.Address, u.Password, u.Region, kind)
	}
	table.Flush()
	region, user := r.Regions[0], r.Users[0]
	for _, one := range r.Regions {
		if one.Name == user.Region {
			region = one
		}
	}
	_, port, _ := net.SplitHostPort(region.POP3S)
	fmt.Fprintf(w, "\nFetch a message:\n  curl --cacert %s --resolve %s:%s:%s --user %s:%s pop3s://%s:%s/1\n",
		quote(r.CA), region.Hostname, port, loopback, user.Address, user.Password, region.Hostname, port)
	fmt.Fprintf(w, "Deliver a file:\n  %s deliver --lmtp %s --from %s --to %s FILE\n",
		quote(binary), region.LMTP, sampleSender, user.Address)
	fmt.Fprintf(w, "Start a continuity event:\n  %s continuity start us-continuity --context %s\n", quote(binary), quote(r.Context))
	fmt.Fprintf(w, "\nAll of it is in %s. %s\n", demoFile(filepath.Dir(r.Context)), stop)
}

// quote makes a word for a shell.
func quote(word string) string {
	if word != "" && strings.Trim(word, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-+:@%=,") == "" {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}

// writeContext writes the context of the installation's operator.
func writeContext(dir, region string, gateways []string) error {
	files := identityTLS(dir, region, operatorName)
	context := contextConfig{Servers: gateways}
	context.TLS.CA, context.TLS.Cert, context.TLS.Key = string(files.CA), string(files.Cert), string(files.Key)
	text, err := yaml.Marshal(context)
	if err != nil {
		return err
	}
	return writeFile(contextFile(dir), text)
}
