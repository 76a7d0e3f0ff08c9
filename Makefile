# make test   everything CI runs; installs what it needs
# make fuzz   only the fuzzing, for FUZZ_SECONDS (60)
# make demo   the story of an overload, with a real Dovecot and a real Prometheus; KEEP=1 keeps it up
# make soak   a week of log at full speed, and a million scripts against the follower's model; SOAK_LINES, MODEL_SCRIPTS
# make deb    the Debian package, in target/debian; make rpm: the RPM package, in target/generate-rpm
# make bench  the benchmarks, each beside a peer
# make pictures  the dashboards' pictures in docs/pictures anew; look at them
# make manifests  kubernetes/monitoring anew, from alerts/
# make image  the container image, by ENGINE (podman; or docker)
# make reproducible  builds the last commit twice, in different places, and compares: two slow builds, for releases
# make tagged fails unless the last commit has the tag of its version, for releases
# make golden the golden pages and docs/METRICS.md anew; read the difference

CARGO_DENY = 0.20.2
ENGINE = podman
CARGO_DEB = 3.8.0
CARGO_GENERATE_RPM = 0.21.1
# Tools that run for seconds: building them takes 2 min of CPU time so, and 6 min otherwise.
QUICKLY = CARGO_PROFILE_RELEASE_OPT_LEVEL=0
# Without cargo: who builds the image needs no Rust.
VERSION = $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml)

# Packages before builds, builds before tests.
.NOTPARALLEL:

.PHONY: test lint unit fuzz e2e demo soak bench pictures golden manifests image reproducible tagged build packages demo-packages witness \
	documents deb rpm

test: packages lint unit fuzz e2e

packages:
	tests/e2e/install-packages.sh all

demo-packages:
	tests/e2e/install-packages.sh demo

build:
	cargo build --release --locked

witness:
	$(MAKE) -s -C tests/witness

# What the packages hold beside the program. Debian's changelog is made of the newest section of ours.
documents:
	cargo run --quiet --locked --example documents -- target/documents
	{ echo "dovecot-capacity-exporter ($$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml)-1) unstable; urgency=medium"; echo; \
	  sed '1,/^## /d; /^## /,$$d; /^$$/d' CHANGELOG.md | fold -s -w 74 | sed 's/^\* /  &/; t; s/^ */    /'; echo; \
	  echo " -- $$(sed -n 's/^maintainer = "\(.*\)"/\1/p' Cargo.toml)  $$(date -R -u -d @$${SOURCE_DATE_EPOCH:-$$(git log -1 --format=%ct)})"; \
	} > target/documents/changelog

deb: build documents
	cargo deb --version >/dev/null 2>&1 || $(QUICKLY) cargo install --locked cargo-deb@$(CARGO_DEB)
	cargo deb --no-build --locked

rpm: build documents
	cargo generate-rpm --version >/dev/null 2>&1 || $(QUICKLY) cargo install --locked cargo-generate-rpm@$(CARGO_GENERATE_RPM)
	cargo generate-rpm

lint:
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps --document-private-items
	cargo fmt --check --manifest-path fuzz/Cargo.toml
	cargo clippy --locked --all-targets --manifest-path fuzz/Cargo.toml --target-dir target/fuzz -- -D warnings
	cargo deny --version >/dev/null 2>&1 || cargo install --locked cargo-deny@$(CARGO_DENY)
	cargo deny --locked check bans licenses sources
	cargo deny --locked --manifest-path fuzz/Cargo.toml --config deny.toml check bans sources

unit:
	cargo test --locked

fuzz:
	fuzz/run

e2e: build witness
	tests/e2e/run

demo: demo-packages build
	python3 demo/demo.py

soak: packages build
	nice python3 tests/e2e/soak.py
	MODEL_SCRIPTS=$${MODEL_SCRIPTS:-1000000} nice cargo test --release --locked model

bench: packages build witness
	python3 bench/bench.py
	python3 bench/fleet.py

pictures: packages
	cd tests/e2e && UPDATE_PICTURES=1 python3 -m unittest test_render.Incident test_render.Calm

# BUILDAH_FORMAT: the other format, podman's own, has no HEALTHCHECK.
image:
	BUILDAH_FORMAT=docker $(ENGINE) build --tag localhost/dovecot-capacity-exporter \
		--build-arg VERSION="$(VERSION)" --build-arg REVISION="$$(git rev-parse HEAD)" \
		--build-arg SOURCE_DATE_EPOCH="$$(git log -1 --format=%ct)" .

reproducible:
	tests/reproducible

golden:
	UPDATE_GOLDEN=1 cargo test --locked --test golden --test metrics_doc

# Whether the commit has the tag of its version.
tagged:
	git tag --points-at HEAD | grep -Fqx "v$(VERSION)"

manifests:
	python3 kubernetes/generate.py
