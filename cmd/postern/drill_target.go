package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/postern-pop/postern/pkg/config"
	"github.com/postern-pop/postern/pkg/drill"
)

// hookGrace is how long a command that is told to end may take.
const hookGrace = 5 * time.Second

// targetDrilled is a region that is acted on by commands.
type targetDrilled struct {
	regionDrilled

	target    *config.Target
	processOf map[string]config.TargetProcess
}

func targetGround(file string) (*ground, error) {
	target, err := config.LoadTarget(file)
	if err != nil {
		return nil, err
	}
	doors, err := targetDoors(target)
	if err != nil {
		return nil, err
	}
	cluster := &targetDrilled{drilled(string(target.Region), string(target.Context)), target, map[string]config.TargetProcess{}}
	for _, p := range target.Processes {
		name := string(p.Name)
		cluster.processes = append(cluster.processes, drill.Process{Name: name, Role: p.Role})
		cluster.http[name] = string(p.HTTP)
		cluster.processOf[name] = p
	}
	g := &ground{region: string(target.Region), cluster: cluster, doors: *doors}
	for _, u := range target.Users {
		g.users = append(g.users, drill.User{Address: u.Address, Password: u.Password})
	}
	return g, nil
}

func targetDoors(t *config.Target) (*drill.Doors, error) {
	doors := &drill.Doors{POP3TLS: &tls.Config{MinVersion: tls.VersionTLS12, ServerName: t.POP3S.Hostname}}
	if t.POP3S.CA != "" {
		roots, err := readPool(string(t.POP3S.CA))
		if err != nil {
			return nil, err
		}
		doors.POP3TLS.RootCAs = roots
	}
	if files := t.LMTP.TLS; files != nil {
		roots, err := readPool(string(files.CA))
		if err != nil {
			return nil, err
		}
		own, err := tls.LoadX509KeyPair(string(files.Cert), string(files.Key))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", files.Cert, err)
		}
		doors.LMTPTLS = &tls.Config{MinVersion: tls.VersionTLS12, ServerName: t.LMTP.Hostname, RootCAs: roots, Certificates: []tls.Certificate{own}}
	}
	for _, a := range t.POP3S.Addresses {
		doors.POP3S = append(doors.POP3S, string(a))
	}
	for _, a := range t.LMTP.Addresses {
		doors.LMTP = append(doors.LMTP, string(a))
	}
	return doors, nil
}

// Around is before and after.
func (t *targetDrilled) Around() *drill.Order {
	if t.target.Before == nil && t.target.After == nil {
		return nil
	}
	around := &drill.Order{Words: "begin the drill", Do: func(context.Context) error { return nil }}
	if t.target.Before != nil {
		around = hook("before the drill", t.target.Before)
	}
	around.Undo = hook("after the drill", t.target.After)
	return around
}

// Harm is a command of the target file's.
func (t *targetDrilled) Harm(h drill.Harm, p drill.Process) (*drill.Order, error) {
	key, do, undo := t.commands(h, p)
	if do == nil {
		return nil, fmt.Errorf("the target file has no %s, so nobody knows how that is done", key)
	}
	what, back := string(h), "undo "+string(h)
	if p.Name != "" {
		what, back = what+" "+p.Name, "start "+p.Name
	}
	order := hook(what, do)
	order.Undo = hook(back, undo)
	return order, nil
}

func (t *targetDrilled) commands(h drill.Harm, p drill.Process) (key string, do, undo []string) {
	one := t.processOf[p.Name]
	switch h {
	case drill.Kill:
		return "processes: " + p.Name + ": kill", one.Kill, one.Start
	case drill.Term:
		return "processes: " + p.Name + ": term", one.Term, one.Start
	}
	lasting := map[drill.Harm]*config.TargetHarm{drill.CutEtcd: t.target.EtcdLoss, drill.CutRegion: t.target.RegionCut, drill.SlowStore: t.target.StoreSlow}[h]
	if lasting == nil {
		return string(h), nil, nil
	}
	return string(h), lasting.Do, lasting.Undo
}

// Life asks the process, or runs the command that knows.
func (t *targetDrilled) Life(ctx context.Context, p drill.Process) (string, error) {
	command := t.processOf[p.Name].Life
	if command == nil {
		return t.regionDrilled.Life(ctx, p)
	}
	ctx, cancel := context.WithTimeout(ctx, hookLookWithin)
	defer cancel()
	life, err := runHook(ctx, command)
	if err == nil && life == "" {
		err = errors.New("its life command says nothing, so it doesn't serve")
	}
	return life, err
}

// hookLookWithin is how long a command that looks may take.
const hookLookWithin = 30 * time.Second

// hook is an order that runs a command, and what for; nil for none.
func hook(what string, command []string) *drill.Order {
	if command == nil {
		return nil
	}
	words := make([]string, len(command))
	for i, word := range command {
		words[i] = quote(word)
	}
	return &drill.Order{Words: what + ": " + strings.Join(words, " "), Do: func(ctx context.Context) error {
		_, err := runHook(ctx, command)
		return err
	}}
}

// runHook runs a command and returns what it says.
func runHook(ctx context.Context, command []string) (string, error) {
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	// A process group of its own: Ctrl-C is for the drill, which lets what undoes end.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = hookGrace
	var out, complaints bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaints
	if err := cmd.Run(); err != nil {
		said := bytes.TrimSpace(append(complaints.Bytes(), out.Bytes()...))
		return "", fmt.Errorf("%w: %s", err, said[:min(len(said), maxHookWords)])
	}
	return strings.TrimSpace(out.String()), nil
}

// maxHookWords is how many octets are shown of what a command that failed has said.
const maxHookWords = 1000
