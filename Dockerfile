# make ablation DETAIL=whiten_adv in a container; docs/commands.md says how to keep what it leaves.
FROM python:3.11-slim

# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends make && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home nplus && mkdir /nplus && chown nplus /nplus
WORKDIR /nplus
USER nplus
COPY --chown=nplus . .

# torch without CUDA; an empty value leaves the package index alone, whose torch brings it.
ARG PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu
ENV PIP_NO_CACHE_DIR=1
RUN make details
CMD ["make", "help"]
