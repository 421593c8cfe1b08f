"""Kombu's and Celery's own test suites, run on kombu-rs under the name of kombu."""
