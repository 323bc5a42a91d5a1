package main

import (
	"context"

	posternv1 "github.com/postern-pop/postern/proto/postern/v1"
)

// overrideCmd is "postern override".
type overrideCmd struct {
	operator

	Set overrideSetCmd `cmd:"" help:"Set the account-wide switch, the POP Services Override."`
}

type overrideSetCmd struct {
	Account  string `arg:"" help:"The account."`
	Override string `arg:"" enum:"none,allow,block" help:"none: the rules of the addresses decide; allow: lift every address's deny, and nothing else; block: nobody may use POP."`
}

// Run sets the override.
func (c *overrideSetCmd) Run(ctx context.Context, cl *client) error {
	return cl.setAccount(ctx, &posternv1.SetAccountRequest{Name: c.Account, Override: &c.Override})
}
