package sealed_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/postern-pop/postern/pkg/blob"
	"github.com/postern-pop/postern/pkg/blob/blobtest"
	"github.com/postern-pop/postern/pkg/blob/dir"
	"github.com/postern-pop/postern/pkg/blob/sealed"
)

// stores are the bare ones and the same, sealed, for one run to compare.
func stores(b *testing.B, run func(*testing.B, blob.Store)) {
	w := wrapper(b)
	for _, name := range []string{"memory", "dir"} {
		for _, isSealed := range []bool{false, true} {
			b.Run(fmt.Sprintf("%s/sealed=%t", name, isSealed), func(b *testing.B) {
				var store blob.Store = blobtest.NewMemory()
				if name == "dir" {
					d, err := dir.Open(b.TempDir())
					if err != nil {
						b.Fatal(err)
					}
					b.Cleanup(func() { d.Close() })
					store = d
				}
				if isSealed {
					store = openAt(b, store, "", w, sealed.Options{})
				}
				run(b, store)
			})
		}
	}
}

func BenchmarkCreate(b *testing.B) {
	for _, size := range []int{64 << 10, 1 << 20} {
		b.Run(fmt.Sprintf("%dKiB", size>>10), func(b *testing.B) {
			stores(b, func(b *testing.B, s blob.Store) {
				content := random(size)
				b.SetBytes(int64(size))
				b.ReportAllocs()
				for i := 0; b.Loop(); i++ {
					key := fmt.Sprintf("bench/%d", i)
					if err := s.Create(b.Context(), key, bytes.NewReader(content), int64(size)); err != nil {
						b.Fatal(err)
					}
					b.StopTimer()
					if err := s.Delete(b.Context(), key); err != nil {
						b.Fatal(err)
					}
					b.StartTimer()
				}
			})
		})
	}
}

// BenchmarkReadAt reads anywhere in 64 objects of 4 MiB.
func BenchmarkReadAt(b *testing.B) {
	const objects, size = 64, 4 << 20
	for _, length := range []int{4 << 10, 90 << 10} {
		b.Run(fmt.Sprintf("%dKiB", length>>10), func(b *testing.B) {
			stores(b, func(b *testing.B, s blob.Store) {
				content := random(size)
				for i := range objects {
					if err := s.Create(b.Context(), fmt.Sprintf("bench/%d", i), bytes.NewReader(content), size); err != nil {
						b.Fatal(err)
					}
				}
				p := make([]byte, length)
				source := rand.New(rand.NewPCG(1, 2))
				b.SetBytes(int64(length))
				b.ReportAllocs()
				b.ResetTimer()
				for b.Loop() {
					if _, err := s.ReadAt(b.Context(), fmt.Sprintf("bench/%d", source.IntN(objects)), p, source.Int64N(int64(size-length))); err != nil {
						b.Fatal(err)
					}
				}
			})
		})
	}
}
