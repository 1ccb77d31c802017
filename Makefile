# Everything is done by the scripts; `make help` lists what there is.
.PHONY: help run test check build init kernel demo reproduce tcb bench clean
.DEFAULT_GOAL := help
export SOURCE_DATE_EPOCH := 0

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile | expand -t 12

run: ## build everything, boot the demo, show its output (make can only fail with 2; scripts/run gives the exact status)
	@scripts/run

test: ## run all tests, with real boots in QEMU, OVMF and swtpm
	@scripts/test

check: ## formatting, lints, dependencies, kernel options, house rules
	@scripts/check

build: ## build the tools image-build and key-broker into target/tools
	cargo build --profile tools --locked -p image-build -p key-broker -p measured-boot

init: ## build /init and print its path
	@scripts/build-init

kernel: ## build the guest kernel (minutes the first time) and print its folder
	@kernel-config/build

demo: ## build the demo's OCI image and print its folder
	@scripts/build-demo

reproduce: ## build everything twice, as two users in two places, and compare the bits
	@scripts/reproduce

tcb: ## what is in the guest: lines, crates, unsafe, bytes, against the budgets
	@scripts/tcb

bench: ## boot timeline in guest time, instructions from PID 1 to the container, speed of predictions and of the broker
	@scripts/bench
	@scripts/bench-measure
	@scripts/bench-broker

clean: ## remove target/ (the kernel's cache in ~/.cache/anchorhold stays)
	rm -rf target
