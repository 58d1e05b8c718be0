//! The control plane through the questions that cores and keeper ask it; a module per behaviour.

#![allow(clippy::result_large_err)]

mod batches;
mod blobs;
mod commit_failure;
mod epochs;
mod fixed_paths;
mod harness;
mod held_clock;
mod lists;
mod manifests;
mod mirror;
mod preconditions;
mod referrers;
mod start_and_stop;
mod tags;
mod upstream;
