package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/postern-pop/postern/pkg/drill"
	"github.com/postern-pop/postern/pkg/maildrop"
	posternv1 "github.com/postern-pop/postern/proto/postern/v1"
)

const (
	askWithin  = 5 * time.Second // a process for its life, a gateway for nodes and shards
	maxMetrics = 16 << 20        // octets of one process's metrics
)

// regionDrilled is what is the same for every cluster, however it is run: its processes say by HTTP
// whether they serve, and its gateways who owns which shard.
type regionDrilled struct {
	name      string
	processes []drill.Process
	http      map[string]string // name → host:port
	operator  *client
	holders   map[string]bool // nodes that had shards when all were served for the first time
}

func drilled(region, contextFile string) regionDrilled {
	return regionDrilled{name: region, http: map[string]string{}, operator: &client{operator: operator{Context: contextFile, Timeout: askWithin}}}
}

// Processes are the region's.
func (r *regionDrilled) Processes() []drill.Process { return r.processes }

// Life is the process's start, when it serves.
func (r *regionDrilled) Life(ctx context.Context, p drill.Process) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, askWithin)
	defer cancel()
	if _, err := r.ask(ctx, p, "/readyz"); err != nil {
		return "", err
	}
	return r.ask(ctx, p, "/metrics")
}

// startMetric is the process collector's.
const startMetric = "process_start_time_seconds "

// ask returns the answer's start metric, if it has one.
func (r *regionDrilled) ask(ctx context.Context, p drill.Process, path string) (start string, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+r.http[p.Name]+path, nil)
	if err != nil {
		return "", err
	}
	// A connection that is kept would be the former life's.
	request.Close = true
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%s says %s", path, answer.Status)
	}
	for lines := bufio.NewScanner(io.LimitReader(answer.Body, maxMetrics)); lines.Scan(); {
		if value, ok := strings.CutPrefix(lines.Text(), startMetric); ok {
			return value, nil
		}
	}
	if path == "/metrics" {
		return "", fmt.Errorf("%s has no %s", path, strings.TrimSpace(startMetric))
	}
	return "", nil
}

// Settled says what isn't as it should be with the region's nodes and shards.
func (r *regionDrilled) Settled(ctx context.Context) error {
	shards, err := r.operator.shards(ctx, r.name)
	if err != nil {
		return err
	}
	var nodes []nodeView
	err = r.operator.inRegion(ctx, r.name, false, func(ctx context.Context, region posternv1.RegionClient) error {
		out, err := region.ListNodes(ctx, &posternv1.ListNodesRequest{Region: r.name})
		for _, n := range out.GetNodes() {
			nodes = append(nodes, viewNode(n))
		}
		return err
	})
	if err != nil {
		return err
	}
	return r.unsettled(shards, nodes)
}

// unsettled says which shard isn't served, or which node has none though it had. Where shards
// are few, a node may have none by right.
func (r *regionDrilled) unsettled(shards []shardView, nodes []nodeView) error {
	if len(shards) == 0 {
		return errors.New("the region has no shards")
	}
	holders := map[string]bool{}
	for _, s := range shards {
		if !s.Serving {
			return fmt.Errorf("shard %d is not served", s.Shard)
		}
		holders[s.Owner] = true
	}
	if r.holders == nil {
		r.holders = holders
	}
	for _, n := range nodes {
		if n.State == "present" && r.holders[n.Name] && !holders[n.Name] {
			return fmt.Errorf("%s has not got its shards back yet", n.Name)
		}
	}
	return nil
}

// Owner is the node that serves a mailbox.
func (r *regionDrilled) Owner(ctx context.Context, address string) (string, error) {
	shards, err := r.operator.shards(ctx, r.name)
	if err != nil {
		return "", err
	}
	parsed, err := maildrop.ParseAddress(address)
	if err != nil {
		return "", err
	}
	if len(shards) == 0 {
		return "", errors.New("the region has no shards")
	}
	return shards[parsed.Shard(len(shards))].Owner, nil
}
