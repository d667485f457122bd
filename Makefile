# Two commands for a newcomer: `make demo` and `make test`. Everything else is a part of them.
.PHONY: fault-plans simulation-coverage bench-btrfs bench-copies bench-pods demo demo-down test lint unit test-agent test-qemu test-e2e test-conformance test-versions rules bench-api crds help bench-node simulate model-check mutants fuzz release

help: ## This list
	@sed -n 's/^\([a-z-]*\):.*## /  \1  /p' $(MAKEFILE_LIST) | column -t -l 2

# The test cluster's program, as `cargo test --workspace` builds it.
CLUSTER = $${CARGO_TARGET_DIR:-target}/debug/reservoir-cluster
# A test binary tells how long each test took.
TRIPLE := $(shell rustc -vV | sed -n 's/^host: //p' | tr 'a-z-' 'A-Z_')
TEST = env CARGO_TARGET_$(TRIPLE)_RUNNER=$(CURDIR)/tools/run-test cargo test
# API servers at a time: a test waits for most of its time.
API_SERVERS := $(shell n=$$(($$(nproc) * 3)); echo $$((n < 12 ? n : 12)))
# The tests of the api tier that concern admission, claims and the end of volumes, and a few of them for make test.
VERSIONED = principals:: guards:: authorisation:: agent_rights:: rights:: access:: chart:: claims:: pvc_provisioner:: volumes:: kept:: undelete:: leaving::
VERSIONED_IN_SHORT = principals:: guards:: authorisation:: claims::
# make test builds the oldest release, whose half of the chart is another one. The newest runs where make test-versions built it.
CACHE := $(or $(RESERVOIR_CACHE),$(if $(XDG_CACHE_HOME),$(XDG_CACHE_HOME)/reservoir),$(HOME)/.cache/reservoir)
VERSIONS_IN_SHORT := 1.34 $(if $(wildcard $(CACHE)/bin/kubernetes-v1.37.*/kube-controller-manager),1.37)
# The target that make test-e2e makes while its cluster is idle.
MEANWHILE =

demo: ## Real Kubernetes on this machine, Reservoir in it, and what it does, step by step
	cargo run --quiet --package reservoir-cluster -- demo

demo-down: ## Removes the demo's cluster and everything that was started for it
	cargo run --quiet --package reservoir-cluster -- down

test: ## All tests: style, unit, api tier, node tier; says what took longest
	@tools/slowest --forget
	@$(MAKE) --no-print-directory lint unit && $(MAKE) --no-print-directory test-e2e MEANWHILE=test-agent; \
	  status=$$?; tools/slowest; exit $$status

lint: ## Formatting, a test for every rule, lints, licences, advisories
	cargo fmt --all --check
	tools/rules > /dev/null
	tools/timed clippy cargo clippy --workspace --all-targets -- -D warnings
	cargo clippy --test host_faults -- -D warnings
	tools/timed dependencies tools/check-dependencies

# All programs and tests are built at once, so each dependency is built once: `cargo run --package` would build many anew, with
# fewer features. What is quick and fails often runs first.
unit: ## Unit tests, the node's disks, CSI, and the api tier (real kube-apiserver and etcd); needs root
	tools/timed build cargo test --workspace --no-run
	tools/timed packages $(CLUSTER) packages
	tools/timed "unit tests" $(TEST) --workspace --lib --bins
	tools/timed "source and chart" $(TEST) --test source --test chart
	tools/timed "doc tests" cargo test --workspace --doc
	tools/timed "CSI and disks" $(TEST) --test 'csi_*' --test host_node
	tools/timed "simulation" $(TEST) --workspace --test simulation
	tools/timed "api tier" $(TEST) --workspace --test api_tier -- --test-threads=$(API_SERVERS)
	for version in $(VERSIONS_IN_SHORT); do tools/timed "Kubernetes $$version" \
	  env RESERVOIR_KUBERNETES=$$version $(TEST) --test api_tier -- --test-threads=$(API_SERVERS) $(VERSIONED_IN_SHORT) || exit; done

test-versions: ## Admission, claims and the end of volumes on the API servers of Kubernetes 1.34 to 1.37, and the tour on nodes of 1.34
	cargo test --package reservoir-cluster --lib -- --ignored f6_
	for version in 1.34 1.35 1.36 1.37; do \
	  RESERVOIR_KUBERNETES=$$version cargo test --test api_tier -- --test-threads=$(API_SERVERS) $(VERSIONED) || exit; done
	env RESERVOIR_KUBERNETES=1.34 $(MAKE) --no-print-directory test-e2e

