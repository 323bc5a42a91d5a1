package sealed_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/tink-crypto/tink-go/v2/aead"
	"github.com/tink-crypto/tink-go/v2/insecurecleartextkeyset"
	"github.com/tink-crypto/tink-go/v2/keyset"

	"github.com/postern-pop/postern/pkg/blob"
	"github.com/postern-pop/postern/pkg/blob/blobtest"
	"github.com/postern-pop/postern/pkg/blob/sealed"
)

func mustRead(t testing.TB, s blob.Store, key, want string) {
	t.Helper()
	if got, err := all(s, key, len(want)+10); err != nil || string(got) != want {
		t.Errorf("%s: %q, %v; want %q", key, got, err, want)
	}
}

func rotate(t testing.TB, path string) *sealed.Wrapper {
	t.Helper()
	if _, err := sealed.RotateKeyFile(path); err != nil {
		t.Fatal(err)
	}
	return fileWrapper(t, path)
}

// Sixteen processes find no key and make one: all have the same afterwards, also
// on a store that fails in every way that a store may.
func TestRaceForTheFirstKey(t *testing.T) {
	w := wrapper(t)
	for seed := range uint64(20) {
		faulty := blobtest.NewFaulty(blobtest.NewMemory(), blobtest.Seeded(seed, 0.3))
		if seed == 0 {
			faulty = blobtest.NewFaulty(blobtest.NewMemory(), nil)
		}
		stores := make([]*sealed.Store, 16)
		var opening sync.WaitGroup
		for i := range stores {
			opening.Go(func() {
				for stores[i] == nil {
					stores[i], _ = sealed.Open(t.Context(), faulty, prefix, w, sealed.Options{})
				}
			})
		}
		opening.Wait()
		for i, s := range stores {
			key := fmt.Sprintf("%s/body/%d", prefix, i)
			for {
				err := s.Create(t.Context(), key, strings.NewReader(key), int64(len(key)))
				if err == nil || errors.Is(err, blob.ErrExists) {
					break
				}
			}
		}
		faulty.Flush()
		reader := stores[int(seed)%len(stores)]
		for i := range stores {
			key := fmt.Sprintf("%s/body/%d", prefix, i)
			got, err := all(reader, key, 100)
			for errors.Is(err, blobtest.ErrInjected) {
				got, err = all(reader, key, 100)
			}
			if err != nil || string(got) != key {
				t.Fatalf("seed %d: object of %d read by %d: %q, %v", seed, i, seed, got, err)
			}
		}
	}
}

// A creator that overslept: when it creates the first key's name at last, others
// have made one, wrapped it anew and deleted the first wrap. It uses theirs.
func TestCreatorThatOverslept(t *testing.T) {
	path := newKeyFile(t)
	w, memory := fileWrapper(t, path), blobtest.NewMemory()
	var newer *sealed.Wrapper
	faulty := blobtest.NewFaulty(memory, func(c blobtest.Call) blobtest.Fault {
		if c.Op == blobtest.OpCreate && newer == nil {
			newer = rotate(t, path)
			put(t, open(t, memory, w), prefix+"/body/1", []byte("theirs"))
			if n, err := sealed.Rewrap(t.Context(), memory, prefix, newer, false); n != 1 || err != nil {
				t.Error(n, err)
			}
		}
		return blobtest.Fault{}
	})
	_, err := sealed.Open(t.Context(), faulty, prefix, w, sealed.Options{})
	if !errors.Is(err, sealed.ErrNoKey) {
		t.Errorf("with the old keys: %v; its own key is nobody else's", err)
	}
	late := open(t, memory, newer)
	put(t, late, prefix+"/body/2", []byte("late"))
	if n := len(keys(t, memory, prefix+"/key/")); n != 2 {
		t.Fatalf("%d key objects, want the overslept one too", n)
	}
	if _, err := sealed.Rewrap(t.Context(), memory, prefix, newer, false); err != nil {
		t.Fatal(err)
	}
	for _, s := range []blob.Store{late, open(t, memory, newer)} {
		mustRead(t, s, prefix+"/body/1", "theirs")
		mustRead(t, s, prefix+"/body/2", "late")
	}
}

