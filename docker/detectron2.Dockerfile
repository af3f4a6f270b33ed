# medkd with detectron2, built from its source (docs/detection.md). From the root of the repository:
#   docker build -f docker/detectron2.Dockerfile -t medkd:detectron2 .
# Its C++ part is compiled for the CPU; on a GPU the layers of Faster R-CNN are torchvision's, which need none of it.
FROM python:3.11-slim
RUN apt-get update && apt-get install -y --no-install-recommends g++ git && rm -rf /var/lib/apt/lists/*
COPY pyproject.toml README.md LICENSE /src/
COPY medkd /src/medkd
RUN pip install --no-cache-dir '/src[detection]'
# the commit that docs/results/detectron2_tests.log was made with
ARG DETECTRON2=02b5c4e295e990042a714712c21dc79b731e8833
RUN pip install --no-cache-dir 'setuptools<81' wheel \
    && pip install --no-cache-dir --no-build-isolation \
        "git+https://github.com/facebookresearch/detectron2.git@${DETECTRON2}" \
    && python -c "import detectron2.modeling" && useradd --create-home medkd
USER medkd
WORKDIR /work
CMD ["medkd", "--help"]
