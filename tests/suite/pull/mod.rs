//! The whole server as a pull-through mirror (wire.md, "Pull-through"; storage.md, "Fills"), between real connections:
//! a scripted upstream behind it, clients before it, and a configuration file as an operator writes one.

mod accept;
mod access;
mod bounds;
mod budget;
mod cache;
mod cases;
mod clients;
mod completion;
mod evicted;
mod eviction;
mod faults;
mod herd;
mod operator;
mod policy;
mod prefetch;
mod proxy;
mod readme;
mod rig;
mod room;
mod secrets;
mod terminal;
mod times;
mod trial;
mod ways;
