//! The drystone binary: the controller and the command line.

fn main() {}
