//! The only exit point.

fn main() {}
