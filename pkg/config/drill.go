package config

import (
	"slices"
	"strconv"
)

// Target is a target file: a region that drills are held on, how harm is done to it, and
// the users whose mailboxes take part.
type Target struct {
	Region    Name            `yaml:"region" want:"the region's name"`
	Context   Path            `yaml:"context" want:"the path of the operator's file"`
	POP3S     TargetPOP3S     `yaml:"pop3s" want:"addresses, hostname and ca"`
	LMTP      TargetLMTP      `yaml:"lmtp" want:"addresses"`
	Users     []TargetUser    `yaml:"users" want:"a list of address and password"`
	Before    []string        `yaml:"before,omitempty" want:"a command for before each drill: a list of a program and its arguments, numbers in quotes"`
	After     []string        `yaml:"after,omitempty" want:"a command for after each drill: a list of a program and its arguments, numbers in quotes"`
	Processes []TargetProcess `yaml:"processes" want:"a list of name, role, how to look at it, and commands"`
	EtcdLoss  *TargetHarm     `yaml:"etcd-loss,omitempty" want:"do and undo"`
	RegionCut *TargetHarm     `yaml:"region-cut,omitempty" want:"do and undo"`
	StoreSlow *TargetHarm     `yaml:"store-slow,omitempty" want:"do and undo"`
}

// TargetPOP3S is how mail clients reach the region.
type TargetPOP3S struct {
	Addresses []HostPort `yaml:"addresses" want:"a list of host:port, fronts or balancers"`
	Hostname  string     `yaml:"hostname" want:"the name in the fronts' certificate"`
	CA        Path       `yaml:"ca,omitempty" want:"the path of a PEM file"` // empty: the system's
}

// TargetLMTP is how gateways reach the region.
type TargetLMTP struct {
	Addresses []HostPort `yaml:"addresses" want:"a list of host:port, intakes or balancers"`
	Hostname  string     `yaml:"hostname,omitempty" want:"the name in the intakes' certificate"`
	TLS       *TLS       `yaml:"tls,omitempty" want:"ca, cert and key of a gateway"` // nil: without STARTTLS
}

// TargetUser is a test user: an address whose mail nobody else fetches or removes.
type TargetUser struct {
	Address  string `yaml:"address" want:"a mail address"`
	Password string `yaml:"password" want:"its password"`
}

// TargetProcess is a process, how to tell its lives apart, and the commands that act on it. A
// command is a program and its arguments; no shell reads them. One that is left out can't be
// ordered.
type TargetProcess struct {
	Name  Name     `yaml:"name" want:"the process's name, as its own file has it"`
	Role  string   `yaml:"role" want:"mailbox, intake or front"`
	HTTP  HostPort `yaml:"http,omitempty" want:"host:port of its metrics and health"`
	Life  []string `yaml:"life,omitempty" want:"a command that names its present life, and says nothing while it doesn't serve: a list of a program and its arguments, numbers in quotes"`
	Kill  []string `yaml:"kill,omitempty" want:"a command that kills it: a list of a program and its arguments, numbers in quotes"`
	Term  []string `yaml:"term,omitempty" want:"a command that sends it SIGTERM: a list of a program and its arguments, numbers in quotes"`
	Start []string `yaml:"start,omitempty" want:"a command that starts it after kill or term: a list of a program and its arguments, numbers in quotes"` // absent: something does so by itself
}

// TargetHarm is a harm that lasts until it is taken back.
type TargetHarm struct {
	Do   []string `yaml:"do" want:"a command: a list of a program and its arguments, numbers in quotes"`
	Undo []string `yaml:"undo" want:"a command: a list of a program and its arguments, numbers in quotes"`
}

// LoadTarget reads a target file. An error is Problems when the file could be read.
func LoadTarget(file string) (*Target, error) {
	data, err := readFile(file)
	if err != nil {
		return nil, err
	}
	var target Target
	if problems := decode(file, data, &target); len(problems) > 0 {
		return nil, problems
	}
	return &target, nil
}

// Validate reports a target without users or processes, and what is named twice.
func (t *Target) Validate(report Report) {
	if len(t.Users) == 0 {
		report("users", "an empty list", "at least one test user")
	}
	if len(t.Processes) == 0 {
		report("processes", "an empty list", "the region's processes")
	}
	commands(report, map[string][]string{"before": t.Before, "after": t.After})
	seen := map[string]bool{}
	twice := func(key, name string) {
		if seen[key+name] {
			report(key, name+" twice", "each once")
		}
		seen[key+name] = true
	}
	for _, u := range t.Users {
		twice("users", u.Address)
	}
	for _, p := range t.Processes {
		twice("processes", string(p.Name))
	}
}

// commands reports commands without a program.
func commands(report Report, all map[string][]string) {
	for key, line := range all {
		if line != nil && len(line) == 0 {
			report(key, "an empty list", "a program and its arguments")
		}
	}
}

// Validate reports an empty list of addresses.
func (p *TargetPOP3S) Validate(report Report) {
	if len(p.Addresses) == 0 {
		report("addresses", "an empty list", "at least one host:port")
	}
}

// Validate reports an empty list of addresses, and TLS without a name to hold it against.
func (l *TargetLMTP) Validate(report Report) {
	if len(l.Addresses) == 0 {
		report("addresses", "an empty list", "at least one host:port")
	}
	if (l.TLS == nil) != (l.Hostname == "") {
		report("", "one of hostname and tls", "both or neither")
	}
}

// Validate reports a role that there isn't, a process that can't be looked at, and commands
// without a program.
func (p *TargetProcess) Validate(report Report) {
	if !slices.Contains([]string{RoleMailbox, RoleIntake, RoleFront}, p.Role) {
		report("role", strconv.Quote(p.Role), "mailbox, intake or front")
	}
	if (p.HTTP == "") == (p.Life == nil) {
		report("", "both or neither of http and life", "one of them: whether it serves, and since which start")
	}
	commands(report, map[string][]string{"life": p.Life, "kill": p.Kill, "term": p.Term, "start": p.Start})
}

// Validate reports a harm that can't be done, or not be taken back.
func (h *TargetHarm) Validate(report Report) {
	commands(report, map[string][]string{"do": append([]string{}, h.Do...), "undo": append([]string{}, h.Undo...)})
}
