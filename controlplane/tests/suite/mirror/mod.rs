//! What the control plane answers about upstreams; a module per behaviour.

mod concurrency;
mod defaults;
mod descriptions;
mod fetches;
mod links;
mod lists;
mod manifests;
mod metrics;
mod names;
mod operator;
mod referrers;
mod refused_heads;
mod registry;
mod rig;
mod stale;
mod tags;
mod writes;
