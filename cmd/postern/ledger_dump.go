package main

import (
	"bytes"
	"context"
	bin "encoding/binary" // a test of this package has a variable binary
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"log/slog"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/alecthomas/kong"

	"github.com/postern-pop/postern/pkg/blob"
	"github.com/postern-pop/postern/pkg/ledger"
	"github.com/postern-pop/postern/pkg/maildrop"
	"github.com/postern-pop/postern/pkg/shard"
)

// ledgerCmd has the commands about shards' histories.
type ledgerCmd struct {
	Dump   ledgerDumpCmd   `cmd:"" help:"Say in words what an object of the store holds."`
	Forget ledgerForgetCmd `cmd:"" help:"Let a shard go on without an object that is lost for good."`
}

type ledgerDumpCmd struct {
	Object string `arg:"" help:"With --region, the object's key, such as eu/shard-0003/ledger/00000000000000000017; else a file whose path ends as the key does."`
	Region string `type:"existingfile" placeholder:"FILE" help:"The region's file: the object is in its store."`
	Output string `short:"o" enum:"text,json" default:"text" help:"How to answer: text or json."`
}

// Help is shown by --help.
func (ledgerDumpCmd) Help() string {
	return `Ledger objects, notes of forgotten ones, manifests, parts of checkpoints, packs, bodies and key objects, a
line for each record. Secrets, password hashes and mail are never shown. An object that
is encrypted must be named by its key, with --region. The exit code is 1 when the object
is damaged; what of it can be read is shown.`
}

// maxDumped is the largest object that is described: other bodies are fsck's.
const maxDumped = 256 << 20

// Run shows the object.
func (c *ledgerDumpCmd) Run(ctx context.Context, k *kong.Kong) error {
	object, err := c.object(ctx)
	if err != nil {
		return err
	}
	if c.Output == "json" {
		view, damage := c.view(object)
		e := json.NewEncoder(k.Stdout)
		e.SetEscapeHTML(false)
		e.SetIndent("", "  ")
		return errors.Join(e.Encode(view), damage)
	}
	var lines bytes.Buffer
	damage := describe(&lines, filepath.ToSlash(c.Object), object)
	for line := range strings.Lines(lines.String()) {
		fmt.Fprintln(k.Stdout, clean(strings.TrimRight(line, "\n")))
	}
	return damage
}

// dumpView is the answer in JSON.
type dumpView struct {
	Object string `json:"object"`
	Octets int    `json:"octets"`
	ledger.Inspection
	Error string   `json:"error,omitempty"`
	Lines []string `json:"lines,omitempty"` // what has no fields: a part's mailboxes, a key object
}

// view is what text says, in fields as far as they go.
func (c *ledgerDumpCmd) view(object []byte) (view dumpView, damage error) {
	key := filepath.ToSlash(c.Object)
	view.Object, view.Octets = c.Object, len(object)
	var lines bytes.Buffer
	if ofSealed(object) {
		damage = describe(&lines, key, object)
		view.Sound = damage == nil
	} else if view.Inspection, damage = ledger.Inspect(key, object); damage == nil && ofPart(key) {
		damage = shard.DescribePart(&lines, ledger.PartPayload(object))
	}
	for line := range strings.Lines(lines.String()) {
		view.Lines = append(view.Lines, strings.TrimRight(line, "\n"))
	}
	if damage != nil {
		view.Error = damage.Error()
	}
	return view, damage
}

// What begins the objects of package sealed.
const (
	keyObject    = "PSTNDKEY"
	sealedObject = "PSTNSEAL"
)

func ofSealed(object []byte) bool {
	return bytes.HasPrefix(object, []byte(keyObject)) || bytes.HasPrefix(object, []byte(sealedObject))
}

// ofPart reports whether a key is that of a checkpoint's part.
func ofPart(key string) bool { return path.Base(path.Dir(path.Dir(key))) == "checkpoint" }

