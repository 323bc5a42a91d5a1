package drill

import "context"

// Roles of processes.
const (
	RoleMailbox = "mailbox"
	RoleFront   = "front"
	RoleIntake  = "intake"
)

// Process is one of the cluster's.
type Process struct {
	Name, Role string
}

// Harm is what can be done to a cluster.
type Harm string

// The harms, by the names that they have in a target file.
const (
	Kill      Harm = "kill"       // a process, without a warning
	Term      Harm = "term"       // a process is asked to end, as in a restart
	CutEtcd   Harm = "etcd-loss"  // the region reaches no etcd
	CutRegion Harm = "region-cut" // the region reaches neither the global etcd nor other regions, nor they it
	SlowStore Harm = "store-slow" // each answer of the object store comes late
)

// Order is something that is done, and how it is taken back.
type Order struct {
	Words string                      // what is done, as exactly as a person would have to do it
	Do    func(context.Context) error // returns when it is done, not when its effect is
	Undo  *Order                      // nil: there is nothing to take back, or it is taken back by itself
}

// Cluster is the region under drill, and how it is run.
type Cluster interface {
	// Processes are the region's, in the order in which they are to be restarted.
	Processes() []Process
	// Harm is how a harm is done; of Kill and Term, to a process, and Undo starts it again. An
	// error says what is missing.
	Harm(h Harm, p Process) (*Order, error)
	// Around is done before a drill, and its Undo after it; nil: nothing is.
	Around() *Order
	// Life names the process's present life, which is another after each start. An error says
	// that it doesn't serve.
	Life(ctx context.Context, p Process) (string, error)
	// Settled is nil when every shard is served, by the nodes that did at the first time. Otherwise
	// it says what isn't so.
	Settled(ctx context.Context) error
	// Owner is the node that serves a mailbox.
	Owner(ctx context.Context, address string) (string, error)
}
