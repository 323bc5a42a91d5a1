package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/postern-pop/postern/pkg/maildrop"
	posternv1 "github.com/postern-pop/postern/proto/postern/v1"
)

// explainCmd is "postern explain".
type explainCmd struct {
	operator

	Address string `arg:"" optional:"" help:"Whose login; it need not exist."`
	From    string `placeholder:"IP" help:"Where the user connects from. Without it permitted networks are not asked."`
	Code    string `placeholder:"CODE" help:"Say what the code at the end of a refusal means, such as no-event. It needs no server."`
}

// Run explains a login, or a code.
func (c *explainCmd) Run(ctx context.Context, cl *client) error {
	switch {
	case c.Code != "" && c.Address == "" && c.From == "":
		return cl.explainCode(c.Code)
	case c.Code != "" || c.Address == "":
		return errors.New("explain what? give an ADDRESS, with --from IP or without, or --code CODE alone")
	}
	var answer *posternv1.ExplainLoginResponse
	err := cl.call(ctx, false, func(ctx context.Context, admin posternv1.AdminClient) (err error) {
		answer, err = admin.ExplainLogin(ctx, &posternv1.ExplainLoginRequest{Address: c.Address, From: c.From})
		return err
	})
	if err != nil {
		return err
	}
	view := viewExplanation(answer)
	return cl.reply(view, view.write)
}

// explanationView is all that decides a login.
type explanationView struct {
	Asked    string        `json:"asked"`
	Address  string        `json:"address"`
	Known    bool          `json:"known"`
	Account  string        `json:"account,omitempty"`
	Region   string        `json:"region,omitempty"`
	Hostname string        `json:"hostname,omitempty"`
	Shard    uint32        `json:"shard"`
	Owner    string        `json:"owner"`
	Epoch    uint64        `json:"epoch"`
	Verdict  string        `json:"verdict"` // let-in, or the reason's code
	Class    string        `json:"class,omitempty"`
	Reply    string        `json:"reply,omitempty"`
	Findings []findingView `json:"findings"`
	Since    *time.Time    `json:"since"`
	Attempts []attemptView `json:"attempts"`
}

type findingView struct {
	Subject string `json:"subject"`
	Value   string `json:"value"`
	Words   string `json:"words"`
	Refuses string `json:"refuses,omitempty"`
}

type attemptView struct {
	Time      *time.Time `json:"time"`
	First     *time.Time `json:"first"`
	Times     uint32     `json:"times"`
	Remote    string     `json:"remote,omitempty"`
	Mechanism string     `json:"mechanism,omitempty"`
	Session   string     `json:"session,omitempty"`
	Result    string     `json:"result"` // let-in, or the reason's code
	Reply     string     `json:"reply"`
}

// letIn is the verdict when nothing refuses.
const letIn = "let-in"

func viewExplanation(e *posternv1.ExplainLoginResponse) explanationView {
	v := explanationView{
		Asked: e.GetAsked(), Address: e.GetAddress(), Known: e.GetKnown(), Account: e.GetAccount(), Region: e.GetRegion(), Hostname: e.GetHostname(),
		Shard: e.GetShard(), Owner: e.GetNode(), Epoch: e.GetEpoch(), Verdict: cmp.Or(e.GetReason(), letIn), Class: e.GetClass(), Reply: e.GetReply(),
		Findings: []findingView{}, Since: moment(e.GetSinceMilli(), "UTC"), Attempts: []attemptView{},
	}
	for _, f := range e.GetFindings() {
		v.Findings = append(v.Findings, findingView{Subject: f.GetSubject(), Value: f.GetValue(), Words: f.GetWords(), Refuses: f.GetReason()})
	}
	for _, a := range e.GetAttempts() {
		v.Attempts = append(v.Attempts, attemptView{
			Time: moment(a.GetTimeMilli(), "UTC"), First: moment(a.GetFirstMilli(), "UTC"), Times: a.GetTimes(), Remote: a.GetRemote(),
			Mechanism: a.GetMechanism(), Session: a.GetSession(), Result: cmp.Or(a.GetReason(), letIn), Reply: a.GetReply(),
		})
	}
	return v
}

func (v explanationView) write(w io.Writer) {
	row(w, "address", v.Address)
	if v.Verdict == letIn {
		row(w, "verdict", "the right password is let in: "+v.Class+" mail")
	} else {
		row(w, "verdict", "refused: "+v.Verdict)
		row(w, "the client sees", v.Reply)
	}
	fmt.Fprintln(w)
	row(w, "WHAT A LOGIN ASKS", "VALUE", "REFUSES", "IN WORDS")
	for _, f := range v.Findings {
		row(w, f.Subject, f.Value, orDash(f.Refuses), f.Words)
	}
	fmt.Fprintln(w)
	if len(v.Attempts) == 0 {
		if v.Owner != "" {
			row(w, clean(fmt.Sprintf("no attempt to log in is remembered; %s remembers since %s", v.Owner, shown(v.Since, "-"))))
		}
		return
	}
	row(w, "LATEST", "TIMES", "FIRST", "FROM", "MECHANISM", "RESULT", "SESSION", "SENT")
	for _, a := range v.Attempts {
		row(w, precise(a.Time), strconv.FormatUint(uint64(a.Times), 10), precise(a.First), orDash(a.Remote), orDash(a.Mechanism), a.Result, orDash(a.Session), a.Reply)
	}
	row(w, clean(fmt.Sprintf("%s remembers since %s; attempts that are alike are one line", v.Owner, shown(v.Since, "-"))))
}

// precise is a time that is to be found in a log.
func precise(t *time.Time) string {
	if t == nil {
		return "-"
	}
	return t.Format(time.DateTime)
}

// codeView is a refusal's code.
type codeView struct {
	Code     string `json:"code"`
	Response string `json:"response"`
	Words    string `json:"words"`
	User     string `json:"user"`
	Operator string `json:"operator"`
}

func (c *client) explainCode(code string) error {
	m, known := maildrop.Reason(strings.Trim(code, "()[] ")).Meaning()
	if !known {
		meanings := maildrop.Meanings()
		all := make([]string, 0, len(meanings))
		for _, m := range meanings {
			all = append(all, string(m.Reason))
		}
		return fmt.Errorf("%q is no code of a refusal; those are: %s", code, strings.Join(all, ", "))
	}
	v := codeView{Code: string(m.Reason), Response: string(m.Response), Words: m.Words, User: m.User, Operator: m.Operator}
	return c.reply(v, func(w io.Writer) {
		row(w, "code", v.Code)
		row(w, "the client sees", "-ERR ["+v.Response+"] "+v.Words+" ("+v.Code+")")
		row(w, "for the user", v.User)
		row(w, "for the operator", v.Operator)
	})
}
