package ledger

import (
	"time"

	"golang.org/x/sys/unix"
)

// sinceBoot counts the time that the machine slept, too.
func sinceBoot() time.Duration {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		return time.Duration(time.Now().UnixNano()) // no such kernel runs Go
	}
	return time.Duration(now.Nano())
}
