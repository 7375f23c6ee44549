# Three stages: the page's libraries come from npm's lock, wheels are made where compilers are, and only the results go on.
# Nothing of the host is needed but this checkout. No tests, no shell history, no caches.
FROM node:24.11.1-bookworm-slim@sha256:48abc13a19400ca3985071e287bd405a1d99306770eb81d61202fb6b65cf0b57 AS web
WORKDIR /web
COPY package.json package-lock.json ./
RUN npm ci --omit=dev --ignore-scripts --no-audit --no-fund

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
# The pages' libraries: the backend serves them itself, nothing comes from elsewhere
COPY --from=web /web/node_modules node_modules
# The modes of the checkout go along: one under umask 077 could not be read by the user below
RUN chmod -R a+rX . && /opt/venv/bin/python -m compileall -q backend
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    ROUNDTRIP_HOST=0.0.0.0 ROUNDTRIP_ADMIN_HOST=0.0.0.0 ROUNDTRIP_DATA_DIR=/data
USER 10001
VOLUME /data
EXPOSE 8080 9464
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=3s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:9464/healthz', timeout=2)"]
ENTRYPOINT ["python", "-m", "backend"]
