# Everything is done by scripts; this names them.
.PHONY: demo demo-down test bench fuzz race static docs fmt

demo:
	@scripts/demo

demo-down:
	@scripts/demo down

test:
	@scripts/test

bench:
	@scripts/bench

fuzz:
	@scripts/fuzz

race:
	@scripts/race

static:
	@scripts/static

docs:
	@cargo run -q -p multihome -- reference-docs docs/reference

fmt:
	@cargo fmt --all
