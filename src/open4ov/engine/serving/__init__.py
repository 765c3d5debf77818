"""The HTTP server: OpenAI's API over an engine, closed by default."""
