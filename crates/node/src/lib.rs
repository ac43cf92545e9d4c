//! Composition root: configuration and world become a running node; wiring only.
