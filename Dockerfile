# The exporter as a static program, and nothing else beside its bill of materials: no shell, no libraries, no root.
#
#   make image

ARG RUST_IMAGE=docker.io/library/rust:1.95.0-slim-bookworm

FROM ${RUST_IMAGE} AS sbom-tool
# Neither optimized nor for a debugger: it runs for a second, and builds in half the time.
RUN CARGO_PROFILE_DEV_DEBUG=false cargo install --locked --debug cargo-cyclonedx@0.5.9

FROM ${RUST_IMAGE} AS build
WORKDIR /src
# Paths of the machine that builds have no place in what it builds; see "Reproducible" in RELEASE.md.
ENV RUSTFLAGS="-C target-feature=+crt-static --remap-path-prefix=/usr/local/cargo=/cargo --remap-path-prefix=/src=/src"
COPY Cargo.toml Cargo.lock ./
# The dependencies alone, so that they are built again only when they change. With --target the flags are not those of
# derive macros, which cannot be static.
RUN mkdir src && echo '//! Nothing yet.' | tee src/lib.rs > src/main.rs && echo 'fn main() {}' >> src/main.rs && \
    cargo build --release --locked --target "$(rustc --print host-tuple)"
COPY src src
# What was copied is older than what was built of the empty files.
RUN touch src/main.rs src/lib.rs && \
    cargo build --release --locked --target "$(rustc --print host-tuple)" && \
    mkdir /out && cp target/*/release/dovecot-capacity-exporter /out/
COPY --from=sbom-tool /usr/local/cargo/bin/cargo-cyclonedx /usr/local/cargo/bin/
ARG SOURCE_DATE_EPOCH
RUN cargo cyclonedx --format json --spec-version 1.5 --no-build-deps --override-filename sbom.cdx && \
    mv sbom.cdx.json /out/
# A volume for --state.file takes its owner from this folder. COPY --chown would give away /var as well.
RUN mkdir -p /out/var/lib && install -d -o 65532 -g 65532 /out/var/lib/dovecot-capacity-exporter

FROM scratch
COPY --from=build /out/ /
ARG VERSION
ARG REVISION
LABEL org.opencontainers.image.title="dovecot-capacity-exporter" \
      org.opencontainers.image.description="Prometheus exporter that shows Dovecot's processes beside process_limit before clients are turned away" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
USER 65532:65532
EXPOSE 9166
HEALTHCHECK --interval=30s --timeout=10s CMD ["/dovecot-capacity-exporter", "healthcheck"]
ENTRYPOINT ["/dovecot-capacity-exporter"]
