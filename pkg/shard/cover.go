package shard

import (
	"context"
	"time"
)

const (
	coverLook    = time.Minute      // between looks when nobody wakes
	coverTimeout = 10 * time.Minute // of one checkpoint
	coverRetry   = time.Second      // first pause after one that failed; doubles up to coverLook
)

// cover is the writing of checkpoints. Its fields are of one goroutine, but due.
type cover struct {
	due      chan struct{}
	newest   time.Time // when the newest one was written; at first, when the shard was opened
	sequence uint64    // that it covers; 0: not known
	pause    time.Duration
	again    time.Time // not before
}

func (c *cover) wake() {
	select {
	case c.due <- struct{}{}:
	default:
	}
}

// covering writes a checkpoint whenever one is due.
func (s *Shard) covering(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-s.cover.due:
		case <-timer.C:
		case <-s.done:
			return
		}
		now := time.Now()
		if !now.Before(s.cover.again) && s.coverage(now).due() {
			s.checkpoint(ctx)
		}
		timer.Reset(coverLook)
		if wait := time.Until(s.cover.again); wait > 0 {
			timer.Reset(wait)
		}
	}
}

func (s *Shard) coverage(now time.Time) coverage {
	s.mu.RLock()
	defer s.mu.RUnlock()
	c := coverage{tail: s.ledger.Tail(), newest: now.Sub(s.cover.newest)}
	if !s.dirty.IsZero() {
		c.waiting = now.Sub(s.dirty)
	}
	c.untrimmed = s.space.trimmed.Load() < s.cover.sequence
	return c
}

// checkpoint writes one. What waits for it, because the tail is too long, goes on.
func (s *Shard) checkpoint(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, coverTimeout)
	defer cancel()
	began := time.Now()
	s.mu.Lock()
	last, dirty := s.state.last, s.dirty
	s.dirty = time.Time{}
	s.mu.Unlock()
	err := s.ledger.WriteCheckpoint(ctx, last.Sequence(), s.state.parts(last, s.mu.RLocker(), usualChunks))
	s.config.Metrics.checkpoint(err == nil, time.Since(began))
	c := &s.cover
	if err != nil {
		s.mu.Lock()
		s.dirty = dirty
		s.mu.Unlock()
		c.pause = min(max(2*c.pause, coverRetry), coverLook)
		c.again = time.Now().Add(c.pause)
		s.log.Warn("checkpoint not written", "sequence", last.Sequence(), "error", err)
		return
	}
	c.newest, c.sequence, c.pause = began, last.Sequence(), 0
	s.commits.signal()
}
