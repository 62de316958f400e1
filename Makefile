# Two commands do everything: `make run` and `make test`. The rest is for people who change the code.
SHELL := /bin/bash
.DEFAULT_GOAL := help

BUF   := go tool -modfile=tools/buf/go.mod buf
LINT  := go tool -modfile=tools/go.mod staticcheck
PROTO := .cache/proto/buf/validate/validate.proto

.PHONY: help run test test-all test-fast lint generate generated bench chaos fuzz demo-cdnow

help: ## Show this list.
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

run: ## Start everything on this machine, place an order, and stay up until Ctrl-C.
	go build -o bin/millrace ./cmd/millrace
	bin/millrace up

test: generated lint test-all ## Everything that CI runs: generated code is current, lint, every test on real Kafka and Postgres.

test-all:
	go test -race -p 1 -timeout 25m ./...

test-fast: ## The tests that need no components; under a minute.
	go test -skip 'Apply|Drift' ./topics
	go test -short ./schemas/... ./processors/inventory ./processors/order ./internal/tidy ./internal/simulators/...

lint: ## gofmt, go vet, staticcheck, buf lint, and no breaking change of a shape against the last release.
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { echo "not gofmt'ed:"; gofmt -l $$(git ls-files '*.go'); exit 1; }
	go vet ./...
	$(LINT) ./...
	$(MAKE) --no-print-directory $(PROTO)
	$(BUF) lint
	$(BUF) breaking schemas/proto --against schemas/released.binpb

# protovalidate's rules, out of the Go module that carries them.
$(PROTO):
	@mkdir -p $(@D)
	@dir=$$(go mod download -json github.com/bufbuild/protovalidate@v1.2.0 | sed -n 's/.*"Dir": "\(.*\)",*/\1/p') && \
	install -m 644 "$$dir/proto/protovalidate/buf/validate/validate.proto" $@

generate: $(PROTO) ## Write internal/gen and the descriptor set from schemas/proto.
	$(BUF) generate
	$(BUF) build schemas/proto --as-file-descriptor-set --exclude-source-info -o schemas/descriptors.binpb

generated: $(PROTO)
	@sums() { find internal/gen schemas/descriptors.binpb -type f -exec sha256sum {} + | sort; }; \
	before=$$(sums); $(MAKE) --no-print-directory generate && \
	test "$$before" = "$$(sums)" || { echo "make generate has changed the tree: commit what it wrote"; exit 1; }

bench: ## Measure, as ratios in one run: all workloads, or WORKLOAD=reserve|latency|orders|recovery.
	go run ./internal/bench $(if $(WORKLOAD),-workload $(WORKLOAD))

chaos: ## The long form of the proofs: 20,000 orders, 100 kills, on three brokers and on one. About a quarter of an hour.
	go test -timeout 120m -count 1 -run Chaos ./internal/e2e -chaos.long

fuzz: ## Fuzz the rules for a minute each.
	go test -fuzz FuzzDecide -fuzztime 60s ./processors/inventory
	go test -fuzz FuzzWorlds -fuzztime 60s ./processors/order

demo-cdnow: ## Place 6,919 real purchases as orders, against a running `make run` (fetches the file with pip).
	@mkdir -p .cache/cdnow
	@test -f .cache/cdnow/lifetimes/datasets/CDNOW_sample.txt || { \
	  python3 -m pip download -q --no-deps -d .cache/cdnow lifetimes==0.11.3 && \
	  python3 -m zipfile -e .cache/cdnow/*.whl .cache/cdnow ; }
	go build -o bin/millrace ./cmd/millrace
	bin/millrace order replay .cache/cdnow/lifetimes/datasets/CDNOW_sample.txt \
	  --format columns --customer 1 --quantity 4 --sku CD-CLASSIC
