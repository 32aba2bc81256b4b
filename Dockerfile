# Two images from one lock file: `ingress` has only the base dependencies, `worker` also what retrieves (torch).
#   docker build --target ingress -t supportstream-ingress .
#   docker build --target worker -t supportstream-worker .

FROM python:3.13-slim AS build
ENV UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy UV_PYTHON_DOWNLOADS=never
RUN pip install --no-cache-dir uv==0.13.9
WORKDIR /src
RUN uv venv /opt/supportstream
COPY pyproject.toml requirements.lock ./

# The lock file constrains versions and hashes of whatever pyproject.toml asks for, the build tools included.
FROM build AS wheel
COPY LICENSE README.md ./
COPY ingress ingress
COPY ops ops
COPY schemas schemas
COPY store store
COPY workers workers
RUN uv build --wheel --build-constraints requirements.lock --require-hashes --out-dir /dist

FROM build AS ingress-files
RUN uv pip install --no-cache --python /opt/supportstream --require-hashes -c requirements.lock -r pyproject.toml
COPY --from=wheel /dist /dist
RUN uv pip install --no-cache --python /opt/supportstream --no-deps /dist/*.whl

FROM build AS worker-files
RUN uv pip install --no-cache --python /opt/supportstream --require-hashes -c requirements.lock -r pyproject.toml \
    --extra worker
COPY --from=wheel /dist /dist
RUN uv pip install --no-cache --python /opt/supportstream --no-deps /dist/*.whl

FROM python:3.13-slim AS runtime
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin supportstream
ENV PATH=/opt/supportstream/bin:$PATH PYTHONUNBUFFERED=1 ENVIRONMENT=production
WORKDIR /srv
USER 10001:10001

FROM runtime AS worker
COPY --from=worker-files /opt/supportstream /opt/supportstream
ENV WORKER_PORT=8001
EXPOSE 8001
CMD ["supportstream", "worker"]

# The last target is what a plain `docker build` makes: the small one.
FROM runtime AS ingress
COPY --from=ingress-files /opt/supportstream /opt/supportstream
ENV API_HOST=0.0.0.0 API_PORT=8000
EXPOSE 8000
CMD ["supportstream", "ingress"]
