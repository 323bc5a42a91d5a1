package etcdtest

import (
	"testing"
)

// TestRestartKeepsDataAndAddress is what the tests that cut a view off from
// etcd stand on.
func TestRestartKeepsDataAndAddress(t *testing.T) {
	s := New(t)
	client := s.Client()
	if _, err := client.Put(t.Context(), "/a", "1"); err != nil {
		t.Fatal(err)
	}
	before := s.Endpoints()[0]
	s.Restart()
	if after := s.Endpoints()[0]; after != before {
		t.Fatalf("address %s before and %s after the restart", before, after)
	}
	got, err := client.Get(t.Context(), "/a")
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Kvs) != 1 || string(got.Kvs[0].Value) != "1" {
		t.Fatalf("got %v after the restart, want the value 1", got.Kvs)
	}
}
