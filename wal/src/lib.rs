#![forbid(unsafe_code)]
//! Bytes that survive.
