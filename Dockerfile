# JupyterLab with the notebooks in a container, on a CPU, as a user who is not root.
#
#   docker build -t llafs .
#   docker run --rm -p 127.0.0.1:8888:8888 -v /path/to/data:/data:ro llafs     # then open the address it prints
#   docker run --rm llafs llafs tutorial --budget tiny                         # any other command
#
# /data is LLAFS_DATA and may be left out: the drawn scenes need none. Runs are gone with the container unless a volume
# is given: -v llafs-runs:/home/llafs/project/runs. PyPI's torch for Linux brings CUDA along; --build-arg
# TORCH_INDEX=ADDRESS, with the address of the CPU builds that pytorch.org names, makes the image several GB smaller.
#
# Not tested: no container engine was available, the image was never built. tests/test_environment.py checks what can
# be checked without one.
FROM python:3.12-slim AS base
RUN apt-get update \
 && apt-get install -y --no-install-recommends git make \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --create-home llafs \
 && install -d -o llafs /data /home/llafs/project /home/llafs/project/runs
ENV LLAFS_DATA=/data
WORKDIR /home/llafs/project

FROM base
ARG TORCH_INDEX=""
COPY --chown=llafs constraints.txt ./
# An index of torch alone may lack the constrained versions of what torch needs: those come with the next command.
RUN pip install --no-cache-dir -c constraints.txt ${TORCH_INDEX:+--no-deps --index-url "$TORCH_INDEX"} torch torchvision
COPY --chown=llafs pyproject.toml README.md LICENSE ./
COPY --chown=llafs llafs_lib llafs_lib
RUN pip install --no-cache-dir -c constraints.txt -e ".[lab]"
COPY --chown=llafs data_scripts data_scripts
COPY --chown=llafs docs docs
COPY --chown=llafs notebooks notebooks
USER llafs
EXPOSE 8888
CMD ["jupyter", "lab", "--ip=0.0.0.0", "--port=8888", "--no-browser", "--LabApp.default_url=/lab/tree/notebooks/00_start_here.ipynb"]
