"""The interop harness, and docker-compose.yml."""
