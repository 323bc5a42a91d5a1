//go:build !linux

package ledger

import "time"

// sinceBoot goes by the wall clock, which counts the time that the machine
// slept. Good for a developer's machine only: it can be set back.
func sinceBoot() time.Duration { return time.Duration(time.Now().UnixNano()) }
