package embedetcd

import (
	"log/slog"
	"sync/atomic"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// quietCore passes etcd's errors on to the process's log as warnings: whether
// one is an error for the process is the process's to say. It says nothing of
// an orderly end, which etcd calls an error.
type quietCore struct {
	log     *slog.Logger
	closing atomic.Bool
}

func (c *quietCore) logger() *zap.Logger { return zap.New(c) }

// Enabled, With, Check, Write and Sync are zapcore.Core.
func (c *quietCore) Enabled(level zapcore.Level) bool {
	return level >= zapcore.ErrorLevel && !c.closing.Load()
}

// With drops the fields: messages are few, and their own fields come with Write.
func (c *quietCore) With([]zapcore.Field) zapcore.Core { return c }

// Check adds this core to what an entry is written to.
func (c *quietCore) Check(entry zapcore.Entry, checked *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(entry.Level) {
		return checked.AddCore(entry, c)
	}
	return checked
}

// Write passes an entry on.
func (c *quietCore) Write(entry zapcore.Entry, fields []zapcore.Field) error {
	encoder := zapcore.NewMapObjectEncoder()
	for _, field := range fields {
		field.AddTo(encoder)
	}
	c.log.Warn("etcd: "+entry.Message, slog.Any("fields", encoder.Fields))
	return nil
}

// Sync has nothing to do.
func (c *quietCore) Sync() error { return nil }
