package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	posternv1 "github.com/postern-pop/postern/proto/postern/v1"
)

// addressCmd is "postern address".
type addressCmd struct {
	operator

	Add    addressAddCmd    `cmd:"" help:"Make an address: a mailbox with a password, or an alias of one."`
	List   addressListCmd   `cmd:"" help:"List an account's addresses."`
	Set    addressSetCmd    `cmd:"" help:"Change an address."`
	Unlock addressUnlockCmd `cmd:"" help:"End a lock-out after too many wrong passwords."`
	Remove addressRemoveCmd `cmd:"" help:"End an address: no login, no mail. Its mail stays until its retention ends."`
}

type addressView struct {
	Address  string     `json:"address"`
	Account  string     `json:"account"`
	AliasOf  string     `json:"alias_of,omitempty"`
	Access   string     `json:"access,omitempty"`
	Groups   []string   `json:"groups,omitempty"`
	Password string     `json:"password,omitempty"` // generated just now
	Changed  *time.Time `json:"changed,omitempty"`
}

func viewAddress(a *posternv1.AddressInfo) addressView {
	v := addressView{Address: a.GetAddress(), Account: a.GetAccount(), AliasOf: a.GetPrimary(), Changed: moment(a.GetChangedMilli(), "UTC")}
	if v.AliasOf == "" {
		v.Access, v.Groups = a.GetAccess(), a.GetGroups()
	}
	return v
}

// write says what was done to the address.
func (v addressView) write(w io.Writer, done string) {
	what := "access " + v.Access
	if v.AliasOf != "" {
		what = "an alias of " + v.AliasOf
	} else if len(v.Groups) > 0 {
		what += ", groups " + strings.Join(v.Groups, " ")
	}
	fmt.Fprintln(w, clean(fmt.Sprintf("address %s %s: %s, of account %s", v.Address, done, what, v.Account)))
	if v.Password != "" {
		fmt.Fprintf(w, "password: %s\nIt is shown this once and cannot be read again.\n", v.Password)
	}
}

type addressAddCmd struct {
	Address       string   `arg:"" help:"The address; its domain must be known."`
	PasswordStdin bool     `help:"Read the password from the first line of standard input. Otherwise one is generated and shown once."`
	AliasOf       string   `placeholder:"ADDRESS" help:"Make it another name of this address of the same account."`
	Group         []string `help:"A group that continuity events can be limited to; may be repeated."`
	Access        string   `enum:"inherit,allow,deny," default:"" help:"What the administrator says of it: inherit (as if nothing was said), allow, deny."`
}

// Run adds the address.
func (c *addressAddCmd) Run(ctx context.Context, cl *client) error {
	in := &posternv1.AddAddressRequest{Address: c.Address, AliasOf: c.AliasOf, Access: c.Access, Groups: c.Group}
	generated := ""
	if c.AliasOf == "" || c.PasswordStdin {
		var err error
		if in.Password, generated, err = cl.password(c.PasswordStdin); err != nil {
			return err
		}
	}
	return cl.address(ctx, "added", generated, func(ctx context.Context, admin posternv1.AdminClient) (*posternv1.AddressInfo, error) {
		return admin.AddAddress(ctx, in)
	})
}

// address shows the address that a call answers with, and its new password.
func (c *client) address(ctx context.Context, done, generated string,
	ask func(context.Context, posternv1.AdminClient) (*posternv1.AddressInfo, error),
) error {
	var answer *posternv1.AddressInfo
	err := c.call(ctx, true, func(ctx context.Context, admin posternv1.AdminClient) (err error) {
		answer, err = ask(ctx, admin)
		return err
	})
	if err != nil {
		return err
	}
	v := viewAddress(answer)
	v.Password = generated
	return c.reply(v, func(w io.Writer) { v.write(w, done) })
}

// password is the one on standard input, or a new one, which is then to be
// shown.
func (c *client) password(stdin bool) (password, generated string, err error) {
	if !stdin {
		generated = newPassword()
		return generated, generated, nil
	}
	password, err = readPassword(c.in)
	return password, "", err
}

// maxPasswordLine is more than the server takes, so that it can say so.
const maxPasswordLine = 4 << 10

// readPassword reads one line, with or without its end.
func readPassword(in io.Reader) (string, error) {
	text, err := io.ReadAll(io.LimitReader(in, maxPasswordLine+1))
	if err != nil {
		return "", fmt.Errorf("standard input: %w", err)
	}
	line, rest, _ := strings.Cut(string(text), "\n")
	line = strings.TrimSuffix(line, "\r")
	switch {
	case len(text) > maxPasswordLine:
		return "", errors.New("standard input is too long for a password")
	case rest != "":
		return "", errors.New("standard input has more than one line: give the password alone")
	case line == "":
		return "", errors.New("standard input is empty: give the password on it")
	}
	return line, nil
}

