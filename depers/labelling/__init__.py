"""Labels made by detectors: what several of them agree on, beside what people labelled."""
