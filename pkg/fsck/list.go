package fsck

import (
	"context"
	"fmt"
	"strings"

	"github.com/postern-pop/postern/pkg/blob"
	"github.com/postern-pop/postern/pkg/ledger"
)

// listing is all that a shard has in the store.
type listing struct {
	manifests []string
	names     map[ledger.ObjectKind]map[string]int64 // ledger, packs, bodies: their sizes
	parts     map[string]Usage                       // by the checkpoint's name
	stored    map[ledger.ObjectKind]Usage
}

func list(ctx context.Context, store blob.Store, prefix string) (*listing, error) {
	l := &listing{
		names: map[ledger.ObjectKind]map[string]int64{
			ledger.ObjectLedger: {}, ledger.ObjectPack: {}, ledger.ObjectBody: {}, ledger.ObjectForgotten: {},
		},
		parts: make(map[string]Usage), stored: make(map[ledger.ObjectKind]Usage),
	}
	for info, err := range store.List(ctx, prefix+"/", "") {
		if err != nil {
			return nil, fmt.Errorf("list %s: %w", prefix, err)
		}
		l.take(strings.TrimPrefix(info.Key, prefix+"/"), info.Size)
	}
	return l, nil
}

func (l *listing) take(key string, size int64) {
	folder, name, _ := strings.Cut(key, "/")
	kind := l.kind(ledger.ObjectKind(folder), name)
	switch kind {
	case ledger.ObjectLedger, ledger.ObjectPack, ledger.ObjectBody, ledger.ObjectForgotten:
		l.names[kind][name] = size
	case KindManifest:
		l.manifests = append(l.manifests, name)
	case KindPart:
		checkpoint, _, _ := strings.Cut(name, "/")
		u := l.parts[checkpoint]
		u.add(size)
		l.parts[checkpoint] = u
	}
	u := l.stored[kind]
	u.add(size)
	l.stored[kind] = u
}

// kind sorts strays out, which have the name of nothing that we make.
func (*listing) kind(kind ledger.ObjectKind, name string) ledger.ObjectKind {
	valid := false
	switch kind {
	case ledger.ObjectLedger, ledger.ObjectPack, ledger.ObjectBody, ledger.ObjectForgotten:
		valid = ledger.ValidName(kind, name)
	case KindManifest:
		_, valid = ledger.CheckpointOf(name)
	case KindPart:
		checkpoint, _, _ := strings.Cut(name, "/")
		valid = ledger.ValidName(ledger.ObjectPack, checkpoint) // the same form
	case KindKey:
		valid = true
	}
	if !valid {
		return KindOther
	}
	return kind
}

// owned reports whether anything is there that only an owner of the shard makes.
func (l *listing) owned() bool {
	for kind := range l.stored {
		if kind != KindKey && kind != KindOther {
			return true
		}
	}
	return false
}

// garbage is what nothing names: packs and bodies by the names that an index
// has, and parts of no manifest.
func (l *listing) garbage(named func(kind ledger.ObjectKind) map[string]bool) map[ledger.ObjectKind]Usage {
	garbage := make(map[ledger.ObjectKind]Usage)
	count := func(kind ledger.ObjectKind, u Usage) {
		addUsage(garbage, map[ledger.ObjectKind]Usage{kind: u})
	}
	for _, kind := range []ledger.ObjectKind{ledger.ObjectPack, ledger.ObjectBody} {
		names := named(kind)
		for name, size := range l.names[kind] {
			if !names[name] {
				count(kind, Usage{1, size})
			}
		}
	}
	checkpoints := make(map[string]bool)
	for _, manifest := range l.manifests {
		folder, _ := ledger.CheckpointOf(manifest)
		checkpoints[folder] = true
	}
	for checkpoint, u := range l.parts {
		if !checkpoints[checkpoint] {
			count(KindPart, u)
		}
	}
	if others, ok := l.stored[KindOther]; ok {
		count(KindOther, others)
	}
	return garbage
}