func TestWrongKey(t *testing.T) {
	memory := blobtest.NewMemory()
	right, wrong := wrapper(t), wrapper(t)
	put(t, open(t, memory, right), prefix+"/body/1", []byte("x"))
	_, err := sealed.Open(t.Context(), memory, prefix, wrong, sealed.Options{})
	if !errors.Is(err, sealed.ErrNoKey) || !strings.Contains(err.Error(), right.Name()) || !strings.Contains(err.Error(), "put that key back") {
		t.Errorf("the wrong key: %v", err)
	}
	if n := len(keys(t, memory, prefix+"/key/")); n != 1 {
		t.Errorf("%d key objects", n)
	}
}

// A key object in another shard's place, or of another generation, is none.
func TestKeyObjectMoved(t *testing.T) {
	w, memory := wrapper(t), blobtest.NewMemory()
	open(t, memory, w)
	object, _ := all(memory, prefix+"/key/0000000001", 5000)
	for _, at := range []string{"eu/shard-0008/key/0000000001", prefix + "/key/0000000002"} {
		moved := blobtest.NewMemory()
		put(t, moved, at, object)
		shard, _, _ := strings.Cut(at, "/key/")
		if _, err := sealed.Open(t.Context(), moved, shard, w, sealed.Options{}); !errors.Is(err, sealed.ErrNoKey) {
			t.Errorf("at %s: %v", at, err)
		}
	}
}

// One damaged copy of a data key costs nothing and is said; two cost the shard.
func TestDamagedKeyObject(t *testing.T) {
	w, memory := wrapper(t), blobtest.NewMemory()
	key, content := prefix+"/key/0000000001", []byte("mail")
	put(t, open(t, memory, w), prefix+"/body/1", content)
	object, _ := all(memory, key, 5000)
	half := len(object) / 2
	for i := range object {
		altered, found := memory.Clone(), 0
		flip := func(at int) {
			altered.Alter(key, func(b []byte) []byte { b[at] ^= 0x20; return b })
		}
		flip(i)
		s := openAt(t, altered, prefix, w, sealed.Options{Found: func(at string, _ int64, _ string) {
			if at == key {
				found++
			}
		}})
		if got, err := all(s, prefix+"/body/1", len(content)); err != nil || !bytes.Equal(got, content) || found == 0 {
			t.Errorf("octet %d altered: %q, %v, found %d", i, got, err, found)
		}
		flip((i + half) % len(object))
		if _, err := sealed.Open(t.Context(), altered, prefix, w, sealed.Options{}); err == nil {
			t.Errorf("octet %d altered in both copies: opened", i)
		}
	}
	memory.Alter(key, func(b []byte) []byte { return b[:half] }) // as the first releases wrote it
	if got, err := all(open(t, memory, w), prefix+"/body/1", len(content)); err != nil || !bytes.Equal(got, content) {
		t.Errorf("one copy: %q, %v", got, err)
	}
}

// Old objects are read with their own generation, new ones sealed with the new.
func TestNewGeneration(t *testing.T) {
	w, memory := wrapper(t), blobtest.NewMemory()
	running := open(t, memory, w)
	put(t, running, prefix+"/body/1", []byte("one"))
	if n, err := sealed.NewGeneration(t.Context(), memory, prefix, w); n != 2 || err != nil {
		t.Fatal(n, err)
	}
	s := open(t, memory, w)
	put(t, s, prefix+"/body/2", []byte("two"))
	put(t, running, prefix+"/body/3", []byte("one still"))
	for _, s := range []blob.Store{running, s} { // who opened before learns of the new key
		mustRead(t, s, prefix+"/body/1", "one")
		mustRead(t, s, prefix+"/body/2", "two")
		mustRead(t, s, prefix+"/body/3", "one still")
	}
	stored, _ := all(memory, prefix+"/body/2", 1000)
	if stored[12] != 2 {
		t.Errorf("generation %d", stored[12])
	}
	generations, err := sealed.Generations(t.Context(), memory, prefix)
	if err != nil || len(generations) != 2 || generations[1].Number != 2 || generations[1].WrappedBy[0] != w.Name() {
		t.Errorf("%v, %v", generations, err)
	}
	if _, err := sealed.NewGeneration(t.Context(), memory, "eu/none", w); err == nil {
		t.Error("a second generation without a first")
	}
}

