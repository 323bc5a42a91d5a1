// The corpus command writes the corpus of awkward messages to a directory: of
// each what a gateway sends behind DATA (ID.sent), what its reader gets
// (ID.octets), and the IDs in their order (corpus.json).
package main

import (
	"encoding/json"
	"log"
	"os"
	"path/filepath"

	"github.com/postern-pop/postern/pkg/maildroptest/corpus"
)

func main() {
	if len(os.Args) != 2 {
		log.Fatal("usage: corpus DIR")
	}
	ids := make([]string, 0, len(corpus.All()))
	write := func(name, octets string) {
		if err := os.WriteFile(filepath.Join(os.Args[1], name), []byte(octets), 0o600); err != nil { //nolint:gosec // a directory named by who runs it
			log.Fatal(err)
		}
	}
	for _, m := range corpus.All() {
		ids = append(ids, m.ID)
		write(m.ID+".sent", m.Sent)
		write(m.ID+".octets", m.Octets())
	}
	list, err := json.Marshal(ids)
	if err != nil {
		log.Fatal(err)
	}
	write("corpus.json", string(list))
}
