package sim

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
)

// history is what happened in a run, kept in memory and told only when the run fails.
type history struct {
	began time.Time

	mu     sync.Mutex
	events []event
}

type event struct {
	at     time.Duration // since the run's begin, fake time
	who    string
	about  []string // messages, sessions; none: of interest to all
	format string
	args   []any // never changed after
}

// toldAtMost is how many lines of a history are told: of more, the first and
// the last.
const toldAtMost = 120

// note writes an event down. Nothing is formatted until somebody asks.
func (h *history) note(who string, about []string, format string, args ...any) {
	at := time.Since(h.began)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.events = append(h.events, event{at: at, who: who, about: about, format: format, args: args})
}

// tell is the part of the history that concerns the subjects, and what is of
// interest to all.
func (h *history) tell(subjects []string) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	var lines []string
	for _, e := range h.events {
		if len(e.about) == 0 || slices.ContainsFunc(e.about, func(s string) bool { return slices.Contains(subjects, s) }) {
			lines = append(lines, fmt.Sprintf("  %14s  %-9s %s", e.at, e.who, fmt.Sprintf(e.format, e.args...)))
		}
	}
	if over := len(lines) - toldAtMost; over > 0 {
		lines = slices.Replace(lines, toldAtMost/3, toldAtMost/3+over, fmt.Sprintf("  … %d lines …", over))
	}
	return strings.Join(lines, "\n")
}
