//! The wire, end-point by end-point: the OCI distribution-spec 1.1.1 and main, RFC 9110, RFC 9112.

mod base;
mod blob_delete;
mod blobs;
mod catalog;
mod conditional;
mod errors;
mod manifest_rules;
mod manifests;
mod mount;
mod permission;
mod ranges;
mod referrers;
mod tags;
mod upload_races;
mod uploads;
