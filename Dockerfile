# Two stages: wheels are made where compilers are, and only the result goes on. No tests, no shell history, no caches.
FROM python:3.13.9-slim-bookworm@sha256:b685a4fa58bb19d1814d78a1ec0f0208f351452724f78b20212c984d6e124a34 AS build
WORKDIR /build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv /opt/venv
COPY requirements.lock .
RUN /opt/venv/bin/pip install --require-hashes -r requirements.lock
# Byte code at build time: the root file system is read-only when it runs
RUN /opt/venv/bin/python -m compileall -q /opt/venv

FROM python:3.13.9-slim-bookworm@sha256:b685a4fa58bb19d1814d78a1ec0f0208f351452724f78b20212c984d6e124a34
# neonize reads media types through libmagic
RUN apt-get update \
    && apt-get install -y --no-install-recommends libmagic1 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --home-dir /app --shell /usr/sbin/nologin roundtrip \
    && install -d -o roundtrip -g roundtrip -m 0700 /data
WORKDIR /app
COPY --from=build /opt/venv /opt/venv
COPY backend backend
COPY LICENSE .
# The libraries of the page and of the console; the backend serves them itself, nothing comes from elsewhere
COPY node_modules/socket.io-client/dist node_modules/socket.io-client/dist
COPY node_modules/qrcode-generator node_modules/qrcode-generator
COPY node_modules/preact/dist node_modules/preact/dist
COPY node_modules/htm/dist node_modules/htm/dist
COPY node_modules/uplot/dist node_modules/uplot/dist
RUN /opt/venv/bin/python -m compileall -q backend
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    ROUNDTRIP_HOST=0.0.0.0 ROUNDTRIP_ADMIN_HOST=0.0.0.0 ROUNDTRIP_DATA_DIR=/data
USER 10001
VOLUME /data
EXPOSE 8080 9464
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=3s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:9464/healthz', timeout=2)"]
ENTRYPOINT ["python", "-m", "backend"]