// newPassword is 80 bits in groups that can be read out.
func newPassword() string {
	text := strings.ToLower(rand.Text()[:16])
	return text[:4] + "-" + text[4:8] + "-" + text[8:12] + "-" + text[12:]
}

type addressSetCmd struct {
	Address       string   `arg:"" help:"The address."`
	Access        string   `enum:"inherit,allow,deny," default:"" help:"What the administrator says of it: inherit (as if nothing was said), allow, deny."`
	Group         []string `xor:"groups" help:"A group that it is in, in place of those before; may be repeated."`
	NoGroups      bool     `xor:"groups" help:"Take it out of all groups."`
	PasswordStdin bool     `xor:"password" help:"Read a new password from the first line of standard input."`
	Generate      bool     `xor:"password" help:"Generate a new password and show it once."`
}

// Run changes the address.
func (c *addressSetCmd) Run(ctx context.Context, cl *client) error {
	in := &posternv1.SetAddressRequest{Address: c.Address}
	generated := ""
	if c.Access != "" {
		in.Access = &c.Access
	}
	if len(c.Group) > 0 || c.NoGroups {
		in.Groups = &posternv1.Groups{Names: c.Group}
	}
	if c.PasswordStdin || c.Generate {
		var password string
		var err error
		if password, generated, err = cl.password(c.PasswordStdin); err != nil {
			return err
		}
		in.Password = &password
	}
	if in.Access == nil && in.Groups == nil && in.Password == nil {
		return errors.New("nothing to set: give --access, --group, --no-groups, --password-stdin or --generate")
	}
	return cl.address(ctx, "set", generated, func(ctx context.Context, admin posternv1.AdminClient) (*posternv1.AddressInfo, error) {
		return admin.SetAddress(ctx, in)
	})
}

type addressListCmd struct {
	Account string `required:"" help:"The account."`
}

// Run lists the addresses.
func (c *addressListCmd) Run(ctx context.Context, cl *client) error {
	var addresses []addressView
	err := cl.call(ctx, false, func(ctx context.Context, admin posternv1.AdminClient) error {
		stream, err := admin.ListAddresses(ctx, &posternv1.ListAccountAddressesRequest{Account: c.Account})
		if err != nil {
			return err
		}
		addresses, err = received(stream, viewAddress)
		return err
	})
	if err != nil {
		return err // half a list of users misleads
	}
	return cl.reply(addresses, func(w io.Writer) {
		row(w, "ADDRESS", "ACCESS", "GROUPS", "ALIAS OF", "CHANGED")
		for _, a := range addresses {
			row(w, a.Address, orDash(a.Access), orDash(strings.Join(a.Groups, " ")), orDash(a.AliasOf), shown(a.Changed, "-"))
		}
	})
}

type addressRemoveCmd struct {
	Address string `arg:"" help:"The address."`
}

// Run removes the address.
func (c *addressRemoveCmd) Run(ctx context.Context, cl *client) error {
	err := cl.call(ctx, true, func(ctx context.Context, admin posternv1.AdminClient) error {
		_, err := admin.RemoveAddress(ctx, &posternv1.EndAddressRequest{Address: c.Address})
		return err
	})
	if err != nil {
		return err
	}
	return cl.say(map[string]string{"removed": c.Address},
		"address %s removed: no login and no mail from now on; its mail stays until its retention ends", c.Address)
}

type addressUnlockCmd struct {
	Address string `arg:"" help:"The address; of an alias its primary address is meant."`
}

// Run ends the lock-out.
func (c *addressUnlockCmd) Run(ctx context.Context, cl *client) error {
	var answer *posternv1.UnlockAddressResponse
	err := cl.call(ctx, true, func(ctx context.Context, admin posternv1.AdminClient) (err error) {
		answer, err = admin.UnlockAddress(ctx, &posternv1.UnlockAddressRequest{Address: c.Address})
		return err
	})
	if err != nil {
		return err
	}
	done := "was not locked out; wrong passwords are counted anew"
	if answer.GetWas() {
		done = "is not locked out any more; wrong passwords are counted anew"
	}
	return cl.say(map[string]any{"address": answer.GetAddress(), "was_locked_out": answer.GetWas()}, "address %s %s", answer.GetAddress(), done)
}
