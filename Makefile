# Targets for developers. script/test is the one command that needs nothing but Go.
GOLANGCI_VERSION := v2.12.2
GOLANGCI := .bin/golangci-lint-$(GOLANGCI_VERSION)
TENANTLINT := .bin/tenantlint
# Recipes and the suite show what ShardDB and SwitchTenant are for.
TENANTLINT_ALLOW := github.com/sharded-pg/sharded-pg/examples/...,github.com/sharded-pg/sharded-pg/conformance
MODULES := $(patsubst %/go.mod,%,$(shell find . -name go.mod -not -path '*/.*/*' -not -path '*/testdata/*'))
FUZZTIME ?= 30s
HAMMERTIME ?= 10m
BENCHFLAGS ?=
SUITEFLAGS ?=
MATRIXFLAGS ?=

.DEFAULT_GOAL := help
.PHONY: help check fmt lint vet test race bench fuzz hammer suites test-matrix cover generate

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-11s %s\n", $$1, $$2 }' Makefile

check: ## what must pass before a commit: format, vet, lint, short tests
	@files=$$(find . -name '*.go' -not -path '*/.*/*' -exec gofmt -l {} +); \
		[ -z "$$files" ] || { echo "run make fmt:"; echo "$$files"; exit 1; }
	@$(MAKE) --no-print-directory vet lint
	go test -short work

fmt: $(GOLANGCI) ## format all modules
	@for m in $(MODULES); do (cd $$m && $(CURDIR)/$(GOLANGCI) fmt --config $(CURDIR)/.golangci.yml) || exit 1; done

lint: $(GOLANGCI) ## run golangci-lint and tenantlint on all modules
	@for m in $(MODULES); do echo "lint $$m"; \
		(cd $$m && $(CURDIR)/$(GOLANGCI) run --config $(CURDIR)/.golangci.yml ./...) || exit 1; done
	@cd cmd/tenantlint && go build -o $(CURDIR)/$(TENANTLINT) .
	@go vet -vettool=$(CURDIR)/$(TENANTLINT) -allow=$(TENANTLINT_ALLOW) work

vet: ## run go vet on all modules
	go vet work

test: ## all tests, with a summary as last line
	script/test

race: ## all tests with the race detector, plain output
	go test -race -timeout 15m work

bench: ## compare with other ways of giving statements a tenant
	go run ./bench $(BENCHFLAGS)

fuzz: ## run each fuzz target for FUZZTIME (30s)
	@grep -rl --include='*_test.go' '^func Fuzz' . | xargs -n1 dirname | sort -u | while read -r dir; do \
		for f in $$(cd $$dir && grep -ho '^func Fuzz[A-Za-z0-9_]*' *_test.go | cut -c6-); do \
			echo "$$dir $$f"; \
			(cd $$dir && go test -run '^$$' -fuzz "^$$f\$$" -fuzztime $(FUZZTIME) .) </dev/null || exit 1; \
		done || exit 1; \
	done

hammer: ## the isolation hammer for HAMMERTIME (10m)
	go test -race -count=1 -timeout 0 -v ./internal/hammer -hammer.time $(HAMMERTIME)

suites: ## the tests of pgx, sqlx, GORM and others through this driver, as docs/suites.md
	go run ./internal/suites $(SUITEFLAGS)

test-matrix: ## the conformance suite on each PostgreSQL, pooler and mode, as docs/compatibility-matrix.md
	script/setup
	script/setup-matrix
	go run ./internal/matrix $(MATRIXFLAGS)

cover: ## test coverage of all packages, as cover.html
	go test -coverpkg=./... -coverprofile=cover.out ./...
	go tool cover -html=cover.out -o cover.html
	@go tool cover -func=cover.out | tail -1

generate: ## write the generated code of the examples again; git diff shows whether it was up to date
	cd examples && go generate ./...

$(GOLANGCI):
	@mkdir -p .bin
	GOBIN=$(CURDIR)/.bin go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_VERSION)
	@mv .bin/golangci-lint $@
