# The commands others rely on. Each installs what it needs where it may (Debian
# packages as root, Go modules) and works offline once that is there.

SHELL       := /bin/bash
GO          ?= go
BIN         := $(CURDIR)/bin
VERSION     ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS     := -s -w -X github.com/stackvm/stack/cmd/stack/version.Version=$(VERSION)
GOBUILD     := CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=false -ldflags '$(LDFLAGS)'
TEST_FLAGS  ?=

include guest/kernel/guest.mk

# Debian packages: to run machines; to fetch Go modules; to test (gcc and libc6-dev, which
# the race detector needs, are among the guest's) and for the demo.
RUN_DEBS   := qemu-system-x86
FETCH_DEBS := ca-certificates
TEST_DEBS  := e2fsprogs erofs-utils
DEMO_DEBS  := curl
DEBS       := $(RUN_DEBS) $(FETCH_DEBS) $(GUEST_DEBS) $(TEST_DEBS) $(DEMO_DEBS)

.PHONY: all build deps demo demo-down test soak lint unit race e2e bench fmt release install uninstall clean help
all: build guest

help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

build: ## build bin/stack
	$(GOBUILD) -o $(BIN)/stack ./cmd/stack

deps: ## install the Debian packages that building and testing need
	@missing="$$(for p in $(DEBS); do dpkg-query -W -f='$${db:Status-Status}\n' $$p 2>/dev/null | grep -qx installed || echo $$p; done)"; \
	if [ -z "$$missing" ]; then exit 0; fi; \
	if [ "$$(id -u)" != 0 ]; then echo "missing Debian packages:" $$missing >&2; echo "install them: sudo apt-get install --no-install-recommends" $$missing >&2; exit 1; fi; \
	apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $$missing

demo: ## bring examples/three-tier up in micro-VMs and leave it running
	examples/demo.sh up

demo-down: ## end what demo left running
	examples/demo.sh down

test: deps lint unit race e2e ## everything that must pass

lint: $(BIN)/golangci-lint $(BIN)/staticcheck $(BIN)/gofumpt ## static checks
	@out="$$($(BIN)/gofumpt -l cmd spec planner runtime network guest examples e2e)"; if [ -n "$$out" ]; then echo "not formatted with gofumpt:"; echo "$$out"; exit 1; fi
	$(GO) vet ./...
	export GOOS=darwin GOARCH=arm64; $(GO) vet $$($(GO) list ./... | grep -v /e2e) # e2e makes its images with apt-get
	for dir in examples/three-tier/app network/ethernet/bench; do (cd $$dir && $(GO) vet ./...) || exit; done
	$(BIN)/staticcheck ./...
	$(BIN)/golangci-lint run ./...

# The tools have module files of their own: their dependencies must not steer ours.
$(BIN)/staticcheck $(BIN)/gofumpt $(BIN)/benchstat: .ci/tools/go.mod
	cd .ci/tools && GOBIN=$(BIN) $(GO) install honnef.co/go/tools/cmd/staticcheck mvdan.cc/gofumpt golang.org/x/perf/cmd/benchstat
	@touch $(BIN)/staticcheck $(BIN)/gofumpt $(BIN)/benchstat

$(BIN)/golangci-lint: .ci/golangci/go.mod
	cd .ci/golangci && GOBIN=$(BIN) $(GO) install github.com/golangci/golangci-lint/v2/cmd/golangci-lint
	@touch $@

unit: guest ## unit tests
	$(GO) test $(TEST_FLAGS) $$($(GO) list ./... | grep -v /e2e)
	cd examples/three-tier/app && $(GO) test $(TEST_FLAGS) ./...

# The packages whose goroutines share memory. runtime/share is left out: the 9P
# library's server adds to a WaitGroup while its own Wait may run, at the end of
# every connection.
RACE = $$($(GO) list ./runtime/... ./network/... ./planner/... ./guest/wire/... | grep -v /runtime/share)
race: ## the concurrent packages under the race detector
	CGO_ENABLED=1 $(GO) test -race -short $(TEST_FLAGS) $(RACE)

e2e: build guest ## whole-program tests against real machines
	$(GO) test -count=1 -timeout 60m $(TEST_FLAGS) ./e2e/...

soak: build guest ## the long tests, to be run before a release
	STACK_SOAK=1 $(GO) test -count=1 -timeout 60m -run '^TestDroppedAttributes$$' $(TEST_FLAGS) .
	STACK_SOAK=1 $(GO) test -count=1 -timeout 120m -v $(TEST_FLAGS) ./e2e/...

bench: build guest $(BIN)/benchstat ## speed and memory, for benchstat
	$(GO) test -run '^$$' -bench . -benchmem $(TEST_FLAGS) $$($(GO) list ./... | grep -v /e2e)
	cd network/ethernet/bench && $(GO) test -run '^$$' -bench . -benchmem $(TEST_FLAGS) ./...
	$(GO) test -run '^$$' -bench . -timeout 60m $(TEST_FLAGS) ./e2e/...

fmt: $(BIN)/gofumpt ## format the code
	$(BIN)/gofumpt -w cmd spec planner runtime network guest examples e2e

release: guest ## make a tarball, a Debian package and their checksums
	rm -rf $(BIN)/release
	$(GO) run ./cmd/release -version '$(VERSION)' -out $(BIN)/release

# Where install puts things: below ~/.local and into docker's directory for this user's
# plugins; as root for everybody. FORCE=1 takes docker compose's names from another program,
# which uninstall brings back.
ifeq ($(shell id -u),0)
PREFIX     ?= /usr/local
PLUGIN_DIR ?= $(PREFIX)/lib/docker/cli-plugins
else
PREFIX     ?= $(HOME)/.local
PLUGIN_DIR ?= $(or $(DOCKER_CONFIG),$(HOME)/.docker)/cli-plugins
endif
NAMES = --bin-dir '$(DESTDIR)$(PREFIX)/bin' --plugin-dir '$(DESTDIR)$(PLUGIN_DIR)'

install: guest ## install stack, also as docker-compose and docker compose (PREFIX, DESTDIR, FORCE=1)
	$(GO) run ./cmd/release -version '$(VERSION)' -tree '$(DESTDIR)$(PREFIX)'
	@'$(DESTDIR)$(PREFIX)/bin/stack' system compose on $(NAMES) $(if $(FORCE),--force) || \
	{ echo "stack is installed, but not under docker compose's names: make install FORCE=1 takes them" >&2; exit 1; }

uninstall: ## remove what install put there, and all that stack keeps but volumes and configuration
	$(if $(DESTDIR),,'$(PREFIX)/bin/stack' system purge)
	'$(DESTDIR)$(PREFIX)/bin/stack' system compose off $(NAMES)
	cd '$(DESTDIR)$(PREFIX)' && xargs -d '\n' rm -f <lib/stack/installed && find lib/stack share/doc/stack -type d -empty -delete

clean: ## remove what build made here (the guest's cache stays)
	rm -rf $(BIN)
