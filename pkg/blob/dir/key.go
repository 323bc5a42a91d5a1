package dir

import (
	"fmt"
	"strings"
)

// checkKey refuses what isn't a key as package blob says it: nothing else gets
// near the file system.
func checkKey(key string) error {
	if len(key) > maxKey {
		return fmt.Errorf("key of %d octets, at most %d", len(key), maxKey)
	}
	for segment := range strings.SplitSeq(key, "/") {
		if !validSegment(segment) {
			return fmt.Errorf("bad key %q: expected segments of [a-z0-9._-] with slashes between", key)
		}
	}
	return nil
}

func validSegment(s string) bool {
	if s == "" || s == "." || s == ".." || len(s) > maxSegment {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '.' && c != '_' && c != '-' {
			return false
		}
	}
	return true
}
