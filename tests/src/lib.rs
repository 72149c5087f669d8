#![forbid(unsafe_code)]
//! Simulator and checkers.
