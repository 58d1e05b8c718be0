//! The whole server as a pull-through mirror (wire.md, "Pull-through"; storage.md, "Fills"), between real connections:
//! a scripted upstream behind it, clients before it, and a configuration file as an operator writes one.

mod access;
mod cache;
mod cases;
mod faults;
mod herd;
mod operator;
mod prefetch;
mod rig;
mod ways;
