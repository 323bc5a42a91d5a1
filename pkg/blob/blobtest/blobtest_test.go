package blobtest_test

import (
	"testing"

	"github.com/postern-pop/postern/pkg/blob"
	"github.com/postern-pop/postern/pkg/blob/blobtest"
)

func TestMemory(t *testing.T) {
	blobtest.Run(t, func(*testing.T) blob.Store { return blobtest.NewMemory() })
}

func TestFaultyWithoutFaults(t *testing.T) {
	blobtest.Run(t, func(*testing.T) blob.Store { return blobtest.NewFaulty(blobtest.NewMemory(), nil) })
}
