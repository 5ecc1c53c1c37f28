# memproxy in one image: `serve` by default, any other command of memproxy instead, such as `worker`.
#
#   docker build --tag memproxy:0.1.0 .
#   docker run --read-only --tmpfs /tmp --publish 127.0.0.1:8080:8080 --volume memproxy:/data memproxy:0.1.0
#
# Everything is inside: vocabularies, the local embedding model, and on x86-64 the embedded store, which keeps its data
# in /data. With MEMPROXY_REDIS_URL nothing is written there. Nothing is fetched at start.

# The Python and the Debian that the tests run on; raise them together. A tag can't say which image was tested: give
# --build-arg PYTHON=python:3.11-slim-bookworm@sha256:... where builds must be the same again.
ARG PYTHON=python:3.11-slim-bookworm


FROM ${PYTHON} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_ROOT_USER_ACTION=ignore
WORKDIR /src

# The tools that build and install stay in this stage: what is shipped has no pip.
COPY requirements-build.txt ./
RUN python -m venv /build \
    && /build/bin/pip install --require-hashes --only-binary :all: -r requirements-build.txt

# Dependencies before the source, so that a change of code doesn't install them anew. Of the wheel with the query
# engine, one file of 170 MB is needed.
COPY requirements.txt ./
RUN python -m venv --without-pip /memproxy \
    && /build/bin/pip --python /memproxy/bin/python install --require-hashes --only-binary :all: -r requirements.txt \
    && find /memproxy -path '*/redis-stack-server/*' -type f ! -name redisearch.so -delete

COPY pyproject.toml README.md LICENSE ./
COPY config ./config
COPY memproxy ./memproxy
RUN /build/bin/pip wheel --no-deps --no-build-isolation --wheel-dir /wheels . \
    && /build/bin/pip --python /memproxy/bin/python install --no-deps --no-index /wheels/*.whl


FROM ${PYTHON}
LABEL org.opencontainers.image.title="memproxy" \
      org.opencontainers.image.description="Memory for any OpenAI-compatible agent, by changing one environment variable." \
      org.opencontainers.image.licenses="Apache-2.0"

# The number is what Kubernetes checks (runAsNonRoot); the name is for people.
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /data --shell /usr/sbin/nologin memproxy \
    && install -d -o 10001 -g 10001 -m 0700 /data
COPY --from=build /memproxy /memproxy

ENV PATH=/memproxy/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    MEMPROXY_LISTEN_HOST=0.0.0.0 \
    MEMPROXY_LISTEN_PORT=8080 \
    MEMPROXY_DATA_DIR=/data

USER 10001:10001
WORKDIR /data
VOLUME /data
EXPOSE 8080

# For `serve`. A worker listens nowhere: run it with --no-healthcheck.
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as http; http.urlopen('http://127.0.0.1:' + os.environ['MEMPROXY_LISTEN_PORT'] + '/healthz', timeout=2)"]

ENTRYPOINT ["memproxy"]
CMD ["serve"]
