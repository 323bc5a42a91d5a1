package blob

import (
	"fmt"
	"strings"
)

const (
	maxKey     = 1024 // octets of a key, S3's limit
	maxSegment = 255  // octets of a segment, file systems' limit
)

// CheckKey refuses what isn't a key: slash-separated segments of [a-z0-9._-],
// none of them "." or "..", at most 255 octets each and 1024 together. Every
// Store asks it before a key gets near a disk or a server.
func CheckKey(key string) error {
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

// BeginsKeys reports whether a key can begin with prefix as far as its whole
// segments say; where it can't, a list is empty without a look.
func BeginsKeys(prefix string) bool {
	end := strings.LastIndexByte(prefix, '/')
	return end < 0 || CheckKey(prefix[:end]) == nil
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
