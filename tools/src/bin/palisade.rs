//! The palisade program.

fn main() {}
