"""The honest experiments behind `medkd reproduce`."""
