package blobtest

import (
	"context"
	"fmt"
	"io"
	"iter"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/postern-pop/postern/pkg/blob"
)

// Memory is a Store without a disk: for tests of many seeds. It holds to the
// same contract as the others.
type Memory struct {
	mu      sync.Mutex
	objects map[string][]byte
}

// NewMemory makes an empty one.
func NewMemory() *Memory { return &Memory{objects: make(map[string][]byte)} }

// Create implements blob.Store.
func (m *Memory) Create(ctx context.Context, key string, body io.Reader, size int64) error {
	if err := blob.CheckKey(key); err != nil {
		return err
	}
	if size < 1 {
		return fmt.Errorf("create %s: an object of %d octets", key, size)
	}
	content, err := io.ReadAll(io.LimitReader(body, size+1))
	if err != nil {
		return fmt.Errorf("create %s: %w", key, err)
	}
	if int64(len(content)) != size {
		return fmt.Errorf("create %s: body has not %d octets", key, size)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	if _, ok := m.objects[key]; ok {
		return fmt.Errorf("create %s: %w", key, blob.ErrExists)
	}
	m.objects[key] = content
	return nil
}

// ReadAt implements blob.Store.
func (m *Memory) ReadAt(ctx context.Context, key string, p []byte, offset int64) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	content, ok := m.objects[key]
	switch {
	case blob.CheckKey(key) != nil || offset < 0:
		return 0, fmt.Errorf("read %q: bad key or offset %d", key, offset)
	case !ok:
		return 0, fmt.Errorf("read %s: %w", key, blob.ErrNotFound)
	}
	n := copy(p, content[min(offset, int64(len(content))):])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// List implements blob.Store.
func (m *Memory) List(ctx context.Context, prefix, after string) iter.Seq2[blob.Info, error] {
	return func(yield func(blob.Info, error) bool) {
		for _, info := range m.infos(prefix, after) {
			if err := ctx.Err(); err != nil {
				yield(blob.Info{}, err)
				return
			}
			if !yield(info, nil) {
				return
			}
		}
	}
}

func (m *Memory) infos(prefix, after string) (infos []blob.Info) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, key := range slices.Sorted(maps.Keys(m.objects)) {
		if strings.HasPrefix(key, prefix) && key > after {
			infos = append(infos, blob.Info{Key: key, Size: int64(len(m.objects[key]))})
		}
	}
	return infos
}

// Delete implements blob.Store.
func (m *Memory) Delete(ctx context.Context, key string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if blob.CheckKey(key) != nil {
		return fmt.Errorf("delete %q: bad key", key)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	delete(m.objects, key)
	return nil
}

// Alter changes an object in place, as only a failing disk does. It reports
// whether there is one.
func (m *Memory) Alter(key string, change func(content []byte) []byte) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	content, ok := m.objects[key]
	if ok {
		m.objects[key] = change(slices.Clone(content))
	}
	return ok
}

// Clone is a copy that goes its own way.
func (m *Memory) Clone() *Memory {
	m.mu.Lock()
	defer m.mu.Unlock()
	return &Memory{objects: maps.Clone(m.objects)}
}
