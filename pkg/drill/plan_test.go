package drill

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// ward is a cluster that notes what is done to it.
type ward struct {
	nodes   int
	without Harm // can't be done here
	around  bool
	done    []string
	fails   string // the order that fails, after it was done half
	during  func(words string)
	lives   map[string]int
}

func (w *ward) order(words string, undo *Order) *Order {
	return &Order{Words: words, Undo: undo, Do: func(context.Context) error {
		w.done = append(w.done, words)
		if w.during != nil {
			w.during(words)
		}
		if words == w.fails {
			return errors.New("it broke")
		}
		return nil
	}}
}

func (w *ward) Processes() []Process {
	var all []Process
	for i := range w.nodes {
		all = append(all, Process{fmt.Sprint("mailbox-", i+1), RoleMailbox})
	}
	return append(all, Process{"intake-1", RoleIntake}, Process{"front-1", RoleFront})
}

func (w *ward) Harm(h Harm, p Process) (*Order, error) {
	if h == w.without {
		return nil, errors.New("nobody knows how to " + string(h))
	}
	if p.Name == "" {
		return w.order(string(h), w.order("undo "+string(h), nil)), nil
	}
	order := w.order(string(h)+" "+p.Name, w.order("start "+p.Name, nil))
	do := order.Do
	order.Do = func(ctx context.Context) error { w.lives[p.Name]++; return do(ctx) }
	return order, nil
}

func (w *ward) Around() *Order {
	if !w.around {
		return nil
	}
	return w.order("before", w.order("after", nil))
}

func (w *ward) Life(_ context.Context, p Process) (string, error) {
	return fmt.Sprint(w.lives[p.Name]), nil
}
func (w *ward) Settled(context.Context) error                 { return nil }
func (w *ward) Owner(context.Context, string) (string, error) { return "mailbox-2", nil }

// drilled plans a scenario on a ward, and plays it without load.
func (w *ward) drilled(ctx context.Context, name, process string) (*Report, error) {
	w.lives = map[string]int{}
	scenario, err := Named(name)
	if err != nil {
		return nil, err
	}
	p, err := NewPlan(ctx, scenario, w, Doors{}, []User{{Address: "anna@c.example"}}, Options{
		Region: "eu", Process: process, Calm: time.Second, For: time.Minute, Patience: 2 * time.Minute, Step: func(Step) {},
	})
	if err != nil {
		return nil, err
	}
	r := &Report{Began: time.Now()}
	return r, p.play(ctx, &stage{Cluster: w, Options: p.Options, report: r}, nil)
}

func TestEachScenarioTakesBackWhatItDoes(t *testing.T) {
	for name, want := range map[string]string{
		"node-loss":       "before, kill mailbox-2, start mailbox-2, after",
		"front-loss":      "before, kill front-1, start front-1, after",
		"etcd-loss":       "before, etcd-loss, undo etcd-loss, after",
		"region-cut":      "before, region-cut, kill mailbox-2, start mailbox-2, undo region-cut, after",
		"store-slow":      "before, store-slow, undo store-slow, after",
		"rolling-restart": "before, term mailbox-1, start mailbox-1, term mailbox-2, start mailbox-2, term intake-1, start intake-1, term front-1, start front-1, after",
	} {
		synctest.Test(t, func(t *testing.T) {
			w := &ward{nodes: 2, around: true}
			if _, err := w.drilled(t.Context(), name, ""); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			if got := strings.Join(w.done, ", "); got != want {
				t.Errorf("%s did %s\nwant %s", name, got, want)
			}
		})
	}
	if names := Names(); len(names) != 6 {
		t.Errorf("of %q some aren't tested", names)
	}
}

func TestHarmLastsAsLongAsItShould(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		at := map[string]time.Time{}
		w := &ward{nodes: 2, during: func(words string) { at[words] = time.Now() }}
		if _, err := w.drilled(t.Context(), "etcd-loss", ""); err != nil {
			t.Fatal(err)
		}
		if lasted := at["undo etcd-loss"].Sub(at["etcd-loss"]); lasted != time.Minute {
			t.Errorf("it lasted %v", lasted)
		}
	})
}

