"""HTTP for people and for Prometheus: the server, metrics, health and readiness, and the page."""
