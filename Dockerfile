# Three images, of which the last is built where none is named:
#     docker build --target build --tag homoexport:build .      all of homoexport, with torch for CPUs
#     docker build --target measure --tag homoexport:measure .  bench, eval and gate of packages, without torch
#     docker build --tag homoexport:runtime .                   packages in use: open_package, embed, verify
ARG PYTHON=3.11

FROM python:${PYTHON}-slim AS base
ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore \
    PYTHONDONTWRITEBYTECODE=1
RUN useradd --create-home --uid 1000 homoexport

FROM base AS wheel
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY recipes recipes
COPY homoexport homoexport
RUN pip wheel --quiet --no-deps --wheel-dir /wheels .

FROM base AS build
COPY constraints.txt /locks/
COPY --from=wheel /wheels /wheels
RUN pip install --quiet --constraint /locks/constraints.txt \
    --extra-index-url https://download.pytorch.org/whl/cpu /wheels/homoexport-*.whl
USER homoexport
WORKDIR /work
ENTRYPOINT ["homoexport"]
CMD ["--help"]

FROM base AS measure
COPY requirements-measure-lock.txt /locks/
COPY --from=wheel /wheels /wheels
RUN pip install --quiet --no-deps --require-hashes --requirement /locks/requirements-measure-lock.txt \
    && pip install --quiet --no-deps /wheels/homoexport-*.whl
USER homoexport
WORKDIR /work
ENTRYPOINT ["homoexport"]
CMD ["--help"]

FROM base AS runtime
COPY requirements-runtime-lock.txt /locks/
COPY --from=wheel /wheels /wheels
RUN pip install --quiet --no-deps --require-hashes --requirement /locks/requirements-runtime-lock.txt \
    && pip install --quiet --no-deps /wheels/homoexport-*.whl
USER homoexport
WORKDIR /work
ENTRYPOINT ["homoexport"]
CMD ["--help"]
