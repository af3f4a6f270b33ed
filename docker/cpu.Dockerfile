# medkd on a CPU. From the root of the repository:  docker build -f docker/cpu.Dockerfile -t medkd:cpu .
FROM python:3.11-slim
RUN pip install --no-cache-dir torch torchvision --index-url https://download.pytorch.org/whl/cpu
COPY pyproject.toml README.md LICENSE /src/
COPY medkd /src/medkd
RUN pip install --no-cache-dir /src && useradd --create-home medkd
USER medkd
WORKDIR /work
CMD ["medkd", "--help"]
