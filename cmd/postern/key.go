package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"github.com/alecthomas/kong"

	"github.com/postern-pop/postern/pkg/blob"
	"github.com/postern-pop/postern/pkg/blob/sealed"
	"github.com/postern-pop/postern/pkg/config"
	"github.com/postern-pop/postern/pkg/shard"
)

// keyCmd is "postern key": the keys that mail at rest is encrypted by. The first
// three are about a keyset file, the others about the data keys of a region's shards.
type keyCmd struct {
	Create keyCreateCmd `cmd:"" help:"Make a keyset file with one key. It never overwrites."`
	Rotate keyRotateCmd `cmd:"" help:"Add a new key to a keyset file, which wraps from now on; the others go on unwrapping."`
	List   keyListCmd   `cmd:"" help:"List the keys of a keyset file, without what is secret."`

	Status     keyStatusCmd     `cmd:"" help:"Show each shard's data keys, which key they are wrapped by, and what is not encrypted yet."`
	Rewrap     keyRewrapCmd     `cmd:"" help:"Wrap all data keys by the key that wraps now. Every node needs that key before."`
	Generation keyGenerationCmd `cmd:"" help:"Make new data keys: a shard seals new mail by its own from its next opening on."`
}

// keyFile is a keyset file, as an argument.
type keyFile struct {
	File string `arg:"" help:"The keyset file."`
}

type keyCreateCmd struct{ keyFile }

// Run makes the file.
func (c *keyCreateCmd) Run(k *kong.Kong) error {
	id, err := sealed.CreateKeyFile(c.File)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(k.Stdout, "%s: key %d. Keep a copy of the file where the mail is not: without it the mail is lost.\n", c.File, id)
	return err
}

type keyRotateCmd struct{ keyFile }

// Run adds a key to the file.
func (c *keyRotateCmd) Run(k *kong.Kong) error {
	id, err := sealed.RotateKeyFile(c.File)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(k.Stdout, "%s: key %d wraps from now on. Next: the file to all nodes of the region, restart them, postern key rewrap.\n", c.File, id)
	return err
}

type keyListCmd struct{ keyFile }

// Run prints a line for each key.
func (c *keyListCmd) Run(k *kong.Kong) error {
	keys, err := sealed.KeyFileKeys(c.File)
	if err != nil {
		return err
	}
	for _, key := range keys {
		use := "unwraps"
		if key.Primary {
			use = "wraps"
		}
		if _, err := fmt.Fprintf(k.Stdout, "%10d  %-8s  %-9s  %s\n", key.ID, use, strings.ToLower(key.Status), key.Type); err != nil {
			return err
		}
	}
	return nil
}

// keyRegion is what the commands about a region's data keys have in common.
type keyRegion struct {
	Region string `required:"" placeholder:"FILE" help:"The region's file."`
	Shards []int  `arg:"" optional:"" help:"Numbers of shards; none: all."`
}

// each does something with the prefix of each shard.
func (c *keyRegion) each(ctx context.Context, do func(store blob.Store, prefix string) error) (err error) {
	region, err := config.LoadRegion(c.Region)
	if err != nil {
		return err
	}
	numbers := c.Shards
	if len(numbers) == 0 {
		for number := range region.Shards {
			numbers = append(numbers, number)
		}
	}
	store, closer, err := openStore(ctx, region.Storage, slog.New(slog.DiscardHandler), nil)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closer.Close()) }()
	for _, number := range numbers {
		if number < 0 || number >= region.Shards {
			return fmt.Errorf("shard %d: the region has 0 to %d", number, region.Shards-1)
		}
		prefix := shard.Config{Region: string(region.Name), Number: number}.Prefix()
		if err := do(store, prefix); err != nil {
			return fmt.Errorf("%s: %w", prefix, err)
		}
	}
	return ctx.Err()
}

// wrapper is the key-encryption key of the region's settings.
func (c *keyRegion) wrapper() (*sealed.Wrapper, error) {
	region, err := config.LoadRegion(c.Region)
	if err != nil {
		return nil, err
	}
	settings := region.Storage.Encryption
	if settings == nil {
		return nil, fmt.Errorf("region %s has no storage.encryption", region.Name)
	}
	return sealed.OpenWrapper(string(settings.KeyFile), settings.KeyURI)
}

type keyStatusCmd struct{ keyRegion }

// Run prints a line for each shard.
func (c *keyStatusCmd) Run(ctx context.Context, k *kong.Kong) error {
	return c.each(ctx, func(store blob.Store, prefix string) error {
		generations, err := sealed.Generations(ctx, store, prefix)
		if err != nil {
			return err
		}
		plain, err := sealed.Plain(ctx, store, prefix)
		if err != nil {
			return err
		}
		var keys []string
		for _, g := range generations {
			keys = append(keys, fmt.Sprintf("%d by %s", g.Number, strings.Join(g.WrappedBy, " and ")))
		}
		if len(keys) == 0 {
			keys = []string{"none"}
		}
		_, err = fmt.Fprintf(k.Stdout, "%s  data keys: %s  objects not encrypted: %d\n", prefix, strings.Join(keys, ", "), plain)
		return err
	})
}

type keyRewrapCmd struct {
	keyRegion
	FromKeyFile string `placeholder:"FILE" help:"A keyset file that the data keys are wrapped by until now, when the region's settings name another one."`
	FromKeyURI  string `placeholder:"URI" help:"The same for a key service's key."`
	Keep        bool   `help:"Leave the data keys' old wraps as well, while nodes with the old key are running. Run it again without."`
}

// Run wraps the data keys and prints a line for each shard.
func (c *keyRewrapCmd) Run(ctx context.Context, k *kong.Kong) error {
	var from []*sealed.Wrapper
	if c.FromKeyFile != "" || c.FromKeyURI != "" {
		old, err := sealed.OpenWrapper(c.FromKeyFile, c.FromKeyURI)
		if err != nil {
			return err
		}
		from = append(from, old)
	}
	to, err := c.wrapper()
	if err != nil {
		return err
	}
	return c.each(ctx, func(store blob.Store, prefix string) error {
		count, err := sealed.Rewrap(ctx, store, prefix, to, c.Keep, from...)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(k.Stdout, "%s  data keys wrapped by %s: %d\n", prefix, to.Name(), count)
		return err
	})
}

type keyGenerationCmd struct{ keyRegion }

// Run makes the keys and prints a line for each shard.
func (c *keyGenerationCmd) Run(ctx context.Context, k *kong.Kong) error {
	wrapper, err := c.wrapper()
	if err != nil {
		return err
	}
	return c.each(ctx, func(store blob.Store, prefix string) error {
		generation, err := sealed.NewGeneration(ctx, store, prefix, wrapper)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(k.Stdout, "%s  data key %d\n", prefix, generation)
		return err
	})
}
