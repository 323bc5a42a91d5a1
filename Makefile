# Postern's targets. `make help` explains them.
.DEFAULT_GOAL := help
SHELL := /bin/bash
GO ?= go
TOOLS := bin/tools
PROTOS := $(wildcard proto/postern/v1/*.proto)
VERSITYGW := v1.8.0
HELM := v3.22.0

.PHONY: help
help: ## explain every target
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: build
build: ## build bin/postern
	$(GO) build -o bin/postern ./cmd/postern

.PHONY: run
run: build ## start five regions on this machine, with mail in them (ARGS="--base-port N" to shift the ports)
	exec ./bin/postern demo --data ./demo $(ARGS)

# With POSTERN_TOOLS=required a tool that is missing fails a test instead of skipping it.
# gotestsum lists at the end what was skipped all the same, and why.
TESTS := POSTERN_TOOLS=required $(TOOLS)/gotestsum --format pkgname-and-test-fails --format-hide-empty-pkg --

.PHONY: test
test: $(TOOLS)/versitygw $(TOOLS)/helm $(TOOLS)/gotestsum ## everything that needs only Go, curl and openssl: units, scripts, contracts, a cluster of real processes
	$(TESTS) ./...

.PHONY: race
race: $(TOOLS)/versitygw $(TOOLS)/gotestsum ## the same with the race detector, without the tests of other processes, of which it sees nothing
	$(TESTS) -race -short ./...

.PHONY: lint
lint: $(TOOLS)/golangci-lint ## formatting, vet, golangci-lint, generated code and go.mod up to date
	@test -z "$$(gofmt -l cmd deploy pkg proto regions .ci)" || { echo "not formatted:"; gofmt -l cmd deploy pkg proto regions .ci; exit 1; }
	$(GO) vet ./... ./.ci/client/...
	$(TOOLS)/golangci-lint run ./... ./.ci/client/...
	$(GO) mod tidy -diff
	$(GO) mod verify
	@$(MAKE) --no-print-directory proto-check

.PHONY: proto
proto: $(TOOLS)/protoc-gen-go $(TOOLS)/protoc-gen-go-grpc ## generate Go from proto/ (needs protoc)
	@command -v protoc >/dev/null || { echo "protoc is missing: install your system's protobuf-compiler"; exit 1; }
	PATH="$(CURDIR)/$(TOOLS):$$PATH" protoc -I proto --go_out=. --go_opt=module=github.com/postern-pop/postern \
		--go-grpc_out=. --go-grpc_opt=module=github.com/postern-pop/postern $(PROTOS)

.PHONY: proto-check
proto-check: $(TOOLS)/protoc-gen-go $(TOOLS)/protoc-gen-go-grpc # generated code is what proto/ generates
	@command -v protoc >/dev/null || { echo "protoc is missing: install your system's protobuf-compiler"; exit 1; }
	@dir=$$(mktemp -d) && trap 'rm -rf "$$dir"' EXIT && \
	PATH="$(CURDIR)/$(TOOLS):$$PATH" protoc -I proto --go_out=$$dir --go_opt=module=github.com/postern-pop/postern \
		--go-grpc_out=$$dir --go-grpc_opt=module=github.com/postern-pop/postern $(PROTOS) && \
	for f in $$dir/proto/postern/v1/*.go; do diff -q $$f proto/postern/v1/$$(basename $$f) || { echo "run make proto"; exit 1; }; done

.PHONY: fuzz
fuzz: ## every fuzz target, FUZZTIME each (10s); it goes on after a finding and names them all at the end
	.ci/fuzz

.PHONY: sim
sim: ## thousands of simulated runs of a shard in a hostile world, and every mutant found (SEEDS=5000)
	POSTERN_SIM=full POSTERN_SIM_SEEDS=$(SEEDS) $(GO) test ./pkg/sim -v -timeout 60m

.PHONY: chaos
chaos: $(TOOLS)/versitygw ## real processes that are killed, stopped and cut off from each other under load, and broken builds found (SEED= MINUTES=3)
	POSTERN_TOOLS=required POSTERN_CHAOS=1 POSTERN_CHAOS_SEED=$(SEED) POSTERN_CHAOS_MINUTES=$(MINUTES) \
		$(GO) test ./cmd/postern -run '^TestChaos$(if $(SEED),$$)' -v -count=1 -timeout 180m

.PHONY: bench
bench: $(TOOLS)/versitygw ## CPU and memory per session, poll, download and delivery, beside peers; take-over, index and reads of a shard
	$(GO) test ./cmd/postern -run '^$$' -bench . -skip 'OwnerKilled|HandOver|RegionServes' -benchtime 300x -timeout 30m
	POSTERN_BENCH_LARGE=1 $(GO) test ./pkg/shard -run '^$$' -bench 'TakeOver|IndexMemory' -benchtime 2x
	$(GO) test ./pkg/shard -run '^$$' -bench 'RandomReads' -benchtime 10000x

.PHONY: bench-failover
bench-failover: ## how long users wait when a node dies, when a shard is handed over, and until a region of 256 shards serves again
	$(GO) test ./cmd/postern -run '^$$' -bench 'OwnerKilled|HandOver|RegionServes' -benchtime 30x -timeout 60m

.PHONY: clients
clients: build .ci/client/node/node_modules ## nine real mail clients against the demo (it says which programs it needs)
	.ci/clients

.ci/client/node/node_modules: .ci/client/node/package-lock.json
	cd $(@D) && npm ci --no-audit --no-fund --ignore-scripts
	@touch $@

ARCHS := amd64 arm64
VERSION := $(shell awk '/^appVersion:/{gsub(/"/, ""); print $$2}' deploy/helm/postern/Chart.yaml)

.PHONY: image
image: ## the container image from scratch, for amd64 and arm64, without Docker (PUSH=REGISTRY/NAME:TAG to push it)
	$(foreach arch,$(ARCHS),CGO_ENABLED=0 GOOS=linux GOARCH=$(arch) $(GO) build -trimpath -ldflags "-s -w" -o bin/linux-$(arch)/postern ./cmd/postern &&) true
	cd .ci/image && $(GO) run . -version $(VERSION) -out $(CURDIR)/bin/image $(if $(PUSH),-push $(PUSH)) $(foreach arch,$(ARCHS),-binary $(arch)=$(CURDIR)/bin/linux-$(arch)/postern)

.PHONY: clean
clean: ## remove what was built and the demo's data
	rm -rf bin demo

$(TOOLS)/%: .ci/tools/go.mod
	@mkdir -p $(TOOLS)
	cd .ci/tools && GOBIN="$(CURDIR)/$(TOOLS)" $(GO) install $$(grep -oE '[^[:space:]]+/$*$$' go.mod | head -1)

# A real S3 server for tests; 100 s to build, once. Not in .ci/tools/go.mod: its
# dependencies and the linter's would move each other.
$(TOOLS)/versitygw:
	@mkdir -p $(TOOLS)
	cd / && GOBIN="$(CURDIR)/$(TOOLS)" $(GO) install github.com/versity/versitygw/cmd/versitygw@$(VERSITYGW)

# Likewise; four minutes, once. It renders for the Kubernetes that is linked into it.
$(TOOLS)/helm:
	@mkdir -p $(TOOLS)
	cd / && GOBIN="$(CURDIR)/$(TOOLS)" $(GO) install -ldflags "-X helm.sh/helm/v3/pkg/chartutil.k8sVersionMajor=1 -X helm.sh/helm/v3/pkg/chartutil.k8sVersionMinor=34" helm.sh/helm/v3/cmd/helm@$(HELM)
