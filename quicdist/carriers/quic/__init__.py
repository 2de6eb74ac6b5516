"""The QUIC carrier (RFC 9000): endpoints, connections, and the adapters of QUIC libraries."""
