# GenRecal on NVIDIA's PyTorch image; docs/container.md says how to build, import and check it, and why this release.
ARG BASE_TAG=26.08-py3
FROM nvcr.io/nvidia/pytorch:${BASE_TAG}

# PIP_CONSTRAINT: the base image's file pins what this package needs newer; its replacement, written below, pins
# NVIDIA's builds too. PYTHONNOUSERSITE: packages in a mounted home folder must not come first.
# TORCH_ALLOW_TF32_CUBLAS_OVERRIDE: the base image turns TF32 on for fp32; here fp32 is fp32, as in torch's own wheels.
ENV VIRTUAL_ENV=/opt/genrecal \
    PIP_CONSTRAINT=/opt/genrecal/constraints.txt \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PYTHONNOUSERSITE=1 \
    TORCH_ALLOW_TF32_CUBLAS_OVERRIDE=0

RUN useradd --create-home --home-dir /workspace/genrecal --uid 10001 --no-log-init --shell /bin/bash genrecal

WORKDIR /opt/genrecal_mcore
COPY constraints.txt pyproject.toml ./
COPY examples/container_requirements.py examples/

# An environment that sees the base image's packages: pip can add to them, but not change them. torchao leaves: PEFT
# looks at it for every LoRA layer and refuses versions that it does not know, and nothing here uses it.
RUN python -m pip uninstall --yes torchao \
    && python -m venv --system-site-packages --without-pip "$VIRTUAL_ENV" \
    && python examples/container_requirements.py --out "$VIRTUAL_ENV" \
    && "$VIRTUAL_ENV/bin/python" -m pip install --requirement "$VIRTUAL_ENV/requirements.txt"

ENV PATH=${VIRTUAL_ENV}/bin:${PATH}
COPY LICENSE README.md ./
COPY genrecal_mcore genrecal_mcore
COPY checkpoint_tools checkpoint_tools
COPY examples examples
# The files of a clone may be readable by its owner alone.
RUN chmod -R go+rX . \
    && python -m pip install --no-deps --editable .

ARG REVISION=unknown
LABEL org.opencontainers.image.title="genrecal_mcore" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.revision="${REVISION}"

USER 10001
WORKDIR /workspace/genrecal
# A build has no driver; the libcuda of the base image's compatibility package lets Transformer Engine be loaded.
RUN LD_LIBRARY_PATH=/usr/local/cuda/compat/lib.real:${LD_LIBRARY_PATH} \
    python /opt/genrecal_mcore/examples/container_smoke.py
