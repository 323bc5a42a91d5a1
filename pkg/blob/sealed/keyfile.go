package sealed

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/tink-crypto/tink-go/v2/aead"
	"github.com/tink-crypto/tink-go/v2/insecurecleartextkeyset"
	"github.com/tink-crypto/tink-go/v2/keyset"
	"github.com/tink-crypto/tink-go/v2/tink"
)

const maxKeyFile = 64 << 10 // octets: some 300 keys

// KeyInfo is what may be known of a key of a keyset file.
type KeyInfo struct {
	ID      uint32
	Primary bool   // it wraps; the others only unwrap
	Status  string // "ENABLED", "DISABLED" or "DESTROYED"
	Type    string // "AesGcmKey", …
}

// KeyFile wraps by the keyset of a file: Tink's, in JSON or binary, in the
// clear. It refuses a file that others than its owner can read or write, but for one
// of root's that a group may read: that is how Kubernetes shows a secret to a
// process that isn't root.
func KeyFile(path string) (*Wrapper, error) {
	f, err := openKeyFile(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return f.wrapper()
}

// KeyFileKeys lists the keys of a keyset file.
func KeyFileKeys(path string) ([]KeyInfo, error) {
	f, err := openKeyFile(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info := f.handle.KeysetInfo()
	keys := make([]KeyInfo, 0, len(info.GetKeyInfo()))
	for _, k := range info.GetKeyInfo() {
		keys = append(keys, KeyInfo{
			ID: k.GetKeyId(), Primary: k.GetKeyId() == info.GetPrimaryKeyId(), Status: k.GetStatus().String(),
			Type: k.GetTypeUrl()[strings.LastIndexByte(k.GetTypeUrl(), '.')+1:],
		})
	}
	return keys, nil
}

// CreateKeyFile writes a new keyset of one key to a file that isn't there yet,
// with mode 0600, and returns the key's id.
func CreateKeyFile(path string) (id uint32, err error) {
	manager := keyset.NewManager()
	content, id, err := addPrimary(manager, false)
	if err != nil {
		return 0, err
	}
	// A link never replaces what is there.
	return id, publish(path, content, os.Link, func(*os.File) error { return nil })
}

// RotateKeyFile adds a new key to the file, which wraps from now on, and
// returns its id; the keys that are there go on unwrapping. Owner and mode stay.
func RotateKeyFile(path string) (id uint32, err error) {
	f, err := openKeyFile(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	if err := f.lock(); err != nil {
		return 0, err
	}
	content, id, err := addPrimary(keyset.NewManagerFromHandle(f.handle), f.binary)
	if err != nil {
		return 0, err
	}
	return id, publish(path, content, os.Rename, func(next *os.File) error {
		if stat, ok := f.info.Sys().(*syscall.Stat_t); ok {
			if err := next.Chown(int(stat.Uid), int(stat.Gid)); err != nil {
				return err
			}
		}
		return next.Chmod(f.info.Mode().Perm())
	})
}

// addPrimary is the keyset with a new primary key, as a file's content.
func addPrimary(manager *keyset.Manager, binary bool) (content []byte, id uint32, err error) {
	if id, err = manager.Add(aead.AES256GCMKeyTemplate()); err != nil {
		return nil, 0, err
	}
	if err := manager.SetPrimary(id); err != nil {
		return nil, 0, err
	}
	handle, err := manager.Handle()
	if err != nil {
		return nil, 0, err
	}
	var b bytes.Buffer
	var writer keyset.Writer = keyset.NewJSONWriter(&b)
	if binary {
		writer = keyset.NewBinaryWriter(&b)
	}
	err = insecurecleartextkeyset.Write(handle, writer)
	return b.Bytes(), id, err
}

// publish makes a file whole and durable before it has its name.
func publish(path string, content []byte, place func(from, to string) error, prepare func(*os.File) error) error {
	folder, name := filepath.Split(filepath.Clean(path))
	from := filepath.Join(folder, "."+name+"."+rand.Text())
	f, err := os.OpenFile(from, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer os.Remove(from) // after a rename there is none
	_, err = f.Write(content)
	if err == nil {
		err = prepare(f)
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := place(from, filepath.Join(folder, name)); err != nil {
		return err
	}
	d, err := os.Open(filepath.Clean(folder + "."))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// keyFile is an open one.
type keyFile struct {
	*os.File
	path   string
	info   os.FileInfo
	handle *keyset.Handle
	binary bool
}

func openKeyFile(path string) (_ *keyFile, err error) {
	opened, err := os.Open(filepath.Clean(path))
	if err != nil {
		return nil, fmt.Errorf("key file: %w", err)
	}
	f := &keyFile{File: opened, path: path}
	defer func() {
		if err != nil {
			opened.Close()
		}
	}()
	// Of what is open, not of the path: that may change in between.
	if f.info, err = opened.Stat(); err != nil {
		return nil, fmt.Errorf("key file: %w", err)
	}
	if err := f.private(); err != nil {
		return nil, err
	}
	return f, f.read()
}

// private refuses a file that others can read, or could have written.
func (f *keyFile) private() error {
	mode := f.info.Mode()
	if !mode.IsRegular() {
		return fmt.Errorf("key file %s: not a file", f.path)
	}
	owner := -1
	if stat, ok := f.info.Sys().(*syscall.Stat_t); ok {
		owner = int(stat.Uid)
	}
	if open := mode.Perm() & forbidden(owner, os.Geteuid()); open != 0 {
		return fmt.Errorf("key file %s: others can use it (mode %04o): make that 0600, and think of its keys as known", f.path, mode.Perm())
	}
	return nil
}

// forbidden is what a key file's mode may not have.
func forbidden(owner, me int) os.FileMode {
	if owner == 0 && me != 0 {
		return 0o037
	}
	return 0o077
}

// read takes the keyset in. Errors never quote the content.
func (f *keyFile) read() error {
	content, err := io.ReadAll(io.LimitReader(f, maxKeyFile+1))
	if err != nil {
		return fmt.Errorf("key file: %w", err)
	}
	if len(content) > maxKeyFile {
		return fmt.Errorf("key file %s: over %d octets", f.path, maxKeyFile)
	}
	var reader keyset.Reader = keyset.NewJSONReader(bytes.NewReader(content))
	if f.binary = !bytes.HasPrefix(bytes.TrimSpace(content), []byte("{")); f.binary {
		reader = keyset.NewBinaryReader(bytes.NewReader(content))
	}
	if f.handle, err = insecurecleartextkeyset.Read(reader); err != nil {
		return fmt.Errorf("key file %s: not a keyset in the clear, in JSON or binary (postern key create makes one)", f.path)
	}
	return nil
}

// lock keeps a second rotation out: the later one would lose the earlier's key.
func (f *keyFile) lock() error {
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return fmt.Errorf("key file %s: being changed by somebody else: %w", f.path, err)
	}
	now, err := os.Stat(f.path)
	if err != nil {
		return fmt.Errorf("key file: %w", err)
	}
	if !os.SameFile(f.info, now) {
		return fmt.Errorf("key file %s: was changed by somebody else just now: try again", f.path)
	}
	return nil
}

func (f *keyFile) wrapper() (*Wrapper, error) {
	cipher, err := aead.New(f.handle)
	if err != nil {
		return nil, fmt.Errorf("key file %s: its keys can't wrap: %w", f.path, err)
	}
	enabled := make(map[string]bool)
	info := f.handle.KeysetInfo()
	for _, k := range info.GetKeyInfo() {
		enabled[keyName(k.GetKeyId())] = k.GetStatus().String() == "ENABLED"
	}
	return &Wrapper{
		name: keyName(info.GetPrimaryKeyId()), source: "key file " + f.path,
		aead:  atOnce{cipher},
		holds: func(name string) bool { return enabled[name] },
	}, nil
}

func keyName(id uint32) string { return fmt.Sprintf("keyset/%d", id) }

// atOnce gives a cipher in memory the methods of one that may have to wait.
type atOnce struct{ tink.AEAD }

// EncryptWithContext implements tink.AEADWithContext.
func (a atOnce) EncryptWithContext(_ context.Context, plain, bound []byte) ([]byte, error) {
	return a.Encrypt(plain, bound)
}

// DecryptWithContext implements tink.AEADWithContext.
func (a atOnce) DecryptWithContext(_ context.Context, wrapped, bound []byte) ([]byte, error) {
	return a.Decrypt(wrapped, bound)
}
