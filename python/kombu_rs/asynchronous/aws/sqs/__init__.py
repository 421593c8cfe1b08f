"""Amazon SQS from an event loop."""
