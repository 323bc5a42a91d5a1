package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/alecthomas/kong"

	"github.com/postern-pop/postern/pkg/mailclient"
)

// deliverCmd hands a message to an intake, as a gateway does.
type deliverCmd struct {
	LMTP string   `name:"lmtp" required:"" placeholder:"HOST:PORT" help:"The intake."`
	From string   `required:"" placeholder:"ADDRESS" help:"The sender; empty for none."`
	To   []string `required:"" placeholder:"ADDRESS" help:"A recipient; may be repeated."`
	File string   `arg:"" help:"The message, or - for standard input. Bare line feeds become CRLF."`
}

// maxDelivery is the longest message of the command in octets.
const maxDelivery = 1 << 30

// Run delivers, and says which recipients have it.
func (c *deliverCmd) Run(ctx context.Context, k *kong.Kong) error {
	message, err := c.read()
	if err != nil {
		return err
	}
	if err := deliver(ctx, c.LMTP, c.From, c.To, crlf(message)); err != nil {
		return err
	}
	_, err = fmt.Fprintln(k.Stdout, "delivered")
	return err
}

func (c *deliverCmd) read() ([]byte, error) {
	file := os.Stdin
	if c.File != "-" {
		opened, err := os.Open(c.File)
		if err != nil {
			return nil, err
		}
		defer opened.Close()
		file = opened
	}
	message, err := io.ReadAll(io.LimitReader(file, maxDelivery+1))
	if len(message) > maxDelivery {
		return nil, fmt.Errorf("%s: longer than %d octets", c.File, maxDelivery)
	}
	return message, err
}

// crlf makes each line end CRLF.
func crlf(message []byte) []byte {
	return bytes.ReplaceAll(bytes.ReplaceAll(message, []byte("\r\n"), []byte("\n")), []byte("\n"), []byte("\r\n"))
}

// deliver takes a message to an intake. The error names each recipient that
// doesn't have it.
func deliver(ctx context.Context, lmtp, from string, to []string, message []byte) error {
	client, err := mailclient.DialLMTP(ctx, lmtp, nil)
	if err != nil {
		return err
	}
	verdicts, err := client.Deliver(from, to, message)
	if err != nil {
		client.Close()
		return err
	}
	for i, verdict := range verdicts {
		if verdict != nil {
			err = errors.Join(err, fmt.Errorf("%s: %w", to[i], verdict)) //nolint:gosec // one verdict for each recipient
		}
	}
	return errors.Join(err, client.Quit())
}