// TestUndoneWhateverHappens: an order that fails, half done, and a drill that is broken off at any of its
// orders, leave nothing that has to be taken back.
func TestUndoneWhateverHappens(t *testing.T) {
	whole := []string{"before", "region-cut", "kill mailbox-2", "start mailbox-2", "undo region-cut", "after"}
	for i, words := range whole {
		for _, how := range []string{"fails", "is cut off"} {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				w := &ward{nodes: 2, around: true}
				if how == "fails" {
					w.fails = words
				} else {
					w.during = func(now string) {
						if now == words {
							cancel()
						}
					}
				}
				_, err := w.drilled(ctx, "region-cut", "")
				if (err == nil) != (how == "is cut off") || err != nil && !strings.Contains(err.Error(), words+": it broke") {
					t.Errorf("%s %s: %v", words, how, err)
				}
				undos := map[string]string{"before": "after", "region-cut": "undo region-cut", "kill mailbox-2": "start mailbox-2"}
				for _, done := range whole[:i+1] {
					if undo := undos[done]; undo != "" && !slices.Contains(w.done, undo) {
						t.Errorf("%s %s: no %q after %q", words, how, undo, w.done)
					}
				}
				if once := slices.Compact(slices.Sorted(slices.Values(w.done))); len(once) != len(w.done) {
					t.Errorf("%s %s: something was done twice: %q", words, how, w.done)
				}
				if w.done[len(w.done)-1] != "after" {
					t.Errorf("%s %s: the last thing was %q", words, how, w.done)
				}
			})
		}
	}
}

func TestWhatCouldNotBeUndoneIsSaid(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &ward{nodes: 2, around: true, fails: "undo etcd-loss"}
		_, err := w.drilled(t.Context(), "etcd-loss", "")
		if err == nil || !strings.Contains(err.Error(), "NOT UNDONE, do it by hand: undo etcd-loss: it broke") {
			t.Error(err)
		}
	})
}

func TestAProcessThatDoesNotComeBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &ward{nodes: 2}
		w.during = func(string) { w.lives["mailbox-2"] = 0 } // it has never ended
		_, err := w.drilled(t.Context(), "node-loss", "")
		if want := "waited 120 s until mailbox-2 is back, in vain: it has not ended yet"; err == nil || err.Error() != want {
			t.Errorf("%v, want %s", err, want)
		}
	})
}

func TestRefusedPlansDoNothing(t *testing.T) {
	for want, c := range map[string]struct {
		w             ward
		name, process string
	}{
		"nobody could take over":                                   {w: ward{nodes: 1}, name: "node-loss"},
		"region-cut: a node can be lost where there are two":       {w: ward{nodes: 1}, name: "region-cut"},
		"no front is called \"mailbox-1\"; there are: front-1":     {w: ward{nodes: 2}, name: "front-loss", process: "mailbox-1"},
		"no mailbox is called \"x\"; there are: mailbox-1, mailbo": {w: ward{nodes: 2}, name: "node-loss", process: "x"},
		"etcd-loss: --process names whom":                          {w: ward{nodes: 2}, name: "etcd-loss", process: "mailbox-1"},
		"rolling-restart: --process names whom":                    {w: ward{nodes: 2}, name: "rolling-restart", process: "mailbox-1"},
		"store-slow: nobody knows how to store-slow":               {w: ward{nodes: 2, without: SlowStore}, name: "store-slow"},
		"rolling-restart: nobody knows how to term":                {w: ward{nodes: 2, without: Term}, name: "rolling-restart"},
		"no drill is called \"x\"; there are node-loss, front":     {w: ward{nodes: 2}, name: "x"},
	} {
		if _, err := c.w.drilled(t.Context(), c.name, c.process); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
		if len(c.w.done) > 0 {
			t.Errorf("%s: done: %q", want, c.w.done)
		}
	}
	if _, err := NewPlan(t.Context(), Scenarios()[0], &ward{}, Doors{}, nil, Options{}); err == nil || !strings.Contains(err.Error(), "test user") {
		t.Errorf("without users: %v", err)
	}
}

func TestPlanInWords(t *testing.T) {
	scenario, err := Named("etcd-loss")
	if err != nil {
		t.Fatal(err)
	}
	p, err := NewPlan(t.Context(), scenario, &ward{nodes: 2, around: true}, Doors{POP3S: []string{"a:995", "b:995"}, LMTP: []string{"c:24"}},
		[]User{{Address: "anna@c.example", Password: "secret"}, {Address: "ben@c.example", Password: "secret"}},
		Options{Region: "eu", Calm: 5 * time.Second, For: 20 * time.Second, Patience: 3 * time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	const want = `etcd-loss in eu: the region has no etcd for a while: nobody notices
  users  anna@c.example, ben@c.example: mail comes to each 5 times a second, is fetched, and half of it removed
  doors  POP3S a:995, b:995; LMTP c:24
   1. load, for 5s
   2. before
   3. etcd-loss
   4. go on like that for 20s
   5. undo etcd-loss
   6. wait until every shard is served
   7. load, for 5s; then read every mailbox to its end, and remove the drill's own mail if all is well
  Each wait ends after 3m0s. In the end, also after a failure or Ctrl-C, unless it was done before:
    - undo etcd-loss
    - after
`
	var got strings.Builder
	if err := p.Print(&got); err != nil || got.String() != want {
		t.Errorf("got\n%s\nwant\n%s%v", got.String(), want, err)
	}
}
