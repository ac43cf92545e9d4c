//! Checks, tests, benchmarks and measurements of this repository.

fn main() {}
