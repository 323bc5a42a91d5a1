package fsck

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// stateFormat is the state file's; any other is refused.
const stateFormat = "postern fsck state 1"

const (
	maxState  = 1 << 30 // octets of a state file
	saveEvery = 5 * time.Second
)

// state is a run so far, as its file has it.
type state struct {
	Format   string         `json:"format"`
	Region   string         `json:"region"`
	Store    string         `json:"store"`
	Shards   int            `json:"shards"`
	Only     int            `json:"only"` // one shard; -1: all
	Finished bool           `json:"finished"`
	Done     map[int]*Shard `json:"done"` // nil: nobody ever owned it
	Current  *current       `json:"current,omitempty"`
}

// current is the shard at work.
type current struct {
	Shard    int             `json:"shard"`
	Identity uint32          `json:"identity"`
	Names    map[string]bool `json:"names"` // objects that were checked: kind/name
	Checked  Usage           `json:"checked"`
	Damage   []Damage        `json:"damage"`
	More     int             `json:"more,omitempty"`
}

// ErrState says that a state file is of something else.
var ErrState = errors.New("the state file can't be gone on with")

// stateFile keeps the state on disk; without a name, nowhere.
type stateFile struct {
	state
	name  string
	saved time.Time
}

// openState reads a state file, or begins one. A finished one starts anew.
func openState(config *Config) (*stateFile, error) {
	fresh := state{
		Format: stateFormat, Region: config.Region, Store: config.Where, Shards: config.Shards, Only: config.Only,
		Done: make(map[int]*Shard),
	}
	f := &stateFile{state: fresh, name: config.State}
	if f.name == "" {
		return f, nil
	}
	was, err := readState(f.name)
	if errors.Is(err, fs.ErrNotExist) {
		return f, f.save(true) // better now than after hours
	}
	if err != nil {
		return nil, err
	}
	switch {
	case was.Region != fresh.Region || was.Store != fresh.Store || was.Shards != fresh.Shards:
		return nil, fmt.Errorf("%s: %w: it is of region %q in %s with %d shards", f.name, ErrState, was.Region, was.Store, was.Shards)
	case was.Only != fresh.Only:
		return nil, fmt.Errorf("%s: %w: it is of a run over other shards", f.name, ErrState)
	case !was.Finished && was.Done != nil:
		f.state = *was
	}
	return f, nil
}

func readState(name string) (*state, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if info.Size() > maxState || !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s: %w: it is no state file", name, ErrState)
	}
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	var s state
	if err := json.Unmarshal(text, &s); err != nil || s.Format != stateFormat {
		return nil, fmt.Errorf("%s: %w: it is not in the format %q", name, ErrState, stateFormat)
	}
	return &s, nil
}

// save writes the file, so that it is the old one or the new one whatever
// happens; not too often unless it must.
func (f *stateFile) save(must bool) error {
	if f.name == "" || !must && time.Since(f.saved) < saveEvery {
		return nil
	}
	text, err := json.Marshal(&f.state)
	if err != nil {
		return err
	}
	temp, err := os.CreateTemp(filepath.Dir(f.name), ".fsck-*")
	if err != nil {
		return err
	}
	defer os.Remove(temp.Name())
	_, err = temp.Write(text)
	if err = errors.Join(err, temp.Sync(), temp.Close()); err != nil {
		return err
	}
	f.saved = time.Now()
	return os.Rename(temp.Name(), f.name)
}

// begin goes on with the shard at work, or begins it.
func (f *stateFile) begin(number int, identity uint32) *current {
	if c := f.Current; c == nil || c.Shard != number || c.Identity != identity || c.Names == nil {
		f.Current = &current{Shard: number, Identity: identity, Names: make(map[string]bool)}
	}
	return f.Current
}

func (f *stateFile) end(number int, s *Shard) error {
	f.Done[number], f.Current = s, nil
	return f.save(s != nil)
}
