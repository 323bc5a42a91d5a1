package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/postern-pop/postern/pkg/maildrop"
)

// explainCmd is "postern explain".
type explainCmd struct {
	operator

	Code string `placeholder:"CODE" help:"Say what the code at the end of a refusal means, such as no-event. It needs no server."`
}

// Run explains a code.
func (c *explainCmd) Run(_ context.Context, cl *client) error {
	if c.Code == "" {
		return errors.New("explain what? give --code CODE")
	}
	return cl.explainCode(c.Code)
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