// A generation that is lost costs its own objects only, and is named.
func TestLostGeneration(t *testing.T) {
	w, memory := wrapper(t), blobtest.NewMemory()
	put(t, open(t, memory, w), prefix+"/body/1", []byte("one"))
	if _, err := sealed.NewGeneration(t.Context(), memory, prefix, w); err != nil {
		t.Fatal(err)
	}
	put(t, open(t, memory, w), prefix+"/body/2", []byte("two"))
	lost, _ := all(memory, prefix+"/key/0000000001", 5000)
	if err := memory.Delete(t.Context(), prefix+"/key/0000000001"); err != nil {
		t.Fatal(err)
	}
	s := open(t, memory, w)
	mustRead(t, s, prefix+"/body/2", "two")
	if _, err := all(s, prefix+"/body/1", 10); !errors.Is(err, sealed.ErrNoKey) || !strings.Contains(err.Error(), prefix+"/key/0000000001") {
		t.Errorf("of the lost generation: %v", err)
	}
	put(t, memory, prefix+"/key/0000000001", lost)
	mustRead(t, s, prefix+"/body/1", "one")
}

// Without key objects nothing is begun anew over what they sealed.
func TestAllKeysLost(t *testing.T) {
	w, memory := wrapper(t), blobtest.NewMemory()
	put(t, open(t, memory, w), prefix+"/body/1", []byte("one"))
	if err := memory.Delete(t.Context(), prefix+"/key/0000000001"); err != nil {
		t.Fatal(err)
	}
	for _, plain := range []bool{false, true} {
		_, err := sealed.Open(t.Context(), memory, prefix, w, sealed.Options{Plain: plain})
		if !errors.Is(err, sealed.ErrNoKey) || !strings.Contains(err.Error(), "restore") {
			t.Errorf("plain %t: %v", plain, err)
		}
	}
	if n := len(keys(t, memory, "")); n != 1 {
		t.Errorf("%d objects", n)
	}
}

// A new key-encryption key, with the objects readable all the time.
func TestRewrap(t *testing.T) {
	path := newKeyFile(t)
	old, memory := fileWrapper(t, path), blobtest.NewMemory()
	running := open(t, memory, old)
	put(t, running, prefix+"/body/1", []byte("one"))
	if _, err := sealed.NewGeneration(t.Context(), memory, prefix, old); err != nil {
		t.Fatal(err)
	}
	newer := rotate(t, path)
	if newer.Name() == old.Name() {
		t.Fatal("no new primary key")
	}
	mustRead(t, open(t, memory, newer), prefix+"/body/1", "one")
	for _, c := range []struct {
		keep  bool
		count int
		keys  []string
	}{
		{true, 2, []string{"0000000001", "0000000001-0001", "0000000002", "0000000002-0001"}},
		{false, 0, []string{"0000000001-0001", "0000000002-0001"}},
		{false, 0, []string{"0000000001-0001", "0000000002-0001"}},
	} {
		n, err := sealed.Rewrap(t.Context(), memory, prefix, newer, c.keep)
		if err != nil || n != c.count {
			t.Errorf("keep %t: %d wrapped, %v; want %d", c.keep, n, err, c.count)
		}
		var names []string
		for _, key := range keys(t, memory, prefix+"/key/") {
			names = append(names, filepath.Base(key))
		}
		if !slices.Equal(names, c.keys) {
			t.Errorf("keep %t: %q", c.keep, names)
		}
		if c.keep { // both can open meanwhile
			mustRead(t, open(t, memory, old), prefix+"/body/1", "one")
		}
		mustRead(t, open(t, memory, newer), prefix+"/body/1", "one")
	}
	if _, err := sealed.Open(t.Context(), memory, prefix, old, sealed.Options{}); !errors.Is(err, sealed.ErrNoKey) {
		t.Errorf("with the old key: %v", err)
	}
	// To a key that has no older ones: it takes the keyset to unwrap.
	other := wrapper(t)
	if _, err := sealed.Rewrap(t.Context(), memory, prefix, other, false); err == nil {
		t.Error("wrapped anew without the key to unwrap")
	}
	if n, err := sealed.Rewrap(t.Context(), memory, prefix, other, false, newer); n != 2 || err != nil {
		t.Error(n, err)
	}
	mustRead(t, open(t, memory, other), prefix+"/body/1", "one")
}

