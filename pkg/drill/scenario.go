package drill

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Scenario is one kind of harm.
type Scenario struct {
	Name, Help string
	// MayBreak says that connections may: the harm is to the processes that they end at.
	MayBreak bool
	plan     func(context.Context, *planner) error
}

// Scenarios are all there are.
func Scenarios() []Scenario {
	return []Scenario{
		{Name: "node-loss", Help: "a mailbox node is killed: sessions and deliveries pause", plan: nodeLoss},
		{Name: "front-loss", Help: "a front is killed: its connections break, new ones work", MayBreak: true, plan: frontLoss},
		{Name: "etcd-loss", Help: "the region has no etcd for a while: nobody notices", plan: etcdLoss},
		{Name: "region-cut", Help: "the region is alone, and loses a node meanwhile: as node-loss", plan: regionCut},
		{Name: "store-slow", Help: "the object store answers late for a while: all is slower, or refused for now", plan: storeSlow},
		{Name: "rolling-restart", Help: "every process is restarted, one after the other: fronts' connections end, no more", MayBreak: true, plan: rollingRestart},
	}
}

// Names are the scenarios' names.
func Names() (names []string) {
	for _, s := range Scenarios() {
		names = append(names, s.Name)
	}
	return names
}

// Named is the scenario of that name.
func Named(name string) (Scenario, error) {
	all := Scenarios()
	if i := slices.Index(Names(), name); i >= 0 {
		return all[i], nil
	}
	return Scenario{}, fmt.Errorf("no drill is called %q; there are %s", name, strings.Join(Names(), ", "))
}

// planner makes a plan.
type planner struct {
	Cluster
	Options

	users []User
	acts  []act
}

// act is one thing that a drill does, or waits for.
type act struct {
	words string
	undo  string // what is done in the end whatever happens
	play  func(context.Context, *stage) error
}

func (p *planner) add(words string, play func(context.Context, *stage) error) {
	p.acts = append(p.acts, act{words: words, play: play})
}

// inflict is for what is taken back later, by relieve or in the end.
func (p *planner) inflict(o *Order) {
	a := act{words: o.Words, play: func(ctx context.Context, s *stage) error { return s.inflict(ctx, o) }}
	if o.Undo != nil {
		a.undo = o.Undo.Words
	}
	p.acts = append(p.acts, a)
}

func (p *planner) relieve(o *Order) {
	if o.Undo != nil {
		p.add(o.Undo.Words, func(ctx context.Context, s *stage) error { return s.relieve(ctx, o.Undo) })
	}
}

func (p *planner) settle() {
	p.add("wait until every shard is served", func(ctx context.Context, s *stage) error { return s.settled(ctx) })
}

func (p *planner) goOn() {
	p.add(fmt.Sprintf("go on like that for %v", p.For), func(ctx context.Context, s *stage) error {
		if !rest(ctx, s.For) {
			return ctx.Err()
		}
		return nil
	})
}

func (p *planner) ofRole(role string) []Process {
	return slices.DeleteFunc(slices.Clone(p.Processes()), func(one Process) bool { return one.Role != role })
}

var errNoChoice = errors.New("--process names whom node-loss, front-loss or region-cut kills; this drill kills nobody, or everybody")

// victim is the process that was chosen; or the one that is usual.
func (p *planner) victim(role, usual string) (Process, error) {
	all := p.ofRole(role)
	if p.Process != "" {
		usual = p.Process
	}
	if i := slices.IndexFunc(all, func(one Process) bool { return one.Name == usual }); i >= 0 {
		return all[i], nil
	}
	names := make([]string, len(all))
	for i := range all {
		names[i] = all[i].Name
	}
	return Process{}, fmt.Errorf("no %s is called %q; there are: %s", role, usual, strings.Join(names, ", "))
}

func nodeLoss(ctx context.Context, p *planner) error {
	if nodes := p.ofRole(RoleMailbox); len(nodes) < 2 {
		return fmt.Errorf("a node can be lost where there are two mailbox nodes at least; the region has %d, and nobody could take over", len(nodes))
	}
	owner, err := p.Owner(ctx, p.users[0].Address)
	if err != nil {
		return err
	}
	node, err := p.victim(RoleMailbox, owner)
	if err != nil {
		return err
	}
	return p.replace(Kill, node)
}

func frontLoss(_ context.Context, p *planner) error {
	fronts := p.ofRole(RoleFront)
	if len(fronts) == 0 {
		return errors.New("no process has the role front")
	}
	front, err := p.victim(RoleFront, fronts[0].Name)
	if err != nil {
		return err
	}
	return p.replace(Kill, front)
}

// replace ends a process, and waits until its next life serves and all is settled.
func (p *planner) replace(how Harm, victim Process) error {
	order, err := p.Harm(how, victim)
	if err != nil {
		return err
	}
	before := ""
	p.inflict(order)
	last := &p.acts[len(p.acts)-1]
	last.play = func(ctx context.Context, s *stage) (err error) {
		if before, err = s.Life(ctx, victim); err != nil {
			return fmt.Errorf("%s doesn't serve, before anything was done to it: %w", victim.Name, err)
		}
		return s.inflict(ctx, order)
	}
	p.relieve(order)
	p.add("wait until "+victim.Name+" is back", func(ctx context.Context, s *stage) error {
		return s.await(ctx, victim.Name+" is back", func() error {
			life, err := s.Life(ctx, victim)
			if err == nil && life == before {
				err = errors.New("it has not ended yet")
			}
			return err
		})
	})
	p.settle()
	return nil
}

func etcdLoss(_ context.Context, p *planner) error  { return p.forAWhile(CutEtcd) }
func storeSlow(_ context.Context, p *planner) error { return p.forAWhile(SlowStore) }

// forAWhile does a harm that lasts until it is taken back.
func (p *planner) forAWhile(h Harm) error {
	order, err := p.lasting(h)
	if err != nil {
		return err
	}
	p.inflict(order)
	p.goOn()
	p.relieve(order)
	p.settle()
	return nil
}

// lasting is a harm to no process.
func (p *planner) lasting(h Harm) (*Order, error) {
	if p.Process != "" && h != CutRegion {
		return nil, errNoChoice
	}
	return p.Harm(h, Process{})
}

// regionCut loses a node in mid-cut: failover needs nothing outside the region (README, What is promised, 8).
func regionCut(ctx context.Context, p *planner) error {
	order, err := p.lasting(CutRegion)
	if err != nil {
		return err
	}
	p.inflict(order)
	p.goOn()
	if err := nodeLoss(ctx, p); err != nil {
		return err
	}
	p.relieve(order)
	p.settle()
	return nil
}

func rollingRestart(_ context.Context, p *planner) error {
	if p.Process != "" {
		return errNoChoice
	}
	for _, one := range p.Processes() {
		if err := p.replace(Term, one); err != nil {
			return err
		}
	}
	return nil
}
