//! The tree against a plain model.
