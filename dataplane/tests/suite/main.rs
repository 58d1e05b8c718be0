//! The store under a core's `Io`, with a control plane that does what a test says, and a disk that fails
//! when a test says so. Each module proves one behaviour, on both legs where a core takes part.

mod bounded;
mod budget;
mod errands;
mod extents;
mod fills;
mod full;
mod keeper;
mod kept;
mod lazy;
mod leaving;
mod memory;
mod origins;
mod pass;
mod plane;
mod policies;
mod restart;
mod rig;
mod scrub;
mod slow;
mod suspects;
mod uploads;
