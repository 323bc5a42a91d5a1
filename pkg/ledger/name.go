package ledger

import (
	"crypto/rand"
	"fmt"
	"strconv"
	"strings"

	"github.com/postern-pop/postern/pkg/blob"
)

// files is the ledger's part of the store.
type files struct {
	store  blob.Store
	prefix string
}

func (f files) ledgerPrefix() string      { return f.prefix + "/ledger/" }
func (f files) bodyPrefix() string        { return f.prefix + "/body/" }
func (f files) packPrefix() string        { return f.prefix + "/pack/" }
func (f files) checkpointPrefix() string  { return f.prefix + "/checkpoint/" }
func (f files) manifestPrefix() string    { return f.prefix + "/manifest/" }
func (f files) forgottenPrefix() string   { return f.prefix + "/forgotten/" }
func (f files) object(seq uint64) string  { return fmt.Sprintf("%s%020d", f.ledgerPrefix(), seq) }
func (f files) body(object string) string { return f.bodyPrefix() + object }
func (f files) pack(object string) string { return f.packPrefix() + object }

// part is the key of a checkpoint's part.
func (f files) part(checkpoint string, number int) string {
	return fmt.Sprintf("%s%s/%06d", f.checkpointPrefix(), checkpoint, number)
}

// manifest is the key of a checkpoint's manifest. The order of the keys is that
// of the sequences.
func (f files) manifest(c checkpoint) string {
	return fmt.Sprintf("%s%020d-%s", f.manifestPrefix(), c.sequence, c.name)
}

const (
	sequenceDigits = 20
	epochDigits    = 16
	randomDigits   = 26
)

// newName makes a name that nobody has used, for a body, a pack or a
// checkpoint: the epoch, so that what an ended epoch left unnamed can be told to be
// garbage, and 128 random bits.
func newName(epoch uint64) string {
	var random [16]byte
	rand.Read(random[:]) // never fails: crypto/rand ends the process instead
	return fmt.Sprintf("%016x-%s", epoch, uidEncoding.EncodeToString(random[:]))
}

// validName holds a name against the form of newName.
func validName(name string) bool {
	_, ok := epochOf(name)
	return ok
}

// epochOf takes a name of newName's form apart.
func epochOf(name string) (epoch uint64, ok bool) {
	if len(name) != epochDigits+1+randomDigits || name[epochDigits] != '-' || strings.ToLower(name) != name {
		return 0, false
	}
	epoch, err := strconv.ParseUint(name[:epochDigits], 16, 64)
	if err != nil {
		return 0, false
	}
	_, err = uidEncoding.DecodeString(name[epochDigits+1:])
	return epoch, err == nil
}

// sequenceOf takes the digits of a sequence apart.
func sequenceOf(digits string) (sequence uint64, ok bool) {
	sequence, err := strconv.ParseUint(digits, 10, 64)
	return sequence, err == nil && len(digits) == sequenceDigits && sequence >= 1 && sequence <= MaxSequence
}

// checkpoint is one as its manifest's name tells.
type checkpoint struct {
	sequence uint64 // the last one that it covers
	epoch    uint64 // of its writer
	name     string // of the folder of its parts
}

// checkpointOf takes a manifest's key apart.
func (f files) checkpointOf(key string) (c checkpoint, ok bool) {
	name := strings.TrimPrefix(key, f.manifestPrefix())
	if len(name) < sequenceDigits+1 || name[sequenceDigits] != '-' {
		return c, false
	}
	c.sequence, ok = sequenceOf(name[:sequenceDigits])
	c.name = name[sequenceDigits+1:]
	if epoch, valid := epochOf(c.name); valid {
		c.epoch = epoch
		return c, ok
	}
	return c, false
}
