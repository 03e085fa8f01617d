"""What several tests share: tiny models and data, a pool of ranks, the naive reference. No mocks."""
