"""The routes that generate: from a request's `steering` field to a plan, and back to a receipt."""
