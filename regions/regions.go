// Package regions holds the regions of the service, one file each. Adding a
// region is adding a file here; the demo, the servers and the Helm chart read
// the same ones.
package regions

import "embed"

// Files are the region files, so that the binary needs none beside it.
//
//go:embed *.yaml
var Files embed.FS