// Whatever the store does in between, a data key is readable afterwards.
func TestRewrapOnAFaultyStore(t *testing.T) {
	for seed := range uint64(100) {
		path := newKeyFile(t)
		memory := blobtest.NewMemory()
		put(t, open(t, memory, fileWrapper(t, path)), prefix+"/body/1", []byte("one"))
		newer := rotate(t, path)
		faulty := blobtest.NewFaulty(memory, blobtest.Seeded(seed, 0.4))
		for range 3 {
			_, _ = sealed.Rewrap(t.Context(), faulty, prefix, newer, false)
			mustRead(t, open(t, memory, newer), prefix+"/body/1", "one")
		}
		faulty.Flush()
		mustRead(t, open(t, memory, newer), prefix+"/body/1", "one")
	}
}

// Mail from before encryption: refused, unless it is allowed; then read as it
// is, beside what is sealed, with sizes right for both.
func TestPlainObjects(t *testing.T) {
	w, memory := wrapper(t), blobtest.NewMemory()
	old := prefix + "/ledger/00000000000000000001"
	put(t, memory, old, []byte("PSTNLEDG, in the clear"))
	put(t, memory, prefix+"/body/tiny", []byte("x"))
	if _, err := sealed.Open(t.Context(), memory, prefix, w, sealed.Options{}); !errors.Is(err, sealed.ErrNoKey) || !strings.Contains(err.Error(), "allow plain") {
		t.Fatalf("with plain objects there: %v", err)
	}
	if n := len(keys(t, memory, prefix+"/key/")); n != 0 {
		t.Fatalf("%d keys made", n)
	}
	s := openAt(t, memory, prefix, w, sealed.Options{Plain: true})
	put(t, s, prefix+"/ledger/00000000000000000002", []byte("sealed"))
	mustRead(t, s, old, "PSTNLEDG, in the clear")
	mustRead(t, s, old, "PSTNLEDG, in the clear") // known now
	mustRead(t, s, prefix+"/body/tiny", "x")
	mustRead(t, s, prefix+"/ledger/00000000000000000002", "sealed")
	var sizes []int64
	for info, err := range s.List(t.Context(), "", "") {
		if err != nil {
			t.Fatal(err)
		}
		sizes = append(sizes, info.Size)
	}
	if !slices.Equal(sizes, []int64{1, 22, 6}) {
		t.Errorf("sizes %d", sizes)
	}
	p := make([]byte, 3)
	if n, err := s.ReadAt(t.Context(), old, p, 10); n != 3 || err != nil || string(p) != "in " {
		t.Errorf("%q, %v", p[:n], err)
	}
	// One name is one object, sealed or not: who has no encryption is kept out too.
	if err := memory.Create(t.Context(), prefix+"/ledger/00000000000000000002", strings.NewReader("x"), 1); !errors.Is(err, blob.ErrExists) {
		t.Errorf("an owner without encryption appends where a fence is: %v", err)
	}
	if err := s.Create(t.Context(), old, strings.NewReader("x"), 1); !errors.Is(err, blob.ErrExists) {
		t.Errorf("over a plain object: %v", err)
	}
	if n, err := sealed.Plain(t.Context(), memory, prefix); n != 2 || err != nil {
		t.Errorf("%d plain objects, %v", n, err)
	}
	// The migration has ended: what is plain was put there by somebody else.
	if _, err := all(open(t, memory, w), old, 100); !errors.Is(err, sealed.ErrCorrupt) {
		t.Errorf("without plain reads: %v", err)
	}
}

