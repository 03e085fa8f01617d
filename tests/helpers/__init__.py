"""What several tests share: tiny models and data, a pool of ranks, the naive reference. Small and real, no mocks."""
