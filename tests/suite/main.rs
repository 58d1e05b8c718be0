//! The one integration test binary: the real `gantry` as a process, judged from outside.
//!
//! A module per behaviour; each says in its header what it proves. Every test of the server runs on both I/O
//! legs. `GANTRY_REQUIRE=uring,epoll,root,disk,clients` turns a lack of the machine into a failure.

mod clients;
mod cold;
mod durable;
mod fuzz;
mod harness;
mod http;
mod licences;
mod limits;
mod official;
mod operator;
mod process;
mod pull;
mod tidy;
mod wire;