func TestKeyFileModes(t *testing.T) {
	for _, c := range []struct {
		mode os.FileMode
		good bool
	}{
		{0o600, true}, {0o400, true}, {0o700, true}, {0o640, false}, {0o604, false}, {0o620, false}, {0o602, false}, {0o666, false}, {0o601, false},
	} {
		path := newKeyFile(t)
		if err := os.Chmod(path, c.mode); err != nil {
			t.Fatal(err)
		}
		_, err := sealed.KeyFile(path)
		_, listed := sealed.KeyFileKeys(path)
		_, rotated := sealed.RotateKeyFile(path)
		for _, err := range []error{err, listed, rotated} {
			if (err == nil) != c.good || err != nil && !strings.Contains(err.Error(), fmt.Sprintf("%04o", c.mode)) {
				t.Errorf("mode %04o: %v", c.mode, err)
			}
		}
	}
}

func TestKeyFileContents(t *testing.T) {
	handle, err := keyset.NewHandle(aead.AES256GCMKeyTemplate())
	if err != nil {
		t.Fatal(err)
	}
	var binary bytes.Buffer
	if err := insecurecleartextkeyset.Write(handle, keyset.NewBinaryWriter(&binary)); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		content string
		good    bool
	}{
		"binary":    {binary.String(), true},
		"empty":     {"", false},
		"brace":     {"{", false},
		"no keys":   {`{"primaryKeyId":1,"key":[]}`, false},
		"text":      {"a passphrase that must not be quoted", false},
		"json":      {`{"primaryKeyId":1,"secret":"must not be quoted"}`, false},
		"too large": {strings.Repeat("x", 65<<10), false},
	} {
		path := filepath.Join(t.TempDir(), "keys")
		if err := os.WriteFile(path, []byte(c.content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := sealed.KeyFile(path); (err == nil) != c.good || err != nil && strings.Contains(err.Error(), "must not") {
			t.Errorf("%s: %v", name, err)
		}
		if !c.good {
			continue
		}
		before := fileWrapper(t, path)
		memory := blobtest.NewMemory()
		put(t, open(t, memory, before), prefix+"/body/1", []byte("one"))
		after := rotate(t, path)
		mustRead(t, open(t, memory, after), prefix+"/body/1", "one")
		if content, err := os.ReadFile(path); err != nil || bytes.HasPrefix(content, []byte("{")) {
			t.Errorf("%s: rotated into JSON, %v", name, err)
		}
	}
	if _, err := sealed.KeyFile(t.TempDir()); err == nil {
		t.Error("a directory is taken")
	}
	if _, err := sealed.KeyFile(filepath.Join(t.TempDir(), "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
}

func TestKeyFileLife(t *testing.T) {
	path := newKeyFile(t)
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := sealed.CreateKeyFile(path); !errors.Is(err, os.ErrExist) {
		t.Errorf("created again: %v", err)
	}
	if again, _ := os.ReadFile(path); !bytes.Equal(before, again) {
		t.Error("the file was overwritten")
	}
	if err := os.Chmod(path, 0o400); err != nil {
		t.Fatal(err)
	}
	id, err := sealed.RotateKeyFile(path)
	if err != nil {
		t.Fatal(err)
	}
	listed, err := sealed.KeyFileKeys(path)
	if err != nil || len(listed) != 2 || listed[0].Primary || !listed[1].Primary || listed[1].ID != id || listed[1].Type != "AesGcmKey" || listed[1].Status != "ENABLED" {
		t.Errorf("%+v, %v", listed, err)
	}
	if w := fileWrapper(t, path); w.Name() != fmt.Sprintf("keyset/%d", id) {
		t.Errorf("%s wraps, want %d", w.Name(), id)
	}
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o400 {
		t.Errorf("mode after the rotation %v, %v", info.Mode(), err)
	}
	if left, err := os.ReadDir(filepath.Dir(path)); err != nil || len(left) != 1 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// Of rotations at once each one's key is in the file, or it failed.
func TestKeyFileRotatedAtOnce(t *testing.T) {
	path := newKeyFile(t)
	ids := make([]uint32, 16)
	var rotating sync.WaitGroup
	for i := range ids {
		rotating.Go(func() { ids[i], _ = sealed.RotateKeyFile(path) })
	}
	rotating.Wait()
	listed, err := sealed.KeyFileKeys(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range ids {
		if id != 0 && !slices.ContainsFunc(listed, func(k sealed.KeyInfo) bool { return k.ID == id }) {
			t.Errorf("key %d was added and is not there: %v", id, listed)
		}
	}
}

func TestOpenWrapper(t *testing.T) {
	path := newKeyFile(t)
	if w, err := sealed.OpenWrapper(path, ""); err != nil || !strings.HasPrefix(w.Name(), "keyset/") {
		t.Error(w, err)
	}
	for _, c := range [][2]string{{"", ""}, {path, "hcvault://vault:8200/transit/keys/x"}, {"", "aws-kms://arn"}, {"", "x"}, {"", "hcvault://user:word@vault/transit/keys/x"}, {"", "hcvault://vault/transit/keys/x?token=word"}, {"", "hcvault://vault/x"}} {
		if _, err := sealed.OpenWrapper(c[0], c[1]); err == nil || strings.Contains(err.Error(), "word@") || strings.Contains(err.Error(), "token=word") {
			t.Errorf("%q: %v", c, err)
		}
	}
}

// A name that had a plain object, and has a sealed one now.
func TestPlainThenSealed(t *testing.T) {
	w, memory := wrapper(t), blobtest.NewMemory()
	key := prefix + "/body/1"
	put(t, memory, key, []byte("plain"))
	s := openAt(t, memory, prefix, w, sealed.Options{Plain: true})
	mustRead(t, s, key, "plain")
	if err := memory.Delete(t.Context(), key); err != nil { // by another process
		t.Fatal(err)
	}
	put(t, s, key, []byte("sealed"))
	mustRead(t, s, key, "sealed")
}

// An opening that lists a wrap, and finds it replaced when it reads it.
func TestOpenedWhileRewrapped(t *testing.T) {
	path := newKeyFile(t)
	memory := blobtest.NewMemory()
	put(t, open(t, memory, fileWrapper(t, path)), prefix+"/body/1", []byte("one"))
	newer := rotate(t, path)
	done := false
	faulty := blobtest.NewFaulty(memory, func(c blobtest.Call) blobtest.Fault {
		if c.Op == blobtest.OpRead && !done {
			done = true
			if n, err := sealed.Rewrap(t.Context(), memory, prefix, newer, false); n != 1 || err != nil {
				t.Error(n, err)
			}
		}
		return blobtest.Fault{}
	})
	mustRead(t, open(t, faulty, newer), prefix+"/body/1", "one")
}

// A newest wrap that can't be read is no reason to delete the one before.
func TestRewrapBesideDamage(t *testing.T) {
	w, memory := wrapper(t), blobtest.NewMemory()
	put(t, open(t, memory, w), prefix+"/body/1", []byte("one"))
	put(t, memory, prefix+"/key/0000000001-0005", []byte("not a key object"))
	if _, err := sealed.Rewrap(t.Context(), memory, prefix, w, false); err == nil || !strings.Contains(err.Error(), "0000000001-0005") {
		t.Errorf("%v; want the damaged object's name", err)
	}
	mustRead(t, open(t, memory, w), prefix+"/body/1", "one")
}
