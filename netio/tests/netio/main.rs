//! netio against the real kernel: direct files, loopback sockets, doorbells.

mod files;
mod greetings;
mod links;
mod pump;
mod registered;
mod ring;
