package corpus_test

import (
	"strings"
	"testing"

	"github.com/postern-pop/postern/pkg/maildroptest/corpus"
)

// TestCorpusIsWhatItSays: each message is of the forms that its fields promise,
// so that a test which fails on one has found a fault elsewhere.
func TestCorpusIsWhatItSays(t *testing.T) {
	seen := map[string]bool{}
	for _, m := range append(corpus.All(), corpus.Loose()...) {
		if seen[m.ID] || m.About == "" || m.Rule == "" {
			t.Errorf("%s: twice, or without words", m.ID)
		}
		seen[m.ID] = true
		if m.Stored != "" && !strings.HasSuffix(m.Stored, "\r\n") || strings.Count(m.Stored, "\n") != strings.Count(m.Stored, "\r\n") {
			t.Errorf("%s: Stored isn't lines that end with CRLF", m.ID)
		}
		for line := range strings.Lines(m.Stored) {
			if strings.HasPrefix(line, ".") && !strings.HasPrefix(line, "..") {
				t.Errorf("%s: Stored isn't stuffed: %.20q", m.ID, line)
			}
		}
	}
	for _, m := range corpus.All() {
		if end := strings.Index("\r\n"+m.Sent, "\r\n.\r\n"); end != len(m.Sent)-3 {
			t.Errorf("%s: ends at octet %d of %d", m.ID, end, len(m.Sent))
		}
	}
	if len(seen) < 60 {
		t.Errorf("%d messages", len(seen))
	}
}

func TestOctets(t *testing.T) {
	for stored, want := range map[string]string{"": "", "..\r\n": ".\r\n", "a..\r\n...\r\n..\r\n": "a..\r\n..\r\n.\r\n"} {
		if got := (corpus.Message{Stored: stored}).Octets(); got != want {
			t.Errorf("%q: %q, want %q", stored, got, want)
		}
	}
}
