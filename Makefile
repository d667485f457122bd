# Two commands for a newcomer: `make demo` and `make test`. Everything else is a part of them.
.PHONY: bench-btrfs bench-pods demo demo-down test lint unit test-agent test-qemu test-e2e rules bench-api crds help bench-node

help: ## This list
	@sed -n 's/^\([a-z-]*\):.*## /  \1  /p' $(MAKEFILE_LIST) | column -t -l 2

demo: ## Real Kubernetes on this machine, Reservoir in it, and what it does, step by step
	cargo run --quiet --package reservoir-cluster -- demo

demo-down: ## Removes the demo's cluster and everything that was started for it
	cargo run --quiet --package reservoir-cluster -- down

test: lint unit test-agent test-e2e ## All tests: style, unit, api tier, node tier

lint: ## Formatting, lints, generated files, licences, a test for every rule
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	cargo clippy --test host_faults -- -D warnings
	tools/check-crds
	tools/check-dependencies
	tools/rules > /dev/null

unit: ## Unit tests, the node's disks, CSI, and the api tier (real kube-apiserver and etcd); needs root
	cargo run --quiet --package reservoir-cluster -- packages
	cargo test --workspace

test-agent: ## The node's half: faults at every call that changes something, csi-sanity, hostile pods, kills under I/O
	cargo run --quiet --package reservoir-cluster -- packages
	cargo test --test host_faults
	cargo test --test csi_sanity -- --ignored --nocapture
	cargo test --test host_node -- --ignored --nocapture --test-threads=1 long::

test-qemu: ## The node's disks on Debian's own kernel, in a guest of QEMU without KVM; then its power is cut 25 times
	cargo run --quiet --package reservoir-cluster -- qemu
	cargo run --quiet --package reservoir-cluster -- power-cut

test-e2e: ## The demo's tour as a test, on a kind cluster of its own
	cargo test --package reservoir --test e2e -- --ignored --nocapture

rules: ## Which tests show each rule of docs/semantics.md, and which correspond to the tests of Apache Mesos
	@tools/rules

bench-pods: ## Pods with volumes against pods without, on the demo's cluster
	cargo run --quiet --package reservoir-cluster -- bench-pods

bench-api: ## What the controller costs; SIZE="--volumes 10000 --claims 30000 --pods 30000" for a large one
	cargo bench --bench api -- $(SIZE)

bench-node: ## What the node's half costs; PART=mounts, memory, life or io for a part of it
	cargo run --quiet --package reservoir-cluster -- packages
	cargo bench --bench node -- $(PART)

bench-btrfs: ## A btrfs volume's I/O against the bare file system
	cargo run --quiet --package reservoir-cluster -- packages
	cargo test --test host_node -- --ignored --nocapture btrfs::

crds: ## Generates crds/ and docs/api.md
	cargo run --quiet -- crds crds
	cargo run --quiet -- crds --reference > docs/api.md
