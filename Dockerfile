# Two stages on Debian 12; the same package list as scripts/setup (scripts/packages).
FROM debian:12-slim AS build
RUN apt-get update && apt-get install -y --no-install-recommends \
    gcc libc6-dev pkg-config meson ninja-build libmicrohttpd-dev libcjson-dev libyaml-dev libpcre2-dev \
    libssl-dev libjemalloc-dev liburing-dev libcurl4-openssl-dev && rm -rf /var/lib/apt/lists/*
COPY . /src
RUN meson setup /build /src --buildtype=release -Dopenblas=disabled && ninja -C /build kvasir

FROM debian:12-slim
RUN apt-get update && apt-get install -y --no-install-recommends \
    libmicrohttpd12 libcjson1 libyaml-0-2 libpcre2-8-0 libssl3 libjemalloc2 liburing2 libcurl4 ca-certificates curl \
    && rm -rf /var/lib/apt/lists/* && useradd --system --no-create-home kvasir
COPY --from=build /build/kvasir /usr/local/bin/kvasir
COPY models /usr/local/share/kvasir/models
USER kvasir
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=2s CMD curl -fsS http://127.0.0.1:8080/health || exit 1
# A container's port is reached from outside, so the server wants keys: mount a file and name it,
#   docker run -v ./models:/models -v ./keys:/keys -p 8080:8080 kvasir --model /models/m.gguf
ENTRYPOINT ["kvasir", "serve", "--host", "0.0.0.0", "--api-key-file", "/keys"]
