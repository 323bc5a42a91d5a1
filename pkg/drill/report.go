package drill

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"github.com/postern-pop/postern/pkg/history"
)

// The invariants besides those of package history, by the names that a report has for them.
const (
	Answered  history.Invariant = "answered"  // no error but temporary ones; connections break only where they may
	Recovered history.Invariant = "recovered" // everything is back after the harm
)

// Report is what a drill did and saw.
type Report struct {
	Scenario     string    `json:"scenario"`
	Region       string    `json:"region"`
	Began        time.Time `json:"began"`
	Seconds      float64   `json:"seconds"`
	OK           bool      `json:"ok"` // every invariant is
	Users        int       `json:"users"`
	Steps        []Step    `json:"steps"`
	LongestMilli int64     `json:"longest_pause_ms"`
	Waits        []Wait    `json:"waits"`
	Errors       []Failure `json:"errors"`
	Invariants   []Verdict `json:"invariants"`

	History []history.Event `json:"-"` // the evidence
}

// Step is something that was done, or seen of what was done.
type Step struct {
	Seconds float64 `json:"seconds"` // since the drill began
	What    string  `json:"what"`
}

// Wait is how long the load waited for one kind of answer.
type Wait struct {
	What         string    `json:"what"` // session, command, login, delivery
	Done         int       `json:"done"`
	LongestMilli int64     `json:"longest_ms"`
	SinceSeconds float64   `json:"longest_since_seconds"` // when the longest began, as a Step has it
	Since        time.Time `json:"-"`
}

// Failure is an error by its text.
type Failure struct {
	Text    string `json:"text"`
	Count   int    `json:"count"`
	Allowed bool   `json:"allowed"` // the scenario promises no better
}

// Verdict is whether an invariant held.
type Verdict struct {
	Name     history.Invariant `json:"name"`
	OK       bool              `json:"ok"`
	Findings []string          `json:"findings,omitempty"`
	words    string
}

// promises are the invariants in words, in the order of a report.
var promises = []Verdict{
	{Name: history.Kept, words: "what was acknowledged is there until its removal is asked for"},
	{Name: history.Once, words: "each message is there once"},
	{Name: history.Exact, words: "what was fetched is what was sent, octet for octet"},
	{Name: history.Gone, words: "what was removed stays removed"},
	{Name: history.Named, words: "a unique-id names one message"},
	{Name: Answered, words: "no error but temporary ones"},
	{Name: Recovered, words: "everything is back and served"},
}

// judge fills in the verdicts.
func (r *Report) judge(findings []history.Finding, mayBreak bool) {
	for _, f := range r.Errors {
		if !f.Allowed {
			findings = append(findings, history.Finding{Invariant: Answered, Text: fmt.Sprintf("%s (%d times)", f.Text, f.Count)})
		}
	}
	r.OK, r.Invariants = len(findings) == 0, slices.Clone(promises)
	for i := range r.Invariants {
		v := &r.Invariants[i]
		if v.Name == Answered && mayBreak {
			v.words += ", and connections that broke"
		}
		for _, f := range findings {
			if f.Invariant == v.Name {
				v.Findings = append(v.Findings, f.Text)
			}
		}
		v.OK = len(v.Findings) == 0
	}
}

// shownFindings is how many breaches of one invariant are printed; JSON has all.
const shownFindings = 10

// waitWords are a Wait's in print.
var waitWords = map[string]string{
	waitSession:  "a message, in a session that stays",
	waitCommand:  "any command, in a short session",
	waitLogin:    "a login",
	waitDelivery: "a delivery",
}

// Print writes the report for a person.
func (r *Report) Print(to io.Writer) error {
	w := tabwriter.NewWriter(to, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "%s in %s: %s. %s, %d users, %.0f s\n\n", r.Scenario, r.Region, okWord(r.OK), r.Began.UTC().Format(time.RFC3339), r.Users, r.Seconds)
	for _, s := range r.Steps {
		fmt.Fprintf(w, "%7.1f s  %s\n", s.Seconds, printable(s.What))
	}
	fmt.Fprint(w, "\nWAITED FOR\tDONE\tLONGEST\tFROM\n")
	for _, wait := range r.Waits {
		fmt.Fprintf(w, "%s\t%d\t%.2f s\t%.1f s\n", waitWords[wait.What], wait.Done, float64(wait.LongestMilli)/1000, wait.SinceSeconds)
	}
	fmt.Fprint(w, "\nERRORS\tTIMES\tALLOWED\n")
	if len(r.Errors) == 0 {
		fmt.Fprint(w, "none\n")
	}
	for _, f := range r.Errors {
		fmt.Fprintf(w, "%s\t%d\t%s\n", printable(f.Text), f.Count, map[bool]string{true: "yes", false: "NO"}[f.Allowed])
	}
	fmt.Fprint(w, "\nINVARIANTS\n")
	for _, v := range r.Invariants {
		v.print(w)
	}
	return w.Flush()
}

func okWord(ok bool) string {
	if ok {
		return "ok"
	}
	return "BROKEN"
}

func (v *Verdict) print(w io.Writer) {
	fmt.Fprintf(w, "%-6s  %s\n", okWord(v.OK), v.words)
	for _, text := range v.Findings[:min(len(v.Findings), shownFindings)] {
		fmt.Fprintf(w, "          %s\n", printable(text))
	}
	if more := len(v.Findings) - shownFindings; more > 0 {
		fmt.Fprintf(w, "          and %d more\n", more)
	}
}

// printable keeps what comes from elsewhere from moving the terminal's cursor.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n':
			return ' '
		case unicode.IsControl(r):
			return '?'
		}
		return r
	}, text)
}
