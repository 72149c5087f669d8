//! The receiving side of log transfer.
