# medkd on NVIDIA GPUs. From the root of the repository:  docker build -f docker/gpu.Dockerfile -t medkd:gpu .
# The torch wheel brings the CUDA libraries; the host needs its driver and the NVIDIA container toolkit.
FROM python:3.11-slim
# torch.compile needs a C++ compiler
RUN apt-get update && apt-get install -y --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
COPY pyproject.toml README.md LICENSE /src/
COPY medkd /src/medkd
RUN pip install --no-cache-dir /src && useradd --create-home medkd
USER medkd
WORKDIR /work
CMD ["medkd", "--help"]
