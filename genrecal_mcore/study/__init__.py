"""A study: many runs that differ in what is asked about, and what they show together."""
