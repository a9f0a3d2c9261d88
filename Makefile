# Berth's one entry point: "make help" says what there is.

PREFIX  ?= /usr/local
DESTDIR ?=

bindir        = $(PREFIX)/bin
mandir        = $(PREFIX)/share/man/man1
unitdir       = $(PREFIX)/lib/systemd/system
userunitdir   = $(PREFIX)/lib/systemd/user
sysusersdir   = $(PREFIX)/lib/sysusers.d
bashdir       = $(PREFIX)/share/bash-completion/completions
zshdir        = $(PREFIX)/share/zsh/site-functions
fishdir       = $(PREFIX)/share/fish/vendor_completions.d
KEPT          = $(if $(DESTDIR),,$(addprefix $(PREFIX),/bin /lib /share /share/man))

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
COMMIT  ?= $(shell git rev-parse HEAD 2>/dev/null)
BUILT   ?= $(shell git log -1 --format=%cI 2>/dev/null)

export CGO_ENABLED = 0
GO       = go
LDFLAGS  = -s -w -X main.version=$(VERSION) -X main.commit=$(COMMIT) -X main.built=$(BUILT)
BUILD    = $(GO) build -trimpath -ldflags '$(LDFLAGS)'
PROGRAMS = $(notdir $(wildcard cmd/*))
# The guest agent of every other architecture that a VM can be of.
FOREIGN  = $(filter-out $(shell $(GO) env GOARCH),amd64 arm64)
AGENTS   = $(addprefix berth-agent-,$(FOREIGN))

# Most tests need root: namespaces, mounts, cgroups.
AS_ROOT = $(if $(filter 0,$(shell id -u)),,sudo -n env "PATH=$$PATH" "HOME=$$HOME" CGO_ENABLED=0)

.DEFAULT_GOAL = help

##@ Build
build: ## static binaries of every program, in bin/
	@mkdir -p bin
	$(BUILD) -o bin/ $(addprefix ./cmd/,$(PROGRAMS))
	@for arch in $(FOREIGN); do GOARCH=$$arch $(BUILD) -o bin/berth-agent-$$arch ./cmd/berth-agent || exit; done

docs: build ## man pages and shell completions, in dist/
	@rm -rf dist && mkdir -p dist/man dist/completion
	$(GO) run ./cmd/berth/internal/gendocs man dist/man
	bin/berth completion bash > dist/completion/berth
	bin/berth completion zsh  > dist/completion/_berth
	bin/berth completion fish > dist/completion/berth.fish

openapi: ## the REST API's OpenAPI document, in docs/openapi.json
	$(GO) run ./internal/rest/gen > docs/openapi.json

install: build docs ## install below $(DESTDIR)$(PREFIX): programs, man pages, completions, systemd units
	install -d $(addprefix $(DESTDIR),$(bindir) $(mandir) $(unitdir) $(userunitdir) $(sysusersdir) $(bashdir) $(zshdir) $(fishdir))
	install -m 755 $(addprefix bin/,$(PROGRAMS) $(AGENTS)) $(DESTDIR)$(bindir)
	install -m 644 dist/man/*.1 $(DESTDIR)$(mandir)
	install -m 644 dist/completion/berth      $(DESTDIR)$(bashdir)/berth
	install -m 644 dist/completion/_berth     $(DESTDIR)$(zshdir)/_berth
	install -m 644 dist/completion/berth.fish $(DESTDIR)$(fishdir)/berth.fish
	install -m 644 packaging/berth.sysusers   $(DESTDIR)$(sysusersdir)/berth.conf
	sed 's|@bindir@|$(bindir)|' packaging/berthd.service > $(DESTDIR)$(unitdir)/berthd.service
	sed 's|@bindir@|$(bindir)|' packaging/berthd-user.service > $(DESTDIR)$(userunitdir)/berthd.service

uninstall: ## take back what install made; state below /var/lib/berth stays
	rm -f $(addprefix $(DESTDIR)$(bindir)/,$(PROGRAMS) $(AGENTS))
	rm -f $(DESTDIR)$(mandir)/berth.1 $(DESTDIR)$(mandir)/berth-*.1
	rm -f $(DESTDIR)$(bashdir)/berth $(DESTDIR)$(zshdir)/_berth $(DESTDIR)$(fishdir)/berth.fish
	rm -f $(DESTDIR)$(sysusersdir)/berth.conf $(DESTDIR)$(unitdir)/berthd.service $(DESTDIR)$(userunitdir)/berthd.service
	@# Directories go where they are empty, but never those that a system has anyway.
	@for dir in $(bindir) $(mandir) $(unitdir) $(userunitdir) $(sysusersdir) $(bashdir) $(zshdir) $(fishdir); do \
		while case " / $(KEPT) " in *" $$dir "*) false ;; esac && rmdir "$(DESTDIR)$$dir" 2>/dev/null; \
		do dir=$$(dirname "$$dir"); done; \
	done

##@ Try
quickstart: packages build ## make a Debian image, run it as a container and as a VM, show both, clean up
	$(AS_ROOT) scripts/quickstart.sh

##@ Check
test: packages ## vet and all tests: fakes, the real kernel, a rack of QEMU hosts; needs root, at most 25 minutes
	$(GO) vet ./...
	@# What boots most comes alone, and whatever became of the rest.
	$(AS_ROOT) $(GO) test -count=1 -timeout 20m $$($(GO) list ./... | grep -v /internal/e2e$$); rest=$$?; \
	$(AS_ROOT) $(GO) test -count=1 -timeout 20m ./internal/e2e && exit $$rest

test-fast: ## the tests that need no VM and little time, under a minute
	$(GO) test -short -p 4 ./... # most of them wait more than they work

lint: ## golangci-lint as tools/go.mod pins it; the layer rules are in .golangci.yml
	$(GO) tool -modfile=tools/go.mod golangci-lint run ./...

FUZZTIME ?= 10s
fuzz: ## every fuzz target for FUZZTIME (10s)
	@scripts/fuzz $(FUZZTIME)

conformance: packages ## the OCI validation suite with berth-oci, runc and crun: the table of docs/runtime-conformance.md
	$(AS_ROOT) $(GO) test -count=1 ./internal/oci/conformance -v -peers

bench: packages build ## speed and memory beside peers measured in the same run: a table, and bench.json
	$(AS_ROOT) $(GO) run ./bench -json bench.json

attacks: packages build ## attack Berth, and runc, crun and dockerd where installed, in the same way: docs/attacks.md
	$(AS_ROOT) BERTH_TEST_PROGRAMS=$(CURDIR)/bin $(GO) test -count=1 -timeout 30m -run '^TestTable$$' ./internal/attack -table $(CURDIR)/docs/attacks.md
	@cat docs/attacks.md

CYCLES ?= 10000
stress: packages ## create, start, kill and delete CYCLES (10000) containers, eight at a time, and look for leaks; minutes
	$(AS_ROOT) BERTH_TEST_CYCLES=$(CYCLES) $(GO) test -count=1 -timeout 60m -v -run '^TestCycles$$' ./internal/oci

##@ Housekeeping
packages: ## install the Debian packages of packages.txt that are missing
	@scripts/install-packages

clean: ## remove what the build made
	rm -rf bin dist bench.json

help: ## this list
	@awk -F ':.*## ' '/^##@ /{printf "\n%s\n", substr($$0, 5)} /^[a-z-]+:.*## /{printf "  make %-11s %s\n", $$1, $$2}' Makefile
	@echo
	@echo "Variables: PREFIX=$(PREFIX) DESTDIR=$(DESTDIR) FUZZTIME=$(FUZZTIME) CYCLES=$(CYCLES) VERSION=$(VERSION)"

.PHONY: build docs openapi install uninstall quickstart test test-fast lint fuzz conformance bench attacks stress packages clean help