test-agent: ## The node's half: faults at every call that changes something, hostile pods, kills under I/O
	tools/timed build cargo test --workspace --no-run
	tools/timed packages $(CLUSTER) packages
	tools/timed "host faults" cargo test --test host_faults
	tools/timed "long host tests" $(TEST) --test host_node -- --ignored --nocapture --test-threads=1 long:: many_files::

test-qemu: ## The node's disks on Debian's own kernel, in a guest of QEMU without KVM; then its power is cut 25 times
	cargo run --quiet --package reservoir-cluster -- qemu
	cargo run --quiet --package reservoir-cluster -- power-cut

test-e2e: ## The demo's tour as a test, on a kind cluster of its own
	tools/timed "end to end" env RESERVOIR_MEANWHILE="$(MEANWHILE)" cargo test --test e2e -- --ignored --nocapture

test-conformance: ## Kubernetes' own storage tests on a kind cluster of their own; PASS="quick" for a part
	cargo run --quiet --package reservoir-cluster -- conformance $(PASS)

# Optimized: most of its time is the product's own code.
simulate: ## A cluster in a box: random orders and faults, SEEDS=n of them; SEED=n tells the story of one
	env SEED="$(SEED)" SEEDS="$(SEEDS)" STEPS="$(STEPS)" \
	  cargo test --quiet --profile simulation --package reservoir-simulation -- --nocapture no_rule_is_broken

fault-plans: ## One fault at one write of a scenario in the box: each at each; EVERY=n for each n-th, FIRST=n from a write on, WRITE=n FAULT=n for the story of one
	env WRITE="$(WRITE)" FAULT="$(FAULT)" FIRST="$(FIRST)" EVERY="$(or $(EVERY),1)" \
	  cargo test --quiet --profile simulation --package reservoir-simulation -- --nocapture a_fault_at_any_write

simulation-coverage: ## The lines of src/plan and src/controller that the simulation runs, SEEDS=n of them; needs rustup's llvm-tools
	@env FIRST="$(FIRST)" SEEDS="$(or $(SEEDS),24)" STEPS="$(or $(STEPS),600)" EVERY="$(EVERY)" tools/coverage

model-check: ## Every order of the steps of two controllers, an agent and two users, with crashes: millions of states
	cargo test --quiet --profile simulation --lib -- --ignored --nocapture --test-threads=1 model_check

mutants: ## Published mistakes, one at a time: the unit test and the simulated run that catch each; ONE=name for one
	tools/mutants $(ONE)

fuzz: ## Hostile bytes for the parsers of what others write: EXECUTIONS=n of each, with SEED=n
	env EXECUTIONS="$(or $(EXECUTIONS),3000000)" SEED="$(SEED)" \
	  cargo test --quiet --profile simulation --lib -- --nocapture fuzz_

rules: ## Which tests show each rule of docs/semantics.md, and which correspond to the tests of Apache Mesos
	@tools/rules

bench-pods: ## Pods with volumes against pods without and against local-path-provisioner's, on the demo's cluster
	cargo run --quiet --package reservoir-cluster -- bench-pods

bench-api: ## What the controller costs; SIZE="--volumes 10000 --claims 30000 --pods 30000" for a large one
	cargo bench --bench api -- $(SIZE)

bench-node: ## What the node's half costs; PART=mounts, memory, life, io or copies for a part of it
	cargo run --quiet --package reservoir-cluster -- packages
	cargo bench --bench node -- $(PART)

bench-copies: ## Sealing against reading, copies against cp, and an agent that serves four others
	cargo bench --bench node -- copies

bench-btrfs: ## A btrfs volume's I/O against the bare file system
	cargo run --quiet --package reservoir-cluster -- packages
	cargo test --test host_node -- --ignored --nocapture btrfs::

crds: ## Generates crds/ and docs/api.md
	cargo run --quiet -- crds crds
	cargo run --quiet -- crds --reference > docs/api.md

IMAGE = localhost/reservoir
URL = http://localhost
PROFILE = release
release: ## All files of a release in dist/VERSION, sent nowhere: VERSION=0.1.0; IMAGE=registry/repository, URL=of the files
	cargo run --quiet --package reservoir-cluster -- release "$(VERSION)" --out dist/$(VERSION) --image $(IMAGE) --url $(URL) --profile $(PROFILE)
