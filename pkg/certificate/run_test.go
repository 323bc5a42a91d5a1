package certificate

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"os"
	"testing"
	"testing/synctest"
	"time"
)

// TestRun: a pair is shown within three seconds of its writing, and Run ends with
// its context.
func TestRun(t *testing.T) {
	const name = "eu-pop.example.com"
	files := Files{t.TempDir() + "/cert", t.TempDir() + "/key"}
	key := ecdsaKey(t)
	synctest.Test(t, func(t *testing.T) {
		put := func(m made) {
			if err := os.WriteFile(files.Cert, m.cert, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(files.Key, m.key, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		forever := func(key *ecdsa.PrivateKey) made {
			return issue(t, key, time.Unix(0, 0), time.Unix(1<<33, 0), name)
		}
		put(forever(key))
		s := open(t, Config{Files: []Files{files}})
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- s.Run(ctx) }()
		before, _ := s.Own(nil)
		put(forever(key))
		time.Sleep(3 * time.Second)
		if after, _ := s.Own(nil); bytes.Equal(before.Certificate[0], after.Certificate[0]) {
			t.Error("the new one isn't shown")
		}
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
