package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"os"
	"slices"
	"time"
)

const (
	keysEvery  = 2 * time.Second // between looks at the file
	maxKeyFile = 4 << 10         // octets
)

// readGossipKeys reads the keys of a region's gossip, one a line.
func readGossipKeys(file string) (keys [][]byte, err error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	if len(text) > maxKeyFile {
		return nil, fmt.Errorf("%s: longer than %d octets", file, maxKeyFile)
	}
	for line := range bytes.Lines(text) {
		line = bytes.TrimSpace(line)
		if len(line) == 0 {
			continue
		}
		key, err := base64.StdEncoding.DecodeString(string(line))
		if err != nil || len(key) != 16 && len(key) != 24 && len(key) != 32 {
			return nil, fmt.Errorf("%s: line %d: expected 16, 24 or 32 octets in base64", file, len(keys)+1)
		}
		keys = append(keys, key)
	}
	if len(keys) == 0 {
		return nil, fmt.Errorf("%s: no key in it", file)
	}
	return keys, nil
}

// followKeys takes the keys that the file has, whenever they change. What can't be
// read or used is said once, and changes nothing.
func (me *party) followKeys(ctx context.Context, file string, keys [][]byte) error {
	said := ""
	for sleep(ctx, keysEvery) {
		fresh, err := readGossipKeys(file)
		if err == nil && slices.EqualFunc(fresh, keys, bytes.Equal) {
			said = ""
			continue
		}
		if err == nil {
			err = me.gossip.SetKeys(fresh)
		}
		switch {
		case err == nil:
			keys, said = fresh, ""
			me.log.Info("gossip keys replaced", "keys", len(keys))
		case err.Error() != said:
			said = err.Error()
			me.log.Warn("gossip keys stay as they are", "error", err)
		}
	}
	return nil
}