// object reads it, from the disk or the store.
func (c *ledgerDumpCmd) object(ctx context.Context) ([]byte, error) {
	if c.Region == "" {
		file, err := os.Open(c.Object)
		if err != nil {
			return nil, err
		}
		defer file.Close()
		return readAtMost(file)
	}
	region, err := openRegionStore(ctx, c.Region, slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, err
	}
	defer region.close()
	store := region.store
	if number, ok := shardOf(c.Object, string(region.Name), region.Shards); ok && folder(c.Object) != "key" {
		shard, err := region.shard(ctx, number)
		if err != nil {
			return nil, err
		}
		store = shard.Store
	}
	return readAtMost(&objectReader{ctx, store, c.Object, 0})
}

func readAtMost(r io.Reader) ([]byte, error) {
	content, err := io.ReadAll(io.LimitReader(r, maxDumped+1))
	if err == nil && len(content) > maxDumped {
		err = fmt.Errorf("longer than %d octets: postern fsck verifies it", maxDumped)
	}
	return content, err
}

// shardOf is the number of the shard that a key is of.
func shardOf(key, region string, shards int) (number int, ok bool) {
	parts := strings.Split(key, "/")
	if len(parts) < 4 || parts[0] != region {
		return 0, false
	}
	number, err := strconv.Atoi(strings.TrimPrefix(parts[1], "shard-"))
	return number, err == nil && number >= 0 && number < shards
}

func folder(key string) string { return path.Base(path.Dir(key)) }

// objectReader reads a whole object.
type objectReader struct {
	ctx   context.Context //nolint:containedctx // it lives as long as the call that made it
	store blob.Store
	key   string
	at    int64
}

// Read implements io.Reader.
func (r *objectReader) Read(p []byte) (int, error) {
	n, err := r.store.ReadAt(r.ctx, r.key, p, r.at)
	r.at += int64(n)
	return n, err
}

// describe says what the object of a key, or of a path that ends as it does, holds.
func describe(w io.Writer, key string, object []byte) error {
	switch {
	case bytes.HasPrefix(object, []byte(keyObject)):
		return describeKey(w, object)
	case bytes.HasPrefix(object, []byte(sealedObject)) && len(object) >= 24:
		fmt.Fprintf(w, "sealed object: version %d, by data key %d\n", bin.LittleEndian.Uint16(object[8:]), bin.LittleEndian.Uint32(object[12:]))
		return errors.New("it is encrypted: name it by its key, with --region")
	}
	err := ledger.Describe(w, key, object)
	if payload := ledger.PartPayload(object); err == nil && ofPart(key) {
		return shard.DescribePart(w, payload)
	}
	return err
}

// describeKey says what a key object of a sealed store holds, which is there twice: see
// package sealed. The wrapped key is left out.
func describeKey(w io.Writer, b []byte) error {
	half := len(b) / 2
	first, second := describeKeyOnce(io.Discard, b[:half]), describeKeyOnce(io.Discard, b[half:])
	switch {
	case first != nil && second != nil: // or the only one, as the first releases wrote it
		return describeKeyOnce(w, b)
	case first != nil:
		return errors.Join(describeKeyOnce(w, b[half:]), first)
	}
	return errors.Join(describeKeyOnce(w, b[:half]), second)
}

func describeKeyOnce(w io.Writer, b []byte) error {
	const head = 34
	if len(b) < head+2+4 || crc32.Checksum(b[:len(b)-4], crc32.MakeTable(crc32.Castagnoli)) != bin.LittleEndian.Uint32(b[len(b)-4:]) {
		return &maildrop.Error{Op: "dump", Kind: maildrop.Corrupt, Err: errors.New("the key object's checksum is wrong")}
	}
	name := int(bin.LittleEndian.Uint16(b[32:]))
	if head+name+2+4 > len(b) {
		return &maildrop.Error{Op: "dump", Kind: maildrop.Corrupt, Err: errors.New("the key object's lengths are out of range")}
	}
	_, err := fmt.Fprintf(w, "key object: version %d, data key %d, wrapped by %q in %d octets\n", bin.LittleEndian.Uint16(b[8:]),
		bin.LittleEndian.Uint32(b[12:]), b[head:head+name], bin.LittleEndian.Uint16(b[head+name:]))
	return err
}
